//! The mesh's settings: namespaces that it does not look at, and access logs of what it deploys.

use aquifer_core::names::NamespacedHostname;
use serde_json::Value;

use super::fixture::{Mesh, message, report};
use crate::compile::Compiled;
use crate::compile::report::{joined, of_settings};

fn settings(mesh: &mut Mesh, text: &str) {
    mesh.add(
        "istio-system",
        &format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: \"{text}\"}}"),
    );
}

/// Two namespaces with the same in both.
fn two_shops() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.namespace("in", "mesh: a, istio.io/dataplane-mode: ambient")
        .namespace("out", "istio.io/dataplane-mode: ambient");
    for (namespace, ip) in [("in", 1), ("out", 2)] {
        mesh.service(
            namespace,
            "shop",
            "app: shop",
            &format!("10.96.0.{ip}"),
            "{name: http, port: 80}",
        )
        .pod(namespace, "shop-1", "app: shop", &format!("10.0.0.{ip}"))
        .add(namespace, RULES);
    }
    mesh
}

const RULES: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: rules, namespace: default}\nspec: {hosts: [shop], http: [{route: [{destination: {host: shop}}]}]}";
const SELECTED: &str = "discoverySelectors: [{matchLabels: {mesh: a}}]";

/// Of both namespaces: whether there is a service, a workload and a word about rules.
fn is_seen(compiled: &Compiled) -> [bool; 2] {
    ["in", "out"].map(|namespace| {
        let services = compiled
            .services
            .keys()
            .filter(|s| &*s.namespace == namespace)
            .count();
        let workloads = compiled
            .workloads
            .values()
            .filter(|w| &*w.namespace == namespace)
            .count();
        let reports = compiled
            .reports
            .keys()
            .filter(|k| &*k.namespace == namespace)
            .count();
        let seen = [services, workloads, reports].map(|n| n > 0);
        assert!(seen == [true; 3] || seen == [false; 3], "{namespace}: {seen:?}");
        services > 0
    })
}

#[test]
fn what_no_selector_names_is_as_if_it_were_not_there() {
    let mut mesh = two_shops();
    assert_eq!(is_seen(&mesh.compile()), [true, true]);
    settings(&mut mesh, SELECTED);
    assert_eq!(is_seen(&mesh.compile()), [true, false]);
    mesh.namespace("out", "mesh: a").namespace("in", "");
    assert_eq!(is_seen(&mesh.compile()), [false, true]);
    settings(&mut mesh, "");
    assert_eq!(is_seen(&mesh.compile()), [true, true]);
}

/// An entry of `in` that names the address of the Service and of the pod of `out`.
const ENTRY: &str = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e, namespace: default}\nspec: {hosts: [out.example], addresses: [10.96.0.2, 10.0.0.2], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 192.0.2.1}, {address: 10.96.0.2}, {address: 172.18.0.9}]}";

