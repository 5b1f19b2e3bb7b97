//! The resources of each kind of proxy, made from one [`Compiled`] model.

pub mod describe;
mod endpoints;
mod gateway;
mod parts;
mod waypoint;

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;
use aquifer_core::policy::Authorization;
use aquifer_core::service::Service;
use aquifer_core::workload::Workload;
use aquifer_xds::convert::{Address, authorization_to_any};
use aquifer_xds::type_url;

use crate::compile::Compiled;
use crate::compile::reach::Reach;
use crate::compile::references::Resolver;
use crate::compile::report::PodName;
use crate::compile::routes::Clusters;
use crate::compile::waypoints::WaypointKey;
use crate::envoy::Named;
use crate::serve::{Resources, VersionedResource};
use parts::Parts;

/// What decides the resources of a client; clients with one key share them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProxyKey {
    Agent,
    Waypoint(WaypointKey),
    /// The pod's labels, as they are now, decide which Gateways it serves; another pod of its name is another proxy.
    Gateway {
        namespace: Arc<str>,
        pod: Arc<str>,
        uid: Arc<str>,
    },
}

pub type Types = BTreeMap<&'static str, Resources>;

/// What a kind of proxy should hold, without the workload API's part, which is the same for all.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    types: Types,
    /// Clusters by the service that they lead to.
    clusters: BTreeMap<NamespacedHostname, Clusters>,
    /// Of a waypoint: what it serves.
    parts: Parts,
}

impl Picture {
    pub fn of(compiled: &Compiled, key: &ProxyKey) -> Self {
        let collected = match key {
            ProxyKey::Agent => return Self::default(),
            ProxyKey::Waypoint(key) => return Self::of_waypoint(compiled, key),
            ProxyKey::Gateway { namespace, pod, uid } => gateway::resources(compiled, namespace, pod, uid),
        };
        let mut clusters: BTreeMap<_, Clusters> = BTreeMap::new();
        for (name, target) in collected.targets.clone() {
            let of_service = clusters.entry(target.service.clone()).or_default();
            of_service.insert(name, target);
        }
        Self {
            types: collected.into_types(),
            clusters,
            parts: Parts::default(),
        }
    }

    /// The picture after the model changed: what may be different is made anew.
    #[must_use]
    pub fn next(self, compiled: &Compiled, key: &ProxyKey) -> Self {
        let delta = &compiled.delta;
        if key.pod().is_some_and(|pod| delta.pods.contains(&pod)) {
            return self.made_anew(compiled, key);
        }
        match (&delta.routing, key) {
            (Reach::Everything, _) => self.made_anew(compiled, key),
            (Reach::Some(concerned), ProxyKey::Waypoint(waypoint)) => {
                let with_endpoints = self.with_endpoints(compiled, key);
                with_endpoints.with_parts(compiled, waypoint, concerned)
            }
            (Reach::Some(concerned), ProxyKey::Gateway { namespace, pod, uid })
                if gateway::is_concerned(compiled, concerned, namespace, pod, uid) =>
            {
                self.made_anew(compiled, key)
            }
            (_, ProxyKey::Gateway { .. }) if gateway::may_serve_others(compiled) => {
                self.made_anew(compiled, key)
            }
            _ => self.with_endpoints(compiled, key),
        }
    }

    /// What is the same as before stays the very same.
    fn made_anew(self, compiled: &Compiled, key: &ProxyKey) -> Self {
        let mut new = Self::of(compiled, key);
        for (url, resources) in &mut new.types {
            let old = self.types.get(url);
            *resources = reuse(std::mem::take(resources), old);
        }
        new
    }

    fn with_endpoints(mut self, compiled: &Compiled, key: &ProxyKey) -> Self {
        let Some(namespace) = key.namespace() else {
            return self;
        };
        let resolver = Resolver::new(compiled, namespace);
        let touched = compiled.delta.services.iter();
        let clusters = touched.filter_map(|service| self.clusters.get(service)).flatten();
        let made: Vec<Named> = clusters
            .filter_map(|(name, target)| endpoints::resource(&resolver, name, target))
            .collect();
        let held = self.types.entry(type_url::ENDPOINTS).or_default();
        for (name, resource) in made {
            insert(held, name, resource);
        }
        self
    }

