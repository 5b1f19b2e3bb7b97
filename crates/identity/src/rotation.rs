//! When to fetch which certificate: a state machine without I/O, without a clock and without certificates.
//!
//! The manager tells it what is wanted and how fetches ended; it answers what to start now and when to ask again.
//! At most a fixed number of fetches run at once, callers who wait overtake renewals, a certificate is renewed at half
//! of its life, and an identity that fails is left alone for a growing while.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use aquifer_core::identity::SpiffeId;

#[cfg(test)]
mod tests;

#[derive(Clone, Copy, Debug)]
pub(crate) struct RotationLimits {
    /// Fetches at the same time.
    pub(crate) concurrent: usize,
    /// Identities under management.
    pub(crate) identities: usize,
}

/// In which order fetches start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Urgency {
    /// A connection waits for it.
    Demand,
    /// Somebody will want it soon.
    Warmup,
    /// The old certificate still serves.
    Renewal,
}

/// What became of a wish for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A fetch runs or is queued.
    Pending,
    /// The last fetch failed; the next one starts then.
    BackingOff { until: SystemTime },
    /// Too many identities.
    Refused,
}

/// Tells one fetch of an identity from an earlier one that was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Attempt(u64);

/// Whether the result of a fetch still means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    /// The next step (renewal or another try) is due then.
    Next { due: SystemTime },
    /// The identity was forgotten meanwhile.
    Stale,
}

const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(150);
const BACKOFF_JITTER: f64 = 0.2;
/// How much earlier than half of the life a renewal may come, so that pods started together do not renew together.
const RENEWAL_JITTER: f64 = 0.1;
/// Keeps a certificate with hardly any life left from being fetched in a tight loop.
const RENEWAL_MIN: Duration = Duration::from_secs(1);
/// Over how long early renewals are spread.
const EARLY_SPREAD: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
enum Phase {
    Queued(Urgency, Attempt),
    Fetching(Attempt),
    /// `failures` says what for: none, and it is a renewal; else another try.
    Waiting {
        until: SystemTime,
    },
}

#[derive(Debug)]
struct Entry {
    phase: Phase,
    failures: u32,
}

#[derive(Debug)]
pub(crate) struct Rotation {
    limits: RotationLimits,
    entries: HashMap<SpiffeId, Entry>,
    /// What may start, in order.
    queue: BTreeMap<(Urgency, Attempt), SpiffeId>,
    /// What waits for its time.
    timers: BTreeSet<(SystemTime, SpiffeId)>,
    running: usize,
    attempts: u64,
}

