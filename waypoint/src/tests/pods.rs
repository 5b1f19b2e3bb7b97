//! Pods that clients dial by their own addresses.

use aquifer_core::http::cluster::Endpoint;
use aquifer_core::http::listener::Binding;
use aquifer_core::service::AppProtocol;
use aquifer_hbone::ConnectError;
use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::testing::app::{Named, SpeaksFirst};
use crate::testing::client::{app, raw};
use crate::testing::model::http_listener;
use crate::testing::{DEADLINE, Mesh, endpoint, ip};

const OWN: Option<&str> = Some("waypoint");
const HTTP: &[(u16, AppProtocol)] = &[(80, AppProtocol::Http11)];
const BYTES: &[(u16, AppProtocol)] = &[(80, AppProtocol::Tcp)];

fn at(endpoint: &Endpoint) -> String {
    endpoint.address.to_string()
}

fn status<T>(refused: Result<T, ConnectError>) -> String {
    refused.err().map(|e| e.to_string()).unwrap_or_default()
}

#[tokio::test]
async fn requests_reach_the_pod_whether_or_not_a_service_says_what_it_speaks() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Named("v1")).await;
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let disputed = [HTTP, BYTES].concat();
    for services in [HTTP, &[], &disputed] {
        mesh.behind(OWN, &pod, services);
        let response = client.get(&at(&pod), "/").await;
        assert_eq!((response.status().as_u16(), app(&response)), (200, "v1"));
    }
    let is_it = |line: &str| {
        line.starts_with("istio_requests_total")
            && line.contains("destination_workload=\"v1\"")
            && line.contains("source_principal")
            && line.ends_with(" 3")
    };
    mesh.counts("3 requests", |metrics| metrics.lines().any(is_it))
        .await;
}

#[tokio::test]
async fn only_pods_whose_record_names_this_waypoint_are_served() {
    let mesh = Mesh::start().await;
    let pods = [
        mesh.pod(11, "none", Named("none")).await,
        mesh.pod(12, "other", Named("other")).await,
        mesh.pod(13, "unknown", Named("unknown")).await,
    ];
    mesh.behind(None, &pods[0], HTTP);
    mesh.behind(Some("waypoint2"), &pods[1], HTTP);
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let (a, b, c) = (at(&pods[0]), at(&pods[1]), at(&pods[2]));
    let (a, b, c) = tokio::join!(client.tunnel(&a), client.tunnel(&b), client.tunnel(&c));
    for refused in [a, b, c] {
        let said = status(refused);
        assert!(said.contains("400"), "{said}");
    }
}

#[tokio::test]
async fn a_client_that_was_told_earlier_waits_for_the_record() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Named("v1")).await;
    mesh.behind(None, &pod, HTTP);
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let told = async {
        // The tunnel is asked for before: it cannot be opened until the record is there.
        tokio::task::yield_now().await;
        mesh.behind(OWN, &pod, HTTP);
    };
    let (address, ()) = (at(&pod), ());
    let (response, ()) = tokio::join!(client.get(&address, "/"), told);
    assert_eq!(app(&response), "v1");
}

#[tokio::test]
async fn a_pod_that_left_is_served_on_for_clients_that_do_not_know() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Named("v1")).await;
    mesh.behind(OWN, &pod, HTTP);
    mesh.behind(None, &pod, HTTP);
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    assert_eq!(app(&client.get(&at(&pod), "/").await), "v1");
}

#[tokio::test]
async fn the_pods_policies_are_decided_for_the_client_and_for_each_request() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Named("v1")).await;
    mesh.behind(OWN, &pod, HTTP);
    let waypoint = mesh.waypoint().await;
    let client = mesh.client(waypoint, "productpage", ip(50));
    let mut http = client.http(&at(&pod)).await;
    assert_eq!(http.send(Request::get("/"), Bytes::new()).await.status(), 200);
    mesh.deny("productpage");
    assert_eq!(http.send(Request::get("/"), Bytes::new()).await.status(), 403);
    let other = mesh.client(waypoint, "ratings", ip(51));
    assert_eq!(other.get(&at(&pod), "/").await.status(), 200);
    mesh.behind(OWN, &pod, BYTES);
    let said = status(client.tunnel(&at(&pod)).await);
    assert!(said.contains("401"), "{said}");
}

#[tokio::test]
async fn exactly_the_pods_identity_is_demanded() {
    let mesh = Mesh::start().await;
    let listening = mesh.pod(11, "stranger", Named("stranger")).await;
    mesh.behind(OWN, &endpoint(listening.address, "v1"), HTTP);
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    assert_eq!(client.get(&at(&listening), "/").await.status(), 503);
}

#[tokio::test]
async fn a_connection_to_a_pod_ends_when_its_address_passes_to_another() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Named("v1")).await;
    mesh.behind(OWN, &pod, HTTP);
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let mut http = client.http(&at(&pod)).await;
    assert_eq!(http.send(Request::get("/"), Bytes::new()).await.status(), 200);
    mesh.behind(OWN, &endpoint(pod.address, "later"), HTTP);
    http.ended().await;
}

#[tokio::test]
async fn a_connection_to_a_pod_ends_when_it_leaves_the_waypoint_or_the_mesh() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Named("v1")).await;
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    mesh.behind(OWN, &pod, HTTP);
    let mut http = client.http(&at(&pod)).await;
    assert_eq!(http.send(Request::get("/"), Bytes::new()).await.status(), 200);
    mesh.behind(None, &pod, HTTP);
    http.ended().await;
}

#[tokio::test]
async fn nothing_that_is_written_about_a_pods_address_stands_before_the_pod() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Named("v1")).await;
    mesh.behind(OWN, &pod, HTTP);
    mesh.listener(http_listener("inbound-vip", &at(&pod), Binding::Tunnel));
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    assert_eq!(app(&client.get(&at(&pod), "/").await), "v1");
}

#[tokio::test]
async fn bytes_pass_whoever_speaks_first() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", SpeaksFirst).await;
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    for services in [BYTES, &[]] {
        mesh.behind(OWN, &pod, services);
        let mut stream = client.tunnel(&at(&pod)).await.unwrap();
        let mut greeting = [0; 6];
        let read = tokio::time::timeout(DEADLINE, stream.read_exact(&mut greeting)).await;
        read.unwrap().unwrap();
        assert_eq!(&greeting, b"hello\n");
        stream.write_all(b"who").await.unwrap();
        assert_eq!(raw(stream, b" is it\n").await, "who is it\n");
        // And where the client begins.
        let stream = client.tunnel(&at(&pod)).await.unwrap();
        assert_eq!(raw(stream, b"EHLO me\r\n").await, "hello\nEHLO me\r\n");
    }
}

#[tokio::test]
async fn who_is_silent_first_and_asks_then_has_its_request_looked_at() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Named("v1")).await;
    mesh.behind(OWN, &pod, &[]);
    mesh.deny("productpage");
    let waypoint = mesh.waypoint().await;
    let client = mesh.client(waypoint, "ratings", ip(51));
    let mut stream = client.tunnel(&at(&pod)).await.unwrap();
    // The pod sees a connection before there is a word of the client.
    let ends = mesh.opened().await;
    assert_eq!(ends, 1);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n").await.unwrap();
    let answer = raw(stream, b"connection: close\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("x-envoy"),
        "{answer}"
    );
}
