//! The resources of each kind of proxy, made from one [`Compiled`] model.

pub mod describe;
mod endpoints;
mod gateway;
mod waypoint;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aquifer_core::service::Service;
use aquifer_core::workload::{Workload, WorkloadUid};
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
    // Records of clients, and the policies of the workloads behind a waypoint, which it enforces for them.
    types.extend(ambient.clone());
    types
}

/// The workload API: addresses and policies. What is as it was `before` keeps its encoding.
pub fn ambient(compiled: &Compiled, previous: &Types, before: Option<&Compiled>) -> Types {
    let old = previous.get(type_url::ADDRESS);
    let known: HashMap<&WorkloadUid, &Arc<Workload>> = before
        .iter()
        .flat_map(|c| &c.workloads)
        .map(|w| (&w.uid, w))
        .collect();
    let workloads = compiled.workloads.iter().map(|workload| {
        let same = known.get(&workload.uid).is_some_and(|w| *w == workload);
        let kept = old
            .filter(|_| same)
            .and_then(|old| old.get_key_value(workload.uid.as_str()));
        match kept {
            Some((name, resource)) => (name.clone(), resource.clone()),
            None => address(&Address::Workload(Box::new(Workload::clone(workload)))),
        }
    });
    let services = compiled
        .services
        .iter()
        .map(|s| address(&Address::Service(Box::new(Service::clone(s)))));
    let policies = compiled.policies.iter().map(|policy| {
        let resource = VersionedResource::new(authorization_to_any(policy));
        (policy.key().into(), Arc::new(resource))
    });
    let old_policies = previous.get(type_url::AUTHORIZATION);
    Types::from([
        (type_url::ADDRESS, reuse(workloads.chain(services), old)),
        (type_url::AUTHORIZATION, reuse(policies, old_policies)),
    ])
}

fn address(address: &Address) -> Named {
    (
        address.resource_name().into(),
        Arc::new(VersionedResource::new(address.to_any())),
    )
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
    secrets: Resources,
}

impl Collected {
    fn into_types(self) -> Types {
        Types::from([
            (type_url::LISTENER, self.listeners),
            (type_url::ROUTES, self.routes),
            (type_url::CLUSTER, self.clusters),
            (type_url::ENDPOINTS, self.endpoints),
            (type_url::SECRET, self.secrets),
        ])
    }
}
