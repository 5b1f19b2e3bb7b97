//! What a change of objects does to workloads and services, and to nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;
use aquifer_core::service::PortMapping;
use aquifer_core::workload::{TunnelProtocol, Workload, WorkloadUid};

use crate::compile::Settings;
use crate::compile::discovery::claims::{Claim, Endpoint, SliceName, of_slice};
use crate::compile::discovery::nodes::{self, Place};
use crate::compile::discovery::{
    Addressed, Discovery, Registered, entries, hostname, is_written, service, target_ports, workload,
};
use crate::compile::inputs::{Entry, Inputs, selects};
use crate::compile::report::PodName;
use crate::model::virtual_service::CLUSTER_DOMAIN;
use crate::objects::kube;

/// What became different.
#[derive(Debug, Default)]
pub struct Touched {
    pub workloads: BTreeSet<WorkloadUid>,
    /// Services that are different themselves, or whose endpoints are.
    pub services: BTreeSet<NamespacedHostname>,
    /// Addresses that came, went, or are somebody else's.
    pub addresses: BTreeSet<IpAddr>,
    /// A waypoint or another proxy that speaks HBONE came, went or changed.
    pub proxies: bool,
    /// Workloads that were made anew, different or not: the measure of the work.
    pub made: usize,
}

/// Workloads to make anew, with the namespace and name of those that are pods.
type Affected = BTreeMap<WorkloadUid, Option<PodName>>;

struct Update<'a> {
    discovery: &'a mut Discovery,
    inputs: &'a Inputs,
    settings: &'a Settings,
    affected: Affected,
    /// Nodes of which a pod says something else.
    nodes: BTreeSet<Arc<str>>,
    /// Services that changed and whose endpoints somebody else writes, by namespace.
    by_hand: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    touched: Touched,
}

impl Discovery {
    /// Brings everything from `before` to `inputs`.
    pub fn update(&mut self, before: &Inputs, inputs: &Inputs, settings: &Settings) -> Touched {
        let (old, new) = (&before.service_entries, &inputs.service_entries);
        if old.changes(new).next().is_some() {
            self.addressed = Addressed::of(new.iter());
        }
        let mut update = Update {
            discovery: self,
            inputs,
            settings,
            affected: Affected::new(),
            nodes: BTreeSet::new(),
            by_hand: BTreeMap::new(),
            touched: Touched::default(),
        };
        let left_out = update.discovery.left_out.update(before, inputs);
        let mut hosts = changed_hosts(before, inputs);
        hosts.extend(entries::hosts_at(inputs, &left_out));
        update.touched.addresses.extend(left_out);
        for host in hosts {
            update.host(&host);
        }
        update.slices_by_hand();
        for (old, new) in before.endpoint_slices.changes(&inputs.endpoint_slices) {
            if let Some(either) = new.or(old) {
                update.slice(&(either.meta.namespace.clone(), either.meta.name.clone()));
            }
        }
        for (old, new) in before.pods.changes(&inputs.pods) {
            update.pod(old, new);
        }
        // A node has pods of all namespaces.
        for (old, new) in before.left_out.pods.changes(&inputs.left_out.pods) {
            update.node(&nodes::told_by(old), &nodes::told_by(new));
        }
        update.make_all()
    }
}

