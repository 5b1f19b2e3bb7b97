//! Enrolment: keeps the pods of this node as [`NodePods`] wants them.
//!
//! A thin skin around the state machine in [`reconciler`]: it runs the actions, feeds back what came of them, and
//! writes the report. What an action does is the [`PodHost`]'s.

pub(crate) mod reconciler;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::pods::{NodePod, NodePods, PodReport, PodState};
use reconciler::{Action, Event, Reconciler, Release};

/// After the source of pods failed.
const SOURCE_RETRY: Duration = Duration::from_secs(1);
/// After the report could not be written.
const REPORT_RETRY: Duration = Duration::from_secs(1);

/// What can be done with a pod. Failures are told as text: they go into the report.
#[async_trait]
pub(crate) trait PodHost: Send + Sync + 'static {
    /// Waits until connections of a pod can be served once it is captured; after some time it fails with what is missing.
    async fn await_means(&self, pod: Arc<NodePod>) -> Result<(), String>;
    async fn capture(&self, pod: Arc<NodePod>) -> Result<(), String>;
    /// Succeeds once everything is there that serving a tunnel needs; fails with what is missing.
    async fn prepare(&self, uid: Arc<str>) -> Result<(), String>;
    async fn release(&self, pod: Arc<NodePod>, how: Release) -> Result<(), String>;
    /// Undoes captures of an earlier process for pods other than these.
    async fn retain(&self, pods: Vec<Arc<NodePod>>) -> Result<(), String>;
    /// Whether the control plane has stopped to advertise the pod's tunnel.
    fn is_withdrawn(&self, pod: &NodePod) -> bool;
    /// Changes whenever [`Self::is_withdrawn`] may have.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// The last report, for the admin port.
pub(crate) type Reports = Arc<Mutex<Vec<PodReport>>>;

pub(crate) struct Enroller<H> {
    reconciler: Reconciler,
    source: Box<dyn NodePods>,
    host: Arc<H>,
    jobs: JoinSet<Event>,
    reports: Reports,
    /// Set until the pods of the first list are taken over and leftovers of an earlier process were undone.
    leftovers: bool,
    report_retry: Option<Instant>,
    /// Ends what waits for somebody else.
    stopping: CancellationToken,
}

impl<H: PodHost> Enroller<H> {
    pub(crate) async fn new(mut source: Box<dyn NodePods>, host: Arc<H>, reports: Reports) -> Self {
        let earlier = source.last_report().await;
        Self {
            reconciler: Reconciler::new(&earlier),
            source,
            host,
            jobs: JoinSet::new(),
            reports,
            leftovers: true,
            report_retry: None,
            stopping: CancellationToken::new(),
        }
    }

    /// Runs until cancelled; `taken` is called once every pod of the first list has been captured or has failed: whoever
    /// served it before may end then.
    ///
    /// Captures are left in place: they outlive the process.
    pub(crate) async fn run(mut self, taken: impl FnOnce(), cancel: CancellationToken) {
        let (mut taken, mut is_listed) = (Some(taken), false);
        while let Some(event) = cancel.run_until_cancelled(self.next()).await {
            is_listed |= matches!(event, Event::Listed(_));
            let actions = self.reconciler.handle(Instant::now(), event);
            for action in actions {
                self.start(action);
            }
            if is_listed && !self.reconciler.is_taking_over() {
                self.undo_leftovers().await;
                if let Some(taken) = taken.take() {
                    taken();
                }
            }
            self.report().await;
        }
        self.stopping.cancel();
        // What is under way finishes: a capture half made would refuse the pod's traffic.
        while self.jobs.join_next().await.is_some() {}
    }

    async fn next(&mut self) -> Event {
        let wake = [self.reconciler.wake_at(), self.report_retry]
            .into_iter()
            .flatten()
            .min();
        let withdrawing: Vec<_> = self.reconciler.withdrawing().cloned().collect();
        tokio::select! {
            list = self.source.next() => match list {
                Ok(list) => Event::Listed(list),
                Err(error) => {
                    tracing::error!(%error, "pods of this node are not known; trying again");
                    tokio::time::sleep(SOURCE_RETRY).await;
                    Event::Tick
                }
            },
            Some(done) = self.jobs.join_next() => done.unwrap_or_else(|error| {
                tracing::error!(%error, "an enrolment task ended abnormally");
                Event::Tick
            }),
            uid = withdrawn(&*self.host, &withdrawing) => Event::Withdrawn(uid),
            () = sleep_until(wake) => Event::Tick,
        }
    }

