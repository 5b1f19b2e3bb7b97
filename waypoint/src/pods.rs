//! Pods at their own addresses: which of them this waypoint is for, and what stands for one while it is served.
//!
//! A pod is served because its record names this waypoint, and for no other reason; so what is in nobody's record, what is
//! outside the mesh, and other proxies are refused. What the pod is asked, it is asked with the policies and the identity of
//! the record that was found, as long as the address is that record's.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use aquifer_core::address::NetworkAddress;
use aquifer_core::authority::Authority;
use aquifer_core::http::action::{Action, Destinations, Forward};
use aquifer_core::http::cluster::{BalancePolicy, Cluster, Endpoint, Transport, UpstreamHttp};
use aquifer_core::http::listener::{
    Binding, Chain, Chains, HttpListener, Listener, ListenerProtocol, PathHandling,
};
use aquifer_core::http::matching::RouteMatch;
use aquifer_core::http::table::{HostPort, Route, RouteTable, VirtualHost};
use aquifer_core::service::AppProtocol;
use aquifer_core::snapshot::{Change, MeshSnapshot};
use aquifer_core::workload::{GatewayDestination, TunnelProtocol, Workload, WorkloadUid};

use crate::policy::NotAdmitted;
use crate::state::{ClusterState, Shared};
use crate::upstream::endpoint::{EndpointKey, EndpointState};

/// Of the listener, the routes and the cluster, in logs and dumps.
const NAME: &str = "inbound-pod";
/// As for services.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Envoy's default, which services have.
const STREAM_IDLE: Duration = Duration::from_secs(300);
/// For a record that the client's agent has been told before.
const RECORD: Duration = Duration::from_secs(5);
/// How long a pod that left is served on: some clients do not know yet.
const LEAVING: Duration = Duration::from_secs(30);

/// The namespace and name of this waypoint, by which records name it.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl Own {
    fn is_named_by(&self, workload: &Workload) -> bool {
        let named = workload.waypoint.as_ref().map(|w| &w.destination);
        let Some(GatewayDestination::Hostname(service)) = named else {
            return false;
        };
        let host = format!("{}.{}.svc.", self.name, self.namespace).to_ascii_lowercase();
        service.namespace == self.namespace && service.hostname.starts_with(&host)
    }
}

/// Pods that left this waypoint, and when.
#[derive(Clone, Default)]
pub(crate) struct Left(imbl::HashMap<WorkloadUid, Instant>);

impl Left {
    /// After what is told of the mesh now; `None` where nobody left or came back.
    pub(crate) fn after(
        &self,
        own: &Own,
        mesh: &MeshSnapshot,
        changes: &[Change],
        now: Instant,
    ) -> Option<Self> {
        let mut next = self.clone();
        let mut differs = false;
        for change in changes {
            let Change::Workload(workload) = change else {
                continue;
            };
            let was_here = mesh.workload(&workload.uid).is_some_and(|w| own.is_named_by(w));
            match own.is_named_by(workload) {
                true => differs |= next.0.remove(&workload.uid).is_some(),
                false if was_here => {
                    next.0.insert(workload.uid.clone(), now);
                    differs = true;
                }
                false => {}
            }
        }
        next.0.retain(|_, since| now < *since + LEAVING);
        differs.then_some(next)
    }

    fn has(&self, uid: &WorkloadUid, now: Instant) -> bool {
        self.0.get(uid).is_some_and(|since| now < *since + LEAVING)
    }
}

/// What a port of a pod speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http,
    Bytes,
    /// Nobody said it, or not all say the same.
    Unsaid,
}

/// What a tunnel is to lead to, and by what the mesh knows it.
pub(crate) type Place = (SocketAddr, NetworkAddress);

/// Nothing for a name.
pub(crate) fn place(authority: &Authority, network: &Arc<str>) -> Option<Place> {
    match authority {
        Authority::Address(address) => Some((*address, NetworkAddress::new(network, address.ip()))),
        Authority::Host { .. } => None,
    }
}

/// A pod that was dialled by its own address.
pub(crate) struct Dialled {
    pub(crate) listener: Arc<Listener>,
    pub(crate) http: HttpListener,
    pub(crate) speaks: Speaks,
    /// Leads to the pod and to nothing else.
    pub(crate) cluster: Arc<ClusterState>,
    uid: WorkloadUid,
    dialled: SocketAddr,
    address: NetworkAddress,
}

impl Dialled {
    /// The pod that a tunnel is for, if this waypoint is for it.
    pub(crate) fn find(own: &Own, shared: &Shared, (address, key): &Place) -> Option<Self> {
        let pod = served(own, shared, key)?;
        Self::of(&pod, *address, key, shared)
    }

    /// The same for a client that was told of it before this waypoint: where the address is nobody's yet, the pod is
    /// waited for.
    pub(crate) async fn find_late(own: &Own, shared: &Shared, place: &Place) -> Option<Self> {
        let mut changes = shared.mesh_changed();
        let told = async {
            loop {
                let found = Self::find(own, shared, place);
                let of_service = shared.mesh().service_at(&place.1, &own.namespace).is_some();
                let settled = found.is_some() || of_service;
                if settled || changes.changed().await.is_err() {
                    return found;
                }
            }
        };
        tokio::time::timeout(RECORD, told).await.ok().flatten()
    }

