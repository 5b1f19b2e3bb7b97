//! Injected faults: a delay and an abort, each for a share of requests, drawn independently.

use std::time::Duration;

/// Parts per million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u32);

impl Share {
    const WHOLE: u32 = 1_000_000;

    /// `numerator` of `denominator`, at most all.
    pub fn new(numerator: u32, denominator: u32) -> Self {
        let parts = u64::from(numerator) * u64::from(Self::WHOLE) / u64::from(denominator.max(1));
        Self(u32::try_from(parts).unwrap_or(Self::WHOLE).min(Self::WHOLE))
    }

    pub fn parts_per_million(self) -> u32 {
        self.0
    }

    /// Exactly this share of all values of `random` modulo one million.
    pub fn hits(self, random: u64) -> bool {
        random % u64::from(Self::WHOLE) < u64::from(self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    Http(u16),
    Grpc(u32),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    pub delay: Option<(Share, Duration)>,
    pub abort: Option<(Share, Abort)>,
}

impl Fault {
    pub fn delay(&self, random: u64) -> Option<Duration> {
        self.delay
            .and_then(|(share, delay)| share.hits(random).then_some(delay))
    }

    pub fn abort(&self, random: u64) -> Option<Abort> {
        self.abort
            .and_then(|(share, abort)| share.hits(random).then_some(abort))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_exact() {
        let tenth = Share::new(10, 100);
        let hits = (0..1_000_000u64).filter(|&r| tenth.hits(r)).count();
        assert_eq!(hits, 100_000);
        assert!(!Share::new(0, 100).hits(0) && Share::new(300, 100).hits(999_999));
        assert_eq!(Share::new(1, 1_000_000).parts_per_million(), 1);
    }
}
