//! How long to wait before the next attempt: doubling, bounded, and different for every client.

use std::time::Duration;

use rand::Rng;

/// The wait after a first failure; short, since a restarted control plane is usually back at once.
const FIRST: Duration = Duration::from_millis(50);
/// The longest wait, before jitter.
const LONGEST: Duration = Duration::from_secs(15);
/// A stream that lived this long was healthy: the next failure is a new story. Shorter ones keep doubling, so that a
/// server which accepts and drops at once is not hammered.
const HEALTHY: Duration = Duration::from_secs(10);

/// Reconnect back-off of one client.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after an attempt that lived for `lived` (zero where it never connected).
    ///
    /// Jitter of half to one and a half times, so that clients of a restarted server come back spread out.
    pub fn after(&mut self, lived: Duration, rng: &mut impl Rng) -> Duration {
        if lived >= HEALTHY {
            self.failures = 0;
        }
        let doubled = FIRST.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        doubled.min(LONGEST).mul_f64(rng.random_range(0.5..1.5))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn doubles_up_to_a_bound_with_jitter() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        let waits: Vec<Duration> = (0..40).map(|_| backoff.after(Duration::ZERO, &mut rng)).collect();
        assert!(waits[0] < FIRST * 2, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait < LONGEST.mul_f64(1.5)));
        assert!(waits[20..].iter().all(|wait| *wait >= LONGEST / 2));
        assert!(waits[20..].windows(2).any(|pair| pair[0] != pair[1]), "no jitter");
    }

    #[test]
    fn starts_over_after_a_healthy_stream_only() {
        let mut rng = SmallRng::seed_from_u64(1);
        let mut backoff = Backoff::default();
        for _ in 0..20 {
            backoff.after(Duration::from_secs(1), &mut rng);
        }
        assert!(backoff.after(Duration::from_secs(1), &mut rng) > Duration::from_secs(7));
        assert!(backoff.after(HEALTHY, &mut rng) < FIRST * 2);
    }
}
