//! Pods from the API server: a watch of this node's pods and of the labels of namespaces; the report is an annotation.
//!
//! Nothing is asked of the container runtime. Where a pod is follows from what the node shows ([`places`]).
//! While the API server is away the last list stays, and what is enrolled goes on.

mod annotate;
mod connect;
mod handover;
mod listed;
mod observed;
mod places;
mod watches;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_core::enrolment::{self, PodFacts};
use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{MalformedPod, NodePod, NodePods, PodList, PodReport, PodState, PodsError};
use annotate::{Annotator, Wish, Wishes};
pub use connect::ConnectError;
use handover::Handover;
use observed::Observed;
use places::{Place, Places, Sought};
use watches::{Change, Changes, View};

/// Between two looks for a pod whose namespace or cgroup does not show yet.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LONGEST_LOOK: Duration = Duration::from_secs(5);

/// What the watch of a node takes.
#[derive(Clone, Debug)]
pub struct KubernetesConfig {
    pub node: String,
    /// This agent's own pod, to tell others of its kind from it.
    pub namespace: String,
    pub pod: String,
    /// The agents' DaemonSet, to tell an uninstallation from a restart.
    pub daemonset: Option<String>,
    /// Where the container runtime keeps pods' network namespaces.
    pub netns_dir: PathBuf,
    pub captured_cgroup: PathBuf,
}

/// What becomes of the agents as a whole, by their DaemonSet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    #[default]
    Stays,
    /// Asked to leave the nodes, in order, while everything still runs.
    Leaves,
    /// Deleted: this agent's end is the end of the mesh on this node.
    Gone,
}

/// The pods of one node.
pub struct KubernetesPods {
    changes: Changes,
    view: View,
    /// Shared with the thread that looks for pods, which goes on when nobody waits for it any more.
    places: Arc<Mutex<Places>>,
    annotator: Annotator,
    handover: Handover,
    /// What the last report said of each pod.
    reported: BTreeMap<Arc<str>, bool>,
    /// Something was heard since the last list.
    stale: bool,
    look_at: Option<Instant>,
    look_pause: Duration,
    last: Option<PodList>,
    fate: watch::Sender<Fate>,
}

impl KubernetesPods {
    /// Follows the pods of a node. Must be called inside a tokio runtime; ends its tasks when dropped.
    pub fn open(config: KubernetesConfig) -> Result<Self, ConnectError> {
        let client = connect::connect()?;
        Ok(Self {
            changes: watches::follow(&client, &config),
            view: View::new(config.daemonset.is_some()),
            handover: Handover::new(&config.namespace, &config.pod),
            places: Arc::new(Mutex::new(Places::new(config.netns_dir, config.captured_cgroup))),
            annotator: Annotator::start(client),
            reported: BTreeMap::new(),
            stale: true,
            look_at: None,
            look_pause: FIRST_LOOK,
            last: None,
            fate: watch::Sender::default(),
        })
    }

    /// Changes when the DaemonSet does.
    pub fn fate(&self) -> watch::Receiver<Fate> {
        self.fate.subscribe()
    }

    /// Waits until there is a reason to make a list: what was heard, or a pod to look for again.
    async fn gather(&mut self) {
        loop {
            while let Some(Some(change)) = self.changes.next().now_or_never() {
                self.heard(change);
            }
            if self.stale && self.view.is_complete() && !self.waits() {
                return;
            }
            tokio::select! {
                Some(change) = self.changes.next() => self.heard(change),
                () = sleep_until(self.look_at) => {
                    self.look_at = None;
                    self.stale = true;
                }
            }
        }
    }

    /// A later agent runs on this node: pods that come now are its own. What this one serves it serves on.
    fn waits(&self) -> bool {
        self.last.is_some() && self.handover.is_succeeded(self.view.pods())
    }

    fn heard(&mut self, change: Change) {
        if self.view.hear(change) {
            self.stale = true;
            self.look_pause = FIRST_LOOK;
            let fate = self.view.fate();
            self.fate
                .send_if_modified(|known| std::mem::replace(known, fate) != fate);
            self.wish();
        }
    }

