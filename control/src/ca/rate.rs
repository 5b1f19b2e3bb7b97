//! How many certificates one caller may ask for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A node agent that starts asks for all of its node's identities at once.
const BURST: f64 = 500.0;
const PER_SECOND: f64 = 20.0;
/// Callers remembered; only authenticated pods get this far.
const MAX_CALLERS: usize = 20_000;

/// A token bucket per caller.
#[derive(Default)]
pub(super) struct RateLimit {
    buckets: HashMap<Arc<str>, Bucket>,
}

struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl RateLimit {
    pub(super) fn allow(&mut self, caller: &Arc<str>, now: Instant) -> bool {
        if self.buckets.len() >= MAX_CALLERS && !self.buckets.contains_key(caller) {
            self.forget_full(now);
            if self.buckets.len() >= MAX_CALLERS {
                return false;
            }
        }
        let bucket = self.buckets.entry(caller.clone()).or_insert(Bucket {
            tokens: BURST,
            filled: now,
        });
        bucket.tokens = bucket.at(now);
        bucket.filled = now;
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        allowed
    }

    /// A full bucket says nothing that a new one would not.
    fn forget_full(&mut self, now: Instant) {
        self.buckets.retain(|_, bucket| bucket.at(now) < BURST);
    }
}

impl Bucket {
    fn at(&self, now: Instant) -> f64 {
        let passed: Duration = now.saturating_duration_since(self.filled);
        (self.tokens + passed.as_secs_f64() * PER_SECOND).min(BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_trickle_per_caller() {
        let mut limit = RateLimit::default();
        let start = Instant::now();
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        assert_eq!((0..1000).filter(|_| limit.allow(&one, start)).count(), 500);
        assert!(limit.allow(&two, start));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| limit.allow(&one, later)).count(), 20);
    }

    #[test]
    fn callers_at_rest_are_forgotten() {
        let mut limit = RateLimit::default();
        let start = Instant::now();
        for n in 0..MAX_CALLERS {
            assert!(limit.allow(&n.to_string().into(), start));
        }
        assert!(!limit.allow(&"new".into(), start));
        assert!(limit.allow(&"new".into(), start + Duration::from_secs(1)));
        assert_eq!(limit.buckets.len(), 1);
    }
}
