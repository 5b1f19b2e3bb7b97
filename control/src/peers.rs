//! What is in effect at the proxies of the other replicas.
//!
//! A proxy has one stream, to one replica. For "in effect at N of M proxies" and for a waypoint with several pods each
//! replica has to know of the others' proxies: it asks them, once a second, on the port that metrics are read from.
//! Replicas number their models each on its own, so that they speak of objects by UID and generation.

mod client;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::compile::inputs::Labels;
use crate::compile::report::PodName;
use crate::compile::waypoints::Place;
use crate::objects::{Meta, ObjectKey};
use crate::serve::Version;
use crate::snapshots::Snapshots;
use client::AskError;
pub(crate) use report::PeerProxy;
pub use report::{PATH, PeerReport, of};

const EVERY: Duration = Duration::from_secs(1);
/// How often in a row a replica that is there may be late and be taken at its last word: its proxies are connected to it
/// all the same, and what waits for every proxy must not go on without them.
const MOST_LATE: u32 = 5;
/// More replicas than anybody runs.
const MOST_PEERS: usize = 16;
/// Labels of the control plane's own pods.
const OWN_LABELS: [(&str, &str); 2] = [("app", "istiod"), ("istio", "pilot")];

/// The reports of the other replicas, by their address.
#[derive(Debug, Default, PartialEq)]
pub struct Elsewhere {
    replicas: BTreeMap<SocketAddr, Arc<Replica>>,
}

/// One report, indexed.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Replica {
    proxies: Vec<PeerProxy>,
    objects: HashMap<ObjectKey, report::PeerObject>,
    places: BTreeMap<Place, BTreeSet<PodName>>,
}

impl Elsewhere {
    pub(crate) fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.values().map(|replica| &**replica)
    }

    /// After one round of questions; `late` are those that did not answer in time, and how often in a row.
    fn after(
        &self,
        answers: Vec<(SocketAddr, Result<Replica, AskError>)>,
        late: &mut BTreeMap<SocketAddr, u32>,
    ) -> Self {
        let before = std::mem::take(late);
        let mut replicas = BTreeMap::new();
        for (address, answer) in answers {
            let known = match answer {
                Ok(replica) => Some(Arc::new(replica)),
                Err(error) => {
                    tracing::debug!(peer = %address, %error, "another replica does not say what is in effect");
                    let times = before.get(&address).copied().unwrap_or_default();
                    if !matches!(error, AskError::Late) || times >= MOST_LATE {
                        continue;
                    }
                    late.insert(address, times + 1);
                    self.replicas.get(&address).cloned()
                }
            };
            replicas.extend(known.map(|replica| (address, replica)));
        }
        Self { replicas }
    }

    /// Every proxy of the other replicas, and whether it trusts the roots of this version.
    pub(crate) fn trusting(&self, version: Version) -> impl Iterator<Item = (PodName, bool)> {
        let version: Arc<str> = version.to_string().into();
        let proxies = self.replicas.values().flat_map(|replica| &replica.proxies);
        proxies.map(move |p| {
            (
                (p.namespace.clone(), p.pod.clone()),
                p.trusts.as_ref() == Some(&version),
            )
        })
    }

    /// Whether a pod of the waypoint has the service's resources in effect.
    pub fn serves(&self, place: &Place, pod: &PodName) -> bool {
        let pods = self
            .replicas
            .values()
            .filter_map(|replica| replica.places.get(place));
        pods.into_iter().any(|pods| pods.contains(pod))
    }
}

/// Asks the other replicas for as long as the process runs.
pub struct Peers {
    snapshots: Arc<Snapshots>,
    namespace: Arc<str>,
    name: Arc<str>,
    port: u16,
    /// Instead of the pods of the control plane, where it does not run in pods.
    fixed: Vec<SocketAddr>,
    found: watch::Sender<Arc<Elsewhere>>,
}

impl Peers {
    pub fn new(
        snapshots: Arc<Snapshots>,
        (namespace, name): (&str, &str),
        port: u16,
        fixed: Vec<SocketAddr>,
        found: watch::Sender<Arc<Elsewhere>>,
    ) -> Self {
        Self {
            snapshots,
            namespace: namespace.into(),
            name: name.into(),
            port,
            fixed,
            found,
        }
    }

    pub async fn run(self, cancel: CancellationToken) {
        let mut late = BTreeMap::new();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            let answers = futures_util::future::join_all(self.addresses().into_iter().map(ask)).await;
            let elsewhere = self.found.borrow().after(answers, &mut late);
            self.found.send_if_modified(|old| {
                let changed = **old != elsewhere;
                if changed {
                    *old = Arc::new(elsewhere);
                }
                changed
            });
        }
    }

    fn addresses(&self) -> BTreeSet<SocketAddr> {
        if !self.fixed.is_empty() {
            return self.fixed.iter().copied().take(MOST_PEERS).collect();
        }
        let Some(compiled) = self.snapshots.compiled() else {
            return BTreeSet::new();
        };
        let pods =
            compiled.inputs.pods.in_namespace(&self.namespace).filter(|pod| {
                pod.meta.name != self.name && is_own(&pod.meta.labels) && !pod.spec.is_finished()
            });
        let addresses = pods.filter_map(|pod| Some(SocketAddr::new(*pod.spec.ips().first()?, self.port)));
        addresses.take(MOST_PEERS).collect()
    }
}

