//! Two pods' proxies in one process, over loopback addresses and real tunnels; no kernel capture.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, SystemTime};

use aquifer_core::authority::Authority;
use aquifer_core::identity::{SpiffeId, TrustDomain};
use aquifer_core::policy::{Action, Authorization, Group, Match, Rule, Scope, StringMatch};
use aquifer_core::snapshot::Change;
use aquifer_core::workload::{TunnelProtocol, Workload, WorkloadUid};
use aquifer_hbone::{ConnectError, Pool, PoolConfig, PoolKey, TunnelRequest};
use aquifer_identity::{
    CertificateAuthority, CertificateManager, CertificateSource, ManagerConfig, SignError,
};
use aquifer_telemetry::access_log::AccessLog;
use aquifer_telemetry::registry::Registry;
use async_trait::async_trait;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;

use super::{PodListeners, PodProxy, Shared};
use crate::capture::DeliverySource;
use crate::config::ProxyConfig;
use crate::mesh::MeshStore;
use crate::network::PodNetwork;
use crate::pods::NodePod;
use crate::telemetry::Telemetry;

const DEADLINE: Duration = Duration::from_secs(60);

struct TestAuthority(CertificateAuthority);

#[async_trait]
impl CertificateSource for TestAuthority {
    async fn sign(&self, identity: &SpiffeId, csr_pem: &str) -> Result<Vec<String>, SignError> {
        let ttl = Duration::from_secs(3600);
        let signed = self.0.sign_workload(csr_pem, identity, ttl, SystemTime::now());
        signed.map_err(|e| SignError::Refused(e.to_string()))
    }
}

/// Loopback instead of a pod: every captured connection was meant for one address.
struct Loopback {
    meant_for: SocketAddr,
}

impl PodNetwork for Loopback {
    fn original_destination(&self, _client: SocketAddr) -> Option<SocketAddr> {
        Some(self.meant_for)
    }

    fn is_steered(&self, _local: SocketAddr) -> bool {
        true
    }

    fn socket(&self, _ip: IpAddr) -> io::Result<TcpSocket> {
        TcpSocket::new_v4()
    }

    fn upstream_socket(
        &self,
        _source: DeliverySource,
        _destination: SocketAddr,
        _client: SocketAddr,
    ) -> io::Result<TcpSocket> {
        TcpSocket::new_v4()
    }
}

/// A block of loopback addresses for each test of each process: port 15008 is always the same.
fn block() -> [IpAddr; 2] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let pid = std::process::id();
    let next = NEXT.fetch_add(1, Ordering::Relaxed) as u8;
    let address = |last| {
        IpAddr::V4(Ipv4Addr::new(
            127,
            (pid % 250) as u8 + 1,
            (pid / 250 % 25) as u8 * 10 + next,
            last,
        ))
    };
    [address(1), address(2)]
}

struct World {
    shared: Arc<Shared>,
    client_ip: IpAddr,
    server_ip: IpAddr,
    server: Arc<PodProxy>,
    /// Where a client's captured connections arrive.
    outbound: SocketAddr,
    /// The application of the server; echoes.
    application: SocketAddr,
    _client: Arc<PodProxy>,
}

fn node_pod(name: &str, ip: IpAddr) -> Arc<NodePod> {
    Arc::new(NodePod {
        uid: name.into(),
        namespace: "ns".into(),
        name: name.into(),
        service_account: name.into(),
        ips: vec![ip],
        netns: "/none".into(),
        cgroup: "/none".into(),
        turn: 0,
        served: false,
        wanted: true,
        reason: String::new(),
    })
}

fn workload(name: &str, ip: IpAddr, policies: &[&str]) -> Change {
    let mut w = Workload::empty(WorkloadUid::pod("Kubernetes", "ns", name));
    w.name = name.into();
    w.namespace = "ns".into();
    w.service_account = name.into();
    w.addresses = vec![ip];
    w.tunnel = TunnelProtocol::Hbone;
    w.policies = policies.iter().map(|p| (*p).into()).collect();
    Change::Workload(Arc::new(w))
}

fn deny(name: &str, matching: Match) -> Change {
    Change::Policy(Arc::new(Authorization {
        name: name.into(),
        namespace: "ns".into(),
        scope: Scope::Namespace,
        action: Action::Deny,
        groups: vec![Group {
            rules: vec![Rule {
                matches: vec![matching],
            }],
        }],
        dry_run: false,
    }))
}