    fn start(&mut self, action: Action) {
        let (host, stopping) = (self.host.clone(), self.stopping.clone());
        match action {
            Action::Await(pod) => self.jobs.spawn(async move {
                let awaited = stopping.run_until_cancelled(host.await_means(pod.clone())).await;
                if let Some(Err(error)) = awaited {
                    tracing::warn!(pod = %pod.name, namespace = %pod.namespace, %error, "pod is taken from an earlier agent without what it needs");
                }
                Event::Awaited(pod.uid.clone())
            }),
            Action::Capture(pod) => self.jobs.spawn(async move {
                let uid = pod.uid.clone();
                let (name, namespace) = (pod.name.clone(), pod.namespace.clone());
                let result = host.capture(pod).await;
                match &result {
                    Ok(()) => tracing::info!(pod = %name, %namespace, "pod captured"),
                    Err(error) => tracing::warn!(pod = %name, %namespace, %error, "pod cannot be captured"),
                }
                Event::Captured(uid, result)
            }),
            Action::Prepare(uid) => self.jobs.spawn(async move {
                let result = host.prepare(uid.clone()).await;
                if let Err(error) = &result {
                    tracing::debug!(%uid, %error, "pod cannot be enrolled yet");
                }
                Event::Prepared(uid, result)
            }),
            Action::Release(pod, how) => self.jobs.spawn(async move {
                let result = host.release(pod.clone(), how).await;
                match &result {
                    Ok(()) => tracing::info!(pod = %pod.name, namespace = %pod.namespace, "pod released"),
                    Err(error) => {
                        tracing::warn!(pod = %pod.name, namespace = %pod.namespace, %error, "pod cannot be released");
                    }
                }
                Event::Released(pod.uid.clone(), result)
            }),
        };
    }

    /// Not while a pod is taken over: an earlier agent's capture, perhaps of another version, must not go before this
    /// one's is in place.
    async fn undo_leftovers(&mut self) {
        if !self.leftovers {
            return;
        }
        let kept = self.reconciler.kept().cloned().collect();
        match self.host.retain(kept).await {
            Ok(()) => self.leftovers = false,
            Err(error) => tracing::warn!(%error, "captures of an earlier agent stay; trying again"),
        }
    }

    async fn report(&mut self) {
        let reports = self.reconciler.reports();
        let changed = *self.reports.lock() != reports;
        let due = self.report_retry.is_some_and(|at| at <= Instant::now());
        if !changed && !due {
            return;
        }
        if changed {
            log_changes(&self.reports.lock(), &reports);
        }
        self.reports.lock().clone_from(&reports);
        self.report_retry = match self.source.report(&reports).await {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(%error, "enrolment cannot be reported; trying again");
                Some(Instant::now() + REPORT_RETRY)
            }
        };
    }
}

fn log_changes(before: &[PodReport], after: &[PodReport]) {
    for report in after.iter().filter(|r| !before.contains(r)) {
        let (uid, reason) = (&report.uid, &report.reason);
        match report.state {
            PodState::Failed => tracing::warn!(%uid, %reason, "pod failed to enrol"),
            PodState::Enrolled => tracing::info!(%uid, %reason, "pod enrolled"),
            PodState::Pending | PodState::NotWanted => {
                tracing::debug!(%uid, state = ?report.state, %reason, "pod state")
            }
        }
    }
}

/// The first of these pods that the control plane has withdrawn; never ends where there is none.
async fn withdrawn(host: &impl PodHost, pods: &[Arc<NodePod>]) -> Arc<str> {
    if pods.is_empty() {
        return std::future::pending().await;
    }
    let mut changes = host.changes();
    loop {
        if let Some(pod) = pods.iter().find(|pod| host.is_withdrawn(pod)) {
            return pod.uid.clone();
        }
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
