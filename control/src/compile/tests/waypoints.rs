//! When services go through a waypoint, and when no longer.

use std::time::Duration;

use aquifer_core::names::NamespacedHostname;
use aquifer_xds::type_url;

use super::fixture::{Held, Mesh, message, report};
use crate::compile::report::bound_waypoint;
use crate::compile::waypoints::{Binding, WaypointKey};
use crate::compile::{Compiled, Settings};

const RULES: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}";

const LAYER_7: &str = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: a, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}}";

fn mesh() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.namespace("shop", "istio.io/dataplane-mode: ambient");
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

fn waypoint_of(compiled: &Compiled, service: &str) -> Option<String> {
    let service = compiled.services.values().find(|s| &*s.name == service).unwrap();
    service.waypoint.as_ref().map(|w| {
        serde_json::to_value(w).unwrap()["destination"]
            .as_str()
            .unwrap()
            .to_owned()
    })
}

const IMPLICIT: &str = "shop/waypoint.shop.svc.cluster.local";
const LISTENER: &str = "inbound-vip|80|http|a.shop.svc.cluster.local";

#[test]
fn clients_are_told_only_when_the_waypoint_has_the_service() {
    let mut mesh = mesh();
    mesh.run_waypoint("shop", "waypoint").add("shop", RULES);
    mesh.acknowledge("shop", "waypoint-1", 0);
    let first = mesh.compile();
    assert_eq!(waypoint_of(&first, "a"), None);
    assert_eq!(
        Held::by_waypoint(&first, "shop", "waypoint").names(type_url::LISTENER),
        [LISTENER]
    );
    assert!(!first.waypoints.is_outdated(&mesh.moment));
    mesh.acknowledge("shop", "waypoint-1", 1);
    assert!(first.waypoints.is_outdated(&mesh.moment));
    assert_eq!(waypoint_of(&mesh.compile(), "a").as_deref(), Some(IMPLICIT));
}

#[test]
fn after_that_it_stays_also_without_a_ready_pod_and_after_a_restart() {
    let mut mesh = mesh();
    mesh.add("shop", RULES).run_waypoint("shop", "waypoint");
    let compiled = mesh.compile();
    assert_eq!(waypoint_of(&compiled, "a").as_deref(), Some(IMPLICIT));
    let condition = &report(&compiled, "Service", "shop", "a").conditions[0];
    let status = serde_json::json!({ "status": { "conditions": [condition] } });
    assert_eq!(
        bound_waypoint(&status),
        Some(WaypointKey::new("shop", "waypoint"))
    );

    mesh.remove("", "Pod", "shop", "waypoint-1");
    assert_eq!(waypoint_of(&mesh.compile(), "a").as_deref(), Some(IMPLICIT));
}

#[test]
fn without_its_rules_the_service_leaves_and_the_waypoint_lingers() {
    let mut mesh = mesh();
    mesh.add("shop", RULES).run_waypoint("shop", "waypoint");
    mesh.compile();
    mesh.remove("networking.istio.io", "VirtualService", "shop", "a");
    let compiled = mesh.compile();
    assert_eq!(waypoint_of(&compiled, "a"), None);
    assert_eq!(compiled.rendered.len(), 3);
    let held = Held::by_waypoint(&compiled, "shop", "waypoint");
    assert_eq!(
        held.names(type_url::LISTENER),
        [LISTENER],
        "clients that do not know yet are still served"
    );
    assert_eq!(compiled.again_at, Some(mesh.moment.now + Duration::from_secs(30)));

    mesh.moment.now += Duration::from_secs(30);
    let compiled = mesh.compile();
    assert!(compiled.rendered.is_empty());
    assert_eq!(compiled.again_at, None);
}

#[test]
fn a_namespace_outside_the_mesh_gets_none_and_the_rules_say_so() {
    let mut mesh = Mesh::new();
    mesh.namespace("shop", "istio.io/dataplane-mode: none");
    mesh.service("shop", "a", "app: a", "10.96.0.1", "{name: http, port: 80}")
        .add("shop", RULES);
    let compiled = mesh.compile();
    assert!(compiled.rendered.is_empty());
    assert!(
        message(report(&compiled, "VirtualService", "shop", "a"), "Warning").contains("behind no waypoint")
    );
}

#[test]
fn switched_off_no_waypoint_is_made_and_the_rules_say_so() {
    let mut mesh = mesh();
    let mut settings = Settings::clone(&mesh.settings);
    settings.automatic_waypoints = false;
    mesh.settings = settings.into();
    mesh.add("shop", RULES).add("shop", LAYER_7);
    let compiled = mesh.compile();
    assert!(compiled.rendered.is_empty());
    for kind in ["VirtualService", "DestinationRule"] {
        let told = message(report(&compiled, kind, "shop", "a"), "Warning");
        assert!(told.contains("aquifer waypoint apply"), "{kind}: {told}");
    }
}