    /// `None` for a pod without an identity that could be demanded.
    fn of(pod: &Workload, address: SocketAddr, key: &NetworkAddress, shared: &Shared) -> Option<Self> {
        let endpoint = Endpoint {
            address,
            transport: Transport::Hbone(pod.identity().ok()?),
            weight: 1,
            healthy: true,
            priority: 0,
            workload: pod.uid.as_str().into(),
        };
        let http = http();
        let chain = Chain::plain(NAME, ListenerProtocol::Http(http.clone()));
        let listener = Listener {
            name: NAME.into(),
            addresses: vec![address],
            binding: Binding::Tunnel,
            chains: Chains::only(chain),
        };
        Some(Self {
            listener: Arc::new(listener),
            http,
            speaks: speaks(&shared.mesh(), pod, address.port()),
            cluster: Arc::new(cluster(endpoint)),
            uid: pod.uid.clone(),
            dialled: address,
            address: key.clone(),
        })
    }

    /// Whether the address is still that pod's: the policies of one must never be those of the next.
    pub(crate) fn check(&self, mesh: &MeshSnapshot) -> Result<(), NotAdmitted> {
        match self.record(mesh) {
            Some(_) => Ok(()),
            None => Err(NotAdmitted::Unknown(self.uid.to_string())),
        }
    }

    fn record<'a>(&self, mesh: &'a MeshSnapshot) -> Option<&'a Arc<Workload>> {
        let pod = mesh.workload_at(&self.address)?;
        (pod.uid == self.uid && is_of_mesh(pod)).then_some(pod)
    }

    /// Until the pod is gone, or leaves this waypoint: whoever has a connection is to begin anew. One that had left when
    /// the connection was opened is served until it is gone.
    pub(crate) async fn gone(&self, own: &Own, shared: &Shared) {
        let mut changes = shared.mesh_changed();
        let is_mine = |pod: &Arc<Workload>| own.is_named_by(pod);
        let was_mine = self.record(&shared.mesh()).is_some_and(is_mine);
        while self
            .record(&shared.mesh())
            .is_some_and(|pod| !was_mine || is_mine(pod))
        {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// What the client dialled.
    pub(crate) fn address(&self) -> SocketAddr {
        self.dialled
    }

    /// Every request goes to the pod.
    pub(crate) fn routes(&self) -> &'static RouteTable {
        static ROUTES: LazyLock<RouteTable> = LazyLock::new(|| {
            let forward = Forward::to(Destinations::single(NAME));
            let host = VirtualHost {
                name: NAME.into(),
                domains: vec!["*".into()],
                routes: vec![Route::new("default", RouteMatch::any(), Action::Forward(forward))],
                ..VirtualHost::default()
            };
            RouteTable::new(NAME, HostPort::Ignored, vec![host]).expect("one virtual host, for every domain")
        });
        &ROUTES
    }
}

/// The pod at an address, where it is one of the mesh that is behind this waypoint, or was until a moment ago. Proxies have
/// tunnels of their own, and none leads back to them.
fn served(own: &Own, shared: &Shared, key: &NetworkAddress) -> Option<Arc<Workload>> {
    let mesh = shared.mesh();
    let pod = mesh.workload_at(key)?;
    let mine = own.is_named_by(pod) || shared.left().has(&pod.uid, Instant::now());
    (is_of_mesh(pod) && mine).then(|| pod.clone())
}

fn is_of_mesh(pod: &Workload) -> bool {
    pod.tunnel == TunnelProtocol::Hbone && !pod.native_tunnel
}

/// What the Services of a pod say about a port of it.
fn speaks(mesh: &MeshSnapshot, pod: &Workload, port: u16) -> Speaks {
    let said = pod.services.iter().flat_map(|(service, ports)| {
        let here = ports.iter().filter(|p| p.target_port == port);
        here.map(|p| match (p.protocol, mesh.service(service)) {
            (AppProtocol::Unknown, Some(service)) => {
                service.port(p.service_port).map_or(p.protocol, |p| p.protocol)
            }
            (protocol, _) => protocol,
        })
    });
    let mut found = None;
    for protocol in said {
        let speaks = match protocol {
            AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => Speaks::Http,
            AppProtocol::Tcp | AppProtocol::Tls => Speaks::Bytes,
            AppProtocol::Unknown => Speaks::Unsaid,
        };
        match found {
            None => found = Some(speaks),
            Some(other) if other == speaks => {}
            Some(_) => return Speaks::Unsaid,
        }
    }
    found.unwrap_or(Speaks::Unsaid)
}

/// As the listeners of services are.
fn http() -> HttpListener {
    HttpListener {
        routes: NAME.into(),
        path: PathHandling {
            normalize: true,
            merge_slashes: false,
        },
        edge: false,
        trusted_hops: 0,
        stream_idle_timeout: Some(STREAM_IDLE),
        forward_client_certificate: false,
    }
}

fn cluster(endpoint: Endpoint) -> ClusterState {
    let state = Arc::new(EndpointState::new(EndpointKey::of(&endpoint)));
    let cluster = Cluster {
        name: NAME.into(),
        balance: BalancePolicy::RoundRobin,
        connect_timeout: CONNECT_TIMEOUT,
        http: UpstreamHttp::AsDownstream,
        service_name: NAME.into(),
        names: None,
    };
    ClusterState::new(cluster, vec![(endpoint, state)])
}
