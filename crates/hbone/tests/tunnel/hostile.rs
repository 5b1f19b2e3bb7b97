//! What may arrive on port 15008 from anyone who can reach it: each is answered or cut, and nobody else notices.

use std::io;

use aquifer_hbone::{ConnectError, ServeError};
use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Method, Request, StatusCode, Version};
use proptest::test_runner::{Config, TestRunner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::mesh::{Client, Echo, Gate, Mesh, Server, soon, tls};

/// Sends bytes to a fresh connection and waits until the server has hung up.
async fn shout(server: &Server, bytes: &[u8]) {
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    // The server may hang up before it has read everything.
    tcp.write_all(bytes).await.ok();
    tcp.shutdown().await.ok();
    let mut rest = Vec::new();
    soon(tcp.read_to_end(&mut rest)).await.ok();
}

/// The port still serves a proper peer.
async fn assert_serves(mesh: &Mesh, server: &Server) {
    let client = Client::new(mesh.certificate("a"));
    let (mut stream, _) = client.open(server.address, mesh.id("b")).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut text = [0; 5];
    soon(stream.read_exact(&mut text)).await.unwrap();
}

#[tokio::test]
async fn garbage_and_plaintext_are_cut() {
    let mesh = Mesh::new();
    let mut server = mesh.server("b", Echo).await;
    for bytes in [
        &b""[..],
        b"\0",
        b"GET / HTTP/1.1\r\nHost: b\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        &[0x16, 3, 1, 0xff, 0xff, 1],
        &[0xff; 10_000],
    ] {
        shout(&server, bytes).await;
        let error = server.ended().await.unwrap_err();
        assert!(matches!(error, ServeError::Tls { .. }), "{error:?}");
    }
    assert_serves(&mesh, &server).await;
}

#[test]
fn random_bytes_never_panic() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mesh = Mesh::new();
    let server = tokio::sync::Mutex::new(runtime.block_on(mesh.server("b", Echo)));
    let mut runner = TestRunner::new(Config::with_cases(64));
    let bytes = proptest::collection::vec(proptest::num::u8::ANY, 0..600);
    let strategy = (proptest::bool::ANY, bytes);
    let result = runner.run(&strategy, |(as_record, mut bytes)| {
        if as_record && bytes.len() > 5 {
            // What looks like a record gets further into the parser.
            let length = (bytes.len() - 5) as u16;
            bytes[..3].copy_from_slice(&[22, 3, 1]);
            bytes[3..5].copy_from_slice(&length.to_be_bytes());
        }
        runtime.block_on(async {
            let mut server = server.lock().await;
            shout(&server, &bytes).await;
            server.ended().await.unwrap_err();
        });
        Ok(())
    });
    result.unwrap();
    runtime.block_on(assert_serves(&mesh, &server.into_inner()));
}