impl Update<'_> {
    fn pod(&mut self, old: Option<&Entry<kube::Pod>>, new: Option<&Entry<kube::Pod>>) {
        let addressless = |entry: Option<&Entry<kube::Pod>>| entry.is_some_and(|e| e.spec.ips().is_empty());
        self.discovery.addressless += usize::from(addressless(new));
        self.discovery.addressless -= usize::from(addressless(old));
        self.node(&nodes::told_by(old), &nodes::told_by(new));
        if let Some(either) = new.or(old) {
            let (namespace, name) = (either.meta.namespace.clone(), either.meta.name.clone());
            let uid = WorkloadUid::pod(&self.settings.cluster_id, &namespace, &name);
            self.affected.insert(uid, Some((namespace, name)));
        }
    }

    /// Takes what a pod says of its node.
    fn node(&mut self, old: &[Place], new: &[Place]) {
        if old == new {
            return;
        }
        self.nodes
            .extend(old.iter().chain(new).map(|(node, _)| node.clone()));
        for place in old {
            self.discovery.nodes.remove(place);
        }
        for place in new {
            self.discovery.nodes.insert(place.clone());
        }
    }

    /// Decides anew who has the host.
    fn host(&mut self, host: &Arc<str>) {
        let before = self.discovery.remove_host(host);
        let after = registered(self.discovery, self.inputs, host, self.settings);
        for either in before.iter().chain(&after) {
            let key = either.service.key();
            self.serving(&key);
            self.touched.services.insert(key);
        }
        self.discovery.add_host(host, &after);
        let selected = |entry: &Arc<Registered>| (entry.meta.namespace.clone(), entry.spec.selector.clone());
        let selected: BTreeMap<_, _> = before.iter().map(selected).collect();
        for new in &after {
            // Those that it selected before are those that served it.
            if selected.get(&new.meta.namespace) != Some(&new.spec.selector) {
                self.selected_by(new);
            }
        }
        for entry in before.iter().filter(|e| e.entry.is_some()) {
            self.claim(&entries::claimant(entry), Vec::new());
        }
        for entry in after.iter().filter(|e| e.entry.is_some()) {
            let claims = entries::claims(self.discovery, entry, self.settings);
            self.claim(&entries::claimant(entry), claims);
        }
        for (namespace, name) in before.iter().chain(&after).filter_map(|e| by_hand(e)) {
            self.by_hand.entry(namespace).or_default().insert(name);
        }
    }

    /// Looks once at the slices of each namespace, however many of its Services changed.
    fn slices_by_hand(&mut self) {
        let inputs = self.inputs;
        for (namespace, services) in std::mem::take(&mut self.by_hand) {
            for slice in inputs.endpoint_slices.in_namespace(&namespace) {
                if services.contains(&slice.spec.service) {
                    self.slice(&(slice.meta.namespace.clone(), slice.meta.name.clone()));
                }
            }
        }
    }

    /// Notes the workloads that serve it; what slices claim is noted with these.
    fn serving(&mut self, service: &NamespacedHostname) {
        for workload in self.discovery.endpoints(service) {
            let name = (workload.namespace.clone(), workload.name.clone());
            let pod = WorkloadUid::pod(&self.settings.cluster_id, &name.0, &name.1);
            let is_pod = pod == workload.uid;
            self.affected.insert(workload.uid.clone(), is_pod.then_some(name));
        }
    }

    /// Notes the pods of before that the service selects; those that changed are noted for themselves.
    fn selected_by(&mut self, entry: &Registered) {
        let selector = &entry.spec.selector;
        if selector.is_empty() {
            return;
        }
        let namespace = &entry.meta.namespace;
        for workload in self.discovery.pods_of(namespace, &self.settings.cluster_id) {
            if selects(selector, &workload.labels) {
                let name = (workload.namespace.clone(), workload.name.clone());
                self.affected.insert(workload.uid.clone(), Some(name));
            }
        }
    }

    fn slice(&mut self, name: &SliceName) {
        let slice = self.inputs.endpoint_slices.get(&name.0, &name.1);
        let host = slice.map(|slice| hostname(&slice.spec.service, &slice.meta.namespace));
        let service = host.and_then(|host| self.discovery.services_by_host(&host).next());
        let claims = match (
            slice,
            service.filter(|s| s.spec.selector.is_empty() && s.entry.is_none()),
        ) {
            (Some(slice), Some(service)) => of_slice(slice, service, self.settings),
            _ => Vec::new(),
        };
        self.claim(name, claims);
    }

    fn claim(&mut self, by: &SliceName, claims: Vec<Claim>) {
        let before = self.discovery.claims.set(by, &claims);
        for claim in before.into_iter().chain(claims) {
            let pod = match claim.endpoint {
                Endpoint::Pod(name) => Some(name),
                Endpoint::Bare(_) => None,
            };
            self.affected.insert(claim.workload, pod);
        }
    }

    fn make_all(mut self) -> Touched {
        for (uid, pod) in std::mem::take(&mut self.affected) {
            let made = self.make(&uid, pod);
            self.put(uid, made);
        }
        for node in std::mem::take(&mut self.nodes) {
            let made = self.discovery.nodes.workload(&node, self.settings);
            self.put(nodes::uid(&node, self.settings), made);
        }
        self.touch_written();
        self.touched
    }

    /// Services with an endpoint at an address that is somebody else's now.
    fn touch_written(&mut self) {
        let addresses = self.touched.addresses.iter();
        let written = addresses.flat_map(|ip| self.discovery.written_at(*ip));
        let services = written.flat_map(|workload| workload.services.keys().cloned());
        self.touched.services.extend(services);
    }

    /// A workload as it is now; none where there is no such thing.
    fn make(&mut self, uid: &WorkloadUid, pod: Option<PodName>) -> Option<Workload> {
        self.touched.made += 1;
        let mut made = match pod {
            Some((namespace, name)) => {
                let entry = self.inputs.pods.get(&namespace, &name)?;
                let mut made = workload(entry, self.settings)?;
                made.services = self.discovery.ports_of_pod(entry);
                made
            }
            None => match &self.discovery.claims.of(uid).next()?.endpoint {
                Endpoint::Bare(workload) => Workload::clone(workload),
                Endpoint::Pod(_) => return None,
            },
        };
        for claim in self.discovery.claims.of(uid) {
            made.services.insert(claim.service.clone(), claim.ports.to_vec());
        }
        Some(made)
    }

    fn put(&mut self, uid: WorkloadUid, made: Option<Workload>) {
        let old = self.discovery.workloads.get(&uid).cloned();
        if old.as_deref() == made.as_ref() {
            return;
        }
        let made = made.map(Arc::new);
        for workload in old.iter().chain(&made) {
            self.touched.services.extend(workload.services.keys().cloned());
            self.touched.proxies |= workload.native_tunnel;
        }
        if old.as_deref().map(seen_at) != made.as_deref().map(seen_at) {
            let addresses = old.iter().chain(&made).flat_map(|w| identified_by(w));
            self.touched.addresses.extend(addresses);
        }
        if let Some(old) = old {
            self.discovery.remove_workload(&old);
        }
        if let Some(made) = made {
            self.discovery.add_workload(&made);
        }
        self.touched.workloads.insert(uid);
    }
}

