//! Which replica does what must be done once: the holder of a Lease.
//!
//! A lease counts as free when nothing was seen to change in it for its whole duration, by this process's own clock:
//! clocks of machines differ. The holder stops well before others may take over, also where it cannot reach the API
//! server to say so.

mod lease;

use std::time::{Duration, Instant};

pub use lease::Elector;

/// Without a renewal for this long others take over.
pub const LEASE: Duration = Duration::from_secs(10);
/// A holder that could not renew for this long stops.
const RENEW_DEADLINE: Duration = Duration::from_secs(7);
/// Pause between renewals, and between looks at another's lease.
pub const RETRY: Duration = Duration::from_secs(2);

/// What the Lease object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Empty where the holder gave it back.
    pub holder: String,
    /// Changes with every renewal.
    pub version: String,
    /// How long the holder asks for.
    pub duration: Duration,
}

/// What a candidate does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is no Lease: make it.
    Create,
    /// It is free: write one's own name.
    Take,
    /// It is one's own: write the time.
    Renew,
    /// Another one holds it.
    Wait,
}

/// One candidate's view; the clock is an argument.
#[derive(Debug)]
pub struct Candidate {
    identity: String,
    seen: Option<(Record, Instant)>,
    /// When the last successful write was sent off.
    renewed: Option<Instant>,
}

impl Candidate {
    pub fn new(identity: impl Into<String>) -> Self {
        Self {
            identity: identity.into(),
            seen: None,
            renewed: None,
        }
    }

    /// The step for a Lease that was just read.
    pub fn step(&mut self, record: Option<Record>, now: Instant) -> Step {
        let Some(record) = record else {
            self.seen = None;
            return Step::Create;
        };
        let since = match self.seen.take() {
            Some((old, since)) if old == record => since,
            _ => now,
        };
        let step = if record.holder == self.identity {
            Step::Renew
        } else if record.holder.is_empty() || now.duration_since(since) >= record.duration {
            Step::Take
        } else {
            Step::Wait
        };
        self.seen = Some((record, since));
        step
    }

    /// A write of one's own name succeeded; it was sent at `sent`.
    pub fn wrote(&mut self, sent: Instant) {
        self.renewed = Some(sent);
    }

    /// Another one was seen to hold the lease, or it was given back.
    pub fn lost(&mut self) {
        self.renewed = None;
    }

    /// Until when this replica may act without another renewal.
    pub fn leads_until(&self) -> Option<Instant> {
        self.renewed.map(|sent| sent + RENEW_DEADLINE)
    }

    pub fn leads(&self, now: Instant) -> bool {
        self.leads_until().is_some_and(|end| now < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str, version: &str) -> Option<Record> {
        Some(Record {
            holder: holder.to_owned(),
            version: version.to_owned(),
            duration: LEASE,
        })
    }

    #[test]
    fn waits_for_a_whole_duration_without_a_change() {
        let start = Instant::now();
        let mut b = Candidate::new("b");
        assert_eq!(b.step(record("a", "1"), start), Step::Wait);
        assert_eq!(b.step(record("a", "1"), start + LEASE - RETRY), Step::Wait);
        // Renewed meanwhile: the wait starts over.
        assert_eq!(b.step(record("a", "2"), start + LEASE), Step::Wait);
        assert_eq!(b.step(record("a", "2"), start + LEASE * 2 - RETRY), Step::Wait);
        assert_eq!(b.step(record("a", "2"), start + LEASE * 2), Step::Take);
    }

    #[test]
    fn takes_at_once_what_was_given_back_or_is_not_there() {
        let now = Instant::now();
        let mut b = Candidate::new("b");
        assert_eq!(b.step(None, now), Step::Create);
        assert_eq!(b.step(record("a", "1"), now), Step::Wait);
        assert_eq!(b.step(record("", "2"), now), Step::Take);
    }

    #[test]
    fn the_holder_stops_before_another_may_start() {
        let start = Instant::now();
        let (mut a, mut b) = (Candidate::new("a"), Candidate::new("b"));
        assert_eq!(a.step(record("a", "1"), start), Step::Renew);
        assert!(!a.leads(start), "not before a write of its own succeeded");
        a.wrote(start);
        assert_eq!(b.step(record("a", "1"), start), Step::Wait);
        let mut now = start;
        while b.step(record("a", "1"), now) == Step::Wait {
            now += Duration::from_millis(100);
        }
        assert!(!a.leads(now));
        assert!(a.leads(start + RETRY * 2));
    }

    #[test]
    fn stops_at_once_when_the_lease_is_anothers() {
        let now = Instant::now();
        let mut a = Candidate::new("a");
        a.wrote(now);
        assert!(a.leads(now));
        assert_eq!(a.step(record("b", "7"), now), Step::Wait);
        a.lost();
        assert!(!a.leads(now));
    }
}
