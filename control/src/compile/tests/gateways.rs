//! Istio's Gateway and what is attached to it.

use aquifer_xds::type_url;

use super::fixture::{Held, Mesh, line, message, report};
use crate::proxies::ProxyKey;

fn gateway(name: &str, port: u16, hosts: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec: {{selector: {{istio: gw}}, servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: [{hosts}]}}]}}"
    )
}

fn rules(name: &str, hosts: &str, gateways: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}}}\nspec: {{hosts: [{hosts}], gateways: [{gateways}], http: [{http}]}}"
    )
}

fn mesh() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.namespace("shop", "istio.io/dataplane-mode: ambient")
        .namespace("edge", "");
    mesh.pod("edge", "gw-1", "istio: gw", "10.244.5.1");
    mesh.pod("shop", "a", "app: a", "10.244.0.1");
    mesh.service(
        "shop",
        "a",
        "app: a",
        "10.96.0.1",
        "{name: http, port: 80, targetPort: 8080}",
    );
    mesh
}

fn held(mesh: &mut Mesh) -> Held {
    Held::by(
        &mesh.compile(),
        &ProxyKey::Gateway {
            namespace: "edge".into(),
            pod: "gw-1".into(),
            uid: "uid-gw-1".into(),
        },
    )
}

/// The routes for a host, one line each; empty where no virtual host has it.
fn routes(held: &Held, table: &str, host: &str) -> Vec<String> {
    let table = held.routes(table);
    table
        .virtual_host(host)
        .map(|h| h.routes.iter().map(line).collect())
        .unwrap_or_default()
}

const TO_A: &str = "route: [{destination: {host: a}}]";
const A: &str = "outbound|80||a.shop.svc.cluster.local=1";

#[test]
fn a_service_port_leads_to_its_target_and_another_number_to_itself() {
    let mut mesh = mesh();
    mesh.service(
        "edge",
        "gw",
        "istio: gw",
        "10.96.0.2",
        "{name: a, port: 80, targetPort: 8080}, {name: b, port: 81, targetPort: web}",
    );
    for port in [80, 81, 8080, 9000] {
        mesh.add("edge", &gateway(&format!("g{port}"), port, "'*'"));
    }
    assert_eq!(
        held(&mut mesh).names(type_url::LISTENER),
        ["0.0.0.0_8080", "0.0.0.0_9000"]
    );
    assert_eq!(
        held(&mut mesh).names(type_url::ROUTES),
        ["http.8080", "http.9000"]
    );
}

#[test]
fn hosts_are_intersected_and_namespaces_respected() {
    let mut mesh = mesh();
    mesh.add("edge", &gateway("g", 80, "'shop/*.example.com'"));
    mesh.add(
        "shop",
        &rules(
            "a",
            "shop.example.com, other.org",
            "edge/g",
            &format!("{{{TO_A}}}"),
        ),
    );
    mesh.add(
        "edge",
        &rules(
            "b",
            "b.example.com",
            "g",
            "{route: [{destination: {host: shop/a}}]}",
        ),
    );
    let held = held(&mut mesh);
    assert_eq!(
        routes(&held, "http.80", "shop.example.com:8080"),
        [format!("[] -> {A}")]
    );
    assert!(routes(&held, "http.80", "other.org").is_empty());
    assert!(routes(&held, "http.80", "b.example.com").is_empty());
}

#[test]
fn rules_with_one_host_follow_each_other_with_catch_alls_last() {
    let mut mesh = mesh();
    mesh.add("edge", &gateway("g", 80, "'*'"));
    mesh.add(
        "shop",
        &rules("old", "x.org", "edge/g", &format!("{{name: all, {TO_A}}}")),
    );
    mesh.add(
        "shop",
        &rules(
            "new",
            "x.org",
            "edge/g",
            &format!("{{name: some, match: [{{uri: {{prefix: /p}}}}], {TO_A}}}"),
        ),
    );
    assert_eq!(
        routes(&held(&mut mesh), "http.80", "x.org"),
        [format!("some[] -> {A}"), format!("all[] -> {A}")]
    );
}

#[test]
fn sources_and_gateways_of_a_match_are_decided_here() {
    let mut mesh = mesh();
    mesh.add("edge", &gateway("g", 80, "'*'"));
    let http = format!(
        "{{name: mine, match: [{{sourceLabels: {{istio: gw}}, uri: {{prefix: /1}}}}], {TO_A}}}, \
         {{name: theirs, match: [{{sourceLabels: {{istio: other}}, uri: {{prefix: /2}}}}], {TO_A}}}, \
         {{name: here, match: [{{gateways: [edge/g], uri: {{prefix: /3}}}}], {TO_A}}}, \
         {{name: mesh, match: [{{gateways: [mesh], uri: {{prefix: /4}}}}], {TO_A}}}, \
         {{name: port, match: [{{port: 81, uri: {{prefix: /5}}}}], {TO_A}}}"
    );
    mesh.add("shop", &rules("a", "x.org", "edge/g", &http));
    let names: Vec<String> = routes(&held(&mut mesh), "http.80", "x.org")
        .iter()
        .map(|l| l.split('[').next().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["mine", "here"]);
}

#[test]
fn other_labels_get_nothing_and_missing_pieces_are_said() {
    let mut mesh = mesh();
    mesh.add(
        "edge",
        &gateway("g", 80, "'*'").replace("istio: gw", "istio: nobody"),
    );
    mesh.add(
        "shop",
        &rules("a", "x.org", "edge/g, edge/none", &format!("{{{TO_A}}}")),
    );
    assert!(held(&mut mesh).names(type_url::LISTENER).is_empty());
    let compiled = mesh.compile();
    assert!(
        message(report(&compiled, "Gateway", "edge", "g"), "ResolvedRefs")
            .contains("no pod has these labels")
    );
    let said = message(report(&compiled, "VirtualService", "shop", "a"), "ResolvedRefs");
    assert!(
        said.contains("spec.gateways[1]: no accepted Gateway edge/none"),
        "{said}"
    );
}
