//! The one writer of the state: takes resources, keeps the last good ones, publishes the next state.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::Instant;

use aquifer_core::http::cluster::{Cluster, Endpoint, Endpoints, Names, Transport};
use aquifer_core::http::listener::Listener;
use aquifer_core::http::table::RouteTable;
use aquifer_core::snapshot::{Change, MeshSnapshot};
use aquifer_xds::envoy::Secret;
use tokio::sync::watch;

use super::{ClusterState, ProxyState, Shared};
use crate::pods::Own;
use crate::upstream::endpoint::{EndpointKey, EndpointState};

/// A change of one type of resources.
pub(crate) struct Changes<R> {
    pub(crate) put: Vec<R>,
    pub(crate) remove: Vec<String>,
}

/// Names that are to be looked up, by the namespace whose objects ask for them.
pub(crate) type Wanted = BTreeMap<Arc<str>, BTreeSet<Arc<str>>>;

pub(crate) struct StateWriter {
    shared: Arc<Shared>,
    /// Of a waypoint.
    own: Option<Own>,
    state: ProxyState,
    mesh: MeshSnapshot,
    clusters: HashMap<Arc<str>, Cluster>,
    assignments: HashMap<Arc<str>, Endpoints>,
    turns: HashMap<Arc<str>, Arc<AtomicU64>>,
    /// What names stand for, as far as it is known.
    answers: HashMap<Arc<str>, Arc<[IpAddr]>>,
    /// The names that clusters need.
    wanted: watch::Sender<Wanted>,
    /// Endpoints in use, so that their connections and counters outlive a change of clusters.
    endpoints: HashMap<EndpointKey, Weak<EndpointState>>,
}

impl StateWriter {
    pub(crate) fn new(shared: Arc<Shared>, own: Option<Own>) -> Self {
        Self {
            shared,
            own,
            state: ProxyState::default(),
            mesh: MeshSnapshot::default(),
            clusters: HashMap::new(),
            assignments: HashMap::new(),
            turns: HashMap::new(),
            answers: HashMap::new(),
            wanted: watch::Sender::default(),
            endpoints: HashMap::new(),
        }
    }

    pub(crate) fn listeners(&mut self, changes: Changes<Listener>) {
        for name in changes.remove {
            self.state.listeners.remove(name.as_str());
        }
        for listener in changes.put {
            self.state
                .listeners
                .insert(listener.name.clone(), Arc::new(listener));
        }
        self.state.index_tunnels();
        self.state.edge = Arc::new(self.state.edge.serving(self.state.listeners.values()));
        self.publish();
        self.shared.listeners_changed.send_modify(|n| *n += 1);
    }

    pub(crate) fn secrets(&mut self, changes: Changes<Secret>) {
        let put = changes.put.into_iter().map(|s| (s.name, s.content));
        self.state.edge = Arc::new(self.state.edge.holding(&changes.remove, put));
        self.publish();
    }

    pub(crate) fn routes(&mut self, changes: Changes<RouteTable>) {
        for name in changes.remove {
            self.state.routes.remove(name.as_str());
        }
        for table in changes.put {
            self.state.routes.insert(table.name.clone(), Arc::new(table));
        }
        self.publish();
    }

    pub(crate) fn clusters(&mut self, changes: Changes<Cluster>) {
        for name in changes.remove {
            self.clusters.remove(name.as_str());
            self.turns.remove(name.as_str());
            self.state.clusters.remove(name.as_str());
        }
        for cluster in changes.put {
            let name = cluster.name.clone();
            self.clusters.insert(name.clone(), cluster);
            self.rebuild(&name);
        }
        self.note_names();
        self.publish();
    }

    pub(crate) fn wanted_names(&self) -> watch::Receiver<Wanted> {
        self.wanted.subscribe()
    }

    /// What a name stands for from now on.
    pub(crate) fn answered(&mut self, name: &Arc<str>, addresses: &[IpAddr]) {
        let known = self.answers.get(name).is_some_and(|known| **known == *addresses);
        let wanted = self.wanted.borrow().values().any(|names| names.contains(name));
        if known || !wanted {
            return;
        }
        self.answers.insert(name.clone(), addresses.into());
        let has_name = |c: &&Cluster| c.names.iter().flat_map(|n| &n.list).any(|e| e.host == *name);
        let affected: Vec<_> = self
            .clusters
            .values()
            .filter(has_name)
            .map(|c| c.name.clone())
            .collect();
        for cluster in affected {
            self.rebuild(&cluster);
        }
        self.publish();
    }

