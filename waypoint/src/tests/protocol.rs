//! HTTP as it is spoken: limits, framing, connections, upgrades; and TCP.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::testing::app::{Echo, Fixed, Named, Socket};
use crate::testing::client::{app, raw};
use crate::testing::model::{MONGO, REVIEWS, route, to};
use crate::testing::{DEADLINE, Mesh, ip};

/// A mesh whose reviews service is one pod that shows what it was sent.
async fn mesh() -> Mesh {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Named("v1")).await;
    mesh.cluster("v1", vec![pod]);
    mesh.reviews_listener();
    mesh.routes(vec![route("r", to("v1"))]);
    mesh
}

async fn answer(bytes: &[u8]) -> String {
    let mesh = mesh().await;
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    raw(client.tunnel(REVIEWS).await.unwrap(), bytes).await
}

#[tokio::test]
async fn too_large_heads_are_431() {
    let many = (0..200).map(|i| format!("x-{i}: 1\r\n")).collect::<String>();
    let text = answer(format!("GET / HTTP/1.1\r\nhost: h\r\n{many}\r\n").as_bytes()).await;
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
    let long = "x".repeat(100 * 1024);
    let text = answer(format!("GET / HTTP/1.1\r\nhost: h\r\nlong: {long}\r\n\r\n").as_bytes()).await;
    assert!(text.starts_with("HTTP/1.1 431 "), "{text}");
}

#[tokio::test]
async fn nonsense_is_400() {
    for bytes in [
        &b"nonsense\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\nbad header: 1\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let text = answer(bytes).await;
        assert!(
            text.starts_with("HTTP/1.1 400 "),
            "{:?}: {text}",
            String::from_utf8_lossy(bytes)
        );
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let one = |n: u32| format!("GET /{n} HTTP/1.1\r\nhost: h\r\n\r\n");
    let text = answer((one(1) + &one(2) + &one(3)).as_bytes()).await;
    let paths: Vec<_> = text
        .lines()
        .filter_map(|l| l.strip_prefix("x-seen-path: "))
        .collect();
    assert_eq!(paths, ["/1", "/2", "/3"], "{text}");
}

#[tokio::test]
async fn chunks_go_through_and_a_closed_writing_side_still_gets_its_answer() {
    let request =
        b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n4\r\nchun\r\n3\r\nked\r\n0\r\n\r\n";
    let text = answer(request).await;
    assert!(
        text.starts_with("HTTP/1.1 200 ") && text.contains("chunked"),
        "{text}"
    );
    assert!(text.contains("x-seen-transfer-encoding: chunked"), "{text}");
}

#[tokio::test]
async fn a_length_that_contradicts_chunks_is_not_passed_on() {
    let request =
        b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let text = answer(request).await;
    assert!(
        text.starts_with("HTTP/1.1 400 ") || !text.contains("x-seen-content-length"),
        "{text}"
    );
}

#[tokio::test]
async fn malformed_chunks_are_the_clients_fault() {
    for body in ["-2\r\nhi\r\n", "zz\r\n", "2\r\nhi!\r\n", "fffffffffffffffff\r\n"] {
        let request = format!("POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        let text = answer(request.as_bytes()).await;
        assert!(text.starts_with("HTTP/1.1 400 "), "{body:?}: {text}");
    }
    let request = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    let text = answer(request).await;
    assert!(text.starts_with("HTTP/1.1 501 "), "{text}");
}

#[tokio::test]
async fn answers_that_break_the_protocol_are_502_and_not_asked_for_again() {
    for answer in ["HTTP/1.1 101 Switching Protocols\r\n\r\n", "nonsense\r\n\r\n"] {
        let mesh = Mesh::start().await;
        let app = Fixed::new(answer);
        let connections = app.connections();
        let pod = mesh.pod(11, "v1", app).await;
        mesh.cluster("v1", vec![pod]);
        mesh.reviews_listener();
        mesh.routes(vec![route("r", to("v1"))]);
        let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
        let response = client.get(REVIEWS, "/").await;
        assert_eq!(response.status(), 502, "{:?}", response.body());
        assert_eq!(connections.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let mesh = mesh().await;
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let mut http = client.http(REVIEWS).await;
    for n in 0..20usize {
        let body = Bytes::from(vec![b'x'; n * 20_000]);
        let response = http.send(Request::put("/"), body.clone()).await;
        assert_eq!((app(&response), response.body()), ("v1", &body));
    }
}

#[tokio::test]
async fn a_connection_that_is_needed_no_more_is_ended_in_order() {
    let mesh = mesh().await;
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    client.get(REVIEWS, "/").await;
    mesh.cluster("v1", vec![]);
    assert_eq!(mesh.tunnel_ends().await, [Ok(())]);
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_served_and_kept_to_the_service() {
    let mesh = mesh().await;
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let io = TokioIo::new(client.tunnel(REVIEWS).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let request = Request::post("http://reviews:9080/x").header("te", "trailers");
        let request = request.body(Full::new(Bytes::from_static(b"body"))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.headers()["x-seen-te"], "trailers");
        assert!(!response.headers().contains_key("x-seen-host"));
        assert_eq!(response.collect().await.unwrap().to_bytes(), "body");
    }
}

/// hyper gives such a connection away: it has to be ended by whoever got it.
#[tokio::test]
async fn another_protocol_is_declined_with_an_answer_and_an_orderly_end() {
    let connect = "CONNECT 127.0.0.1:15000 HTTP/1.1\r\nhost: h\r\n\r\n";
    let upgrade = "GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
    let websocket = "GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    for (request, status) in [(connect, 400), (upgrade, 200), (websocket, 200)] {
        let text = answer(request.as_bytes()).await;
        assert!(
            text.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request}: {text}"
        );
    }
}

#[tokio::test]
async fn websockets_pass() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Socket).await;
    mesh.cluster("v1", vec![pod]);
    mesh.reviews_listener();
    mesh.routes(vec![route("r", to("v1"))]);
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let mut stream = client.tunnel(REVIEWS).await.unwrap();
    let ask = b"GET /ws HTTP/1.1\r\nhost: h\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(
            tokio::time::timeout(DEADLINE, stream.read_u8())
                .await
                .unwrap()
                .unwrap(),
        );
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&head)
    );
    assert_eq!(raw(stream, b"frames of any kind").await, "frames of any kind");

    let mut open = client.tunnel(REVIEWS).await.unwrap();
    open.write_all(ask).await.unwrap();
    open.read_u8().await.unwrap();
    mesh.deny("productpage");
    let mut rest = Vec::new();
    let cut = tokio::time::timeout(DEADLINE, open.read_to_end(&mut rest)).await;
    assert!(cut.unwrap().is_err(), "judged again");
}

