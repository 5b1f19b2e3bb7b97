//! Why an object is not in effect at a proxy that says so itself.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

/// A proxy that has not taken its configuration whole, and its words: they name the resources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    namespace: Arc<str>,
    pod: Arc<str>,
    said: Arc<str>,
}

impl Refusal {
    pub(super) fn new(namespace: &Arc<str>, pod: &Arc<str>, said: &Arc<str>) -> Self {
        Self {
            namespace: namespace.clone(),
            pod: pod.clone(),
            said: said.clone(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} refuses {}", self.namespace, self.pod, self.said)
    }
}
