//! Statuses as they are written.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::fixture::Mesh;
use crate::objects::ObjectKey;
use crate::serve::ProxyType;
use crate::serve::registry::ProxyStatus;
use crate::status::Statuses;

const RULES: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, generation: 3}\nspec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}";
const BROKEN: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: broken}\nspec: {hosts: [a], htp: []}";

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("networking.istio.io", "VirtualService", "shop", name)
}

fn proxy(kind: ProxyType, pod: &str, generation: Option<u64>) -> ProxyStatus {
    ProxyStatus {
        node_id: "x".into(),
        proxy_type: kind,
        namespace: "shop".into(),
        pod: pod.into(),
        node: "n".into(),
        connected_since: SystemTime::UNIX_EPOCH,
        generation_in_effect: generation,
        refusal: None,
        trusts: None,
        types: BTreeMap::new(),
    }
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    let list = status["status"]["conditions"].as_array().unwrap();
    list.iter()
        .find(|c| c["type"] == kind)
        .unwrap_or_else(|| panic!("no {kind} in {status}"))
}

#[test]
fn one_broken_object_is_rejected_alone() {
    let mut mesh = Mesh::new();
    mesh.add("shop", RULES).add("shop", BROKEN);
    let compiled = mesh.compile();
    let mut statuses = Statuses::default();
    statuses.observe(&mesh.store, &compiled, 1);
    let changed = statuses.changed(&[], SystemTime::UNIX_EPOCH);
    let broken = changed[&key("broken")].as_ref().unwrap();
    let accepted = condition(broken, "Accepted");
    assert_eq!(
        (accepted["status"].as_str(), accepted["reason"].as_str()),
        (Some("False"), Some("Invalid"))
    );
    assert!(
        accepted["message"]
            .as_str()
            .unwrap()
            .starts_with("spec.htp: unknown field"),
        "{accepted}"
    );
    let good = changed[&key("a")].as_ref().unwrap();
    assert_eq!(condition(good, "Accepted")["status"], "True");
    assert_eq!(condition(good, "Accepted")["observedGeneration"], 3);
    assert_eq!(condition(good, "Programmed")["reason"], "NoProxies");
}

/// Rules for a service behind a waypoint with two pods.
fn two_waypoint_pods() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.namespace("shop", "istio.io/dataplane-mode: ambient")
        .add("shop", RULES);
    mesh.service("shop", "a", "app: a", "10.96.0.1", "{name: http, port: 80}");
    mesh.run_waypoint("shop", "waypoint");
    let labels = "gateway.networking.k8s.io/gateway-name: waypoint, gateway.networking.k8s.io/gateway-class-name: istio-waypoint";
    mesh.pod("shop", "waypoint-2", labels, "10.244.9.8");
    mesh
}

fn programmed(statuses: &mut Statuses, proxies: &[ProxyStatus]) -> String {
    let changed = statuses.changed(proxies, SystemTime::UNIX_EPOCH);
    let status = changed[&key("a")].as_ref().unwrap();
    let programmed = condition(status, "Programmed");
    format!(
        "{} {}",
        programmed["status"].as_str().unwrap(),
        programmed["message"].as_str().unwrap()
    )
}

#[test]
fn counts_the_pods_that_need_the_object() {
    let mut mesh = two_waypoint_pods();
    let mut statuses = Statuses::default();
    let compiled = mesh.compile();
    statuses.observe(&mesh.store, &compiled, 7);
    let others = [
        proxy(ProxyType::Agent, "agent", None),
        proxy(ProxyType::Gateway, "gw", Some(1)),
    ];
    assert_eq!(
        programmed(&mut statuses, &others),
        "False in effect at 0 of 2 proxies"
    );
    let one = [
        proxy(ProxyType::Waypoint, "waypoint-1", Some(7)),
        proxy(ProxyType::Waypoint, "waypoint-2", Some(6)),
    ];
    assert_eq!(
        programmed(&mut statuses, &one),
        "False in effect at 1 of 2 proxies"
    );
    // A later generation in which the object is the same does not make it pending again.
    let compiled = mesh.compile();
    statuses.observe(&mesh.store, &compiled, 8);
    let both = [
        proxy(ProxyType::Waypoint, "waypoint-1", Some(7)),
        proxy(ProxyType::Waypoint, "waypoint-2", Some(7)),
    ];
    assert_eq!(
        programmed(&mut statuses, &both),
        "True in effect at 2 of 2 proxies"
    );
}

#[test]
fn a_proxy_that_refuses_is_named_with_its_reason_while_it_lacks_the_object() {
    let mut mesh = two_waypoint_pods();
    let mut statuses = Statuses::default();
    let compiled = mesh.compile();
    statuses.observe(&mesh.store, &compiled, 7);
    let refusing = |pod: &str, generation: u64| ProxyStatus {
        refusal: Some(format!("routes: {pod} has no regex").into()),
        ..proxy(ProxyType::Waypoint, pod, Some(generation))
    };
    let stranger = ProxyStatus {
        refusal: Some("clusters: a stranger".into()),
        ..proxy(ProxyType::Gateway, "gw", None)
    };
    let one = [
        stranger.clone(),
        proxy(ProxyType::Waypoint, "waypoint-1", Some(7)),
        refusing("waypoint-2", 6),
    ];
    assert_eq!(
        programmed(&mut statuses, &one),
        "False in effect at 1 of 2 proxies; shop/waypoint-2 refuses routes: waypoint-2 has no regex"
    );
    // What it refuses now came after the object.
    let both = [stranger, refusing("waypoint-1", 7), refusing("waypoint-2", 8)];
    assert_eq!(
        programmed(&mut statuses, &both),
        "True in effect at 2 of 2 proxies"
    );
}

#[test]
fn only_changes_are_written_and_transitions_keep_their_time() {
    let mut mesh = two_waypoint_pods();
    let mut statuses = Statuses::default();
    let compiled = mesh.compile();
    statuses.observe(&mesh.store, &compiled, 1);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
    let first = statuses.changed(&[], now)[&key("a")].clone().unwrap();
    assert!(statuses.changed(&[], now + Duration::from_secs(9)).is_empty());
    let both = ["waypoint-1", "waypoint-2"].map(|pod| proxy(ProxyType::Waypoint, pod, Some(1)));
    let second = statuses.changed(&both, now + Duration::from_secs(9))[&key("a")]
        .clone()
        .unwrap();
    let time = |status: &Value, kind: &str| condition(status, kind)["lastTransitionTime"].clone();
    assert_eq!(time(&first, "Accepted"), time(&second, "Accepted"));
    assert_ne!(time(&first, "Programmed"), time(&second, "Programmed"));
    mesh.remove("networking.istio.io", "VirtualService", "shop", "a");
    let compiled = mesh.compile();
    statuses.observe(&mesh.store, &compiled, 2);
    assert_eq!(statuses.changed(&both, now)[&key("a")], None);
}

#[test]
fn an_object_in_two_places_says_which_one_counts() {
    use crate::source::document;
    use crate::store::SourceEvent;
    let mut mesh = Mesh::new();
    let object = document::parse(RULES.as_bytes()).objects[0].clone();
    for origin in ["b.yaml", "a.yaml"] {
        mesh.apply(SourceEvent::Applied {
            origin: origin.into(),
            object: object.clone(),
        });
    }
    let compiled = mesh.compile();
    let report = compiled.reports.values().next().unwrap();
    assert!(
        report
            .notices
            .iter()
            .any(|n| n.message == "b.yaml has the same object; the one of a.yaml is in effect"),
        "{report:?}"
    );
}
