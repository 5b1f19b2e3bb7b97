//! The resources of each kind of proxy, made from one [`Compiled`] model.

pub mod describe;
mod endpoints;
mod gateway;
mod waypoint;

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_xds::convert::{Address, authorization_to_any};
use aquifer_xds::type_url;

use crate::compile::Compiled;
use crate::compile::inputs::Labels;
use crate::compile::waypoints::WaypointKey;
use crate::envoy::Named;
use crate::serve::{Resources, VersionedResource};

/// What decides the resources of a client; clients with one key share them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProxyKey {
    Agent,
    Waypoint(WaypointKey),
    /// Gateways are found by their labels; the pod's name tells its named ports.
    Gateway {
        namespace: Arc<str>,
        pod: Arc<str>,
        labels: Labels,
    },
}

pub type Types = BTreeMap<&'static str, Resources>;

/// Everything that a proxy should hold. The workload API's part is the same for all and given in `ambient`.
pub fn types(compiled: &Compiled, ambient: &Types, key: &ProxyKey) -> Types {
    let mut types = match key {
        ProxyKey::Agent => return ambient.clone(),
        ProxyKey::Waypoint(key) => waypoint::resources(compiled, key),
        ProxyKey::Gateway {
            namespace,
            pod,
            labels,
        } => gateway::resources(compiled, namespace, pod, labels),
    };
    types.extend(
        ambient
            .get(type_url::ADDRESS)
            .map(|addresses| (type_url::ADDRESS, addresses.clone())),
    );
    types
}

/// The workload API: addresses and policies. What did not change keeps its encoding.
pub fn ambient(compiled: &Compiled, previous: &Types) -> Types {
    let workloads = compiled
        .workloads
        .iter()
        .map(|w| Address::Workload(Box::new(aquifer_core::workload::Workload::clone(w))));
    let services = compiled
        .services
        .iter()
        .map(|s| Address::Service(Box::new(aquifer_core::service::Service::clone(s))));
    let addresses = workloads.chain(services).map(|address| {
        let resource = VersionedResource::new(address.to_any());
        (address.resource_name().into(), Arc::new(resource))
    });
    let policies = compiled.policies.iter().map(|policy| {
        let resource = VersionedResource::new(authorization_to_any(policy));
        (policy.key().into(), Arc::new(resource))
    });
    Types::from([
        (
            type_url::ADDRESS,
            reuse(addresses, previous.get(type_url::ADDRESS)),
        ),
        (
            type_url::AUTHORIZATION,
            reuse(policies, previous.get(type_url::AUTHORIZATION)),
        ),
    ])
}

/// Changes `previous` into the new set, so that streams and snapshots share what is the same.
fn reuse(new: impl Iterator<Item = Named>, previous: Option<&Resources>) -> Resources {
    let mut resources = previous.cloned().unwrap_or_default();
    let mut kept = std::collections::BTreeSet::new();
    for (name, resource) in new {
        if resources.get(&name).is_none_or(|old| **old != *resource) {
            resources.insert(name.clone(), resource);
        }
        kept.insert(name);
    }
    let gone: Vec<Arc<str>> = resources
        .keys()
        .filter(|name| !kept.contains(*name))
        .cloned()
        .collect();
    for name in gone {
        resources.remove(&name);
    }
    resources
}

/// Envoy resources while they are collected.
#[derive(Default)]
struct Collected {
    listeners: Resources,
    routes: Resources,
    clusters: Resources,
    endpoints: Resources,
}

impl Collected {
    fn into_types(self) -> Types {
        Types::from([
            (type_url::LISTENER, self.listeners),
            (type_url::ROUTES, self.routes),
            (type_url::CLUSTER, self.clusters),
            (type_url::ENDPOINTS, self.endpoints),
        ])
    }
}
