//! Hands out workload certificates and keeps them fresh.
//!
//! The rules are in the rotation state machine; here are its clock, its tasks and those who wait. One fetch
//! per identity runs however many connections want it, and an old certificate serves until it ends.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer_core::identity::SpiffeId;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::certificate::{CertificateError, WorkloadCertificate};
use crate::csr::CsrError;
use crate::rotation::{Rotation, RotationLimits, Urgency, Wanted, early_renewal};
use crate::source::{CertificateSource, SignError};
use crate::trust::{TrustBundle, TrustError};

mod driver;
#[cfg(test)]
mod tests;

/// The clock of a manager: real, or a test's.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

pub struct ManagerConfig {
    pub clock: Clock,
    /// How long one fetch may take.
    pub fetch_timeout: Duration,
    /// How long a caller waits for a certificate, the queue included.
    pub wait_timeout: Duration,
    /// Fetches at the same time.
    pub max_concurrent: usize,
    /// Identities under management.
    pub max_identities: usize,
    /// What peers are judged by once the control plane has said it.
    pub trust: TrustBundle,
}

impl Default for ManagerConfig {
    /// 10 s for a fetch, 15 s for a caller, 8 fetches at once (as Istio's proxy), 10,000 identities.
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemTime::now),
            fetch_timeout: Duration::from_secs(10),
            wait_timeout: Duration::from_secs(15),
            max_concurrent: 8,
            max_identities: 10_000,
            trust: TrustBundle::default(),
        }
    }
}

/// Why a caller got no certificate. The message is complete in itself; there is no source to print.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    #[error("no certificate for {identity}: {cause}; next attempt in {} s", retry_in.as_secs_f32().ceil())]
    Failed {
        identity: SpiffeId,
        cause: Arc<FetchFailure>,
        retry_in: Duration,
    },
    #[error("no certificate for {identity} after {} s; is the control plane reachable?", after.as_secs_f32())]
    TimedOut { identity: SpiffeId, after: Duration },
    #[error("no certificate for {identity}: already {limit} identities are managed on this node")]
    TooMany { identity: SpiffeId, limit: usize },
    #[error("no certificate for {identity}: its last workload has left this node")]
    Forgotten { identity: SpiffeId },
    #[error("no certificate for {identity}: the proxy is shutting down")]
    Stopped { identity: SpiffeId },
}

impl FetchError {
    /// Whether more patience with the authority would not help: it has answered, and will again.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Failed { cause, .. } => cause.is_refusal(),
            Self::TimedOut { .. } => false,
            Self::TooMany { .. } | Self::Forgotten { .. } | Self::Stopped { .. } => true,
        }
    }
}