impl Discovery {
    fn add_host(&mut self, host: &Arc<str>, services: &[Arc<Registered>]) {
        if services.is_empty() {
            return;
        }
        let keys = services.iter().map(|entry| entry.service.key());
        self.by_host.insert(host.clone(), keys.collect());
        if let Some(shared) = services.iter().find(|entry| entry.is_for_others()) {
            self.shared.insert(host.clone(), shared.service.key());
        }
        for entry in services {
            let key = entry.service.key();
            if let Some(place) = selector_place(entry) {
                self.selectors.entry(place).or_default().insert(key.clone());
            }
            self.services.insert(key, entry.clone());
        }
    }

    fn remove_host(&mut self, host: &Arc<str>) -> Vec<Arc<Registered>> {
        self.shared.remove(host);
        let keys = self.by_host.remove(host);
        let keys = keys.iter().flat_map(|keys| keys.iter());
        keys.filter_map(|key| self.remove_service(key)).collect()
    }

    fn remove_service(&mut self, key: &NamespacedHostname) -> Option<Arc<Registered>> {
        let entry = self.services.remove(key)?;
        if let Some(place) = selector_place(&entry)
            && let Some(sharing) = self.selectors.get_mut(&place)
        {
            sharing.remove(key);
            if sharing.is_empty() {
                self.selectors.remove(&place);
            }
        }
        Some(entry)
    }

    fn add_workload(&mut self, workload: &Arc<Workload>) {
        for service in workload.services.keys() {
            let endpoints = self.endpoints.entry(service.clone()).or_default();
            endpoints.insert(workload.uid.clone(), workload.clone());
        }
        for ip in identified_by(workload) {
            self.addresses.insert((ip, workload.uid.clone()));
        }
        for ip in written(workload) {
            self.written.insert((ip, workload.uid.clone()));
        }
        self.workloads.insert(workload.uid.clone(), workload.clone());
    }

    fn remove_workload(&mut self, workload: &Workload) {
        for service in workload.services.keys() {
            let Some(endpoints) = self.endpoints.get_mut(service) else {
                continue;
            };
            endpoints.remove(&workload.uid);
            if endpoints.is_empty() {
                self.endpoints.remove(service);
            }
        }
        for ip in identified_by(workload) {
            self.addresses.remove(&(ip, workload.uid.clone()));
        }
        for ip in written(workload) {
            self.written.remove(&(ip, workload.uid.clone()));
        }
        self.workloads.remove(&workload.uid);
    }