fn gateway(namespace: &str, labels: &str, from: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: wp, namespace: {namespace}, labels: {{{labels}}}}}\nspec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {{from: {from}}}}}}}]}}"
    )
}

#[test]
fn an_explicit_waypoint_takes_every_service_of_its_namespace() {
    let mut mesh = mesh();
    mesh.namespace(
        "shop",
        "istio.io/dataplane-mode: ambient, istio.io/use-waypoint: wp",
    );
    mesh.add("", &gateway("shop", "", "Same"))
        .run_waypoint("shop", "wp");
    mesh.service("shop", "out", "app: a", "10.96.0.3", "{name: http, port: 80}");
    mesh.add("shop", "apiVersion: v1\nkind: Service\nmetadata: {name: none, labels: {istio.io/use-waypoint: none}}\nspec: {clusterIP: 10.96.0.4, ports: [{port: 80}]}");
    let compiled = mesh.compile();
    let wp = Some("shop/wp.shop.svc.cluster.local".to_owned());
    assert_eq!(
        (
            waypoint_of(&compiled, "a"),
            waypoint_of(&compiled, "out"),
            waypoint_of(&compiled, "none")
        ),
        (wp.clone(), wp, None)
    );
    let status = report(&compiled, "Gateway", "shop", "wp");
    assert!(message(status, "Programmed").starts_with("True"), "{status:?}");
    assert_eq!(status.fields["addresses"][0]["value"], "10.96.9.9");
    assert!(
        compiled
            .rendered
            .keys()
            .any(|k| &*k.kind == "Deployment" && &*k.name == "wp")
    );
}

#[test]
fn another_namespaces_waypoint_must_be_open_and_exist() {
    let mut mesh = mesh();
    mesh.namespace("infra", "").namespace(
        "shop",
        "istio.io/use-waypoint: wp, istio.io/use-waypoint-namespace: infra",
    );
    mesh.add("shop", RULES).add("shop", LAYER_7);
    let check = |mesh: &mut Mesh, why: &str| {
        let compiled = mesh.compile();
        for (kind, condition) in [
            ("Service", "istio.io/WaypointBound"),
            ("VirtualService", "Warning"),
            ("DestinationRule", "Warning"),
        ] {
            let said = message(report(&compiled, kind, "shop", "a"), condition);
            assert!(said.contains(why), "{kind}: {said}");
            assert!(!said.contains("its namespace"), "{kind}: {said}");
        }
    };
    check(&mut mesh, "waypoint infra/wp does not exist");
    mesh.add("", &gateway("infra", "", "Same"))
        .run_waypoint("infra", "wp");
    check(&mut mesh, "does not allow namespace shop");
    mesh.add("", &gateway("infra", "", "All"));
    assert_eq!(
        waypoint_of(&mesh.compile(), "a").as_deref(),
        Some("infra/wp.infra.svc.cluster.local")
    );
    mesh.add("", &gateway("infra", "istio.io/waypoint-for: workload", "All"));
    check(&mut mesh, "is not for services");
}

#[test]
fn moving_to_another_waypoint_never_falls_back_to_layer_4() {
    let mut mesh = mesh();
    mesh.add("shop", RULES).run_waypoint("shop", "waypoint");
    mesh.compile();
    mesh.namespace(
        "shop",
        "istio.io/dataplane-mode: ambient, istio.io/use-waypoint: wp",
    );
    mesh.add("", &gateway("shop", "", "Same"));
    // The implicit one is no longer there for the compiler; with nobody else to serve, traffic stops.
    let compiled = mesh.compile();
    assert_eq!(
        waypoint_of(&compiled, "a").as_deref(),
        Some("shop/wp.shop.svc.cluster.local")
    );

    let mut mesh = self::mesh();
    mesh.namespace("shop", "istio.io/use-waypoint: wp")
        .add("", &gateway("shop", "", "Same"))
        .run_waypoint("shop", "wp");
    mesh.compile();
    mesh.add("", &gateway("shop", "", "Same").replace("name: wp", "name: new"));
    mesh.namespace("shop", "istio.io/use-waypoint: new");
    let compiled = mesh.compile();
    let key = NamespacedHostname::new("shop", "a.shop.svc.cluster.local");
    assert!(matches!(
        compiled.waypoints.bindings[&key],
        Binding::Moving { .. }
    ));
    assert_eq!(
        waypoint_of(&compiled, "a").as_deref(),
        Some("shop/wp.shop.svc.cluster.local")
    );
    for name in ["wp", "new"] {
        assert_eq!(
            Held::by_waypoint(&compiled, "shop", name).names(type_url::LISTENER),
            [LISTENER]
        );
    }
}
