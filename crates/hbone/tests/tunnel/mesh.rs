//! A mesh of one authority, servers on loopback and what they do with tunnels.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aquifer_core::identity::{SpiffeId, TrustDomain};
use aquifer_hbone::{
    ByteCounters, ConnectError, IncomingTunnel, Pool, PoolConfig, PoolKey, ServeError, TunnelHandler,
    TunnelRequest, TunnelStream, copy_bidirectional, serve,
};
use aquifer_identity::{
    CertificateAuthority, ExpectedPeers, WorkloadCertificate, new_csr, tunnel_client_config,
    tunnel_server_config,
};
use http::{HeaderMap, StatusCode};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// Long enough for a loaded machine; no test waits for it unless it fails.
const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Fails the test if the future does not end.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("this should have happened long ago")
}

pub(crate) struct Mesh {
    authority: CertificateAuthority,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        Self::of("cluster.local")
    }

    pub(crate) fn of(trust_domain: &str) -> Self {
        let trust_domain = TrustDomain::parse(trust_domain).unwrap();
        Self {
            authority: CertificateAuthority::new_self_signed(trust_domain, SystemTime::now()).unwrap(),
        }
    }

    pub(crate) fn id(&self, name: &str) -> SpiffeId {
        SpiffeId::new(self.authority.trust_domain(), "test", name).unwrap()
    }

    /// A fresh certificate; each call makes another one.
    pub(crate) fn certificate(&self, name: &str) -> Arc<WorkloadCertificate> {
        let id = self.id(name);
        let request = new_csr(&id).unwrap();
        let answer = self
            .authority
            .sign_workload(request.csr_pem(), &id, Duration::ZERO, SystemTime::now())
            .unwrap();
        Arc::new(WorkloadCertificate::from_answer(&answer, &request, &id).unwrap())
    }

    pub(crate) async fn server<H: TunnelHandler>(&self, name: &str, handler: H) -> Server {
        Server::start(&self.certificate(name), handler).await
    }

    /// What a client of this mesh offers to a server, for tests that deviate from it.
    pub(crate) fn client_config(&self, name: &str, expected: &str) -> ClientConfig {
        let expected = ExpectedPeers::any_of([self.id(expected)]);
        (*tunnel_client_config(&self.certificate(name), expected)).clone()
    }
}

/// A listening port, the connections on it, and how they ended.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) drain: CancellationToken,
    ended: mpsc::Receiver<Result<(), ServeError>>,
    accepted: Arc<AtomicUsize>,
    /// Ends the listener and everything that it accepted.
    tasks: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start<H: TunnelHandler>(certificate: &WorkloadCertificate, handler: H) -> Self {
        Self::start_at((LOOPBACK, 0).into(), certificate, handler).await
    }

    pub(crate) async fn start_at<H: TunnelHandler>(
        address: SocketAddr,
        certificate: &WorkloadCertificate,
        handler: H,
    ) -> Self {
        let config = tunnel_server_config(certificate, certificate.identity().trust_domain());
        Self::run(address, config, handler).await
    }

    /// A server that takes itself for a member of another trust domain than its certificate.
    pub(crate) async fn of_trust_domain(certificate: &WorkloadCertificate, trust_domain: &str) -> Self {
        let trust_domain = TrustDomain::parse(trust_domain).unwrap();
        let config = tunnel_server_config(certificate, &trust_domain);
        Self::run((LOOPBACK, 0).into(), config, Echo).await
    }

    async fn run<H: TunnelHandler>(address: SocketAddr, config: Arc<ServerConfig>, handler: H) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1024).unwrap();
        let address = listener.local_addr().unwrap();
        let drain = CancellationToken::new();
        let (report, ended) = mpsc::channel(1024);
        let accepted = Arc::new(AtomicUsize::new(0));
        let (count, token, handler) = (accepted.clone(), drain.clone(), Arc::new(handler));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (config, handler, token) = (config.clone(), handler.clone(), token.clone());
                let report = report.clone();
                connections.spawn(async move {
                    let result = serve(tcp, config, handler, token).await;
                    report.send(result).await.ok();
                });
            }
        });
        Self {
            address,
            drain,
            ended,
            accepted,
            tasks,
        }
    }

    /// How the next connection ended.
    pub(crate) async fn ended(&mut self) -> Result<(), ServeError> {
        soon(self.ended.recv()).await.unwrap()
    }

    /// The same where simulated time passes in hours.
    pub(crate) async fn ended_eventually(&mut self) -> Result<(), ServeError> {
        self.ended.recv().await.unwrap()
    }

    /// The message of the next connection that failed.
    pub(crate) async fn failure(&mut self) -> String {
        self.ended().await.unwrap_err().to_string()
    }

    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Drops the port and cuts its connections, as a killed process does.
    pub(crate) async fn kill(&mut self) {
        self.tasks.shutdown().await;
    }
}

/// A dialling workload.
pub(crate) struct Client {
    pub(crate) pool: Pool,
    pub(crate) certificate: Arc<WorkloadCertificate>,
    dialled: Arc<AtomicUsize>,
}

impl Client {
    pub(crate) fn new(certificate: Arc<WorkloadCertificate>) -> Self {
        Self::with(certificate, PoolConfig::default())
    }

    pub(crate) fn with(certificate: Arc<WorkloadCertificate>, config: PoolConfig) -> Self {
        Self {
            pool: Pool::new(config),
            certificate,
            dialled: Arc::default(),
        }
    }

