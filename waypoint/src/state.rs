//! What the proxy knows at one moment, built by one writer and read without a lock.

mod edge;
pub(crate) mod handlers;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aquifer_core::authority::Authority;
use aquifer_core::http::balance::{self, Draw};
use aquifer_core::http::cluster::{Cluster, Endpoint, parse_cluster_name};
use aquifer_core::http::listener::{Binding, Listener};
use aquifer_core::http::table::RouteTable;
use aquifer_core::snapshot::MeshSnapshot;
use arc_swap::ArcSwap;
use tokio::sync::watch;

pub(crate) use edge::EdgeServers;
pub(crate) use writer::{Changes, StateWriter, Wanted};

use crate::pods::Left;
use crate::upstream::endpoint::EndpointState;

/// Listeners, routes and clusters.
#[derive(Clone, Default)]
pub(crate) struct ProxyState {
    pub(crate) listeners: imbl::HashMap<Arc<str>, Arc<Listener>>,
    pub(crate) routes: imbl::HashMap<Arc<str>, Arc<RouteTable>>,
    pub(crate) clusters: imbl::HashMap<Arc<str>, Arc<ClusterState>>,
    /// What ends TLS at the listeners.
    pub(crate) edge: Arc<EdgeServers>,
    tunnel_index: Arc<TunnelIndex>,
}

/// Listeners that tunnels lead to, by what an authority may say.
#[derive(Default)]
struct TunnelIndex {
    by_address: HashMap<SocketAddr, Arc<Listener>>,
    by_host: HashMap<(Arc<str>, u16), Arc<Listener>>,
    /// Of a gateway: listeners with sockets, which tunnels lead to as well.
    by_port: HashMap<u16, Arc<Listener>>,
}

impl ProxyState {
    /// The listener that a tunnel's authority names.
    pub(crate) fn tunnel_listener(&self, authority: &Authority) -> Option<&Arc<Listener>> {
        match authority {
            Authority::Address(address) => self.tunnel_index.by_address.get(address),
            Authority::Host { host, port } => self.tunnel_index.by_host.get(&(host.clone(), *port)),
        }
    }

    /// The listener with a socket on the port.
    pub(crate) fn bound_at(&self, port: u16) -> Option<&Arc<Listener>> {
        self.tunnel_index.by_port.get(&port)
    }

    fn index_tunnels(&mut self) {
        let mut index = TunnelIndex::default();
        let tunnels = self.listeners.values().filter(|l| l.binding == Binding::Tunnel);
        for listener in tunnels {
            for address in &listener.addresses {
                index.by_address.insert(*address, listener.clone());
            }
            if let Some(parts) = parse_cluster_name(&listener.name) {
                index
                    .by_host
                    .insert((parts.host.into(), parts.port), listener.clone());
            }
        }
        for listener in self.listeners.values().filter(|l| l.binding == Binding::Bound) {
            for address in &listener.addresses {
                index.by_port.insert(address.port(), listener.clone());
            }
        }
        self.tunnel_index = Arc::new(index);
    }
}

/// A cluster with the endpoints it has now.
pub(crate) struct ClusterState {
    pub(crate) cluster: Cluster,
    pub(crate) endpoints: Vec<Endpoint>,
    /// In the order of `endpoints`; shared with every cluster that has the same endpoint.
    pub(crate) states: Vec<Arc<EndpointState>>,
    /// Choices made so far; goes on when the endpoints change.
    turn: Arc<AtomicU64>,
}

impl ClusterState {
    /// A cluster that nobody configured.
    pub(crate) fn new(cluster: Cluster, list: Vec<(Endpoint, Arc<EndpointState>)>) -> Self {
        let (endpoints, states) = list.into_iter().unzip();
        Self {
            cluster,
            endpoints,
            states,
            turn: Arc::default(),
        }
    }

    /// Chooses an endpoint; those in `tried` only if there is no other.
    pub(crate) fn choose(
        &self,
        random: u64,
        tried: &[SocketAddr],
    ) -> Option<(&Endpoint, &Arc<EndpointState>)> {
        let draw = Draw {
            random,
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
        };
        let active = |i: usize| self.states[i].active();
        let avoid = |i: usize| tried.contains(&self.endpoints[i].address);
        let i = balance::choose(self.cluster.balance, &self.endpoints, draw, active, avoid)?;
        Some((&self.endpoints[i], &self.states[i]))
    }
}

/// The current state and the current mesh; the one value that the data path starts from.
pub(crate) struct Shared {
    proxy: ArcSwap<ProxyState>,
    mesh: ArcSwap<MeshSnapshot>,
    /// Pods that were behind this waypoint.
    left: ArcSwap<Left>,
    /// Tells the keeper of sockets that the listeners changed.
    listeners_changed: watch::Sender<u64>,
    /// Tells connections that are judged again that the mesh changed.
    mesh_changed: watch::Sender<()>,
}

impl Shared {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            proxy: ArcSwap::default(),
            mesh: ArcSwap::default(),
            left: ArcSwap::default(),
            listeners_changed: watch::Sender::new(0),
            mesh_changed: watch::Sender::new(()),
        })
    }

    pub(crate) fn proxy(&self) -> Arc<ProxyState> {
        self.proxy.load_full()
    }

    pub(crate) fn mesh(&self) -> Arc<MeshSnapshot> {
        self.mesh.load_full()
    }

    pub(crate) fn left(&self) -> Arc<Left> {
        self.left.load_full()
    }

    pub(crate) fn listeners_changed(&self) -> watch::Receiver<u64> {
        self.listeners_changed.subscribe()
    }

    pub(crate) fn mesh_changed(&self) -> watch::Receiver<()> {
        self.mesh_changed.subscribe()
    }
}
