//! VirtualService and DestinationRule inside the mesh.

use std::time::Duration;

use aquifer_core::http::action::Action;
use aquifer_core::http::cluster::{BalancePolicy, Cluster, UpstreamHttp};
use aquifer_core::http::fault::Abort;
use aquifer_core::http::table::{Route, RouteTable};
use aquifer_xds::type_url;

use super::fixture::{Held, Mesh, lines, message, report};

const ROUTES: &str = "inbound-vip|80|http|a.shop.svc.cluster.local";
const A: &str = "inbound-vip|80|http|a.shop.svc.cluster.local";
const B: &str = "outbound|80||b.shop.svc.cluster.local";

/// Services `a` and `b` with one pod each.
fn shop() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.namespace("shop", "istio.io/dataplane-mode: ambient");
    for (i, name) in ["a", "b"].iter().enumerate() {
        mesh.pod(
            "shop",
            name,
            &format!("app: {name}"),
            &format!("10.244.0.{}", i + 1),
        );
        mesh.service(
            "shop",
            name,
            &format!("app: {name}"),
            &format!("10.96.0.{}", i + 1),
            "{name: http, port: 80, targetPort: web}",
        );
    }
    mesh
}

fn rules(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn table_of(mesh: &mut Mesh) -> RouteTable {
    Held::by_waypoint(&mesh.compile(), "shop", "waypoint").routes(ROUTES)
}

/// The routes of `a` under one VirtualService with these rules.
#[track_caller]
fn check(http: &str, want: &[&str]) {
    let mut mesh = shop();
    mesh.add("shop", &rules("a", &format!("{{hosts: [a], http: [{http}]}}")));
    assert_eq!(lines(&table_of(&mut mesh)), want);
}

fn routes(http: &str) -> Vec<Route> {
    let mut mesh = shop();
    mesh.add("shop", &rules("a", &format!("{{hosts: [a], http: [{http}]}}")));
    table_of(&mut mesh).virtual_hosts()[0].routes.clone()
}

const TO_A: &str = "route: [{destination: {host: a}}]";
const TO_B: &str = "route: [{destination: {host: b}}]";
const NO_MATCH: &str = "no-match[] -> respond 404";

#[test]
fn matches_are_alternatives_and_keep_their_order() {
    let (a, b) = (format!("[] -> {A}=1"), format!("[] -> {B}=1"));
    check(
        &format!("{{match: [{{uri: {{prefix: /x}}}}, {{method: {{exact: GET}}}}], {TO_B}}}, {{{TO_A}}}"),
        &[&b, &b, &a, NO_MATCH],
    );
}

#[test]
fn a_rule_for_another_port_is_not_there() {
    let default = format!("default[] -> {A}=1");
    check(&format!("{{match: [{{port: 81}}], {TO_B}}}"), &[&default]);
    check(
        &format!("{{match: [{{port: 80}}], {TO_B}}}"),
        &[&format!("[] -> {B}=1"), NO_MATCH],
    );
}

#[test]
fn a_rule_for_a_gateway_is_not_there_for_the_mesh() {
    let default = format!("default[] -> {A}=1");
    check(&format!("{{match: [{{gateways: [gw]}}], {TO_B}}}"), &[&default]);
    // With `mesh` named, source labels do not count, as in Istio.
    let both = format!("{{match: [{{gateways: [gw, mesh], sourceLabels: {{x: z}}}}], {TO_B}}}");
    check(&both, &[&format!("[] -> {B}=1"), NO_MATCH]);
}

#[test]
fn source_conditions_give_404_only_to_clients_that_have_a_rule() {
    let http = format!(
        "{{match: [{{sourceLabels: {{v: one}}, uri: {{prefix: /x}}}}], {TO_B}}}, {{match: [{{sourceNamespace: other}}], {TO_A}}}"
    );
    check(
        &http,
        &[
            &format!("[v=one] -> {B}=1"),
            &format!("[namespace=other] -> {A}=1"),
            "no-match[namespace=other] -> respond 404",
            "no-match[v=one] -> respond 404",
            &format!("default[] -> {A}=1"),
        ],
    );
}

#[test]
fn conditions_reach_the_proxy() {
    let http = format!(
        "{{match: [{{uri: {{exact: /x}}, ignoreUriCase: true, headers: {{end-user: {{regex: 'j.*'}}}}, withoutHeaders: {{q: {{exact: r}}}}, queryParams: {{p: {{prefix: s}}}}}}], {TO_A}}}"
    );
    let [route, _] = routes(&http).try_into().unwrap();
    let text = format!("{:?}", route.matches);
    for part in [
        "Insensitive",
        "\"/x\"",
        "end-user",
        "j.*",
        "invert: true",
        "missing_as_empty: true",
        "\"p\"",
        "Prefix(\"s\")",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn actions_reach_the_proxy() {
    let http = "{route: [{destination: {host: a}, weight: 1, headers: {request: {set: {x: one}}}}, {destination: {host: b}, weight: 3}], timeout: 2s, retries: {attempts: 5, retryOn: '5xx,503', perTryTimeout: 1s}, rewrite: {uri: /z, authority: other}, fault: {abort: {httpStatus: 418, percentage: {value: 50}}, delay: {fixedDelay: 1s}}, headers: {response: {add: {r: s}}}}";
    let [route, _] = routes(http).try_into().unwrap();
    let Action::Forward(forward) = &route.action else {
        panic!("{route:?}")
    };
    assert_eq!(forward.timeout, Some(Duration::from_secs(2)));
    let retry = forward.retry.as_ref().unwrap();
    assert_eq!(
        (
            retry.attempts,
            retry.status_codes.as_slice(),
            retry.per_try_timeout
        ),
        (5, &[503][..], Some(Duration::from_secs(1)))
    );
    assert!(retry.on.server_error && retry.on.retriable_status_codes);
    let fault = route.fault.unwrap();
    assert_eq!(fault.abort.unwrap().1, Abort::Http(418));
    assert_eq!(fault.abort.unwrap().0.parts_per_million(), 500_000);
    assert_eq!(route.response_headers.set.len(), 1);
    let weights: Vec<u32> = forward.destinations.iter().map(|d| d.weight).collect();
    assert_eq!(weights, [1, 3]);
    assert!(forward.path_rewrite.is_some() && forward.host_rewrite.is_some());
}

#[test]
fn without_a_word_there_is_no_timeout_and_istios_retries() {
    let [route, _] = routes(&format!("{{{TO_A}}}")).try_into().unwrap();
    let Action::Forward(forward) = &route.action else {
        panic!("{route:?}")
    };
    assert_eq!(forward.timeout, None);
    let retry = forward.retry.as_ref().unwrap();
    assert!(retry.attempts == 2 && retry.on.connect_failure && retry.avoid_previous_hosts);
    let [route, _] = routes(&format!("{{{TO_A}, retries: {{attempts: 0}}}}"))
        .try_into()
        .unwrap();
    let Action::Forward(forward) = &route.action else {
        panic!("{route:?}")
    };
    assert_eq!(forward.retry, None);
}

#[test]
fn answers_that_are_not_forwarded() {
    check(
        "{redirect: {uri: /y, redirectCode: 308}}",
        &["[] -> redirect 308", NO_MATCH],
    );
    check(
        "{directResponse: {status: 503, body: {string: closed}}}",
        &["[] -> respond 503", NO_MATCH],
    );
}

#[test]
fn a_missing_subset_leads_nowhere_is_said_and_heals() {
    let mut mesh = shop();
    mesh.add(
        "shop",
        &rules(
            "a",
            "{hosts: [a], http: [{route: [{destination: {host: a, subset: v9}}]}]}",
        ),
    );
    let compiled = mesh.compile();
    let held = Held::by_waypoint(&compiled, "shop", "waypoint");
    let missing = "outbound|80|v9|a.shop.svc.cluster.local";
    assert_eq!(lines(&held.routes(ROUTES))[0], format!("[] -> {missing}=1"));
    assert!(!held.names(type_url::CLUSTER).contains(&missing.to_owned()));
    let said = message(report(&compiled, "VirtualService", "shop", "a"), "ResolvedRefs");
    assert!(
        said.starts_with("False NotFound: spec.http[0].route[0].destination"),
        "{said}"
    );
    assert!(said.contains("subset \"v9\"") && said.contains("503"), "{said}");

    mesh.add("shop", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: a, subsets: [{name: v9, labels: {app: a}}]}");
    let compiled = mesh.compile();
    let held = Held::by_waypoint(&compiled, "shop", "waypoint");
    let there = "inbound-vip|80|http/v9|a.shop.svc.cluster.local";
    assert_eq!(lines(&held.routes(ROUTES))[0], format!("[] -> {there}=1"));
    let cluster: Cluster = held.one(type_url::CLUSTER, there);
    assert_eq!(cluster.balance, BalancePolicy::LeastRequest);
    assert!(message(report(&compiled, "VirtualService", "shop", "a"), "ResolvedRefs").starts_with("True"));
}

#[test]
fn unknown_hosts_and_ports_are_said() {
    let mut mesh = shop();
    mesh.add(
        "shop",
        &rules(
            "a",
            "{hosts: [a], http: [{route: [{destination: {host: nowhere}}]}]}",
        ),
    );
    mesh.add(
        "shop",
        &rules(
            "b",
            "{hosts: [b], http: [{route: [{destination: {host: b, port: {number: 81}}}]}]}",
        ),
    );
    let compiled = mesh.compile();
    let said = |name: &str| message(report(&compiled, "VirtualService", "shop", name), "ResolvedRefs");
    assert!(
        said("a").contains("no service has the host nowhere.shop.svc.cluster.local"),
        "{}",
        said("a")
    );
    assert!(said("b").contains("has no port 81 (it has 80)"), "{}", said("b"));
}

#[test]
fn inside_the_mesh_the_oldest_wins_and_the_other_is_told() {
    let mut mesh = shop();
    mesh.add(
        "shop",
        &rules("old", &format!("{{hosts: [a], http: [{{{TO_B}}}]}}")),
    );
    mesh.add(
        "shop",
        &rules("new", &format!("{{hosts: [a], http: [{{{TO_A}}}]}}")),
    );
    assert_eq!(lines(&table_of(&mut mesh))[0], format!("[] -> {B}=1"));
    let compiled = mesh.compile();
    let said = message(report(&compiled, "VirtualService", "shop", "new"), "Warning");
    assert!(said.contains("older VirtualService shop/old"), "{said}");
}

#[test]
fn an_exact_host_wins_over_an_older_wildcard() {
    let mut mesh = shop();
    mesh.add(
        "shop",
        &rules(
            "any",
            &format!("{{hosts: ['*.shop.svc.cluster.local'], http: [{{{TO_A}}}]}}"),
        ),
    );
    mesh.add(
        "shop",
        &rules("exact", &format!("{{hosts: [a], http: [{{{TO_B}}}]}}")),
    );
    let held = Held::by_waypoint(&mesh.compile(), "shop", "waypoint");
    let own_b = "inbound-vip|80|http|b.shop.svc.cluster.local";
    assert_eq!(lines(&held.routes(ROUTES))[0], format!("[] -> {own_b}=1"));
    assert_eq!(lines(&held.routes(own_b))[0], format!("[] -> {A}=1"));
}

#[test]
fn rules_for_one_namespace_come_first_and_end_with_it() {
    let mut mesh = shop();
    mesh.namespace("client", "");
    mesh.add(
        "shop",
        &rules("public", &format!("{{hosts: [a], http: [{{{TO_A}}}]}}")),
    );
    mesh.add("client", &rules("own", "{hosts: [a.shop.svc.cluster.local], exportTo: ['.'], http: [{match: [{uri: {prefix: /x}}], route: [{destination: {host: b.shop.svc.cluster.local}}]}]}"));
    assert_eq!(
        lines(&table_of(&mut mesh)),
        [
            format!("[namespace=client] -> {B}=1"),
            "no-match[namespace=client] -> respond 404".to_owned(),
            format!("[] -> {A}=1"),
            NO_MATCH.to_owned(),
        ]
    );
}

#[test]
fn destination_rules_of_the_waypoints_namespace_come_before_the_root() {
    let mut mesh = shop();
    let rule = |name: &str, simple: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}}}\nspec: {{host: a.shop.svc.cluster.local, trafficPolicy: {{loadBalancer: {{simple: {simple}}}}}}}"
        )
    };
    mesh.add("istio-system", &rule("root", "RANDOM"));
    let balance = |mesh: &mut Mesh| {
        let cluster: Cluster =
            Held::by_waypoint(&mesh.compile(), "shop", "waypoint").one(type_url::CLUSTER, A);
        cluster.balance
    };
    assert_eq!(balance(&mut mesh), BalancePolicy::Random);
    mesh.add("shop", &rule("own", "ROUND_ROBIN"));
    assert_eq!(balance(&mut mesh), BalancePolicy::RoundRobin);
}

