//! Pods from the API server: a watch of this node's pods and of the labels of namespaces; the report is an annotation.
//!
//! Nothing is asked of the container runtime. Where a pod is follows from what the node shows ([`places`]).
//! While the API server is away the last list stays, and what is enrolled goes on.

mod annotate;
mod arrivals;
mod connect;
mod handover;
mod listed;
mod observed;
mod places;
mod watches;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_core::enrolment::{self, PodFacts};
use async_trait::async_trait;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::{
    Captured, MalformedPod, NodePod, NodePods, PodList, PodReport, PodState, PodsError, same_addresses,
};
use crate::cni::{Arrival, Arriving, CniConfig, NetnsFile, Verdict};
use annotate::{Annotator, Wish, Wishes};
use arrivals::Arrivals;
pub use connect::ConnectError;
use handover::Handover;
use observed::Observed;
use places::{Place, Places, Sought};
use watches::{Change, Changes, View};

/// Between two looks for a pod whose namespace or cgroup does not show yet.
const FIRST_LOOK: Duration = Duration::from_millis(100);
const LONGEST_LOOK: Duration = Duration::from_secs(5);
/// Pods that start and were not taken note of yet.
const ARRIVALS: usize = 16;

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
    /// None: pods start without asking.
    pub cni: Option<CniConfig>,
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
    reported: BTreeMap<Arc<str>, PodReport>,
    arrivals: Arrivals,
    incoming: mpsc::Receiver<Arriving>,
    /// For those who tell of arrivals; kept here, so that the other end is never closed.
    arriving: mpsc::Sender<Arriving>,
    in_mesh: watch::Sender<Arc<BTreeSet<String>>>,
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
        let (arriving, incoming) = mpsc::channel(ARRIVALS);
        Ok(Self {
            arrivals: Arrivals::default(),
            incoming,
            arriving,
            in_mesh: watch::Sender::default(),
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

    /// Takes pods that wait for a verdict before they start.
    pub(crate) fn arrivals(&self) -> mpsc::Sender<Arriving> {
        self.arriving.clone()
    }

    /// Namespaces whose pods are in the mesh unless they say otherwise. This agent's own is not among them: with its
    /// pods waiting for an agent there would never be one.
    pub(crate) fn in_mesh(&self) -> watch::Receiver<Arc<BTreeSet<String>>> {
        self.in_mesh.subscribe()
    }

    /// Waits until there is a reason to make a list: what was heard, or a pod to look for again.
    async fn gather(&mut self) {
        loop {
            while let Some(Some(change)) = self.changes.next().now_or_never() {
                self.heard(change);
            }
            self.settle();
            if self.stale && self.view.is_complete() && !self.waits() {
                return;
            }
            tokio::select! {
                Some(change) = self.changes.next() => self.heard(change),
                Some(arriving) = self.incoming.recv() => {
                    self.arrivals.add(Instant::now(), arriving);
                    self.stale = true;
                    self.look_pause = FIRST_LOOK;
                }
                () = sleep_until(self.arrivals.until()) => {}
                () = sleep_until(self.look_at) => {
                    self.look_at = None;
                    self.stale = true;
                }
            }
        }
    }

    /// A later agent runs on this node: pods that come now are its own. What this one serves it serves on.
    fn waits(&self) -> bool {
        let has_served = self.last.is_some() && !self.handover.has_turned();
        has_served && self.handover.is_succeeded(self.view.pods())
    }

    fn heard(&mut self, change: Change) {
        if self.view.hear(change) {
            self.handover.hear(self.view.pods());
            self.stale = true;
            self.look_pause = FIRST_LOOK;
            let fate = self.view.fate();
            self.fate
                .send_if_modified(|known| std::mem::replace(known, fate) != fate);
            self.wish();
            self.note_namespaces();
        }
    }

    fn note_namespaces(&self) {
        let namespaces = Arc::new(self.view.in_mesh(self.handover.namespace()));
        self.in_mesh
            .send_if_modified(|known| std::mem::replace(known, namespaces.clone()) != namespaces);
    }

    /// Tells those that wait whether they may start.
    fn settle(&mut self) {
        if !self.view.is_complete() {
            return;
        }
        let now = Instant::now();
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.forget(now, self.view.pods());
        arrivals.settle(now, |arrival, late| self.judge(arrival, late));
        self.arrivals = arrivals;
    }

    /// Nothing while that is not known, and it is not late.
    fn judge(&self, arrival: &Arrival, late: bool) -> Option<Verdict> {
        let is_it = |pod: &&Observed| {
            *pod.namespace == arrival.namespace
                && *pod.name == arrival.name
                && pod.is_named(arrival.uid.as_deref())
        };
        let Some(pod) = self.view.pods().find(is_it) else {
            return late.then(|| self.judge_unknown(arrival));
        };
        let report = self.reported.get(&pod.uid);
        let captured = report.and_then(|report| report.captured.as_ref());
        if captured.is_some_and(|captured| is_of(captured, arrival)) || !self.decide(pod).is_wanted() {
            return Some(Verdict::Start);
        }
        late.then(|| Verdict::Hold {
            because: report.map_or_else(
                || "the pod was not found on this node".to_owned(),
                |report| report.reason.clone(),
            ),
        })
    }

    /// A pod that the API server has not told of: its namespace decides.
    fn judge_unknown(&self, arrival: &Arrival) -> Verdict {
        if self.in_mesh.borrow().contains(&arrival.namespace) {
            let because = "the API server has not told of the pod".to_owned();
            return Verdict::Hold { because };
        }
        Verdict::Start
    }

    /// Looks up where the pods are, on a thread that may block.
    async fn look(&mut self) -> Result<BTreeMap<Arc<str>, Result<Place, String>>, PodsError> {
        let sought = |pod: &Observed| pod.sought(self.arrivals.addresses(pod));
        let sought: Vec<Sought> = self.view.pods().filter_map(sought).collect();
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
            ips: self.arrivals.addresses(pod).to_vec(),
            netns: place.netns,
            cgroup: place.cgroup,
            turn: self.handover.turn(&pod.uid),
            served: pod.advertised && self.handover.is_preceded(),
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
        // Two would undo each other's: the later agent reports all pods.
        if self.waits() {
            return self.annotator.want(Wishes::new());
        }
        let wish = |pod: &Observed| {
            // Of a pod that has ended nobody reports any more, and its annotation would stay for good.
            let advertise = !pod.is_over && self.reported.get(&pod.uid)?.state == PodState::Enrolled;
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
        let enrolled = self.view.pods().filter(|pod| pod.advertised && !pod.is_over);
        let report = |pod: &Observed| PodReport {
            uid: pod.uid.clone(),
            state: PodState::Enrolled,
            reason: String::new(),
            captured: None,
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
        let by_uid = |report: &PodReport| (report.uid.clone(), report.clone());
        self.reported = pods.iter().map(by_uid).collect();
        self.wish();
        self.settle();
        Ok(())
    }
}

/// A capture of the pod's earlier network namespace, perhaps with the same addresses, is none of this one.
fn is_of(captured: &Captured, arrival: &Arrival) -> bool {
    let is_there = NetnsFile::of(&captured.netns).is_ok_and(|file| file == arrival.netns);
    is_there && same_addresses(&captured.ips, &arrival.ips)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