fn principal(name: &str) -> Match {
    Match {
        principals: vec![StringMatch::Exact(
            format!("cluster.local/ns/ns/sa/{name}").into(),
        )],
        ..Match::default()
    }
}

async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        });
    }
}

impl World {
    async fn new() -> Self {
        let [client_ip, server_ip] = block();
        let authority =
            CertificateAuthority::new_self_signed(TrustDomain::default(), SystemTime::now()).unwrap();
        let source = Arc::new(TestAuthority(authority));
        let (certificates, driver) = CertificateManager::new(source, ManagerConfig::default());
        tokio::spawn(driver);
        let registry = Registry::new();
        let access_log = AccessLog::disabled(&registry);
        let shared = Arc::new(Shared {
            config: ProxyConfig {
                trust_domain: TrustDomain::default(),
                cluster: "Kubernetes".into(),
                network: "".into(),
                max_connections_per_pod: 100,
            },
            mesh: MeshStore::new(),
            certificates,
            telemetry: Arc::new(Telemetry::new(&registry, access_log)),
        });
        shared.mesh.apply([
            workload("client", client_ip, &[]),
            workload("server", server_ip, &[]),
        ]);
        shared.mesh.set_synced();
        let application = TcpListener::bind((server_ip, 0)).await.unwrap();
        let meant_for = application.local_addr().unwrap();
        tokio::spawn(echo(application));
        let network = Arc::new(Loopback { meant_for });

        let server = PodProxy::new(&shared, &node_pod("server", server_ip), network.clone()).unwrap();
        let inbound = [15008, 15999].map(|port| bind((server_ip, port).into()));
        server.serve(
            PodListeners {
                outbound: vec![],
                inbound: inbound.into(),
            },
            &Handle::current(),
        );
        let client = PodProxy::new(&shared, &node_pod("client", client_ip), network).unwrap();
        let listener = bind((client_ip, 0).into());
        let outbound = listener.local_addr().unwrap();
        client.serve(
            PodListeners {
                outbound: vec![listener],
                inbound: vec![],
            },
            &Handle::current(),
        );
        Self {
            shared,
            client_ip,
            server_ip,
            server,
            outbound,
            application: meant_for,
            _client: client,
        }
    }

    /// Sends a word through the mesh and reads the echo.
    async fn call(&self) -> io::Result<String> {
        let mut stream = TcpStream::connect(self.outbound).await?;
        stream.write_all(b"hello").await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        tokio::time::timeout(DEADLINE, stream.read_to_string(&mut answer)).await??;
        Ok(answer)
    }

    /// A CONNECT of our own making, as the client's identity.
    async fn connect(&self, authority: &str, expected: &str) -> Result<(), ConnectError> {
        let identity = SpiffeId::parse("spiffe://cluster.local/ns/ns/sa/client").unwrap();
        let key = PoolKey {
            source: self.shared.certificates.certificate(&identity).await.unwrap(),
            peer: (self.server_ip, 15008).into(),
            expected: vec![SpiffeId::parse(expected).unwrap()],
            local: self.client_ip,
        };
        let request = TunnelRequest {
            authority: Authority::parse(authority).unwrap(),
            headers: HeaderMap::new(),
        };
        let peer = key.peer;
        let pool = Pool::new(PoolConfig::default());
        pool.connect(key, request, || TcpStream::connect(peer))
            .await
            .map(|_| ())
    }

    async fn status(&self, authority: &str) -> StatusCode {
        match self
            .connect(authority, "spiffe://cluster.local/ns/ns/sa/server")
            .await
        {
            Err(ConnectError::Refused { status, .. }) => status,
            other => panic!("{other:?}"),
        }
    }
}

fn bind(address: SocketAddr) -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

#[tokio::test]
async fn a_captured_connection_reaches_the_application_through_a_tunnel() {
    let world = World::new().await;
    assert_eq!(world.call().await.unwrap(), "hello");
    assert_eq!(world._client.pool.stats().connections, 1);
    assert_eq!(world.call().await.unwrap(), "hello");
    assert_eq!(world._client.pool.stats().connections, 1, "the tunnel is shared");
}

#[tokio::test]
async fn a_denied_client_is_reset() {
    let world = World::new().await;
    world.shared.mesh.apply([deny("p", principal("client"))]);
    let error = world.call().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    assert_eq!(
        world.status(&world.application.to_string()).await,
        StatusCode::UNAUTHORIZED
    );
    world.shared.mesh.apply([Change::RemovePolicy("ns/p".into())]);
    assert_eq!(world.call().await.unwrap(), "hello");
}

