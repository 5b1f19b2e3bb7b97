//! Growing pauses between attempts, never two replicas in step.

use std::time::Duration;

use rand::Rng;

/// Doubles from `first` up to `longest`; each pause is between half of that and all of it.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// After a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }

    pub fn pause(&mut self) -> Duration {
        self.pause_with(&mut rand::rng())
    }

    fn pause_with(&mut self, rng: &mut impl Rng) -> Duration {
        let pause = self.next;
        self.next = (self.next * 2).min(self.longest);
        pause.mul_f64(rng.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn grows_up_to_its_limit_and_starts_over() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let (first, longest) = (Duration::from_secs(1), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, longest);
        for whole in [1, 2, 4, 5, 5] {
            let pause = backoff.pause_with(&mut rng);
            let whole = Duration::from_secs(whole);
            assert!(pause <= whole && pause >= whole / 2, "{pause:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.pause_with(&mut rng) <= first);
    }
}