/// Why one fetch failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchFailure {
    #[error(transparent)]
    Request(#[from] CsrError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("the certificate authority's answer cannot be used: {0}")]
    Certificate(#[from] CertificateError),
    #[error("the certificate authority did not answer within {} s", .0.as_secs_f32())]
    Timeout(Duration),
    #[error("the fetch ended abnormally; this is a bug, please report it")]
    Aborted,
}

impl FetchFailure {
    fn is_refusal(&self) -> bool {
        match self {
            Self::Sign(SignError::Unavailable(_)) | Self::Timeout(_) => false,
            Self::Sign(_) | Self::Request(_) | Self::Certificate(_) | Self::Aborted => true,
        }
    }
}

/// One line of the list of certificates that the admin port and the CLI show.
#[derive(Debug, Clone)]
pub struct CertificateStatus {
    pub identity: SpiffeId,
    /// What is in use, if anything.
    pub certificate: Option<Arc<WorkloadCertificate>>,
    /// When the next fetch is due (renewal or another try); none while one runs or is queued.
    pub next_fetch: Option<SystemTime>,
    /// How the last fetch failed, if it did.
    pub error: Option<String>,
}

/// Fetches certificates on demand and renews them. Clones share everything.
#[derive(Clone)]
pub struct CertificateManager {
    shared: Arc<Shared>,
}

struct Shared {
    source: Arc<dyn CertificateSource>,
    config: ManagerConfig,
    /// Protects the rotation and what each identity has; never held across an await.
    state: Mutex<State>,
    /// Wakes the driver when something was wanted.
    wanted: Notify,
}

struct State {
    rotation: Rotation,
    slots: HashMap<SpiffeId, Slot>,
    stopped: bool,
}

struct Slot {
    certificate: Option<Arc<WorkloadCertificate>>,
    failure: Option<Arc<FetchFailure>>,
    next_fetch: Option<SystemTime>,
    /// Counts finished fetches; who waits, waits for the next.
    finished: watch::Sender<u64>,
}

impl Slot {
    fn new() -> Self {
        Self {
            certificate: None,
            failure: None,
            next_fetch: None,
            finished: watch::Sender::new(0),
        }
    }

    fn in_force(&self, now: SystemTime) -> Option<Arc<WorkloadCertificate>> {
        self.certificate.clone().filter(|c| c.is_valid_at(now))
    }
}

/// What a caller finds: a certificate, or something to wait for.
enum Found {
    Certificate(Arc<WorkloadCertificate>),
    Wait(watch::Receiver<u64>),
}

impl CertificateManager {
    /// Makes a manager and the future that does its work; nothing is fetched unless that future runs.
    pub fn new(
        source: Arc<dyn CertificateSource>,
        config: ManagerConfig,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let rotation = Rotation::new(RotationLimits {
            concurrent: config.max_concurrent,
            identities: config.max_identities,
        });
        let shared = Arc::new(Shared {
            source,
            config,
            state: Mutex::new(State {
                rotation,
                slots: HashMap::new(),
                stopped: false,
            }),
            wanted: Notify::new(),
        });
        let driver = driver::run(shared.clone());
        (Self { shared }, driver)
    }

    /// The certificate of an identity: at once where one is in force, else after a fetch.
    ///
    /// A caller that comes while the identity backs off after a failure gets that failure at once.
    /// Cancel safe: a fetch that was begun goes on and serves the next caller.
    pub async fn certificate(&self, identity: &SpiffeId) -> Result<Arc<WorkloadCertificate>, FetchError> {
        let mut finished = match self.shared.look_up(identity, Urgency::Demand)? {
            Found::Certificate(certificate) => return Ok(certificate),
            Found::Wait(finished) => finished,
        };
        let after = self.shared.config.wait_timeout;
        let timed_out = |_| FetchError::TimedOut {
            identity: identity.clone(),
            after,
        };
        let changed = tokio::time::timeout(after, finished.changed())
            .await
            .map_err(timed_out)?;
        match changed {
            Ok(()) => self.shared.result(identity),
            Err(_) => Err(FetchError::Forgotten {
                identity: identity.clone(),
            }),
        }
    }

    /// The certificate of an identity if one is in force, without waiting and without fetching.
    pub fn current(&self, identity: &SpiffeId) -> Option<Arc<WorkloadCertificate>> {
        let now = (self.shared.config.clock)();
        self.shared.state.lock().slots.get(identity)?.in_force(now)
    }

    /// Takes the mesh's roots in PEM, the one that certificates are signed under first.
    ///
    /// New connections are judged by them at once, open ones stay. Certificates that lead to another root than the first
    /// are renewed early, spread over some minutes.
    pub fn trust(&self, roots_pem: &str) -> Result<(), TrustError> {
        if self.shared.config.trust.replace(roots_pem)? {
            self.shared.renew_outdated();
        }
        Ok(())
    }

    /// Has a certificate fetched that will be wanted soon; failures show when it is wanted.
    pub fn prefetch(&self, identity: &SpiffeId) {
        // What can go wrong here goes wrong again, and is reported, when the certificate is asked for.
        let _ = self.shared.look_up(identity, Urgency::Warmup);
    }

    /// Drops an identity whose last workload has left; whoever waits for it gets an error.
    pub fn forget(&self, identity: &SpiffeId) {
        let mut state = self.shared.state.lock();
        state.rotation.forget(identity);
        state.slots.remove(identity);
    }

    /// Every identity under management, by name.
    pub fn list(&self) -> Vec<CertificateStatus> {
        let state = self.shared.state.lock();
        let mut list: Vec<_> = state
            .slots
            .iter()
            .map(|(identity, slot)| CertificateStatus {
                identity: identity.clone(),
                certificate: slot.certificate.clone(),
                next_fetch: slot.next_fetch,
                error: slot.failure.as_ref().map(ToString::to_string),
            })
            .collect();
        drop(state);
        list.sort_by(|a, b| a.identity.cmp(&b.identity));
        list
    }
}

impl Shared {
    fn now(&self) -> SystemTime {
        (self.config.clock)()
    }

    fn look_up(&self, identity: &SpiffeId, urgency: Urgency) -> Result<Found, FetchError> {
        let now = self.now();
        let mut state = self.state.lock();
        if state.stopped {
            return Err(FetchError::Stopped {
                identity: identity.clone(),
            });
        }
        if let Some(certificate) = state.slots.get(identity).and_then(|slot| slot.in_force(now)) {
            return Ok(Found::Certificate(certificate));
        }
        match state.rotation.want(identity, urgency, now) {
            Wanted::Pending => {
                let slot = state.slots.entry(identity.clone()).or_insert_with(Slot::new);
                let finished = slot.finished.subscribe();
                drop(state);
                self.wanted.notify_one();
                Ok(Found::Wait(finished))
            }
            Wanted::BackingOff { until } => Err(state.failure(identity, until, now)),
            Wanted::Refused => Err(FetchError::TooMany {
                identity: identity.clone(),
                limit: self.config.max_identities,
            }),
        }
    }

    /// Brings forward what leads to a root that is not signed under any more.
    fn renew_outdated(&self) {
        let held: Vec<_> = self
            .state
            .lock()
            .slots
            .values()
            .filter_map(|s| s.certificate.clone())
            .collect();
        // Outside of the lock: each takes some signature checks.
        let outdated = held.iter().filter(|c| self.config.trust.outdates(c));
        let outdated: Vec<_> = outdated.map(|c| (c.identity(), c.not_after())).collect();
        if outdated.is_empty() {
            return;
        }
        tracing::info!(
            certificates = outdated.len(),
            "another root signs from now on; renewing certificates early"
        );
        let (now, mut state) = (self.now(), self.state.lock());
        for (identity, expires) in outdated {
            state.hasten(identity, expires, now);
        }
        drop(state);
        self.wanted.notify_one();
    }

    /// What a fetch that somebody waited for has brought.
    fn result(&self, identity: &SpiffeId) -> Result<Arc<WorkloadCertificate>, FetchError> {
        let now = self.now();
        let state = self.state.lock();
        if state.stopped {
            return Err(FetchError::Stopped {
                identity: identity.clone(),
            });
        }
        let slot = state.slots.get(identity);
        match slot.and_then(|slot| slot.in_force(now)) {
            Some(certificate) => Ok(certificate),
            None => {
                let until = slot.and_then(|slot| slot.next_fetch).unwrap_or(now);
                Err(state.failure(identity, until, now))
            }
        }
    }
}

impl State {
    fn hasten(&mut self, identity: &SpiffeId, expires: SystemTime, now: SystemTime) {
        let due = early_renewal(expires, now, rand::random());
        let due = self.rotation.hasten(identity, due);
        if let (Some(due), Some(slot)) = (due, self.slots.get_mut(identity)) {
            slot.next_fetch = Some(due);
        }
    }

    fn failure(&self, identity: &SpiffeId, until: SystemTime, now: SystemTime) -> FetchError {
        let identity = identity.clone();
        match self.slots.get(&identity).and_then(|slot| slot.failure.clone()) {
            Some(cause) => FetchError::Failed {
                identity,
                cause,
                retry_in: until.duration_since(now).unwrap_or_default(),
            },
            None => FetchError::Forgotten { identity },
        }
    }
}
