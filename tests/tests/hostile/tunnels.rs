//! Port 15008 of pods and waypoints, as a stranger and as a member of the mesh may use it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer_core::identity::{SpiffeId, TrustDomain};
use aquifer_identity::{
    CertificateAuthority, ExpectedPeers, WorkloadCertificate, new_csr, tunnel_client_config,
};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::place::Place;
use crate::transparency::port;
use crate::world::{World, eventually};

pub(crate) const HBONE: u16 = 15008;
const DEADLINE: Duration = Duration::from_secs(60);

/// What a waypoint is made for.
pub(crate) const ROUTE: &str = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: mesh}
spec:
  hosts: [web]
  http: [{route: [{destination: {host: web}}]}]
";

pub(crate) fn identity(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

/// The lab's own authority, whose key lies in the control plane's folder.
pub(crate) fn authority(world: &World) -> CertificateAuthority {
    let state = world.lab.objects_dir().with_file_name("state");
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    CertificateAuthority::load(&state, trust_domain, SystemTime::now()).unwrap()
}

pub(crate) fn certificate(authority: &CertificateAuthority, id: &SpiffeId) -> WorkloadCertificate {
    let request = new_csr(id).unwrap();
    let answer = authority
        .sign_workload(request.csr_pem(), id, Duration::ZERO, SystemTime::now())
        .unwrap();
    WorkloadCertificate::from_answer(&answer, &request, id).unwrap()
}

/// What a client offers that takes any of `expected` for its peer.
pub(crate) fn config(certificate: &WorkloadCertificate, expected: &str) -> ClientConfig {
    (*tunnel_client_config(certificate, ExpectedPeers::any_of([identity(expected)]))).clone()
}

/// A connection, if there is one: TLS 1.3 tells a client only with the first bytes that it is not wanted.
async fn open(to: SocketAddr, config: &ClientConfig) -> Result<SendRequest<Bytes>, String> {
    let tcp = TcpStream::connect(to).await.map_err(|e| e.to_string())?;
    let name = ServerName::IpAddress(to.ip().into());
    let tls = TlsConnector::from(Arc::new(config.clone()))
        .connect(name, tcp)
        .await;
    let tls = tls.map_err(|e| e.to_string())?;
    let (send, connection) = h2::client::handshake(tls).await.map_err(|e| e.to_string())?;
    // Ends with the runtime of the attempt.
    tokio::spawn(async move { connection.await.ok() });
    send.ready().await.map_err(|e| e.to_string())
}

/// The status of a CONNECT.
async fn ask(
    send: &mut SendRequest<Bytes>,
    authority: &str,
    header: Option<(&str, &str)>,
) -> Result<StatusCode, String> {
    let mut request = Request::builder().method(Method::CONNECT).uri(authority);
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let request = request.body(()).map_err(|e| e.to_string())?;
    let (response, _body) = send.send_request(request, false).map_err(|e| e.to_string())?;
    response.await.map(|r| r.status()).map_err(|e| e.to_string())
}

/// One CONNECT on a connection of its own.
pub(crate) fn connect(
    place: &Place,
    to: SocketAddr,
    config: &ClientConfig,
    authority: &str,
) -> Result<StatusCode, String> {
    place.block_on(async {
        let attempt = async {
            let mut send = open(to, config).await?;
            ask(&mut send, authority, None).await
        };
        tokio::time::timeout(DEADLINE, attempt)
            .await
            .expect("an answer or a refusal")
    })
}

/// Everything that a stranger may shout, and nobody answers with more than an alert.
fn shouts() -> Vec<Vec<u8>> {
    vec![
        b"\0".to_vec(),
        vec![0xff; 10_000],
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(),
        b"SSH-2.0-x\r\n".to_vec(),
        vec![0x16, 3, 1, 0xff, 0xff, 1],
    ]
}

fn assert_strangers_are_refused(world: &World, place: &Place, to: SocketAddr, served_by: &str, target: &str) {
    for bytes in shouts() {
        let mut stream = place.connect(to).unwrap();
        // It may be cut before it has said everything.
        let _ = stream.write_all(&bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 100 && !answer.starts_with(b"HTTP"), "{answer:?}");
    }
    let member = "spiffe://cluster.local/ns/mesh/sa/client";
    let foreign = CertificateAuthority::new_self_signed(
        TrustDomain::parse("cluster.local").unwrap(),
        SystemTime::now(),
    );
    let other_domain = CertificateAuthority::new_self_signed(
        TrustDomain::parse("other.example").unwrap(),
        SystemTime::now(),
    );
    let good = certificate(&authority(world), &identity(member));
    let mut no_alpn = config(&good, served_by);
    no_alpn.alpn_protocols.clear();
    let mut wrong_alpn = config(&good, served_by);
    wrong_alpn.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut nameless = config(&good, served_by);
    nameless.client_auth_cert_resolver = Arc::new(NoCertificate);
    // Their own verifier would refuse the server first; it is the server's that counts here.
    let trusting = |stranger: &WorkloadCertificate| {
        let mut config = config(&good, served_by);
        config.client_auth_cert_resolver = tunnel_client_config(stranger, ExpectedPeers::any_of([]))
            .client_auth_cert_resolver
            .clone();
        config
    };
    let forged = trusting(&certificate(&foreign.unwrap(), &identity(member)));
    let other = trusting(&certificate(
        &other_domain.unwrap(),
        &identity("spiffe://other.example/ns/mesh/sa/client"),
    ));
    for (name, config) in [
        ("no protocol", no_alpn),
        ("another protocol", wrong_alpn),
        ("no certificate", nameless),
        ("a forged certificate", forged),
        ("another trust domain", other),
    ] {
        let outcome = connect(place, to, &config, target);
        assert!(outcome.is_err(), "{name}: {outcome:?}");
    }
    // The same with everything right; and it is us who refuse where the peer is not the one expected.
    assert_eq!(
        connect(place, to, &config(&good, served_by), target),
        Ok(StatusCode::OK)
    );
    let refused = connect(
        place,
        to,
        &config(&good, "spiffe://cluster.local/ns/mesh/sa/another"),
        target,
    );
    assert!(refused.is_err(), "{refused:?}");
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(
        &self,
        _hints: &[&[u8]],
        _schemes: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A frame's head (RFC 9113 section 4.1), and what follows of it.
fn frame(length: u32, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// What a member of the mesh may say that is no HTTP/2, or too much of it.
fn ramblings() -> Vec<(&'static str, Vec<u8>)> {
    let empty = frame(0, 4, 0, 0, b"");
    let opened = frame(0, 1, 0, 1, b"");
    vec![
        ("no settings", frame(0, 6, 0, 0, b"")),
        ("a frame that ends early", frame(100, 4, 0, 0, b"abc")),
        ("a head that ends early", vec![0, 0]),
        ("a frame of 16 MiB", frame(0xff_ffff, 0, 0, 1, &[0; 100_000])),
        (
            "headers that are none",
            [empty.clone(), frame(4, 1, 5, 1, &[0xff; 4])].concat(),
        ),
        (
            "data of no stream",
            [empty.clone(), frame(1, 0, 0, 7, b"x")].concat(),
        ),
        (
            "a window that overflows",
            [
                empty.clone(),
                frame(4, 8, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).repeat(2),
            ]
            .concat(),
        ),
        (
            "headers without end",
            [empty.clone(), opened, frame(0, 9, 0, 1, b"").repeat(50_000)].concat(),
        ),
        ("settings without end", empty.repeat(50_000)),
        (
            "pings without end",
            [empty.clone(), frame(8, 6, 0, 0, &[0; 8]).repeat(50_000)].concat(),
        ),
        (
            "resets of nothing",
            [empty, frame(4, 3, 0, 1, &[0; 4]).repeat(50_000)].concat(),
        ),
    ]
}

/// Says it and listens to the end; what is answered does not matter, that it ends does.
async fn ramble(to: SocketAddr, config: &ClientConfig, bytes: &[u8]) {
    let tcp = TcpStream::connect(to).await.unwrap();
    let name = ServerName::IpAddress(to.ip().into());
    let connector = TlsConnector::from(Arc::new(config.clone()));
    let mut tls = connector.connect(name, tcp).await.unwrap();
    let talk = async {
        let (mut reading, mut writing) = tokio::io::split(&mut tls);
        let mut sink = tokio::io::sink();
        let hear = tokio::io::copy(&mut reading, &mut sink);
        let say = async {
            // It may hang up long before all is said.
            let _ = writing.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
            let _ = writing.write_all(bytes).await;
            writing.shutdown().await
        };
        let _ = tokio::join!(hear, say);
    };
    tokio::time::timeout(DEADLINE, talk).await.expect("an end");
}

#[test]
fn a_member_that_speaks_no_http2_harms_only_itself() {
    let Some(world) = World::new("frames") else { return };
    let ip = world.pod("mesh/server").ip.unwrap();
    let to = SocketAddr::new(ip, HBONE);
    let member = identity("spiffe://cluster.local/ns/mesh/sa/client");
    let member = certificate(&authority(&world), &member);
    let config = config(&member, "spiffe://cluster.local/ns/mesh/sa/default");
    let stranger = Place::pod(&world, "plain/client");
    let own = format!("{ip}:{}", port::ECHO);
    for (name, bytes) in ramblings() {
        stranger.block_on(ramble(to, &config, &bytes));
        assert_eq!(
            connect(&stranger, to, &config, &own),
            Ok(StatusCode::OK),
            "{name}"
        );
    }
    world.assert_nobody_died();
}

#[test]
fn a_pods_tunnel_port_serves_its_pod_to_members_only() {
    let Some(world) = World::new("tunnel") else { return };
    let pod = world.pod("mesh/server");
    let ip = pod.ip.unwrap();
    let to = SocketAddr::new(ip, HBONE);
    let own = format!("{ip}:{}", port::ECHO);
    let served_by = "spiffe://cluster.local/ns/mesh/sa/default";
    let stranger = Place::pod(&world, "plain/client");
    assert_strangers_are_refused(&world, &stranger, to, served_by, &own);

    let config = config(
        &certificate(
            &authority(&world),
            &identity("spiffe://cluster.local/ns/mesh/sa/client"),
        ),
        served_by,
    );
    let node: IpAddr = world.lab.status().unwrap().nodes[0].addresses[0];
    let (vip, elsewhere) = (world.vip("mesh", "server"), world.ip("mesh/client"));
    for (target, wanted) in [
        (format!("{elsewhere}:{}", port::ECHO), StatusCode::BAD_REQUEST),
        (format!("127.0.0.1:{}", port::ECHO), StatusCode::BAD_REQUEST),
        ("127.0.0.1:15000".to_owned(), StatusCode::BAD_REQUEST),
        (format!("[::1]:{}", port::ECHO), StatusCode::BAD_REQUEST),
        (format!("0.0.0.0:{}", port::ECHO), StatusCode::BAD_REQUEST),
        (format!("{node}:22"), StatusCode::BAD_REQUEST),
        (format!("{vip}:{}", port::ECHO), StatusCode::BAD_REQUEST),
        ("169.254.169.254:80".to_owned(), StatusCode::BAD_REQUEST),
        (format!("{ip}:0"), StatusCode::BAD_REQUEST),
        (format!("{ip}:{HBONE}"), StatusCode::BAD_REQUEST),
        (format!("{ip}:15001"), StatusCode::BAD_REQUEST),
        (format!("{ip}:15006"), StatusCode::BAD_REQUEST),
        (
            format!("nobody.mesh.svc.cluster.local:{}", port::ECHO),
            StatusCode::BAD_REQUEST,
        ),
        (
            format!("server.plain.svc.cluster.local:{}", port::ECHO),
            StatusCode::BAD_REQUEST,
        ),
        (
            format!("server.mesh.svc.cluster.local:{}", port::ECHO),
            StatusCode::OK,
        ),
        (format!("{ip}:{}", port::CLOSED), StatusCode::SERVICE_UNAVAILABLE),
        (own.clone(), StatusCode::OK),
    ] {
        assert_eq!(connect(&stranger, to, &config, &target), Ok(wanted), "{target}");
    }
    stranger.block_on(assert_one_connection_is_bounded(to, config, own));
    let client = world.client("mesh", &pod.node, false);
    world.run(&client, &format!("sequence {ip} 10")).unwrap();
    world.assert_nobody_died();
}

/// More than anyone needs on one connection, and the connection still serves.
async fn assert_one_connection_is_bounded(to: SocketAddr, config: ClientConfig, own: String) {
    let mut send = open(to, &config).await.unwrap();
    let long = "x".repeat(2 * 1024 * 1024);
    let refused = ask(&mut send, &own, Some(("x-long", &long))).await;
    assert!(
        matches!(refused, Err(_) | Ok(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)),
        "{refused:?}"
    );
    // Opened and given up at once, as fast as it goes, until it is enough for the other side; then one in earnest.
    let mut send = open(to, &config).await.unwrap();
    for _ in 0..10_000 {
        let Ok(ready) = send.ready().await else { break };
        send = ready;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(&own)
            .body(())
            .unwrap();
        let Ok((_response, mut body)) = send.send_request(request, false) else {
            break;
        };
        body.send_reset(h2::Reason::CANCEL);
    }
    let mut send = open(to, &config).await.unwrap();
    assert_eq!(ask(&mut send, &own, None).await, Ok(StatusCode::OK));
}

#[test]
fn a_waypoint_serves_what_it_was_made_for() {
    let Some(world) = World::new("asked") else { return };
    world.apply("default", ROUTE);
    let ready = |pods: &Vec<_>| !pods.is_empty();
    eventually("a waypoint comes", || world.pods("mesh/waypoint"), ready);
    world.settle();
    let to = SocketAddr::new(world.pod("mesh/waypoint").ip.unwrap(), HBONE);
    let served_by = "spiffe://cluster.local/ns/mesh/sa/waypoint";
    let stranger = Place::pod(&world, "plain/client");
    let (web, server) = (world.vip("mesh", "web"), world.vip("mesh", "server"));
    assert_strangers_are_refused(&world, &stranger, to, served_by, &format!("{web}:80"));

    let config = config(
        &certificate(
            &authority(&world),
            &identity("spiffe://cluster.local/ns/mesh/sa/client"),
        ),
        served_by,
    );
    for (target, wanted) in [
        (format!("{web}:81"), StatusCode::BAD_REQUEST),
        (format!("{server}:{}", port::ECHO), StatusCode::BAD_REQUEST),
        (
            format!("{}:8080", world.ip("mesh/server")),
            StatusCode::BAD_REQUEST,
        ),
        ("10.96.255.254:80".to_owned(), StatusCode::BAD_REQUEST),
        ("127.0.0.1:15000".to_owned(), StatusCode::BAD_REQUEST),
        (
            "web.plain.svc.cluster.local:80".to_owned(),
            StatusCode::BAD_REQUEST,
        ),
        (format!("{web}:80"), StatusCode::OK),
        ("web.mesh.svc.cluster.local:80".to_owned(), StatusCode::OK),
    ] {
        assert_eq!(connect(&stranger, to, &config, &target), Ok(wanted), "{target}");
    }
    let client = world.client("mesh", &world.pod("mesh/server").node, false);
    world.get(&client, "web:80").unwrap();
    world.assert_nobody_died();
}