#[tokio::test]
async fn a_policy_that_comes_later_closes_open_connections() {
    let world = World::new().await;
    let mut stream = TcpStream::connect(world.outbound).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut word = [0; 5];
    stream.read_exact(&mut word).await.unwrap();
    world
        .shared
        .mesh
        .apply([deny("other", principal("someone-else"))]);
    stream.write_all(b"again").await.unwrap();
    stream.read_exact(&mut word).await.unwrap();
    world.shared.mesh.apply([deny("p", principal("client"))]);
    let end = tokio::time::timeout(DEADLINE, stream.read(&mut word))
        .await
        .unwrap();
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_policy_newly_attached_to_the_workload_closes_open_connections() {
    let world = World::new().await;
    let mut stream = TcpStream::connect(world.outbound).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut word = [0; 5];
    stream.read_exact(&mut word).await.unwrap();
    // Not known yet: denied until it is.
    world
        .shared
        .mesh
        .apply([workload("server", world.server_ip, &["ns/late"])]);
    let end = tokio::time::timeout(DEADLINE, stream.read(&mut word))
        .await
        .unwrap();
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn tunnels_lead_to_this_pod_only() {
    let world = World::new().await;
    let other = format!("{}:{}", world.client_ip, world.application.port());
    assert_eq!(world.status(&other).await, StatusCode::BAD_REQUEST);
    assert_eq!(world.status("unknown.ns:80").await, StatusCode::BAD_REQUEST);
    let own = format!("{}:15008", world.server_ip);
    assert_eq!(world.status(&own).await, StatusCode::BAD_REQUEST);
    let closed = format!("{}:1", world.server_ip);
    assert_eq!(world.status(&closed).await, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_server_with_another_identity_is_refused() {
    let world = World::new().await;
    let authority = world.application.to_string();
    let error = world
        .connect(&authority, "spiffe://cluster.local/ns/ns/sa/someone-else")
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Rejected { .. }), "{error}");
}

#[tokio::test]
async fn strict_resets_plaintext() {
    let world = World::new().await;
    let no_identity = Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    };
    world.shared.mesh.apply([deny("strict", no_identity)]);
    let mut stream = TcpStream::connect((world.server_ip, 15999)).await.unwrap();
    let end = tokio::time::timeout(DEADLINE, stream.read(&mut [0]))
        .await
        .unwrap();
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(world.call().await.unwrap(), "hello", "tunnels pass");
}

#[tokio::test]
async fn garbage_on_the_tunnel_port_is_closed_and_harms_nobody() {
    let world = World::new().await;
    let mut stream = TcpStream::connect((world.server_ip, 15008)).await.unwrap();
    stream.write_all(&[0x42; 4096]).await.unwrap();
    let mut rest = Vec::new();
    // A TLS alert or a reset; not an open connection.
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(world.call().await.unwrap(), "hello");
}

#[tokio::test]
async fn a_connection_costs_little_memory() {
    let world = World::new().await;
    let stream = || TcpStream::connect(world.outbound);
    let client = world.outbound;
    let outbound = crate::outbound::serve(world.server.clone(), stream().await.unwrap(), client);
    let inbound = crate::inbound::serve(world.server.clone(), stream().await.unwrap(), client);
    let sizes = (size_of_val(&outbound), size_of_val(&inbound));
    assert!(sizes.0 <= 4 * 1024 && sizes.1 <= 8 * 1024, "{sizes:?}");
}

#[tokio::test]
async fn connections_of_a_pod_are_limited() {
    let world = World::new().await;
    let mut held = Vec::new();
    // One permit for each connection, one for the tunnel that carries them, and the limit is 100.
    for _ in 0..99 {
        let mut stream = TcpStream::connect(world.outbound).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read_exact(&mut [0]).await.unwrap();
        held.push(stream);
    }
    let error = world.call().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    assert_eq!(world.shared.config.max_connections_per_pod, 100);
    held.clear();
    let freed = async {
        while world.call().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, freed).await.unwrap();
}

#[tokio::test]
async fn draining_lets_an_open_connection_finish() {
    let world = World::new().await;
    let mut stream = TcpStream::connect(world.outbound).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut word = [0; 5];
    stream.read_exact(&mut word).await.unwrap();
    let server = world.server.clone();
    let draining = tokio::spawn(async move { server.drain(DEADLINE).await });
    world.server.stop.cancelled().await;
    stream.write_all(b"again").await.unwrap();
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"again");
    drop(stream);
    tokio::time::timeout(DEADLINE, draining).await.unwrap().unwrap();
}
