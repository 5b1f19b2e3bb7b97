//! What clients get when something is missing or broken.

use std::time::Duration;

use aquifer_core::http::fault::{Abort, Fault, Share};
use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::testing::app::{ClosesIdle, Echo, Named, Silent, Status};
use crate::testing::client::app;
use crate::testing::model::{MONGO, REVIEWS, retries, route, to};
use crate::testing::{DEADLINE, Mesh, endpoint, ip};

/// One request through a mesh where reviews leads to `forward`.
async fn ask(mesh: &Mesh, forward: aquifer_core::http::action::Forward) -> Response<Bytes> {
    mesh.reviews_listener();
    mesh.routes(vec![route("r", forward)]);
    mesh.client(mesh.waypoint().await, "productpage", ip(50))
        .get(REVIEWS, "/")
        .await
}

fn check(response: &Response<Bytes>, status: u16, body: &str) {
    let text = String::from_utf8_lossy(response.body());
    assert_eq!(response.status().as_u16(), status, "{text}");
    assert!(text.contains(body), "{text}");
}

async fn flags(mesh: &Mesh, flags: &str) {
    let label = format!("response_flags=\"{flags}\"");
    let is_it = |line: &str| line.starts_with("istio_requests_total{") && line.contains(&label);
    mesh.counts(flags, |metrics| metrics.lines().any(is_it)).await;
}

#[tokio::test]
async fn no_route_is_404() {
    let mesh = Mesh::start().await;
    mesh.reviews_listener();
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    check(&client.get(REVIEWS, "/").await, 404, "route_not_found");
    mesh.routes(vec![]);
    check(&client.get(REVIEWS, "/").await, 404, "route_not_found");
    flags(&mesh, "NR").await;
}

#[tokio::test]
async fn a_missing_cluster_is_503_with_a_reason_and_the_rest_works() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Named("v1")).await;
    mesh.cluster("v1", vec![pod]);
    check(&ask(&mesh, to("gone")).await, 503, "cluster_not_found");
    flags(&mesh, "NC").await;
    assert_eq!(app(&ask(&mesh, to("v1")).await), "v1");
}

#[tokio::test]
async fn a_cluster_without_endpoints_is_503_uh() {
    let mesh = Mesh::start().await;
    mesh.cluster("v1", vec![]);
    check(&ask(&mesh, to("v1")).await, 503, "no healthy upstream");
    flags(&mesh, "UH").await;
}

#[tokio::test]
async fn an_endpoint_with_another_identity_is_refused() {
    let mesh = Mesh::start().await;
    let mut pod = mesh.pod(11, "impostor", Named("impostor")).await;
    pod.transport = endpoint(pod.address, "reviews").transport;
    mesh.cluster("v1", vec![pod]);
    let mut forward = to("v1");
    forward.retry = retries("connect-failure");
    let response = ask(&mesh, forward).await;
    check(&response, 503, "reset reason: remote connection failure");
    // What is wrong between our workloads is for the log, not for the client.
    assert!(!String::from_utf8_lossy(response.body()).contains("spiffe"));
    flags(&mesh, "UF,URX").await;
}

#[tokio::test]
async fn a_dead_endpoint_is_retried_on_another() {
    let mesh = Mesh::start().await;
    let alive = mesh.pod(11, "v1", Named("alive")).await;
    mesh.agent(12, "v1").await;
    let no_app = endpoint("127.0.0.12:1".parse().unwrap(), "v1");
    let no_agent = endpoint("127.0.0.13:1".parse().unwrap(), "v1");
    mesh.cluster("v1", vec![no_app, no_agent, alive]);
    let mut forward = to("v1");
    forward.retry = retries("connect-failure");
    mesh.reviews_listener();
    mesh.routes(vec![route("r", forward)]);
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    for _ in 0..12 {
        assert_eq!(app(&client.get(REVIEWS, "/").await), "alive");
    }
}

