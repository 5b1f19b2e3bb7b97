//! A small mesh on loopback for tests: an authority, a proxy, pods that answer through real tunnels.

pub(crate) mod app;
pub(crate) mod client;
pub(crate) mod model;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aquifer_core::http::cluster::{Endpoint, Transport};
use aquifer_core::identity::{SpiffeId, TrustDomain};
use aquifer_core::snapshot::Change;
use aquifer_core::workload::{Workload, WorkloadUid};
use aquifer_hbone::{ByteCounters, IncomingTunnel, Pool, PoolConfig, TunnelHandler, copy_bidirectional};
use aquifer_identity::{
    CertificateAuthority, CertificateManager, CertificateSource, ManagerConfig, SignError,
    tunnel_server_config,
};
use aquifer_telemetry::access_log::AccessLog;
use aquifer_telemetry::peer::Reporter;
use aquifer_telemetry::registry::Registry;
use async_trait::async_trait;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::inbound::Inbound;
use crate::pods::Own;
use crate::proxy::{Leaving, Proxy};
use crate::state::{Shared, StateWriter};
use crate::telemetry::Telemetry;
use crate::tunnel::WaypointTunnels;
use crate::upstream::connection::Drivers;
use crate::upstream::dial::Dialer;

/// No step of a test takes longer on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn id(service_account: &str) -> SpiffeId {
    SpiffeId::parse(&format!(
        "spiffe://cluster.local/ns/bookinfo/sa/{service_account}"
    ))
    .unwrap()
}

/// `127.0.0.N`: loopback has an address for each pod.
pub(crate) fn ip(n: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, n).into()
}