    pub(crate) fn key(&self, peer: SocketAddr, expected: SpiffeId) -> PoolKey {
        PoolKey {
            source: self.certificate.clone(),
            peer,
            expected: vec![expected],
            local: LOOPBACK,
        }
    }

    pub(crate) async fn open(
        &self,
        peer: SocketAddr,
        expected: SpiffeId,
    ) -> Result<(TunnelStream, HeaderMap), ConnectError> {
        self.open_with(peer, expected, HeaderMap::new()).await
    }

    pub(crate) async fn open_with(
        &self,
        peer: SocketAddr,
        expected: SpiffeId,
        headers: HeaderMap,
    ) -> Result<(TunnelStream, HeaderMap), ConnectError> {
        let dialled = self.dialled.clone();
        let dial = async move || {
            dialled.fetch_add(1, Ordering::SeqCst);
            TcpStream::connect(peer).await
        };
        let connect = self
            .pool
            .connect(self.key(peer, expected), request(headers), dial);
        soon(connect).await
    }

    pub(crate) fn dialled(&self) -> usize {
        self.dialled.load(Ordering::SeqCst)
    }
}

pub(crate) fn request(headers: HeaderMap) -> TunnelRequest {
    TunnelRequest {
        authority: "10.0.0.1:80".parse().unwrap(),
        headers,
    }
}

/// Sends back what it gets, and ends when the peer ends.
pub(crate) struct Echo;

impl TunnelHandler for Echo {
    async fn handle(&self, tunnel: IncomingTunnel) {
        let Ok(mut stream) = tunnel.accept(HeaderMap::new()) else {
            return;
        };
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read) = stream.read(&mut buffer).await {
            if read == 0 {
                stream.shutdown().await.ok();
                return;
            }
            if stream.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    }
}

/// Carries tunnels on to a TCP port, as a node's agent does, and passes on how each ended.
pub(crate) struct Forward {
    pub(crate) to: SocketAddr,
    /// The send buffer of the socket to the application.
    pub(crate) send_buffer: Option<u32>,
    pub(crate) ends: mpsc::Sender<String>,
}

impl Forward {
    pub(crate) fn to(to: SocketAddr) -> (Self, mpsc::Receiver<String>) {
        let (ends, receiver) = mpsc::channel(16);
        let forward = Self {
            to,
            send_buffer: None,
            ends,
        };
        (forward, receiver)
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(size) = self.send_buffer {
            socket.set_send_buffer_size(size)?;
        }
        socket.connect(self.to).await
    }
}

impl TunnelHandler for Forward {
    async fn handle(&self, tunnel: IncomingTunnel) {
        let application = match self.dial().await {
            Ok(application) => application,
            Err(error) => {
                tunnel.reject(StatusCode::SERVICE_UNAVAILABLE, &error.to_string());
                return;
            }
        };
        let Ok(stream) = tunnel.accept(HeaderMap::new()) else {
            return;
        };
        let counters = ByteCounters::default();
        let end = match copy_bidirectional(stream, application, &counters).await {
            Ok((forth, back)) => format!("{forth}/{back}"),
            Err(error) => format!("{error}"),
        };
        self.ends.send(end).await.ok();
    }
}

/// Accepts, and keeps the streams without ever reading from them.
pub(crate) struct Hold {
    streams: mpsc::Sender<(IncomingFacts, TunnelStream)>,
}

/// What a handler knew of a tunnel.
#[derive(Debug)]
pub(crate) struct IncomingFacts {
    pub(crate) identity: SpiffeId,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) authority: String,
    pub(crate) headers: HeaderMap,
}

impl Hold {
    pub(crate) fn new() -> (Self, mpsc::Receiver<(IncomingFacts, TunnelStream)>) {
        let (streams, receiver) = mpsc::channel(1024);
        (Self { streams }, receiver)
    }
}

impl TunnelHandler for Hold {
    async fn handle(&self, mut tunnel: IncomingTunnel) {
        let facts = IncomingFacts {
            identity: tunnel.peer_identity.clone(),
            peer: tunnel.peer_addr,
            local: tunnel.local_addr,
            authority: tunnel.authority.to_string(),
            headers: std::mem::take(&mut tunnel.headers),
        };
        let mut answer = HeaderMap::new();
        answer.insert("baggage", "k8s.namespace.name=test".parse().unwrap());
        if let Ok(stream) = tunnel.accept(answer) {
            self.streams.send((facts, stream)).await.ok();
        }
    }
}

/// Refuses everything.
pub(crate) struct Refuse(pub(crate) StatusCode, pub(crate) &'static str);

impl TunnelHandler for Refuse {
    async fn handle(&self, tunnel: IncomingTunnel) {
        tunnel.reject(self.0, self.1);
    }
}

/// Answers when the test lets it.
pub(crate) struct Gate(pub(crate) Arc<Semaphore>);

impl TunnelHandler for Gate {
    async fn handle(&self, tunnel: IncomingTunnel) {
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
            tunnel.reject(StatusCode::SERVICE_UNAVAILABLE, "gate");
        }
    }
}

/// TLS to a server with a configuration of the test's own.
pub(crate) async fn tls(config: ClientConfig, to: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(to).await?;
    let name = rustls::pki_types::ServerName::IpAddress(to.ip().into());
    soon(TlsConnector::from(Arc::new(config)).connect(name, tcp)).await
}

/// A TCP application, for the far end of [`Forward`].
pub(crate) async fn application() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
