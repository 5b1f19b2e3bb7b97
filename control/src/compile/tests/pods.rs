//! When pods' own addresses are behind a waypoint, and when no longer.

use serde_json::json;

use super::fixture::{Mesh, message, report};
use crate::compile::report::bound_waypoint;
use crate::compile::waypoints::WaypointKey;
use crate::compile::{Compiled, Work};

const AMBIENT: &str = "istio.io/dataplane-mode: ambient";
const USES: &str = "istio.io/dataplane-mode: ambient, istio.io/use-waypoint: wp";

fn gateway(namespace: &str, name: &str, serves: &str, from: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{istio.io/waypoint-for: {serves}}}}}\nspec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {{from: {from}}}}}}}]}}"
    )
}

/// One pod in an enrolled namespace that names a waypoint for it.
fn mesh(serves: &str) -> Mesh {
    let mut mesh = Mesh::new();
    mesh.namespace("shop", USES)
        .pod("shop", "a", "app: a", "10.244.0.1")
        .add("", &gateway("shop", "wp", serves, "Same"));
    mesh
}

/// The waypoints of pods, one `POD NAMESPACE/NAME` each.
fn told(compiled: &Compiled) -> Vec<String> {
    let with = compiled.workloads.values().filter_map(|w| {
        let waypoint = serde_json::to_value(w.waypoint.as_ref()?).unwrap();
        let host = waypoint["destination"]
            .as_str()?
            .split_once(".")
            .unwrap()
            .0
            .to_owned();
        Some(format!("{} {host}", w.name))
    });
    with.collect()
}

fn said(compiled: &Compiled) -> String {
    message(
        report(compiled, "Gateway", "shop", "wp"),
        "istio.io/WaypointBound",
    )
}

#[test]
fn a_pod_is_behind_it_from_its_first_ready_pod_on() {
    for serves in ["workload", "all"] {
        let mut mesh = mesh(serves);
        let compiled = mesh.compile();
        assert!(told(&compiled).is_empty());
        assert!(
            said(&compiled).starts_with("False WaypointIsNotReady"),
            "{}",
            said(&compiled)
        );
        mesh.run_waypoint("shop", "wp");
        // Neither the waypoint's own pod, which has the namespace's label as well.
        assert_eq!(told(&mesh.compile()), ["a shop/wp"]);
        // Who comes while it is down is refused, not reached past it.
        mesh.remove("", "Pod", "shop", "wp-1")
            .pod("shop", "b", "app: b", "10.244.0.2");
        let compiled = mesh.compile();
        assert_eq!(told(&compiled), ["a shop/wp", "b shop/wp"]);
        assert!(
            said(&compiled).starts_with("True WaypointAccepted"),
            "{}",
            said(&compiled)
        );
    }
}

#[test]
fn after_a_restart_it_is_known_that_it_was_ready() {
    let mut mesh = mesh("workload");
    mesh.run_waypoint("shop", "wp");
    let compiled = mesh.compile();
    let condition = &report(&compiled, "Gateway", "shop", "wp").conditions;
    let status = json!({ "status": { "conditions": condition } });
    assert_eq!(bound_waypoint(&status), Some(WaypointKey::new("shop", "wp")));

    let mut restarted = self::mesh("workload");
    let written = format!(
        "{}\nstatus: {}",
        gateway("shop", "wp", "workload", "Same"),
        status["status"]
    );
    restarted.add("", &written);
    assert_eq!(told(&restarted.compile()), ["a shop/wp"]);
}

#[test]
fn one_that_is_not_for_pods_or_not_for_the_namespace_takes_none() {
    for (serves, from) in [("service", "All"), ("none", "All"), ("workload", "Same")] {
        let mut mesh = Mesh::new();
        mesh.namespace(
            "shop",
            "istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra",
        )
        .pod("shop", "a", "app: a", "10.244.0.1")
        .add("", &gateway("infra", "wp", serves, from))
        .run_waypoint("infra", "wp");
        assert!(told(&mesh.compile()).is_empty(), "{serves} {from}");
        mesh.add("", &gateway("infra", "wp", "all", "All"));
        assert_eq!(told(&mesh.compile()), ["a infra/wp"]);
        mesh.add("", &gateway("infra", "wp", serves, from));
        assert!(told(&mesh.compile()).is_empty(), "{serves} {from}");
    }
}