#[tokio::test]
async fn tcp_services_are_copied_with_half_closes() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "mongodb", Echo).await;
    mesh.cluster("mongo", vec![pod]);
    mesh.tcp_listener("mongo");
    let client = mesh.client(mesh.waypoint().await, "ratings", ip(50));
    let text = raw(client.tunnel(MONGO).await.unwrap(), b"not http").await;
    assert_eq!(text, "not http");
    let closed = |metrics: &str| {
        let mut lines = metrics.lines().filter(|l| !l.contains("overflow"));
        lines.any(|l| l.starts_with("istio_tcp_connections_closed_total{") && l.ends_with(" 1"))
    };
    mesh.counts("closed connection", closed).await;
    assert!(mesh.metrics().contains("istio_tcp_received_bytes_total"));
}

/// A reset would meet what the client sends at that moment, and enough of such frames end all tunnels of a connection.
#[tokio::test]
async fn a_client_ends_its_own_side_of_a_tunnel() {
    let mesh = mesh().await;
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let mut stream = client.tunnel(REVIEWS).await.unwrap();
    let ask = b"GET / HTTP/1.1\r\nhost: reviews\r\nconnection: close\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));

    let mut silent = client.tunnel(REVIEWS).await.unwrap();
    silent.shutdown().await.unwrap();
    let end = tokio::time::timeout(DEADLINE, silent.read_to_end(&mut answer)).await;
    assert_eq!(end.unwrap().unwrap(), 0, "a client that says nothing is not cut");

    // A reset of the first stream would have arrived before the end of the second.
    stream.write_all(b"more").await.unwrap();
    stream.shutdown().await.unwrap();
}