    /// The pods among the workloads of a namespace.
    fn pods_of<'d>(
        &'d self,
        namespace: &str,
        cluster: &str,
    ) -> impl Iterator<Item = &'d Arc<Workload>> + use<'d> {
        let first = WorkloadUid::pod(cluster, namespace, "");
        let prefix = first.clone();
        self.workloads
            .range(first..)
            .take_while(move |(uid, _)| uid.as_str().starts_with(prefix.as_str()))
            .map(|(_, workload)| workload)
    }

    fn ports_of_pod(&self, pod: &Entry<kube::Pod>) -> BTreeMap<NamespacedHostname, Vec<PortMapping>> {
        let (namespace, labels) = (&pod.meta.namespace, &pod.meta.labels);
        let sharing = labels.iter().filter_map(|(label, value)| {
            let place = (namespace.clone(), label.clone(), value.clone());
            self.selectors.get(&place)
        });
        let candidates = sharing
            .flatten()
            .filter_map(|key| Some((key, self.services.get(key)?)));
        let selected = candidates.filter(|(_, s)| selects(&s.spec.selector, labels));
        selected
            .map(|(key, s)| (key.clone(), target_ports(s, &pod.spec)))
            .collect()
    }
}

/// The addresses of a workload that nobody just wrote down: of a pod, of its node where it runs on its network, and of the
/// API server.
fn identified_by(workload: &Workload) -> impl Iterator<Item = IpAddr> + '_ {
    addresses_if(is_known(workload), workload)
}

/// The addresses of a workload that are nothing but written down.
fn written(workload: &Workload) -> impl Iterator<Item = IpAddr> + '_ {
    addresses_if(is_written(workload), workload)
}

fn addresses_if(holds: bool, workload: &Workload) -> impl Iterator<Item = IpAddr> + '_ {
    let addresses = workload.addresses.iter().map(IpAddr::to_canonical);
    addresses.filter(move |_| holds)
}

fn is_known(workload: &Workload) -> bool {
    let is_api_server = || workload.services.keys().any(is_api_server);
    !workload.host_network || !workload.node.is_empty() || is_api_server()
}

fn is_api_server(service: &NamespacedHostname) -> bool {
    &*service.namespace == "default" && service.hostname.starts_with("kubernetes.default.svc.")
}

/// What is said of a workload's addresses, and who has to prove what there, depends on these.
fn seen_at(workload: &Workload) -> (&[IpAddr], bool, bool, bool, &str, &str) {
    let tunnels = workload.tunnel == TunnelProtocol::Hbone;
    let (known, on_node) = (is_known(workload), workload.host_network);
    let (node, account) = (&workload.node, &workload.service_account);
    (&workload.addresses, known, on_node, tunnels, node, account)
}

/// Hosts that may belong to something else than before, or have other addresses.
fn changed_hosts(before: &Inputs, inputs: &Inputs) -> BTreeSet<Arc<str>> {
    let mut hosts = BTreeSet::new();
    for (old, new) in before.services.changes(&inputs.services) {
        if let Some(either) = new.or(old) {
            hosts.insert(hostname(&either.meta.name, &either.meta.namespace).into());
        }
    }
    hosts.extend(entries::changed_hosts(before, inputs));
    hosts
}

/// What has the host: the Service of that name, or of each namespace the oldest ServiceEntry, which can have no such name.
fn registered(
    discovery: &Discovery,
    inputs: &Inputs,
    host: &Arc<str>,
    settings: &Settings,
) -> Vec<Arc<Registered>> {
    if let Some(entry) = service_of(inputs, host) {
        let registered = service(entry, settings).map(|service| Registered {
            meta: entry.meta.clone(),
            spec: entry.spec.clone(),
            service,
            entry: None,
        });
        return registered.map(Arc::new).into_iter().collect();
    }
    let owners = entries::owners(inputs, host).into_iter();
    owners
        .map(|entry| Arc::new(entries::registered(discovery, entry, host, settings)))
        .collect()
}

fn service_of<'i>(inputs: &'i Inputs, host: &str) -> Option<&'i Entry<kube::Service>> {
    let inner = host.strip_suffix(&format!(".svc.{CLUSTER_DOMAIN}"))?;
    let (name, namespace) = inner.split_once('.')?;
    inputs.services.get(namespace, name)
}

/// Namespace and name of a Service whose endpoints somebody else writes.
fn by_hand(entry: &Registered) -> Option<(Arc<str>, Arc<str>)> {
    let is_one = entry.entry.is_none() && entry.spec.selector.is_empty();
    is_one.then(|| (entry.meta.namespace.clone(), entry.meta.name.clone()))
}

fn selector_place(entry: &Registered) -> Option<(Arc<str>, Arc<str>, Arc<str>)> {
    let (label, value) = entry.spec.selector.iter().next()?;
    Some((entry.meta.namespace.clone(), label.clone(), value.clone()))
}
