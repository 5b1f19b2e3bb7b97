//! The seed: bookinfo's own manifests, the public sample's gateway and destination rules, and the canary.

use std::sync::Arc;

use aquifer_core::http::cluster::{Cluster, Endpoints, Transport};
use aquifer_core::http::listener::{Binding, Listener};
use aquifer_core::workload::TunnelProtocol;
use aquifer_xds::type_url;

use super::fixture::{Held, Mesh, line, lines, message, report};
use crate::compile::waypoints::Binding as Bound;
use crate::proxies::{ProxyKey, Types, ambient};

const CANARY: &str = include_str!("../../../../deploy/samples/seed/canary.yaml");
const BOOKINFO: &str = include_str!("../../../../deploy/samples/bookinfo/bookinfo.yaml");
const RULES: &str = include_str!("../../../../deploy/samples/bookinfo/destination-rule-all-mtls.yaml");
const GATEWAY: &str = include_str!("../../../../deploy/samples/bookinfo/bookinfo-gateway.yaml");

const REVIEWS: &str = "inbound-vip|9080|http|reviews.bookinfo.svc.cluster.local";
const RATINGS: &str = "inbound-vip|9080|http|ratings.bookinfo.svc.cluster.local";

/// Services get addresses in their order; pods are made for every version.
pub(super) fn bookinfo() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.namespace("bookinfo", "istio-injection: enabled")
        .add("bookinfo", BOOKINFO)
        .add("bookinfo", RULES);
    let versions = [
        ("productpage", "v1"),
        ("details", "v1"),
        ("reviews", "v1"),
        ("reviews", "v2"),
        ("reviews", "v3"),
        ("ratings", "v1"),
        ("ratings", "v2"),
    ];
    for (i, (app, version)) in versions.iter().enumerate() {
        let labels = format!("app: {app}, version: {version}");
        mesh.pod(
            "bookinfo",
            &format!("{app}-{version}"),
            &labels,
            &format!("10.244.1.{}", i + 1),
        );
    }
    for (i, app) in ["productpage", "details", "reviews", "ratings"]
        .iter()
        .enumerate()
    {
        let ports = "{name: http, port: 9080, targetPort: 9080}";
        mesh.service(
            "bookinfo",
            app,
            &format!("app: {app}"),
            &format!("10.96.0.{}", i + 1),
            ports,
        );
    }
    mesh
}

#[test]
fn splits_reviews_by_weight_and_ratings_by_source() {
    let mut mesh = bookinfo();
    mesh.add("bookinfo", CANARY).run_waypoint("bookinfo", "waypoint");
    let held = Held::by_waypoint(&mesh.compile(), "bookinfo", "waypoint");
    let subset = |service: &str, version: &str| {
        format!("inbound-vip|9080|http/{version}|{service}.bookinfo.svc.cluster.local")
    };
    let [v1, v2, v3] = ["v1", "v2", "v3"].map(|v| subset("reviews", v));
    assert_eq!(
        lines(&held.routes(REVIEWS)),
        [
            format!("[] -> {v1}=25 {v2}=25 {v3}=50"),
            "no-match[] -> respond 404".to_owned()
        ]
    );
    let (to_v2, to_v1) = (subset("ratings", "v2"), subset("ratings", "v1"));
    assert_eq!(
        lines(&held.routes(RATINGS)),
        [
            format!("[version=v3] -> {to_v2}=1"),
            format!("[version=v2] -> {to_v1}=1"),
            "no-match[version=v2] -> respond 404".to_owned(),
            "no-match[version=v3] -> respond 404".to_owned(),
            format!("default[] -> {RATINGS}=1"),
        ]
    );
}

#[test]
fn endpoints_carry_the_identity_of_each_pod() {
    let mut mesh = bookinfo();
    mesh.add("bookinfo", CANARY);
    let held = Held::by_waypoint(&mesh.compile(), "bookinfo", "waypoint");
    let name = "inbound-vip|9080|http/v2|ratings.bookinfo.svc.cluster.local";
    let endpoints: Endpoints = held.one(type_url::ENDPOINTS, name);
    let [endpoint] = endpoints.list.as_slice() else {
        panic!("{endpoints:?}")
    };
    assert_eq!(endpoint.address, "10.244.1.7:9080".parse().unwrap());
    let Transport::Hbone(identity) = &endpoint.transport else {
        panic!("{endpoint:?}")
    };
    assert_eq!(
        identity.as_str(),
        "spiffe://cluster.local/ns/bookinfo/sa/sa-ratings-v2"
    );
    assert_eq!(&*endpoint.workload, "Kubernetes//Pod/bookinfo/ratings-v2");
    let cluster: Cluster = held.one(type_url::CLUSTER, name);
    assert_eq!(&*cluster.service_name, name);
}

#[test]
fn listeners_are_found_by_the_services_address() {
    let mut mesh = bookinfo();
    mesh.add("bookinfo", CANARY);
    let held = Held::by_waypoint(&mesh.compile(), "bookinfo", "waypoint");
    assert_eq!(held.names(type_url::LISTENER), [RATINGS, REVIEWS]);
    let listener: Listener = held.one(type_url::LISTENER, REVIEWS);
    assert_eq!(listener.binding, Binding::Tunnel);
    assert_eq!(listener.addresses, ["10.96.0.3:9080".parse().unwrap()]);
}

