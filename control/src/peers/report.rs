//! What one replica says: its proxies, which objects they lack, and which waypoint pods serve which service.

use std::collections::BTreeSet;
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;
use serde::{Deserialize, Serialize};

use crate::compile::report::PodName;
use crate::compile::waypoints::{Place, WaypointKey};
use crate::debug::DebugState;
use crate::serve::ProxyType;
use crate::serve::registry::ProxyStatus;

/// Where it is served.
pub const PATH: &str = "/debug/in-effect";

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct PeerReport {
    pub(super) proxies: Vec<PeerProxy>,
    pub(super) objects: Vec<PeerObject>,
    pub(super) places: Vec<PeerPlace>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PeerProxy {
    pub(crate) proxy_type: ProxyType,
    pub(crate) namespace: Arc<str>,
    pub(crate) pod: Arc<str>,
    /// The version of the roots that it trusts; a replica of an earlier version says nothing.
    #[serde(default)]
    pub(crate) trusts: Option<Arc<str>>,
    /// What it said when it first refused something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) refusal: Option<Arc<str>>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PeerObject {
    pub(super) group: Arc<str>,
    pub(super) kind: Arc<str>,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) uid: Arc<str>,
    pub(super) generation: Option<i64>,
    /// Indices of the proxies that do not have it in effect.
    pub(super) lacking: BTreeSet<usize>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PeerPlace {
    namespace: Arc<str>,
    hostname: Arc<str>,
    waypoint: PeerWaypoint,
    /// Namespace and name of the pods that serve it.
    pods: BTreeSet<PodName>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PeerWaypoint {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl PeerPlace {
    fn new(place: &Place, pods: BTreeSet<PodName>) -> Self {
        let (service, waypoint) = place;
        Self {
            namespace: service.namespace.clone(),
            hostname: service.hostname.clone(),
            waypoint: PeerWaypoint {
                namespace: waypoint.namespace.clone(),
                name: waypoint.name.clone(),
            },
            pods,
        }
    }

    pub(super) fn into_place(self) -> (Place, BTreeSet<PodName>) {
        let service = NamespacedHostname::new(&self.namespace, &self.hostname);
        let waypoint = WaypointKey::new(&self.waypoint.namespace, &self.waypoint.name);
        ((service, waypoint), self.pods)
    }
}

/// The report of this replica, about its own proxies alone.
pub fn of(state: &DebugState) -> PeerReport {
    let proxies = state.registry.present();
    let view = state.view.read();
    let objects = view
        .statuses
        .here(&proxies)
        .map(|(key, meta, lacking)| PeerObject {
            group: key.group.clone(),
            kind: key.kind.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: meta.uid.clone(),
            generation: meta.generation,
            lacking,
        });
    let objects = objects.collect();
    PeerReport {
        objects,
        places: places(state, &proxies),
        proxies: proxies.into_iter().map(proxy).collect(),
    }
}

fn proxy(status: ProxyStatus) -> PeerProxy {
    PeerProxy {
        proxy_type: status.proxy_type,
        namespace: status.namespace,
        pod: status.pod,
        trusts: status.trusts.map(|version| version.to_string().into()),
        refusal: status.refusal,
    }
}

fn places(state: &DebugState, proxies: &[ProxyStatus]) -> Vec<PeerPlace> {
    let Some(compiled) = state.snapshots.compiled() else {
        return Vec::new();
    };
    let of_place = |(place, since): (&Place, &u64)| {
        let serving = proxies.iter().filter(|p| {
            p.proxy_type == ProxyType::Waypoint && p.generation_in_effect.is_some_and(|g| g >= *since)
        });
        let pods: BTreeSet<PodName> = serving.map(|p| (p.namespace.clone(), p.pod.clone())).collect();
        let own = compiled.waypoints.all.get(&place.1)?;
        let pods: BTreeSet<PodName> = own
            .pods
            .iter()
            .filter(|pod| pods.contains(*pod))
            .cloned()
            .collect();
        (!pods.is_empty()).then(|| PeerPlace::new(place, pods))
    };
    compiled.carry.offered.iter().filter_map(of_place).collect()
}
