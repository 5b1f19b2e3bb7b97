//! The manager's own task: starts the fetches that are due and takes in their results.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer_core::identity::SpiffeId;
use tokio::task::{Id, JoinError, JoinSet};

use super::{FetchFailure, Shared};
use crate::certificate::{CertificateError, WorkloadCertificate};
use crate::csr::new_csr;
use crate::rotation::{Attempt, Finished};

/// The clock is asked again at least this often: the machine's clock may have been set.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

type Fetched = Result<WorkloadCertificate, FetchFailure>;

/// Fetches that run, owned by the driver: dropping it ends them.
struct Fetches {
    tasks: JoinSet<Fetched>,
    running: HashMap<Id, (SpiffeId, Attempt)>,
}

/// Runs until it is dropped; from then on callers get [`super::FetchError::Stopped`].
pub(super) async fn run(shared: Arc<Shared>) {
    let shared = StopOnDrop(shared);
    let mut fetches = Fetches {
        tasks: JoinSet::new(),
        running: HashMap::new(),
    };
    loop {
        let wait = fetches.start_due(&shared.0);
        tokio::select! {
            () = shared.0.wanted.notified() => {}
            () = tokio::time::sleep(wait) => {}
            Some(ended) = fetches.tasks.join_next_with_id() => fetches.take_in(&shared.0, ended),
        }
    }
}

struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.stopped = true;
        for slot in state.slots.values() {
            slot.finished.send_modify(|count| *count += 1);
        }
    }
}

impl Fetches {
    /// Starts what is due and answers how long to wait for more.
    fn start_due(&mut self, shared: &Arc<Shared>) -> Duration {
        let now = shared.now();
        let mut state = shared.state.lock();
        while let Some((identity, attempt)) = state.rotation.start(now) {
            if let Some(slot) = state.slots.get_mut(&identity) {
                slot.next_fetch = None;
            }
            let task = self.tasks.spawn(fetch(shared.clone(), identity.clone()));
            self.running.insert(task.id(), (identity, attempt));
        }
        state.rotation.deadline().map_or(LONGEST_SLEEP, |at| {
            at.duration_since(now).unwrap_or_default().min(LONGEST_SLEEP)
        })
    }

    fn take_in(&mut self, shared: &Shared, ended: Result<(Id, Fetched), JoinError>) {
        let (id, fetched) = match ended {
            Ok((id, fetched)) => (id, fetched),
            Err(error) => (error.id(), Err(FetchFailure::Aborted)),
        };
        let Some((identity, attempt)) = self.running.remove(&id) else {
            return;
        };
        match fetched {
            Ok(certificate) => succeeded(shared, &identity, attempt, certificate),
            Err(failure) => failed(shared, &identity, attempt, failure),
        }
    }
}

fn succeeded(shared: &Shared, identity: &SpiffeId, attempt: Attempt, certificate: WorkloadCertificate) {
    let now = shared.now();
    // A replica that has not heard yet signs under the root before.
    let outdated = shared.config.trust.outdates(&certificate);
    let mut state = shared.state.lock();
    let expires = certificate.not_after();
    let finished = state
        .rotation
        .succeeded(identity, attempt, expires, now, rand::random());
    let (Finished::Next { due }, Some(slot)) = (finished, state.slots.get_mut(identity)) else {
        return;
    };
    tracing::info!(%identity, serial = certificate.serial(), lifetime = ?lifetime(now, expires), "certificate fetched");
    slot.certificate = Some(Arc::new(certificate));
    slot.failure = None;
    slot.next_fetch = Some(due);
    slot.finished.send_modify(|count| *count += 1);
    if outdated {
        state.hasten(identity, expires, now);
    }
}

fn failed(shared: &Shared, identity: &SpiffeId, attempt: Attempt, failure: FetchFailure) {
    let now = shared.now();
    let mut state = shared.state.lock();
    let finished = state.rotation.failed(identity, attempt, now, rand::random());
    let (Finished::Next { due }, Some(slot)) = (finished, state.slots.get_mut(identity)) else {
        return;
    };
    tracing::warn!(%identity, error = %failure, retry_in = ?lifetime(now, due), "certificate fetch failed");
    slot.failure = Some(Arc::new(failure));
    slot.next_fetch = Some(due);
    slot.finished.send_modify(|count| *count += 1);
}

fn lifetime(now: SystemTime, until: SystemTime) -> Duration {
    until.duration_since(now).unwrap_or_default()
}

async fn fetch(shared: Arc<Shared>, identity: SpiffeId) -> Fetched {
    let request = new_csr(&identity)?;
    let limit = shared.config.fetch_timeout;
    let answer = tokio::time::timeout(limit, shared.source.sign(&identity, request.csr_pem()))
        .await
        .map_err(|_| FetchFailure::Timeout(limit))??;
    let certificate =
        WorkloadCertificate::from_answer(&answer, &request, &identity)?.trusting(shared.config.trust.clone());
    if !certificate.is_valid_at(shared.now()) {
        return Err(CertificateError::Expired { identity }.into());
    }
    Ok(certificate)
}
