//! Nodes, as the pods on them tell: their addresses are nobody's outside the mesh.
//!
//! A node is told to proxies as what runs on its network, which owns no address either. Nodes themselves are not read: the
//! control plane needs no right for that.

use std::net::IpAddr;
use std::sync::Arc;

use aquifer_core::workload::{Workload, WorkloadUid};

use crate::compile::Settings;
use crate::compile::inputs::Entry;
use crate::objects::kube::Pod;

/// How many pods say that a node has an address.
#[derive(Clone, Debug, Default)]
pub(super) struct Nodes(imbl::OrdMap<Place, usize>);

/// A node's name and an address of it.
pub(super) type Place = (Arc<str>, IpAddr);

/// What the pod says of its node.
pub(super) fn told_by(pod: Option<&Entry<Pod>>) -> Vec<Place> {
    let is_there = |pod: &&Entry<Pod>| !pod.spec.spec.node_name.is_empty() && !pod.spec.is_finished();
    let pods = pod.into_iter().filter(is_there);
    pods.flat_map(|pod| {
        let node = &pod.spec.spec.node_name;
        pod.spec.status.host_ips.iter().map(|ip| (node.clone(), *ip))
    })
    .collect()
}

impl Nodes {
    pub(super) fn insert(&mut self, place: Place) {
        *self.0.entry(place).or_default() += 1;
    }

    pub(super) fn remove(&mut self, place: &Place) {
        let is_last = self.0.get_mut(place).is_some_and(|pods| {
            *pods -= 1;
            *pods == 0
        });
        if is_last {
            self.0.remove(place);
        }
    }

    /// The node as proxies are told of it; none while no pod tells an address.
    pub(super) fn workload(&self, node: &Arc<str>, settings: &Settings) -> Option<Workload> {
        let mut w = Workload::empty(uid(node, settings));
        let first = (node.clone(), IpAddr::from([0, 0, 0, 0]));
        let own = self.0.range(first..).take_while(|((name, _), _)| name == node);
        w.addresses = own.map(|((_, ip), _)| *ip).collect();
        w.name = node.clone();
        w.node = node.clone();
        w.host_network = true;
        w.network = settings.network.clone();
        w.trust_domain = settings.trust_domain.clone();
        w.cluster = settings.cluster_id.clone();
        (!w.addresses.is_empty()).then_some(w)
    }
}

pub(super) fn uid(node: &str, settings: &Settings) -> WorkloadUid {
    WorkloadUid::new(&format!("{}//Node/{node}", settings.cluster_id))
}
