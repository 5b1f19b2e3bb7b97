//! What a proxy knows of the mesh at one moment, indexed for the questions that a connection asks.
//!
//! A snapshot never changes. [`MeshSnapshot::apply`] makes the next one; persistent maps share what did not change, so
//! that an update costs as much as it changes and readers are never disturbed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use imbl::{HashMap, OrdMap, OrdSet};

use crate::address::NetworkAddress;
use crate::names::NamespacedHostname;
use crate::policy::former::FormerWaypoints;
use crate::policy::{Authorization, Scope};
use crate::service::Service;
use crate::workload::{Workload, WorkloadUid};

/// One change to the mesh, as the control plane tells it.
#[derive(Clone, Debug)]
pub enum Change {
    Workload(Arc<Workload>),
    Service(Arc<Service>),
    Policy(Arc<Authorization>),
    /// A workload's uid or a service's `namespace/hostname`: both are resources of one xDS type.
    RemoveAddress(Arc<str>),
    /// `namespace/name`.
    RemovePolicy(Arc<str>),
}

type Endpoints = OrdMap<WorkloadUid, Arc<Workload>>;

/// The mesh at one moment.
#[derive(Clone, Debug, Default)]
pub struct MeshSnapshot {
    generation: u64,
    policy_generation: u64,
    workloads: HashMap<WorkloadUid, Arc<Workload>>,
    // Latest last: while an address passes from one pod to the next, the newer record answers.
    by_address: HashMap<NetworkAddress, Arc<[Arc<Workload>]>>,
    by_node_address: HashMap<NetworkAddress, Arc<[Arc<Workload>]>>,
    services: HashMap<NamespacedHostname, Arc<Service>>,
    by_vip: HashMap<NetworkAddress, Arc<[Arc<Service>]>>,
    by_hostname: HashMap<Arc<str>, OrdMap<Arc<str>, Arc<Service>>>,
    endpoints: HashMap<NamespacedHostname, Endpoints>,
    policies: HashMap<Arc<str>, Arc<Authorization>>,
    global_policies: OrdSet<Arc<str>>,
    namespace_policies: HashMap<Arc<str>, OrdSet<Arc<str>>>,
    former_waypoints: FormerWaypoints,
}

impl MeshSnapshot {
    /// Counts the changes since the empty snapshot; a cached decision holds while it stays the same.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Counts the changes to policies; open connections are decided anew when it moves.
    pub fn policy_generation(&self) -> u64 {
        self.policy_generation
    }