#[test]
fn a_port_of_grpc_is_reached_by_http2_and_one_without_a_protocol_by_connection() {
    let mut mesh = shop();
    mesh.service(
        "shop",
        "g",
        "app: a",
        "10.96.0.7",
        "{name: grpc-api, port: 81}, {name: other, port: 82}",
    );
    mesh.add(
        "shop",
        &rules("g", "{hosts: [g], http: [{route: [{destination: {host: g}}]}]}"),
    );
    let held = Held::by_waypoint(&mesh.compile(), "shop", "waypoint");
    let cluster: Cluster = held.one(type_url::CLUSTER, "inbound-vip|81|http|g.shop.svc.cluster.local");
    assert_eq!(cluster.http, UpstreamHttp::Http2);
    assert!(
        held.names(type_url::LISTENER)
            .contains(&"inbound-vip|82|tcp|g.shop.svc.cluster.local".to_owned())
    );
}

#[test]
fn connections_are_split_by_tcp_rules() {
    use aquifer_core::http::listener::{Listener, ListenerProtocol};
    let mut mesh = shop();
    mesh.service("shop", "db", "app: a", "10.96.0.8", "{name: tcp, port: 5000}");
    mesh.service("shop", "db2", "app: b", "10.96.0.9", "{name: tcp, port: 5000}");
    mesh.add("shop", &rules("db", "{hosts: [db], tcp: [{route: [{destination: {host: db}, weight: 9}, {destination: {host: db2}, weight: 1}]}]}"));
    let held = Held::by_waypoint(&mesh.compile(), "shop", "waypoint");
    let listener: Listener = held.one(
        type_url::LISTENER,
        "inbound-vip|5000|tcp|db.shop.svc.cluster.local",
    );
    let ListenerProtocol::Tcp(tcp) = listener.chains.unseen().unwrap().protocol.clone() else {
        panic!("{listener:?}")
    };
    let list: Vec<String> = tcp
        .destinations
        .iter()
        .map(|d| format!("{}={}", d.cluster, d.weight))
        .collect();
    assert_eq!(
        list,
        [
            "inbound-vip|5000|tcp|db.shop.svc.cluster.local=9",
            "outbound|5000||db2.shop.svc.cluster.local=1"
        ]
    );
}

#[test]
fn endpoints_follow_named_ports_readiness_and_enrolment() {
    use aquifer_core::http::cluster::{Endpoints, Transport};
    let mut mesh = shop();
    mesh.add(
        "shop",
        &rules("a", &format!("{{hosts: [a], http: [{{{TO_A}}}]}}")),
    );
    mesh.add("shop", "apiVersion: v1\nkind: Pod\nmetadata: {name: late, labels: {app: a}}\nspec: {containers: [{name: c, ports: [{name: web, containerPort: 9999}]}]}\nstatus: {phase: Running, podIP: 10.244.0.9}");
    let endpoints: Endpoints =
        Held::by_waypoint(&mesh.compile(), "shop", "waypoint").one(type_url::ENDPOINTS, A);
    let [ready, late] = endpoints.list.as_slice() else {
        panic!("{endpoints:?}")
    };
    assert_eq!((ready.address.port(), ready.healthy), (8080, true));
    assert!(matches!(ready.transport, Transport::Hbone(_)));
    assert_eq!((late.address.port(), late.healthy), (9999, false));
    assert_eq!(late.transport, Transport::Plaintext);
}