#[test]
fn a_pods_own_label_comes_before_its_namespaces() {
    let mut mesh = mesh("all");
    mesh.run_waypoint("shop", "wp")
        .pod("shop", "out", "istio.io/use-waypoint: none", "10.244.0.2")
        .pod(
            "shop",
            "elsewhere",
            "istio.io/use-waypoint: missing",
            "10.244.0.3",
        );
    assert_eq!(told(&mesh.compile()), ["a shop/wp"]);
    mesh.namespace("shop", AMBIENT)
        .pod("shop", "out", "istio.io/use-waypoint: wp", "10.244.0.2");
    assert_eq!(told(&mesh.compile()), ["out shop/wp"]);
}

#[test]
fn what_is_no_pod_of_the_mesh_with_an_address_of_its_own_has_none() {
    let mut mesh = mesh("all");
    mesh.run_waypoint("shop", "wp");
    let pod = |name: &str, more: &str, spec: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, uid: u, {more}}}\nspec: {{nodeName: node-1, {spec}}}\nstatus: {{phase: Running, podIP: 10.244.7.1, conditions: [{{type: Ready, status: 'True'}}]}}"
        )
    };
    let enrolled = "annotations: {ambient.istio.io/redirection: enabled}";
    let proxy = "labels: {gateway.networking.k8s.io/gateway-name: wp}, annotations: {ambient.istio.io/redirection: enabled}";
    for (name, more, spec) in [
        ("outside", "labels: {}", ""),
        ("of-the-node", enrolled, "hostNetwork: true"),
        ("proxy", proxy, ""),
    ] {
        mesh.add("shop", &pod(name, more, spec));
        assert_eq!(told(&mesh.compile()), ["a shop/wp"], "{name}");
    }
}

#[test]
fn moving_to_another_waypoint_never_falls_back_to_layer_4() {
    let mut mesh = mesh("all");
    mesh.run_waypoint("shop", "wp");
    mesh.compile();
    mesh.add("", &gateway("shop", "new", "workload", "Same"))
        .namespace("shop", &USES.replace("wp", "new"));
    assert_eq!(told(&mesh.compile()), ["a shop/wp"]);
    // Whether one that comes was behind the old one, nobody may know any more.
    mesh.pod("shop", "b", "app: b", "10.244.0.2");
    assert_eq!(told(&mesh.compile()), ["a shop/wp", "b shop/new"]);
    mesh.remove("", "Pod", "shop", "wp-1");
    assert_eq!(told(&mesh.compile()), ["a shop/new", "b shop/new"]);
    mesh.run_waypoint("shop", "new");
    assert_eq!(told(&mesh.compile()), ["a shop/new", "b shop/new"]);
    mesh.remove("gateway.networking.k8s.io", "Gateway", "shop", "new");
    assert!(told(&mesh.compile()).is_empty());
}

#[test]
fn after_a_restart_and_for_a_new_pod_a_move_does_not_fall_back_to_layer_4() {
    // By the pod's own label, which no other object changes with.
    let labels = "app: a, istio.io/use-waypoint: new";
    let with_new = || {
        let mut mesh = mesh("all");
        mesh.run_waypoint("shop", "wp")
            .add("", &gateway("shop", "new", "workload", "Same"));
        mesh
    };
    let mut mesh = with_new();
    mesh.pod("shop", "c", labels, "10.244.0.3");
    assert_eq!(told(&mesh.compile()), ["a shop/wp"]);
    mesh.pod("shop", "a", labels, "10.244.0.1");
    let claimed = mesh.next();
    assert_eq!(told(claimed), ["a shop/wp", "c shop/new"]);
    let report = report(claimed, "Gateway", "shop", "new");
    assert!(message(report, "istio.io/WaypointBound").starts_with("True WaypointAccepted"));
    let status = json!({ "conditions": report.conditions });

    let mut restarted = with_new();
    let written = format!("{}\nstatus: {status}", gateway("shop", "new", "workload", "Same"));
    restarted
        .add("", &written)
        .pod("shop", "a", labels, "10.244.0.1")
        .pod("shop", "b", labels, "10.244.0.2");
    assert_eq!(told(&restarted.compile()), ["a shop/new", "b shop/new"]);
}

