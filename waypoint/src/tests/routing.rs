//! Where requests go.

use std::collections::BTreeMap;

use aquifer_core::http::matching::{SourceAttribute, SourceMatch};
use aquifer_core::http::text::TextMatch;
use http::{Request, StatusCode};

use crate::testing::app::Named;
use crate::testing::client::app;
use crate::testing::model::{REVIEWS, route, split, to};
use crate::testing::{Mesh, ip};

#[tokio::test]
async fn splits_requests_by_weight() {
    let mesh = Mesh::start().await;
    let (v1, v2) = (
        mesh.pod(11, "v1", Named("v1")).await,
        mesh.pod(12, "v2", Named("v2")).await,
    );
    mesh.cluster("v1", vec![v1]);
    mesh.cluster("v2", vec![v2]);
    mesh.reviews_listener();
    mesh.routes(vec![route("canary", split(&[("v1", 25), ("v2", 75)]))]);
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let mut http = client.http(REVIEWS).await;
    let mut counts = BTreeMap::new();
    for _ in 0..400 {
        let response = http.send(Request::get("/reviews/0"), Default::default()).await;
        *counts.entry(app(&response).to_owned()).or_insert(0) += 1;
    }
    // Five standard deviations of a fair split.
    assert!((57..=143).contains(&counts["v1"]), "{counts:?}");
    assert_eq!(counts["v1"] + counts["v2"], 400);
}

#[tokio::test]
async fn labels_of_the_proven_source_choose_the_route() {
    let mesh = Mesh::start().await;
    let (v1, v2) = (
        mesh.pod(11, "v1", Named("v1")).await,
        mesh.pod(12, "v2", Named("v2")).await,
    );
    mesh.cluster("v1", vec![v1]);
    mesh.cluster("v2", vec![v2]);
    mesh.reviews_listener();
    let mut from_v3 = route("v3", to("v2"));
    from_v3.matches.source = vec![SourceMatch {
        attribute: SourceAttribute::Label("version".into()),
        value: Some(TextMatch::exact("v3")),
        invert: false,
    }];
    mesh.routes(vec![from_v3, route("default", to("v1"))]);
    mesh.workload("reviews-v3", "reviews", ip(51), "v3");
    mesh.workload("reviews-v2", "reviews", ip(52), "v2");
    let waypoint = mesh.waypoint().await;
    let answered = async |service_account: &str, from: u8| {
        let response = mesh
            .client(waypoint, service_account, ip(from))
            .get(REVIEWS, "/")
            .await;
        app(&response).to_owned()
    };
    assert_eq!(answered("reviews", 51).await, "v2");
    assert_eq!(answered("reviews", 52).await, "v1");
    // The record of that address belongs to another identity: no labels.
    assert_eq!(answered("intruder", 51).await, "v1");
    let is_it = |line: &&str| line.starts_with("istio_requests_total{") && line.contains("reviews-v3");
    mesh.counts("request of reviews-v3", |metrics| {
        metrics.lines().any(|line| is_it(&line))
    })
    .await;
    let metrics = mesh.metrics();
    let line = metrics.lines().find(is_it).unwrap();
    for label in [
        "reporter=\"waypoint\"",
        "source_canonical_revision=\"v3\"",
        "source_principal=\"spiffe://cluster.local/ns/bookinfo/sa/reviews\"",
        "destination_principal=\"spiffe://cluster.local/ns/bookinfo/sa/v2\"",
        "connection_security_policy=\"mutual_tls\"",
        "response_code=\"200\"",
        "response_flags=\"-\"",
    ] {
        assert!(line.contains(label), "{label} in {line}");
    }
}

#[tokio::test]
async fn headers_are_added_and_hop_by_hop_ones_are_not_passed_on() {
    let mesh = Mesh::start().await;
    let pod = mesh.pod(11, "v1", Named("v1")).await;
    mesh.cluster("v1", vec![pod]);
    mesh.reviews_listener();
    mesh.routes(vec![route("all", to("v1"))]);
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let request = Request::get("/a?b=c")
        .header("connection", "x-private")
        .header("x-private", "1")
        .header(
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .header("x-b3-traceid", "1");
    let response = client.send(REVIEWS, request).await;
    let seen = |name: &str| {
        response
            .headers()
            .get(format!("x-seen-{name}"))
            .map(|v| v.to_str().unwrap())
    };
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        (seen("path"), seen("host")),
        (Some("/a?b=c"), Some("reviews:9080"))
    );
    assert_eq!((seen("x-private"), seen("connection")), (None, None));
    assert_eq!(
        seen("traceparent"),
        Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    );
    assert_eq!(
        (seen("x-b3-traceid"), seen("x-forwarded-proto")),
        (Some("1"), Some("http"))
    );
    assert_eq!(seen("x-forwarded-for"), Some("127.0.0.50"));
    assert_eq!(seen("x-request-id").map(str::len), Some(36));
    assert!(response.headers().contains_key("x-envoy-upstream-service-time"));
}

#[tokio::test]
async fn an_authority_without_a_listener_is_refused_with_400() {
    let mesh = Mesh::start().await;
    let client = mesh.client(mesh.waypoint().await, "productpage", ip(50));
    let Err(error) = client.tunnel("10.96.0.77:80").await else {
        panic!("no listener")
    };
    let text = error.to_string();
    assert!(text.contains("400") && text.contains("10.96.0.77:80"), "{text}");
}