fn is_own(labels: &Labels) -> bool {
    OWN_LABELS
        .iter()
        .all(|(key, value)| labels.get(*key).is_some_and(|v| **v == **value))
}

async fn ask(address: SocketAddr) -> (SocketAddr, Result<Replica, AskError>) {
    let answer = client::get(address, PATH).await;
    (address, answer.map(Replica::of))
}

impl Replica {
    pub(crate) fn proxies(&self) -> &[PeerProxy] {
        &self.proxies
    }

    /// Indices of the proxies that do not have an object in effect; none are told where the replica does not know it as it
    /// is now, and all of them lack it.
    pub(crate) fn lacking(&self, key: &ObjectKey, meta: &Meta) -> Option<&BTreeSet<usize>> {
        let known = self.objects.get(key)?;
        (known.uid == meta.uid && known.generation == meta.generation).then_some(&known.lacking)
    }

    fn of(report: PeerReport) -> Self {
        let objects = report.objects.into_iter().map(|object| {
            let key = ObjectKey::new(&object.group, &object.kind, &object.namespace, &object.name);
            (key, object)
        });
        Self {
            objects: objects.collect(),
            places: report
                .places
                .into_iter()
                .map(report::PeerPlace::into_place)
                .collect(),
            proxies: report.proxies,
        }
    }
}

#[cfg(test)]
impl Elsewhere {
    /// What one other replica says.
    pub(crate) fn of_report(report: serde_json::Value) -> Self {
        let report: PeerReport = serde_json::from_value(report).unwrap();
        let address = "10.0.0.1:15014".parse().unwrap();
        Self {
            replicas: [(address, Arc::new(Replica::of(report)))].into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elsewhere() -> Elsewhere {
        Elsewhere::of_report(serde_json::json!({
            "proxies": [
                {"proxyType": "waypoint", "namespace": "a", "pod": "w1"},
                {"proxyType": "agent", "namespace": "b", "pod": "z"},
            ],
            "objects": [{"group": "g", "kind": "K", "namespace": "a", "name": "n", "uid": "u", "generation": 3, "lacking": [1]}],
            "places": [{"namespace": "a", "hostname": "web.a", "waypoint": {"namespace": "a", "name": "w"}, "pods": [["a", "w1"]]}],
        }))
    }

    #[test]
    fn an_object_counts_as_it_is_now_only() {
        let key = ObjectKey::new("g", "K", "a", "n");
        let mut meta = Meta {
            uid: "u".into(),
            generation: Some(3),
            ..Meta::default()
        };
        let elsewhere = elsewhere();
        let replica = elsewhere.replicas().next().unwrap();
        assert_eq!(replica.lacking(&key, &meta), Some(&[1].into()));
        meta.generation = Some(4);
        assert_eq!(replica.lacking(&key, &meta), None);
    }

    #[test]
    fn a_replica_that_is_late_is_taken_at_its_last_word_for_a_while() {
        let (there, mut late) = ("10.0.0.1:15014".parse().unwrap(), BTreeMap::new());
        let mut knows = |before: &Elsewhere, error| {
            let after = before.after(vec![(there, Err(error))], &mut late);
            (after.replicas().count(), after)
        };
        let mut last = elsewhere();
        for _ in 0..MOST_LATE {
            let (count, after) = knows(&last, AskError::Late);
            assert_eq!(count, 1);
            last = after;
        }
        assert_eq!(knows(&last, AskError::Late).0, 0, "not for ever");
        // One that is gone says so, and is gone.
        let refused = || AskError::Connect(std::io::ErrorKind::ConnectionRefused.into());
        assert_eq!(knows(&last, AskError::Late).0, 1);
        assert_eq!(knows(&last, refused()).0, 0);
        // And one that has been deleted is not asked any more.
        assert_eq!(last.after(Vec::new(), &mut late).replicas().count(), 0);
    }

    #[test]
    fn a_waypoints_pod_counts_for_its_services() {
        use crate::compile::waypoints::WaypointKey;
        use aquifer_core::names::NamespacedHostname;
        let place = |host: &str| (NamespacedHostname::new("a", host), WaypointKey::new("a", "w"));
        let pod = |name: &str| ("a".into(), name.into());
        assert!(elsewhere().serves(&place("web.a"), &pod("w1")));
        assert!(!elsewhere().serves(&place("web.a"), &pod("w2")));
        assert!(!elsewhere().serves(&place("other.a"), &pod("w1")));
    }
}