#[test]
fn what_a_pod_moves_to_and_is_down_takes_it_when_it_is_ready_again() {
    let mut mesh = mesh("all");
    mesh.run_waypoint("shop", "wp")
        .add("", &gateway("shop", "new", "workload", "Same"))
        .run_waypoint("shop", "new");
    mesh.compile();
    mesh.remove("", "Pod", "shop", "new-1")
        .namespace("shop", &USES.replace("wp", "new"));
    assert_eq!(told(&mesh.compile()), ["a shop/wp"]);
    mesh.run_waypoint("shop", "new");
    assert_eq!(told(&mesh.compile()), ["a shop/new"]);
    mesh.remove("", "Pod", "shop", "new-1");
    assert_eq!(told(&mesh.compile()), ["a shop/new"]);
}

#[test]
fn a_pod_among_thousands_costs_itself() {
    let mut mesh = mesh("all");
    mesh.run_waypoint("shop", "wp");
    for n in 0..2000 {
        mesh.pod(
            "shop",
            &format!("p{n}"),
            "app: p",
            &format!("10.245.{}.{}", n / 250, n % 250),
        );
    }
    mesh.compile();
    mesh.pod("shop", "one-more", "app: p", "10.246.0.1");
    let next = mesh.next();
    assert_eq!(told(next).len(), 2002);
    assert!(next.delta.routing.is_nothing());
    let expected = Work {
        workloads: 1,
        attached: 1,
        ..next.delta.work
    };
    assert_eq!(next.delta.work, expected);
}

#[test]
fn all_pods_are_looked_at_only_where_their_waypoint_may_be_another() {
    let mut mesh = mesh("all");
    mesh.run_waypoint("shop", "wp");
    for n in 0..100 {
        mesh.pod("shop", &format!("p{n}"), "app: p", &format!("10.245.0.{n}"));
    }
    mesh.compile();
    let mut attached = |change: &dyn Fn(&mut Mesh)| {
        change(&mut mesh);
        mesh.next().delta.work.attached
    };
    let entry = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: e}\nspec: {hosts: [e.example], ports: [{name: http, number: 80, protocol: HTTP}], resolution: DNS}";
    let route = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r}\nspec: {parentRefs: [{kind: Service, group: '', name: wp}], rules: [{backendRefs: [{name: wp, port: 80}]}]}";
    for yaml in [entry, route] {
        assert_eq!(attached(&|mesh| _ = mesh.add("shop", yaml)), 0, "{yaml}");
    }
    // Another pod of the waypoint, and one less.
    let labels = "gateway.networking.k8s.io/gateway-name: wp, gateway.networking.k8s.io/gateway-class-name: istio-waypoint";
    assert_eq!(
        attached(&|mesh| _ = mesh.pod("shop", "wp-2", labels, "10.244.9.8")),
        1
    );
    assert_eq!(attached(&|mesh| _ = mesh.remove("", "Pod", "shop", "wp-1")), 1);
    // The last one.
    assert!(attached(&|mesh| _ = mesh.remove("", "Pod", "shop", "wp-2")) > 100);
    let gateway = gateway("shop", "wp", "workload", "Same");
    assert!(attached(&|mesh| _ = mesh.add("", &gateway)) > 100);
    assert!(attached(&|mesh| _ = mesh.namespace("shop", AMBIENT)) > 100);
}