#[tokio::test]
async fn a_body_is_sent_again_if_it_was_kept() {
    let mesh = Mesh::start().await;
    let bad = mesh.pod(11, "v1", Status(503)).await;
    let good = mesh.pod(12, "v1", Named("good")).await;
    mesh.cluster("v1", vec![bad, good]);
    let mut forward = to("v1");
    forward.retry = retries("5xx");
    mesh.reviews_listener();
    mesh.routes(vec![route("r", forward)]);
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    for _ in 0..6 {
        let mut http = client.http(REVIEWS).await;
        let response = http.send(Request::post("/"), Bytes::from_static(b"kept")).await;
        assert_eq!((app(&response), &response.body()[..]), ("good", &b"kept"[..]));
    }
}

#[tokio::test]
async fn a_server_that_closes_idle_connections_costs_no_request() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", ClosesIdle).await;
    mesh.cluster("v1", vec![pod]);
    mesh.reviews_listener();
    mesh.routes(vec![route("r", to("v1"))]);
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let mut http = client.http(REVIEWS).await;
    for _ in 0..50 {
        check(&http.send(Request::get("/"), Bytes::new()).await, 200, "ok");
    }
}

#[tokio::test]
async fn a_silent_service_is_504_after_the_timeout() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Silent).await;
    mesh.cluster("v1", vec![pod]);
    let mut forward = to("v1");
    forward.timeout = Some(Duration::from_millis(50));
    check(&ask(&mesh, forward).await, 504, "upstream request timeout");
    flags(&mesh, "UT").await;
}

#[tokio::test]
async fn faults_are_injected() {
    let mesh = Mesh::start().await;
    mesh.reviews_listener();
    let mut faulty = route("r", to("gone"));
    faulty.fault = Some(Fault {
        delay: Some((Share::new(100, 100), Duration::from_millis(1))),
        abort: Some((Share::new(100, 100), Abort::Http(418))),
    });
    mesh.routes(vec![faulty]);
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    check(&client.get(REVIEWS, "/").await, 418, "fault filter abort");
    flags(&mesh, "FI").await;
}

#[tokio::test]
async fn a_tcp_service_without_an_endpoint_refuses_the_tunnel() {
    let mesh = Mesh::start().await;
    mesh.tcp_listener("mongo");
    let client = mesh.client(mesh.waypoint().await, "ratings", ip(50));
    let refused = async || client.tunnel(MONGO).await.err().unwrap().to_string();
    assert!(refused().await.contains("cluster mongo does not exist"));
    mesh.cluster("mongo", vec![]);
    assert!(refused().await.contains("no healthy endpoint"));
}

#[tokio::test]
async fn a_policy_about_clients_holds_behind_the_waypoint() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Named("v1")).await;
    let database = mesh.pod(12, "mongodb", Echo).await;
    mesh.cluster("v1", vec![pod]);
    mesh.cluster("mongo", vec![database]);
    mesh.tcp_listener("mongo");
    mesh.deny("productpage");
    check(&ask(&mesh, to("v1")).await, 403, "RBAC: access denied");
    let waypoint = mesh.waypoint().await;
    let other = mesh.client(waypoint, "ratings", ip(51));
    assert_eq!(app(&other.get(REVIEWS, "/").await), "v1");
    let mut open = other.tunnel(MONGO).await.unwrap();
    let mut byte = [0; 1];
    open.write_all(b"x").await.unwrap();
    open.read_exact(&mut byte).await.unwrap();
    mesh.deny("ratings");
    let cut = tokio::time::timeout(DEADLINE, open.read(&mut byte))
        .await
        .unwrap();
    assert!(cut.is_err(), "judged again: {cut:?}");
    mesh.deny("productpage");
    let refused = mesh.client(waypoint, "productpage", ip(50)).tunnel(MONGO).await;
    assert!(refused.err().unwrap().to_string().contains("401"));
}