#[test]
fn nobody_takes_addresses_of_what_is_left_out() {
    let mut mesh = two_shops();
    settings(&mut mesh, SELECTED);
    mesh.add("in", ENTRY);
    mesh.add("out", "apiVersion: v1\nkind: Pod\nmetadata: {name: on-node}\nspec: {nodeName: far, hostNetwork: true}\nstatus: {phase: Running, podIP: 172.18.0.9, hostIPs: [{ip: 172.18.0.9}]}");
    let entry = NamespacedHostname::new("in", "out.example");
    let said = |compiled: &Compiled| joined(&report(compiled, "ServiceEntry", "in", "e").notices);
    let endpoints = |compiled: &Compiled| {
        let all = compiled.discovery.endpoints(&entry);
        all.flat_map(|w| w.addresses.clone())
            .map(|ip| ip.to_string())
            .collect::<Vec<_>>()
    };
    let compiled = mesh.compile();
    let service = &compiled.services[&entry];
    assert!(service.namespace_only && service.vips.len() == 2);
    assert_eq!(endpoints(&compiled), ["192.0.2.1", "172.18.0.9"]);
    let text = said(&compiled);
    for part in [
        "spec.addresses[0]: 10.96.0.2 is the address of Service out/shop",
        "spec.addresses[1]: 10.0.0.2 is the address of pod out/shop-1",
        "spec.endpoints[1].address: 10.96.0.2 is the address of Service out/shop",
        // Proxies are told of the node, and refuse.
        "spec.endpoints[2].address: 172.18.0.9 is the address of node far",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // What is looked at is put first by proxies.
    settings(&mut mesh, "");
    let compiled = mesh.compile();
    assert!(!compiled.services[&entry].namespace_only);
    assert_eq!(endpoints(&compiled).len(), 3);
    settings(&mut mesh, SELECTED);
    mesh.compile();
    for (kind, name) in [("Service", "shop"), ("Pod", "shop-1"), ("Pod", "on-node")] {
        mesh.remove("", kind, "out", name);
    }
    let compiled = mesh.compile();
    assert!(!compiled.services[&entry].namespace_only);
    assert_eq!(endpoints(&compiled).len(), 3);
    assert_eq!(said(&compiled), "");
}

#[test]
fn a_wrong_edit_leaves_the_last_accepted_settings_in_effect_as_a_whole() {
    let mut mesh = two_shops();
    settings(&mut mesh, &format!("{{accessLogFile: /dev/stdout, {SELECTED}}}"));
    assert_eq!(is_seen(&mesh.compile()), [true, false]);
    for wrong in [
        "{accessLogFile: '', discoverySelectors: [{matchLabels: {mesh: 'a b'}}]}",
        "{accessLogFile: '', discoverySelectors: {matchLabels: {mesh: a}}}",
        "[",
        "mesh",
    ] {
        settings(&mut mesh, wrong);
        let compiled = mesh.compile();
        assert_eq!(is_seen(&compiled), [true, false], "{wrong}");
        assert_eq!(compiled.mesh_config.access_log, Some(true), "{wrong}");
        let said = of_settings(&compiled).unwrap();
        assert!(!said.accepted, "{wrong}");
        let accepted = message(said, "Accepted");
        assert!(accepted.starts_with("False Invalid: data.mesh"), "{accepted}");
        let stays = "the last accepted version stays in effect";
        assert_eq!(message(said, "InEffect"), format!("False LastAccepted: {stays}"));
        // What follows is decided by the same settings.
        mesh.namespace("late", "");
        mesh.service("late", "shop", "app: shop", "10.96.0.3", "{name: http, port: 80}");
        let services = mesh.compile().services;
        assert!(!services.keys().any(|s| &*s.namespace == "late"), "{wrong}");
        mesh.remove("", "Service", "late", "shop");
    }
    settings(&mut mesh, "accessLogFile: ''");
    let compiled = mesh.compile();
    assert_eq!(is_seen(&compiled), [true, true]);
    assert_eq!(compiled.mesh_config.access_log, Some(false));
    assert!(of_settings(&compiled).is_none());
}

#[test]
fn settings_that_are_made_again_and_wrong_are_rejected_as_an_edit_is() {
    let with_uid = |uid: &str, text: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system, uid: {uid}}}\ndata: {text}"
        )
    };
    let mut mesh = two_shops();
    mesh.add(
        "istio-system",
        &with_uid("one", &format!("{{mesh: \"{SELECTED}\"}}")),
    );
    assert_eq!(is_seen(&mesh.compile()), [true, false]);
    mesh.add("istio-system", &with_uid("two", "{mehs: \"\"}"));
    assert_eq!(is_seen(&mesh.compile()), [true, false]);
    mesh.remove("", "ConfigMap", "istio-system", "istio");
    assert_eq!(is_seen(&mesh.compile()), [true, true], "deleted is deleted");
}

#[test]
fn other_config_maps_of_that_name_are_nobodys_settings() {
    let mut mesh = two_shops();
    settings(&mut mesh, SELECTED);
    mesh.add(
        "in",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: in}\ndata: {mesh: \"[\"}",
    );
    let compiled = mesh.compile();
    assert_eq!(is_seen(&compiled), [true, false]);
    assert_eq!(compiled.rejected, 0);
    assert!(mesh.store.refused_settings().is_none());
}

#[test]
fn labels_that_ask_for_the_mesh_outside_of_it_are_named() {
    let mut mesh = two_shops();
    settings(&mut mesh, SELECTED);
    let said = |compiled: &Compiled| {
        of_settings(compiled)
            .map(|r| joined(&r.notices))
            .unwrap_or_default()
    };
    let text = said(&mesh.compile());
    assert!(text.contains("leaves out out, whose labels"), "{text}");
    mesh.namespace("out", "mesh: a, istio.io/dataplane-mode: ambient");
    assert_eq!(said(&mesh.compile()), "");
}

#[test]
fn access_logs_of_deployed_proxies_follow_the_settings() {
    let mut mesh = two_shops();
    let log = |compiled: &Compiled| -> Vec<Value> {
        let deployments = compiled
            .rendered
            .iter()
            .filter(|(key, _)| &*key.kind == "Deployment");
        let env = |value: &Value| value.pointer("/spec/template/spec/containers/0/env").cloned();
        let all = deployments
            .filter_map(|(_, value)| env(value)?.as_array().cloned())
            .flatten();
        all.filter(|v| v["name"] == "AQUIFER_ACCESS_LOG")
            .map(|v| v["value"].clone())
            .collect()
    };
    assert_eq!(log(&mesh.compile()), Vec::<Value>::new());
    settings(&mut mesh, "accessLogFile: ''");
    assert_eq!(log(&mesh.compile()), ["false", "false"]);
    settings(&mut mesh, "accessLogFile: /dev/stdout");
    assert_eq!(log(&mesh.compile()), ["true", "true"]);
}