/// A ClientHello of TLS 1.2: no `supported_versions`, one of its cipher suites.
fn tls12_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    body.extend([0, 2, 0xc0, 0x2b, 1, 0]);
    // signature_algorithms, supported_groups, ALPN h2
    let extensions = [
        &[0, 13, 0, 4, 0, 2, 4, 3][..],
        &[0, 10, 0, 4, 0, 2, 0, 23],
        &[0, 16, 0, 5, 0, 3, 2, b'h', b'2'],
    ]
    .concat();
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut record = vec![22, 3, 1];
    record.extend((body.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((body.len() as u16).to_be_bytes());
    record.extend(body);
    record
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let mesh = Mesh::new();
    let mut server = mesh.server("b", Echo).await;
    let mut tcp = TcpStream::connect(server.address).await.unwrap();
    tcp.write_all(&tls12_hello()).await.unwrap();
    let mut answer = Vec::new();
    soon(tcp.read_to_end(&mut answer)).await.ok();
    // Record type alert, level fatal, description protocol_version (RFC 8446 section 6).
    assert_eq!((answer[0], answer[5], answer[6]), (21, 2, 70), "{answer:?}");
    let error = server.ended().await.unwrap_err();
    assert!(matches!(error, ServeError::Tls { .. }), "{error:?}");
}

#[tokio::test]
async fn another_protocol_or_none_is_refused() {
    let mesh = Mesh::new();
    let mut server = mesh.server("b", Echo).await;
    let mut config = mesh.client_config("a", "b");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let error = tls(config.clone(), server.address).await.unwrap_err();
    assert!(error.to_string().contains("NoApplicationProtocol"), "{error}");
    assert!(matches!(server.ended().await, Err(ServeError::Tls { .. })));
    config.alpn_protocols.clear();
    let mut stream = tls(config, server.address).await.unwrap();
    soon(stream.read(&mut [0; 1])).await.ok();
    assert!(matches!(server.ended().await, Err(ServeError::Alpn { .. })));
}

#[tokio::test]
async fn a_peer_of_the_mesh_that_speaks_no_http2_is_cut() {
    let mesh = Mesh::new();
    let mut server = mesh.server("b", Echo).await;
    let mut stream = tls(mesh.client_config("a", "b"), server.address).await.unwrap();
    stream.write_all(&[b'?'; 1000]).await.unwrap();
    let mut rest = Vec::new();
    soon(stream.read_to_end(&mut rest)).await.ok();
    let error = server.ended().await.unwrap_err();
    assert!(
        matches!(error, ServeError::Protocol { .. } | ServeError::Lost { .. }),
        "{error:?}"
    );
    assert_serves(&mesh, &server).await;
}

/// An HTTP/2 client of the mesh that sends what it likes.
struct Raw {
    requests: SendRequest<Bytes>,
    driver: JoinSet<Result<(), h2::Error>>,
}

impl Raw {
    async fn connect(mesh: &Mesh, server: &Server) -> Self {
        let stream = tls(mesh.client_config("a", "b"), server.address).await.unwrap();
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Self { requests, driver }
    }

    async fn send(&mut self, request: Request<()>) -> Result<http::Response<h2::RecvStream>, h2::Error> {
        let mut ready = soon(self.requests.clone().ready()).await?;
        let (response, _send) = ready.send_request(request, false)?;
        soon(response).await
    }
}

fn request(method: Method, uri: &str) -> Request<()> {
    Request::builder()
        .method(method)
        .uri(uri)
        .version(Version::HTTP_2)
        .body(())
        .unwrap()
}

#[tokio::test]
async fn what_is_no_connect_or_leads_nowhere_is_answered_400_with_the_reason() {
    let mesh = Mesh::new();
    let server = mesh.server("b", Echo).await;
    let mut raw = Raw::connect(&mesh, &server).await;
    for (request, reason) in [
        (
            request(Method::GET, "http://10.0.0.1:80/"),
            "only CONNECT is served here, not GET",
        ),
        (request(Method::POST, "http://10.0.0.1:80/"), "not POST"),
        (request(Method::CONNECT, "nowhere"), "nowhere"),
        (request(Method::CONNECT, "10.0.0.1:0"), "10.0.0.1:0"),
        (request(Method::CONNECT, "user@10.0.0.1:80"), "user@10.0.0.1:80"),
    ] {
        let response = raw.send(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let status = response.headers()["proxy-status"].to_str().unwrap();
        assert!(status.contains(reason), "{status}");
    }
    // All on one connection, which goes on.
    let response = raw.send(request(Method::CONNECT, "[::1]:80")).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(server.accepted(), 1);
    raw.driver.shutdown().await;
}

#[tokio::test]
async fn over_long_headers_are_refused_and_the_connection_goes_on() {
    let mesh = Mesh::new();
    let server = mesh.server("b", Echo).await;
    let client = Client::new(mesh.certificate("a"));
    let mut headers = HeaderMap::new();
    headers.insert("baggage", "x".repeat(100_000).parse().unwrap());
    let error = client
        .open_with(server.address, mesh.id("b"), headers)
        .await
        .err()
        .unwrap();
    match error {
        ConnectError::Refused { status, .. } => {
            assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        other => panic!("{other:?}"),
    }
    client.open(server.address, mesh.id("b")).await.map(drop).unwrap();
    assert_eq!(client.dialled(), 1);
    // And what just fits goes through.
    let mut headers = HeaderMap::new();
    headers.insert("baggage", "x".repeat(60_000).parse().unwrap());
    client
        .open_with(server.address, mesh.id("b"), headers)
        .await
        .map(drop)
        .unwrap();
}

#[tokio::test]
async fn opening_and_resetting_without_end_harms_nobody() {
    let mesh = Mesh::new();
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let server = mesh.server("b", Gate(gate.clone())).await;
    let mut raw = Raw::connect(&mesh, &server).await;
    // CVE-2023-44487: every stream is reset at once, while its handler still works.
    for _ in 0..2000 {
        let Ok(mut ready) = soon(raw.requests.clone().ready()).await else {
            break;
        };
        let Ok((_, mut send)) = ready.send_request(request(Method::CONNECT, "10.0.0.1:80"), false) else {
            break;
        };
        send.send_reset(h2::Reason::CANCEL);
        tokio::task::yield_now().await;
    }
    gate.add_permits(10_000);
    let client = Client::new(mesh.certificate("a"));
    let error = client.open(server.address, mesh.id("b")).await.err().unwrap();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    raw.driver.shutdown().await;
}

#[tokio::test]
async fn a_server_that_is_no_tunnel_is_reported_as_such() {
    let mesh = Mesh::new();
    let (listener, address) = crate::mesh::application().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        tcp.read_to_end(&mut rest).await.ok();
    });
    let client = Client::new(mesh.certificate("a"));
    let error = client.open(address, mesh.id("b")).await.err().unwrap();
    assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");
    // And a port where nobody listens.
    soon(tasks.join_next()).await.unwrap().unwrap();
    let error = client.open(address, mesh.id("b")).await.err().unwrap();
    match &error {
        ConnectError::Dial { cause, .. } => assert_eq!(cause.kind(), io::ErrorKind::ConnectionRefused),
        other => panic!("{other:?}"),
    }
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}
