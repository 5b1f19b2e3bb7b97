//! The mesh's settings: a wrong edit changes nothing, and nobody is served under settings that were never accepted.

use serde_json::Value;

use crate::beside::Beside;
use crate::control::Control;
use crate::world::World;

const PLACES: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: inside, labels: {mesh: a}}
---
apiVersion: v1
kind: Namespace
metadata: {name: outside}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: inside, namespace: inside}
spec: {host: web, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: outside, namespace: outside}
spec: {host: web, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
";
const RIGHT: &str = "discoverySelectors: [{matchLabels: {mesh: a}}]";
const WRONG: &str = "discoverySelectors: [{matchLabel: {mesh: a}}]";
const FIELD: &str = "data.mesh.discoverySelectors: selector 0 has the unknown field \"matchLabel\"";

pub(crate) fn a_wrong_edit_changes_nothing(world: &World, beside: &Beside<'_>) {
    write(world, RIGHT);
    let control = beside.start("settings", &[]);
    world.apply(PLACES);
    world.until("what is inside is answered for", || {
        is_answered_for(world, "inside")
    });
    write(world, WRONG);
    world.until("an event says so", || told(world).contains(FIELD));
    assert!(told(world).contains("the last accepted version stays in effect"));
    world.until("the log says so", || {
        control.said_together(&["WARN", "object rejected", "matchLabel"])
    });
    world.until("and the page of objects", || {
        rejection(world).is_some_and(|page| page.starts_with(FIELD))
    });
    // What comes now is decided by the settings before.
    world.apply(&PLACES.replace("{name: inside, namespace", "{name: later, namespace"));
    world.until("a later object inside is answered for", || {
        is_answered(world, "inside", "later")
    });
    assert!(!is_answered_for(world, "outside"));
    control.ends_in_order();
    nobody_is_served_before_they_are_corrected(world, beside);
}

fn nobody_is_served_before_they_are_corrected(world: &World, beside: &Beside<'_>) {
    let control = beside.begin("wrong-settings", &[]);
    world.until("the settings are named", || refuses(&control));
    world.until("the page names them too", || rejection(world).is_some());
    assert!(!control.is_ready());
    assert!(!is_answered_for(world, "outside"));
    write(world, RIGHT);
    control.ready();
    world.until("they are accepted", || rejection(world).is_none());
    write(world, "");
    world.until("without selectors all are answered for", || {
        is_answered_for(world, "outside")
    });
    world.kubectl(&["delete", "configmap", "istio", "-n", "istio-system"]);
    control.ends_in_order();
}

fn refuses(control: &Control) -> bool {
    control.said_together(&["ERROR", "nobody is served until they are corrected", "matchLabel"])
}

fn write(world: &World, text: &str) {
    world.apply(&format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    {text}\n"
    ));
}

/// The notes of the Events on the ConfigMap.
fn told(world: &World) -> String {
    world.kubectl(&[
        "get",
        "events",
        "-n",
        "istio-system",
        "--field-selector=involvedObject.kind=ConfigMap,involvedObject.name=istio",
        "-o",
        "jsonpath={.items[*].message}",
    ])
}

/// What the page of objects says against the settings.
fn rejection(world: &World) -> Option<String> {
    let page: Value = serde_json::from_str(&world.page("/debug/objects")).unwrap();
    let is_it = |object: &&Value| object["kind"] == "ConfigMap" && object["name"] == "istio";
    let settings = page["objects"].as_array().unwrap().iter().find(is_it)?;
    let conditions = settings["conditions"].as_array().unwrap();
    let accepted = conditions.iter().find(|c| c["type"] == "Accepted")?;
    (accepted["status"] == "False").then(|| accepted["message"].as_str().unwrap().to_owned())
}

fn is_answered_for(world: &World, namespace: &str) -> bool {
    is_answered(world, namespace, namespace)
}

fn is_answered(world: &World, namespace: &str, rule: &str) -> bool {
    let rule = format!("destinationrule/{rule}");
    world.condition(namespace, &rule, "Accepted").starts_with("True")
}