#[test]
fn only_named_services_go_through_the_implicit_waypoint_and_only_once_it_is_ready() {
    let mut mesh = bookinfo();
    mesh.add("bookinfo", CANARY);
    let compiled = mesh.compile();
    let waits = compiled
        .waypoints
        .bindings
        .values()
        .filter(|b| matches!(b, Bound::Waiting(_)))
        .count();
    assert_eq!((waits, compiled.waypoints.bindings.len()), (2, 2));
    assert!(compiled.services.values().all(|s| s.waypoint.is_none()));
    let kinds: Vec<String> = compiled.rendered.keys().map(ToString::to_string).collect();
    assert_eq!(
        kinds,
        [
            "Service bookinfo/waypoint",
            "ServiceAccount bookinfo/waypoint",
            "Deployment bookinfo/waypoint"
        ]
    );

    mesh.run_waypoint("bookinfo", "waypoint");
    let compiled = mesh.compile();
    let behind: Vec<&str> = compiled
        .services
        .values()
        .filter(|s| s.waypoint.is_some())
        .map(|s| &*s.name)
        .collect();
    assert_eq!(behind, ["ratings", "reviews"]);
    let status = message(
        report(&compiled, "Service", "bookinfo", "reviews"),
        "istio.io/WaypointBound",
    );
    assert_eq!(
        status,
        "True WaypointAccepted: all traffic goes through waypoint bookinfo/waypoint"
    );
}

#[test]
fn without_rules_there_is_no_waypoint() {
    let compiled = bookinfo().compile();
    assert!(compiled.rendered.is_empty());
    assert!(
        compiled
            .workloads
            .values()
            .all(|w| w.tunnel == TunnelProtocol::Hbone)
    );
}

#[test]
fn the_public_gateway_ends_at_the_services_target_port() {
    let mut mesh = bookinfo();
    mesh.add("bookinfo", GATEWAY);
    mesh.pod(
        "istio-system",
        "gw-1",
        "app: istio-ingressgateway, istio: ingressgateway",
        "10.244.2.1",
    );
    mesh.service(
        "istio-system",
        "istio-ingressgateway",
        "istio: ingressgateway",
        "10.96.0.9",
        "{name: http2, port: 80, targetPort: 8080}",
    );
    let compiled = mesh.compile();
    let key = ProxyKey::Gateway {
        namespace: "istio-system".into(),
        pod: "gw-1".into(),
        uid: "uid-gw-1".into(),
    };
    let held = Held::by(&compiled, &key);
    assert_eq!(held.names(type_url::LISTENER), ["0.0.0.0_8080"]);
    let listener: Listener = held.one(type_url::LISTENER, "0.0.0.0_8080");
    assert_eq!(listener.binding, Binding::Bound);
    let table = held.routes("http.8080");
    let host = table.virtual_host("anything.example.com:80").unwrap();
    let productpage = "outbound|9080||productpage.bookinfo.svc.cluster.local";
    assert!(!host.routes.is_empty());
    for route in &host.routes {
        assert_eq!(line(route), format!("[] -> {productpage}=1"));
    }
    let endpoints: Endpoints = held.one(type_url::ENDPOINTS, productpage);
    assert_eq!(endpoints.list.len(), 1);
}

#[test]
fn ratings_rules_say_that_other_clients_get_every_version() {
    let mut mesh = bookinfo();
    mesh.add("bookinfo", CANARY).run_waypoint("bookinfo", "waypoint");
    let compiled = mesh.compile();
    let ratings = report(&compiled, "VirtualService", "bookinfo", "ratings");
    assert!(
        message(ratings, "Warning").contains("balanced over all versions"),
        "{ratings:?}"
    );
    assert!(
        message(ratings, "ResolvedRefs").starts_with("True"),
        "{ratings:?}"
    );
    let reviews = report(&compiled, "VirtualService", "bookinfo", "reviews");
    assert_eq!(message(reviews, "Warning"), "");
}

#[test]
fn a_weight_changes_one_route_table_and_nothing_else() {
    let mut mesh = bookinfo();
    mesh.add("bookinfo", CANARY);
    let before = Held::by_waypoint(&mesh.compile(), "bookinfo", "waypoint");
    mesh.add("bookinfo", &CANARY.replace("weight: 25", "weight: 10"));
    let after = Held::by_waypoint(&mesh.compile(), "bookinfo", "waypoint");
    assert_ne!(
        before.version(type_url::ROUTES, REVIEWS),
        after.version(type_url::ROUTES, REVIEWS)
    );
    for url in [type_url::LISTENER, type_url::CLUSTER, type_url::ENDPOINTS] {
        for name in before.names(url) {
            assert_eq!(before.version(url, &name), after.version(url, &name), "{name}");
        }
    }
    assert_eq!(
        before.version(type_url::ROUTES, RATINGS),
        after.version(type_url::ROUTES, RATINGS)
    );
}

#[test]
fn what_is_kept_of_the_workload_api_is_what_would_be_made() {
    let mut mesh = bookinfo();
    let first = mesh.compile();
    let before = ambient(&first, Types::new(), None);
    mesh.add("bookinfo", CANARY).run_waypoint("bookinfo", "waypoint");
    mesh.pod(
        "bookinfo",
        "reviews-v1",
        "app: reviews, version: v9",
        "10.244.1.3",
    );
    mesh.remove("", "Pod", "bookinfo", "details-v1");
    let second = mesh.compile();
    let kept = ambient(&second, before.clone(), Some(&first));
    assert_eq!(kept, ambient(&second, Types::new(), None));
    let same = |name: &str| Arc::ptr_eq(&before[type_url::ADDRESS][name], &kept[type_url::ADDRESS][name]);
    assert!(same("Kubernetes//Pod/bookinfo/reviews-v2"));
    assert!(!same("Kubernetes//Pod/bookinfo/reviews-v1"));
}