/// Ports that tests of this process listen at, or did.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Listens at a port that is no other test's, at whatever address: they run side by side, and some ports have to be the
/// same at several addresses, or to be listened at again.
pub(crate) async fn listen(at: IpAddr) -> TcpListener {
    loop {
        let listener = TcpListener::bind((at, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        if TAKEN.lock().insert(port) {
            return listener;
        }
    }
}

/// Where nobody listens, and no other test will.
pub(crate) async fn free_port() -> SocketAddr {
    listen(ip(1)).await.local_addr().unwrap()
}

/// The waypoint's name.
fn own() -> Own {
    Own {
        namespace: "bookinfo".into(),
        name: "waypoint".into(),
    }
}

struct Authority(CertificateAuthority);

#[async_trait]
impl CertificateSource for Authority {
    async fn sign(&self, identity: &SpiffeId, csr_pem: &str) -> Result<Vec<String>, SignError> {
        self.0
            .sign_workload(csr_pem, identity, Duration::ZERO, SystemTime::now())
            .map_err(|e| SignError::Refused(e.to_string()))
    }
}

/// The mesh; everything it started ends with it.
pub(crate) struct Mesh {
    pub(crate) certificates: CertificateManager,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) writer: Arc<Mutex<StateWriter>>,
    pub(crate) registry: Registry,
    /// Of every pod, on its own address.
    hbone_port: u16,
    /// Keeps the port ours: nobody else binds it on 127.0.0.1.
    _reserved: TcpListener,
    pub(crate) drain: CancellationToken,
    pub(crate) connections: TaskTracker,
    stop: CancellationToken,
    /// How tunnels to pods have ended, as their agents saw it.
    ended: Ended,
    /// Tunnels that pods have taken.
    opened: Arc<AtomicUsize>,
}

type Ended = Arc<Mutex<Vec<Result<(), String>>>>;

impl Drop for Mesh {
    fn drop(&mut self) {
        self.stop.cancel();
        self.drain.cancel();
    }
}

impl Mesh {
    pub(crate) async fn start() -> Self {
        let authority =
            CertificateAuthority::new_self_signed(TrustDomain::default(), SystemTime::now()).unwrap();
        let (certificates, driver) =
            CertificateManager::new(Arc::new(Authority(authority)), ManagerConfig::default());
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(driver));
        let reserved = listen(ip(1)).await;
        let hbone_port = reserved.local_addr().unwrap().port();
        let shared = Shared::new();
        let registry = Registry::new();
        let pool = Pool::new(PoolConfig::default());
        let dialer = Dialer::new(
            certificates.clone(),
            id("waypoint"),
            ip(1),
            pool,
            (shared.clone(), ""),
            "waypoint",
        );
        let proxy = Proxy {
            shared: shared.clone(),
            dialer: dialer.with_hbone_port(hbone_port),
            drivers: Drivers::default(),
            telemetry: Telemetry::new(&registry, AccessLog::disabled(&registry), Reporter::Waypoint),
            own: WorkloadUid::pod("Kubernetes", "bookinfo", "waypoint"),
            tasks: TaskTracker::new(),
            leaving: Leaving::default(),
        };
        let mut record = Workload::empty(proxy.own.clone());
        record.namespace = "bookinfo".into();
        let mut writer = StateWriter::new(shared, Some(own()));
        writer.mesh(vec![Change::Workload(Arc::new(record))]);
        Self {
            certificates,
            proxy: Arc::new(proxy),
            writer: Arc::new(Mutex::new(writer)),
            registry,
            hbone_port,
            _reserved: reserved,
            drain: CancellationToken::new(),
            connections: TaskTracker::new(),
            stop,
            ended: Ended::default(),
            opened: Arc::default(),
        }
    }

    /// How the tunnels to pods have ended, once one has.
    pub(crate) async fn tunnel_ends(&self) -> Vec<Result<(), String>> {
        let ended = async {
            while self.ended.lock().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, ended).await.unwrap();
        self.ended.lock().clone()
    }

    /// How many tunnels pods have taken, once they have taken one.
    pub(crate) async fn opened(&self) -> usize {
        let opened = async {
            while self.opened.load(Ordering::Relaxed) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, opened).await.unwrap();
        self.opened.load(Ordering::Relaxed)
    }

    /// Starts the waypoint's port and answers its address.
    pub(crate) async fn waypoint(&self) -> SocketAddr {
        let socket = listen(ip(1)).await;
        let address = socket.local_addr().unwrap();
        let tunnels = WaypointTunnels {
            proxy: self.proxy.clone(),
            network: "".into(),
            own: Some(own()),
            drain: self.drain.clone(),
        };
        let inbound = Inbound {
            tunnels: Arc::new(tunnels),
            certificates: self.certificates.clone(),
            identity: id("waypoint"),
            drain: self.drain.clone(),
            connections: self.connections.clone(),
        };
        self.connections.spawn(inbound.run(socket));
        address
    }

    /// Starts a pod: an application on its address, and an agent in front that proves `service_account`.
    pub(crate) async fn pod(&self, n: u8, service_account: &str, app: impl app::App) -> Endpoint {
        let listener = listen(ip(n)).await;
        let address = listener.local_addr().unwrap();
        tokio::spawn(
            self.stop
                .clone()
                .run_until_cancelled_owned(app::serve(listener, app)),
        );
        self.agent(n, service_account).await;
        endpoint(address, service_account)
    }

    /// Starts only the agent of a pod: nothing listens behind it.
    pub(crate) async fn agent(&self, n: u8, service_account: &str) {
        let socket = TcpListener::bind((ip(n), self.hbone_port)).await.unwrap();
        let certificate = self.certificates.certificate(&id(service_account)).await.unwrap();
        let config = tunnel_server_config(&certificate, &TrustDomain::default());
        let stop = self.stop.clone();
        let agent = Arc::new(Agent(self.ended.clone(), self.opened.clone()));
        tokio::spawn(self.stop.clone().run_until_cancelled_owned(async move {
            while let Ok((tcp, _)) = socket.accept().await {
                let serving = aquifer_hbone::serve(tcp, config.clone(), agent.clone(), stop.clone());
                tokio::spawn(stop.clone().run_until_cancelled_owned(serving));
            }
        }));
    }

    /// Waits until the metrics are so: what is counted is counted when a client may have its answer already.
    pub(crate) async fn counts(&self, what: &str, wanted: impl Fn(&str) -> bool) {
        let counted = async {
            while !wanted(&self.metrics()) {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(DEADLINE, counted).await;
        assert!(waited.is_ok(), "no {what}: {}", self.metrics());
    }

    /// The metrics as Prometheus would see them.
    pub(crate) fn metrics(&self) -> String {
        self.registry.render()
    }
}

/// An endpoint of the mesh that must prove `service_account`.
pub(crate) fn endpoint(address: SocketAddr, service_account: &str) -> Endpoint {
    Endpoint {
        address,
        transport: Transport::Hbone(id(service_account)),
        weight: 1,
        healthy: true,
        priority: 0,
        workload: format!("Kubernetes//Pod/bookinfo/{service_account}").into(),
    }
}

/// What a node agent does for a pod: dials the application, then copies.
struct Agent(Ended, Arc<AtomicUsize>);

impl TunnelHandler for Agent {
    async fn handle(&self, tunnel: IncomingTunnel) {
        let target: SocketAddr = tunnel.authority.to_string().parse().unwrap();
        match TcpStream::connect(target).await {
            Ok(app) => {
                self.1.fetch_add(1, Ordering::Relaxed);
                let Ok(stream) = tunnel.accept(HeaderMap::new()) else {
                    return;
                };
                let copied = copy_bidirectional(stream, app, &ByteCounters::default()).await;
                self.0.lock().push(copied.map(drop).map_err(|e| e.to_string()));
            }
            Err(e) => tunnel.reject(StatusCode::SERVICE_UNAVAILABLE, &e.to_string()),
        }
    }
}