    /// The snapshot after `changes`, in their order.
    #[must_use]
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>) -> Self {
        let mut next = self.clone();
        for change in changes {
            next.generation += 1;
            match change {
                Change::Workload(workload) => next.put_workload(&workload),
                Change::Service(service) => next.put_service(&service),
                Change::Policy(policy) => next.put_policy(&policy),
                Change::RemoveAddress(name) => next.remove_address(&name),
                Change::RemovePolicy(key) => next.remove_policy(&key),
            }
        }
        next
    }

    /// As [`MeshSnapshot::apply`], and with what leaves its waypoint noted, for who decides about connections from one.
    #[must_use]
    pub fn apply_at(&self, changes: Vec<Change>, now: Instant) -> Self {
        let former_waypoints = self.former_waypoints.after(self, &changes, now);
        Self {
            former_waypoints,
            ..self.apply(changes)
        }
    }

    /// Which waypoints others were behind until a moment ago.
    pub fn former_waypoints(&self) -> &FormerWaypoints {
        &self.former_waypoints
    }

    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// The workload that owns an address. Pods of the node's network own none: the address says which node.
    pub fn workload_at(&self, address: &NetworkAddress) -> Option<&Arc<Workload>> {
        self.by_address.get(address)?.last()
    }

    /// What is known to run on the node's network at an address: the address is that of a node.
    pub fn node_at(&self, address: &NetworkAddress) -> Option<&Arc<Workload>> {
        self.by_node_address.get(address)?.last()
    }

    pub fn service(&self, key: &NamespacedHostname) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The service that a virtual address belongs to; of several, the one of `namespace`, else the canonical one.
    ///
    /// What claims the address of a workload or a node has it for its own namespace only: there a name was written over
    /// another.
    pub fn service_at(&self, vip: &NetworkAddress, namespace: &str) -> Option<&Arc<Service>> {
        let sees = |s: &&Arc<Service>| !s.namespace_only || &*s.namespace == namespace;
        let found = preferred(self.by_vip.get(vip)?.iter().filter(sees), namespace)?;
        let has_owner = self.workload_at(vip).is_some() || self.node_at(vip).is_some();
        let claimed = !found.canonical && &*found.namespace != namespace && has_owner;
        (!claimed).then_some(found)
    }

    /// The service of a host name; of several, the one of `namespace`, else the canonical one.
    pub fn service_named(&self, hostname: &str, namespace: &str) -> Option<&Arc<Service>> {
        preferred(self.by_hostname.get(hostname)?.values(), namespace)
    }

    /// The workloads that serve a service, healthy or not, in the order of their keys.
    pub fn endpoints(&self, service: &NamespacedHostname) -> impl Iterator<Item = &Arc<Workload>> {
        self.endpoints.get(service).into_iter().flat_map(OrdMap::values)
    }

    /// A policy by `namespace/name`.
    pub fn policy(&self, key: &str) -> Option<&Arc<Authorization>> {
        self.policies.get(key)
    }

    pub fn policies(&self) -> impl Iterator<Item = &Arc<Authorization>> {
        self.policies.values()
    }

    /// The policies that hold for a workload without being listed by it: mesh-wide ones and its namespace's.
    pub(crate) fn unlisted_policies(&self, namespace: &str) -> impl Iterator<Item = &Arc<Authorization>> {
        let of_namespace = self.namespace_policies.get(namespace).into_iter().flatten();
        self.global_policies
            .iter()
            .chain(of_namespace)
            .filter_map(|key| self.policies.get(key))
    }

    fn put_workload(&mut self, workload: &Arc<Workload>) {
        self.remove_workload(&workload.uid.clone());
        for address in addresses(workload) {
            add(&mut self.by_address, address, workload);
        }
        for address in node_addresses(workload) {
            add(&mut self.by_node_address, address, workload);
        }
        for service in workload.services.keys() {
            let endpoints = self.endpoints.entry(service.clone()).or_default();
            endpoints.insert(workload.uid.clone(), workload.clone());
        }
        self.workloads.insert(workload.uid.clone(), workload.clone());
    }

    fn remove_workload(&mut self, uid: &WorkloadUid) -> bool {
        let Some(old) = self.workloads.remove(uid) else {
            return false;
        };
        for address in addresses(&old) {
            remove(&mut self.by_address, &address, |w| w.uid == *uid);
        }
        for address in node_addresses(&old) {
            remove(&mut self.by_node_address, &address, |w| w.uid == *uid);
        }
        for service in old.services.keys() {
            let Some(endpoints) = self.endpoints.get_mut(service) else {
                continue;
            };
            endpoints.remove(uid);
            if endpoints.is_empty() {
                self.endpoints.remove(service);
            }
        }
        true
    }

    fn put_service(&mut self, service: &Arc<Service>) {
        let key = service.key();
        self.remove_service(&key);
        for vip in &service.vips {
            add(&mut self.by_vip, vip.clone(), service);
        }
        let named = self.by_hostname.entry(service.hostname.clone()).or_default();
        named.insert(service.namespace.clone(), service.clone());
        self.services.insert(key, service.clone());
    }

    fn remove_service(&mut self, key: &NamespacedHostname) {
        let Some(old) = self.services.remove(key) else {
            return;
        };
        for vip in &old.vips {
            remove(&mut self.by_vip, vip, |s| s.key() == *key);
        }
        if let Some(named) = self.by_hostname.get_mut(&old.hostname) {
            named.remove(&old.namespace);
            if named.is_empty() {
                self.by_hostname.remove(&old.hostname);
            }
        }
    }

    fn remove_address(&mut self, name: &str) {
        if self.remove_workload(&WorkloadUid::new(name)) {
            return;
        }
        if let Some(key) = NamespacedHostname::parse(name) {
            self.remove_service(&key);
        }
    }

    fn put_policy(&mut self, policy: &Arc<Authorization>) {
        self.policy_generation += 1;
        let key: Arc<str> = policy.key().into();
        self.remove_policy(&key);
        match policy.scope {
            Scope::Global => {
                self.global_policies.insert(key.clone());
            }
            Scope::Namespace => {
                let of_namespace = self.namespace_policies.entry(policy.namespace.clone());
                of_namespace.or_default().insert(key.clone());
            }
            Scope::WorkloadSelector => {}
        }
        self.policies.insert(key, policy.clone());
    }

    fn remove_policy(&mut self, key: &Arc<str>) {
        self.policy_generation += 1;
        let Some(old) = self.policies.remove(key) else {
            return;
        };
        self.global_policies.remove(key);
        if let Some(of_namespace) = self.namespace_policies.get_mut(&old.namespace) {
            of_namespace.remove(key);
            if of_namespace.is_empty() {
                self.namespace_policies.remove(&old.namespace);
            }
        }
    }
}

/// The addresses that identify a workload.
fn addresses(workload: &Workload) -> impl Iterator<Item = NetworkAddress> + '_ {
    let own: &[IpAddr] = if workload.host_network {
        &[]
    } else {
        &workload.addresses
    };
    own.iter().map(|ip| NetworkAddress::new(&workload.network, *ip))
}

/// The addresses of the workload's node. One without a node is an address that somebody wrote down.
fn node_addresses(workload: &Workload) -> impl Iterator<Item = NetworkAddress> + '_ {
    let own: &[IpAddr] = match workload.host_network && !workload.node.is_empty() {
        true => &workload.addresses,
        false => &[],
    };
    own.iter().map(|ip| NetworkAddress::new(&workload.network, *ip))
}

fn preferred<'a>(
    services: impl Iterator<Item = &'a Arc<Service>>,
    namespace: &str,
) -> Option<&'a Arc<Service>> {
    let rank = |s: &Arc<Service>| match () {
        () if &*s.namespace == namespace => 0,
        () if s.canonical => 1,
        () => 2,
    };
    services.min_by_key(|s| rank(s))
}

fn add<T>(index: &mut HashMap<NetworkAddress, Arc<[Arc<T>]>>, key: NetworkAddress, item: &Arc<T>) {
    let list = index.get(&key).map(AsRef::as_ref).unwrap_or_default();
    let list = list.iter().chain([item]).cloned().collect();
    index.insert(key, list);
}

fn remove<T>(
    index: &mut HashMap<NetworkAddress, Arc<[Arc<T>]>>,
    key: &NetworkAddress,
    gone: impl Fn(&T) -> bool,
) {
    let Some(list) = index.get(key) else { return };
    let left: Arc<[Arc<T>]> = list.iter().filter(|item| !gone(item)).cloned().collect();
    if left.is_empty() {
        index.remove(key);
    } else {
        index.insert(key.clone(), left);
    }
}

#[cfg(test)]
mod tests;