    /// Everything that the proxy should hold, with `ambient` beside its own.
    pub fn types(&self, ambient: &Types) -> Types {
        let mut types = self.types.clone();
        // Records of clients, and the policies of the workloads behind a waypoint, which it enforces for them.
        types.extend(ambient.clone());
        types
    }
}

impl ProxyKey {
    fn namespace(&self) -> Option<&str> {
        match self {
            Self::Agent => None,
            Self::Waypoint(key) => Some(&key.namespace),
            Self::Gateway { namespace, .. } => Some(namespace),
        }
    }

    /// The pod that the resources depend on.
    fn pod(&self) -> Option<PodName> {
        match self {
            Self::Gateway { namespace, pod, .. } => Some((namespace.clone(), pod.clone())),
            Self::Agent | Self::Waypoint(_) => None,
        }
    }
}

/// The workload API: addresses and policies. `previous` is what was made of `before`; what is the same keeps its place.
pub fn ambient(compiled: &Compiled, mut previous: Types, before: Option<&Compiled>) -> Types {
    let nothing = (Default::default(), Default::default(), Default::default());
    let (workloads, services, policies) = before.map_or(nothing, |b| {
        (b.workloads.clone(), b.services.clone(), b.policies.clone())
    });
    let addresses = previous.entry(type_url::ADDRESS).or_default();
    follow(addresses, &workloads, &compiled.workloads, workload, |uid| {
        uid.as_str().into()
    });
    follow(addresses, &services, &compiled.services, service, |key| {
        key.to_string().into()
    });
    let held = previous.entry(type_url::AUTHORIZATION).or_default();
    follow(held, &policies, &compiled.policies, policy, Arc::clone);
    previous
}

/// Does to resources what was done to the values that they are made of.
fn follow<K: Ord, V: PartialEq>(
    held: &mut Resources,
    old: &imbl::OrdMap<K, Arc<V>>,
    new: &imbl::OrdMap<K, Arc<V>>,
    encode: impl Fn(&V) -> Named,
    name: impl Fn(&K) -> Arc<str>,
) {
    use imbl::ordmap::DiffItem;
    for item in old.diff(new) {
        match item {
            DiffItem::Add(_, value) | DiffItem::Update { new: (_, value), .. } => {
                let (name, resource) = encode(value);
                insert(held, name, resource);
            }
            DiffItem::Remove(key, _) => drop(held.remove(&name(key))),
        }
    }
}

fn workload(workload: &Workload) -> Named {
    address(&Address::Workload(Box::new(workload.clone())))
}

fn service(service: &Service) -> Named {
    address(&Address::Service(Box::new(service.clone())))
}

fn policy(policy: &Authorization) -> Named {
    let key = policy.key();
    let resource = VersionedResource::new(&key, authorization_to_any(policy));
    (key.into(), Arc::new(resource))
}

fn address(address: &Address) -> Named {
    let name = address.resource_name();
    let resource = VersionedResource::new(&name, address.to_any());
    (name.into(), Arc::new(resource))
}

/// An equal resource stays, so that streams and snapshots share what is the same.
fn insert(held: &mut Resources, name: Arc<str>, resource: Arc<VersionedResource>) {
    if held.get(&name).is_none_or(|old| **old != *resource) {
        held.insert(name, resource);
    }
}

/// Changes `previous` into the new set.
fn reuse(new: Resources, previous: Option<&Resources>) -> Resources {
    let mut resources = previous.cloned().unwrap_or_default();
    let gone: Vec<Arc<str>> = resources
        .keys()
        .filter(|name| !new.contains_key(*name))
        .cloned()
        .collect();
    for name in gone {
        resources.remove(&name);
    }
    for (name, resource) in new {
        insert(&mut resources, name, resource);
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
    /// What the endpoints are of.
    targets: Clusters,
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
