//! Readiness as a list of named conditions, so that "not ready" always says what is missing.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Ready once every registered condition is met. Clones share the list.
#[derive(Clone, Default)]
pub struct Readiness {
    // Guards the list of conditions; held for a lookup only.
    pending: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Readiness {
    /// Adds a condition that is not met yet, with what is being waited for.
    pub fn wait_for(&self, name: &'static str, what: &str) -> Condition {
        self.pending.lock().insert(name, what.to_owned());
        Condition {
            pending: self.pending.clone(),
            name,
        }
    }

    pub fn is_ready(&self) -> bool {
        self.pending.lock().is_empty()
    }

    /// A line for each condition that is not met.
    pub fn missing(&self) -> Vec<String> {
        self.pending
            .lock()
            .iter()
            .map(|(name, what)| format!("{name}: {what}"))
            .collect()
    }
}

/// One condition of a [`Readiness`].
pub struct Condition {
    pending: Arc<Mutex<BTreeMap<&'static str, String>>>,
    name: &'static str,
}

impl Condition {
    pub fn met(&self) {
        self.pending.lock().remove(self.name);
    }

    /// Not met (any more), with the reason.
    pub fn unmet(&self, why: impl Into<String>) {
        self.pending.lock().insert(self.name, why.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_missing() {
        let readiness = Readiness::default();
        let xds = readiness.wait_for("xds", "first synchronisation");
        assert!(!readiness.is_ready());
        assert_eq!(readiness.missing(), ["xds: first synchronisation"]);
        xds.met();
        assert!(readiness.is_ready());
        xds.unmet("connection lost");
        assert_eq!(readiness.missing(), ["xds: connection lost"]);
    }
}