    /// Looks up where the pods are, on a thread that may block.
    async fn look(&mut self) -> Result<BTreeMap<Arc<str>, Result<Place, String>>, PodsError> {
        let sought: Vec<Sought> = self.view.pods().filter_map(Observed::sought).collect();
        let places = self.places.clone();
        let looked = tokio::task::spawn_blocking(move || places.lock().find(&sought));
        looked.await.map_err(|error| {
            tracing::error!(%error, "the search for pods ended abnormally");
            PodsError::Search
        })
    }

    fn list(&self, mut found: BTreeMap<Arc<str>, Result<Place, String>>) -> PodList {
        let mut list = PodList::default();
        for pod in self.view.pods().filter(|pod| !pod.is_over) {
            let decision = self.decide(pod);
            match found.remove(&pod.uid) {
                Some(Ok(place)) => list.pods.push(self.node_pod(pod, place, &decision)),
                Some(Err(reason)) if decision.is_wanted() => list.malformed.push(MalformedPod {
                    uid: pod.uid.clone(),
                    reason,
                }),
                // Shown as not wanted; never entered.
                Some(Err(_)) | None if !decision.is_wanted() => {
                    list.pods.push(self.node_pod(pod, Place::default(), &decision));
                }
                // Its sandbox has no address yet.
                _ => {}
            }
        }
        list
    }

    fn node_pod(&self, pod: &Observed, place: Place, decision: &enrolment::Enrolment) -> NodePod {
        NodePod {
            uid: pod.uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            service_account: pod.service_account.clone(),
            ips: pod.ips.clone(),
            netns: place.netns,
            cgroup: place.cgroup,
            turn: self.handover.turn(&pod.uid),
            wanted: decision.is_wanted(),
            reason: decision.because().to_owned(),
        }
    }

    fn decide(&self, pod: &Observed) -> enrolment::Enrolment {
        if self.view.fate() != Fate::Stays {
            let because = "the agents are leaving this cluster".to_owned();
            return enrolment::Enrolment::NotWanted { because };
        }
        let facts = PodFacts {
            host_network: pod.host_network,
            has_sidecar: pod.has_sidecar,
        };
        enrolment::decide(self.view.labels_of(&pod.namespace), &pod.labels, facts)
    }

    /// Brings annotations in line with the last report.
    fn wish(&self) {
        let wish = |pod: &Observed| {
            let advertise = *self.reported.get(&pod.uid)?;
            let wish = Wish {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                advertise,
                shown: pod.advertised,
            };
            Some((pod.uid.clone(), wish))
        };
        let wishes: Wishes = self.view.pods().filter_map(wish).collect();
        self.annotator.want(wishes);
    }
}

#[async_trait]
impl NodePods for KubernetesPods {
    async fn last_report(&mut self) -> Vec<PodReport> {
        self.gather().await;
        let enrolled = self.view.pods().filter(|pod| pod.advertised);
        let report = |pod: &Observed| PodReport {
            uid: pod.uid.clone(),
            state: PodState::Enrolled,
            reason: String::new(),
        };
        enrolled.map(report).collect()
    }

    async fn next(&mut self) -> Result<PodList, PodsError> {
        loop {
            self.gather().await;
            let found = self.look().await?;
            self.handover.look(self.view.pods());
            let list = self.list(found);
            // Not before there is a list: a caller that gave up meanwhile gets it the next time.
            self.stale = false;
            if list.malformed.is_empty() {
                self.look_at = None;
            } else {
                self.look_at = Some(Instant::now() + self.look_pause);
                self.look_pause = (self.look_pause * 2).min(LONGEST_LOOK);
            }
            if self.last.as_ref() != Some(&list) {
                self.last = Some(list.clone());
                return Ok(list);
            }
        }
    }

    async fn report(&mut self, pods: &[PodReport]) -> Result<(), PodsError> {
        let is_enrolled = |report: &PodReport| (report.uid.clone(), report.state == PodState::Enrolled);
        self.reported = pods.iter().map(is_enrolled).collect();
        self.wish();
        Ok(())
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