impl Rotation {
    pub(crate) fn new(limits: RotationLimits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            queue: BTreeMap::new(),
            timers: BTreeSet::new(),
            running: 0,
            attempts: 0,
        }
    }

    /// Somebody wants a certificate and there is none in force.
    pub(crate) fn want(&mut self, identity: &SpiffeId, urgency: Urgency, now: SystemTime) -> Wanted {
        let Some(entry) = self.entries.get(identity) else {
            if self.entries.len() >= self.limits.identities {
                return Wanted::Refused;
            }
            self.enqueue(identity, urgency, 0);
            return Wanted::Pending;
        };
        match entry.phase {
            Phase::Fetching(_) => {}
            Phase::Queued(queued, attempt) => {
                if urgency < queued {
                    self.queue.remove(&(queued, attempt));
                    self.enqueue(identity, urgency, entry.failures);
                }
            }
            Phase::Waiting { until } if entry.failures > 0 && until > now => {
                return Wanted::BackingOff { until };
            }
            // A renewal that is not due, yet nothing is in force: the clock has jumped.
            Phase::Waiting { until } => {
                self.timers.remove(&(until, identity.clone()));
                self.enqueue(identity, urgency, entry.failures);
            }
        }
        Wanted::Pending
    }

    /// The next fetch to start, if one is due and there is room.
    pub(crate) fn start(&mut self, now: SystemTime) -> Option<(SpiffeId, Attempt)> {
        self.expire_timers(now);
        if self.running >= self.limits.concurrent {
            return None;
        }
        let ((_, attempt), identity) = self.queue.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&identity) {
            entry.phase = Phase::Fetching(attempt);
        }
        self.running += 1;
        Some((identity, attempt))
    }

    /// A fetch brought a certificate that ends at `expires`; `jitter` is uniform in 0..1.
    pub(crate) fn succeeded(
        &mut self,
        identity: &SpiffeId,
        attempt: Attempt,
        expires: SystemTime,
        now: SystemTime,
        jitter: f64,
    ) -> Finished {
        self.finish(identity, attempt, |entry| {
            entry.failures = 0;
            // Of what is left, not of the whole: authorities date certificates back.
            let left = expires.duration_since(now).unwrap_or_default();
            let wait = (left / 2).mul_f64(1.0 - RENEWAL_JITTER * jitter);
            now + wait.max(RENEWAL_MIN)
        })
    }

    /// A fetch failed; `jitter` is uniform in 0..1.
    pub(crate) fn failed(
        &mut self,
        identity: &SpiffeId,
        attempt: Attempt,
        now: SystemTime,
        jitter: f64,
    ) -> Finished {
        self.finish(identity, attempt, |entry| {
            entry.failures = entry.failures.saturating_add(1);
            now + backoff(entry.failures, jitter)
        })
    }

    /// Brings a renewal forward to `due`; when it is due now, unless a fetch runs, is queued or is another try.
    pub(crate) fn hasten(&mut self, identity: &SpiffeId, due: SystemTime) -> Option<SystemTime> {
        let entry = self.entries.get_mut(identity)?;
        let Phase::Waiting { until } = entry.phase else {
            return None;
        };
        if entry.failures > 0 {
            return None;
        }
        let due = due.min(until);
        entry.phase = Phase::Waiting { until: due };
        self.timers.remove(&(until, identity.clone()));
        self.timers.insert((due, identity.clone()));
        Some(due)
    }

    /// Nobody wants this identity any more.
    pub(crate) fn forget(&mut self, identity: &SpiffeId) {
        match self.entries.remove(identity).map(|entry| entry.phase) {
            Some(Phase::Queued(urgency, attempt)) => {
                self.queue.remove(&(urgency, attempt));
            }
            Some(Phase::Waiting { until }) => {
                self.timers.remove(&(until, identity.clone()));
            }
            // It counts as running until its task ends; its result is stale then.
            Some(Phase::Fetching(_)) | None => {}
        }
    }

    /// When something becomes due that is not due now.
    pub(crate) fn deadline(&self) -> Option<SystemTime> {
        self.timers.first().map(|(at, _)| *at)
    }

    fn finish(
        &mut self,
        identity: &SpiffeId,
        attempt: Attempt,
        due: impl FnOnce(&mut Entry) -> SystemTime,
    ) -> Finished {
        self.running = self.running.saturating_sub(1);
        let Some(entry) = self.entries.get_mut(identity) else {
            return Finished::Stale;
        };
        if !matches!(entry.phase, Phase::Fetching(running) if running == attempt) {
            return Finished::Stale;
        }
        let due = due(entry);
        entry.phase = Phase::Waiting { until: due };
        self.timers.insert((due, identity.clone()));
        Finished::Next { due }
    }

    fn expire_timers(&mut self, now: SystemTime) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, identity)) = self.timers.pop_first() {
                let failures = self.entries.get(&identity).map_or(0, |entry| entry.failures);
                self.enqueue(&identity, Urgency::Renewal, failures);
            }
        }
    }

    fn enqueue(&mut self, identity: &SpiffeId, urgency: Urgency, failures: u32) {
        self.attempts += 1;
        let attempt = Attempt(self.attempts);
        self.queue.insert((urgency, attempt), identity.clone());
        let phase = Phase::Queued(urgency, attempt);
        self.entries.insert(identity.clone(), Entry { phase, failures });
    }
}

/// When to renew a certificate that leads to a root which is about to go: soon, yet not all workloads at once.
///
/// Within 5 minutes, and a quarter of what is left where that is less; `jitter` is uniform in 0..1.
pub(crate) fn early_renewal(expires: SystemTime, now: SystemTime, jitter: f64) -> SystemTime {
    let left = expires.duration_since(now).unwrap_or_default();
    let spread = (left / 4).min(EARLY_SPREAD);
    now + spread.mul_f64(jitter).max(RENEWAL_MIN)
}

/// 1 s, doubled with each failure, at most 150 s, a fifth more or less.
fn backoff(failures: u32, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let base = BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MAX);
    base.mul_f64(1.0 + BACKOFF_JITTER * (2.0 * jitter - 1.0))
        .min(BACKOFF_MAX)
}