    fn note_names(&mut self) {
        let mut wanted = Wanted::new();
        for names in self.clusters.values().filter_map(|c| c.names.as_ref()) {
            let hosts = names.list.iter().map(|e| &e.host);
            let hosts = hosts.filter(|host| host.parse::<IpAddr>().is_err());
            let of_namespace = wanted.entry(names.namespace.clone()).or_default();
            of_namespace.extend(hosts.cloned());
        }
        wanted.retain(|_, names| !names.is_empty());
        self.answers
            .retain(|name, _| wanted.values().any(|names| names.contains(name)));
        self.wanted.send_if_modified(|old| {
            let differs = *old != wanted;
            *old = wanted;
            differs
        });
    }

    /// The endpoints that names lead to now.
    fn named_endpoints(&self, names: &Names) -> Vec<Endpoint> {
        let (mut endpoints, mut known) = (Vec::new(), HashSet::new());
        for named in &names.list {
            let written = named.host.parse::<IpAddr>().ok();
            let answer = self.answers.get(&named.host).map_or(&[][..], |list| list);
            let most = if names.first_only { 1 } else { answer.len() };
            for ip in written.iter().chain(&answer[..most.min(answer.len())]) {
                let address = SocketAddr::new(ip.to_canonical(), named.port);
                if known.insert(address) {
                    endpoints.push(outside(address, named.weight));
                }
            }
        }
        endpoints
    }

    pub(crate) fn endpoints(&mut self, changes: Changes<Endpoints>) {
        let mut touched: Vec<Arc<str>> = Vec::new();
        for name in changes.remove {
            self.assignments.remove(name.as_str());
            touched.push(name.into());
        }
        for endpoints in changes.put {
            touched.push(endpoints.name.clone());
            self.assignments.insert(endpoints.name.clone(), endpoints);
        }
        let users = |service: &Arc<str>| {
            let of_service = self.clusters.values().filter(|c| c.service_name == *service);
            of_service.map(|c| c.name.clone()).collect::<Vec<_>>()
        };
        let affected: Vec<_> = touched.iter().flat_map(users).collect();
        for name in affected {
            self.rebuild(&name);
        }
        self.publish();
    }

    pub(crate) fn mesh(&mut self, changes: Vec<Change>) {
        // Before the records are there: who asks in between is served on.
        if let Some(own) = &self.own
            && let Some(left) = self
                .shared
                .left()
                .after(own, &self.mesh, &changes, Instant::now())
        {
            self.shared.left.store(Arc::new(left));
        }
        self.mesh = self.mesh.apply(changes);
        self.shared.mesh.store(Arc::new(self.mesh.clone()));
        self.shared.mesh_changed.send_replace(());
    }

    fn publish(&mut self) {
        self.endpoints.retain(|_, state| state.strong_count() > 0);
        self.shared.proxy.store(Arc::new(self.state.clone()));
    }

    /// Joins a cluster with its endpoints. One whose endpoints have not come yet has none: requests get `UH`.
    fn rebuild(&mut self, name: &Arc<str>) {
        let Some(cluster) = self.clusters.get(name).cloned() else {
            return;
        };
        let endpoints = match &cluster.names {
            Some(names) => self.named_endpoints(names),
            None => {
                let assigned = self.assignments.get(&cluster.service_name);
                assigned.map(|a| a.list.clone()).unwrap_or_default()
            }
        };
        let states = endpoints.iter().map(|e| self.endpoint_state(e)).collect();
        let turn = self.turns.entry(name.clone()).or_default().clone();
        let joined = ClusterState {
            cluster,
            endpoints,
            states,
            turn,
        };
        self.state.clusters.insert(name.clone(), Arc::new(joined));
    }

    fn endpoint_state(&mut self, endpoint: &Endpoint) -> Arc<EndpointState> {
        let key = EndpointKey::of(endpoint);
        if let Some(state) = self.endpoints.get(&key).and_then(Weak::upgrade) {
            return state;
        }
        let state = Arc::new(EndpointState::new(key.clone()));
        self.endpoints.insert(key, Arc::downgrade(&state));
        state
    }
}

fn outside(address: SocketAddr, weight: u32) -> Endpoint {
    Endpoint {
        address,
        transport: Transport::Outside,
        weight,
        healthy: true,
        priority: 0,
        workload: "".into(),
    }
}
