//! What stays in effect when an object is rejected.

use aquifer_core::policy::{Action, Authorization, Group};

use crate::compile::Compiled;
use crate::compile::tests::fixture::{Held, Mesh, lines, message, report};

const STRICT: &str = "istio-system/istio_converted_static_strict";

fn mesh() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.namespace("shop", "istio.io/dataplane-mode: ambient");
    mesh.pod("shop", "a", "app: a", "10.244.0.1")
        .pod("shop", "b", "app: b", "10.244.0.2");
    mesh
}

fn security(kind: &str, generation: u32, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, generation: {generation}}}\nspec: {spec}"
    )
}

fn policy(generation: u32, spec: &str) -> String {
    security("AuthorizationPolicy", generation, spec)
}

fn compiled_policy(compiled: &Compiled) -> Option<&Authorization> {
    compiled.policies.get("shop/p").map(|policy| &**policy)
}

/// What the object's status says about being accepted.
fn accepted(compiled: &Compiled, kind: &str) -> String {
    message(report(compiled, kind, "shop", "p"), "Accepted")
}

fn listed(compiled: &Compiled, pod: &str) -> Vec<String> {
    let workload = compiled.workloads.values().find(|w| &*w.name == pod).unwrap();
    workload.policies.iter().map(ToString::to_string).collect()
}

const DENY: &str =
    "{selector: {matchLabels: {app: a}}, action: DENY, rules: [{from: [{source: {principals: [x]}}]}]}";

#[test]
fn an_edit_that_is_rejected_leaves_the_last_accepted_version_in_effect() {
    let mut mesh = mesh();
    mesh.add("shop", &policy(1, DENY));
    let before = compiled_policy(&mesh.compile()).unwrap().clone();
    for (generation, wrong) in [
        (2, DENY.replace("DENY", "DENNY")),
        (3, DENY.replace("principals", "principls")),
        (4, DENY.replace("DENY", "CUSTOM")),
        (5, "5".to_owned()),
    ] {
        let compiled = mesh.add("shop", &policy(generation, &wrong)).compile();
        assert_eq!(compiled_policy(&compiled), Some(&before), "{wrong}");
        assert_eq!(listed(&compiled, "a"), ["shop/p"], "{wrong}");
        let said = accepted(&compiled, "AuthorizationPolicy");
        let stays = "the last accepted version (generation 1) stays in effect";
        assert!(said.starts_with("False ") && said.ends_with(stays), "{said}");
        let report = report(&compiled, "AuthorizationPolicy", "shop", "p");
        assert_eq!(
            message(report, "InEffect"),
            format!("False LastAccepted: {stays}")
        );
    }
    let compiled = mesh.add("shop", &policy(6, "{}")).compile();
    assert_eq!(compiled_policy(&compiled).unwrap().action, Action::Allow);
    let said = accepted(&compiled, "AuthorizationPolicy");
    assert_eq!(said, "True Accepted: the object is valid");
    mesh.add("shop", &policy(7, "{action: DENNY}"));
    mesh.remove("security.istio.io", "AuthorizationPolicy", "shop", "p");
    assert_eq!(compiled_policy(&mesh.compile()), None, "deleted is deleted");
}

#[test]
fn routes_stay_as_they_were_accepted_too() {
    let mut mesh = mesh();
    mesh.service("shop", "s", "app: a", "10.96.0.1", "{name: http, port: 80}");
    let rules = |destination: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: s}}\nspec: {{hosts: [s], http: [{{route: [{{destination: {destination}}}]}}]}}"
        )
    };
    let subset = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: s}\nspec: {host: s, subsets: [{name: one, labels: {app: a}}]}";
    mesh.add("shop", subset)
        .add("shop", &rules("{host: s, subset: one}"));
    mesh.compile();
    mesh.run_waypoint("shop", "waypoint");
    let routes = |mesh: &mut Mesh| {
        let compiled = mesh.compile();
        let held = Held::by_waypoint(&compiled, "shop", "waypoint");
        lines(&held.routes("inbound-vip|80|http|s.shop.svc.cluster.local"))
    };
    let before = routes(&mut mesh);
    assert!(before[0].contains("http/one"), "{before:?}");
    mesh.add("shop", &rules("[s]"))
        .add("shop", &subset.replace("labels", "label"));
    assert_eq!(routes(&mut mesh), before);
}

#[test]
fn a_policy_of_which_no_version_was_accepted_closes_what_it_selects() {
    let everything = vec![Group::default()];
    for (spec, action, groups, says) in [
        (
            "{selector: {matchLabels: {app: a}}, rules: [{too: []}]}",
            Action::Allow,
            Vec::new(),
            "it allows nothing",
        ),
        (
            "{selector: {matchLabels: {app: a}}, action: ALLOW, rules: 5}",
            Action::Allow,
            Vec::new(),
            "it allows nothing",
        ),
        (
            "{selector: {matchLabels: {app: a}}, action: DENY, rules: [{to: [{operation: {ports: [abc]}}]}]}",
            Action::Deny,
            everything.clone(),
            "it denies everything",
        ),
        (
            "{selector: {matchLabels: {app: a}}, action: DENNY, rules: [{}]}",
            Action::Deny,
            everything.clone(),
            "it denies everything",
        ),
    ] {
        let mut mesh = mesh();
        let compiled = mesh.add("shop", &policy(1, spec)).compile();
        let closed = compiled_policy(&compiled).unwrap();
        assert_eq!((closed.action, &closed.groups), (action, &groups), "{spec}");
        assert_eq!(
            (listed(&compiled, "a").len(), listed(&compiled, "b").len()),
            (1, 0),
            "{spec}"
        );
        let said = accepted(&compiled, "AuthorizationPolicy");
        assert!(said.contains(says), "{said}");
        let corrected = mesh.add("shop", &policy(2, DENY)).compile();
        let rules = &compiled_policy(&corrected).unwrap().groups[0].rules;
        assert_eq!(rules.len(), 1, "{spec}");
    }
}

#[test]
fn whom_a_policy_selects_is_not_guessed() {
    for spec in [
        "5",
        "{selectr: {matchLabels: {app: a}}}",
        "{selector: {matchLabel: {app: a}}}",
        "{selector: {matchLabels: {app: 5}}}",
        "{selector: [a], action: DENY}",
        "{action: AUDIT}",
        "{action: CUSTOM, selector: {matchLabels: {app: a}}}",
        "{targetRefs: [{kind: Service, name: a}]}",
    ] {
        let mut mesh = mesh();
        let compiled = mesh.add("shop", &policy(1, spec)).compile();
        assert_eq!(compiled_policy(&compiled), None, "{spec}");
        let report = report(&compiled, "AuthorizationPolicy", "shop", "p");
        assert!(
            !report.accepted && message(report, "InEffect").is_empty(),
            "{spec}"
        );
    }
    // Without a selector it is the namespace's.
    let compiled = mesh().add("shop", &policy(1, "{rules: [{form: []}]}")).compile();
    assert!(compiled_policy(&compiled).unwrap().groups.is_empty());
}

#[test]
fn a_peer_authentication_that_was_never_accepted_is_strict() {
    let peer = |generation, spec: &str| security("PeerAuthentication", generation, spec);
    let mut fresh = mesh();
    let selecting = "{selector: {matchLabels: {app: a}}, mtls: {mode: STRIKT}}";
    let compiled = fresh.add("shop", &peer(1, selecting)).compile();
    assert_eq!(listed(&compiled, "a"), [STRICT]);
    assert!(listed(&compiled, "b").is_empty());
    let said = accepted(&compiled, "PeerAuthentication");
    assert!(said.contains("STRICT is in effect for what it selects"), "{said}");

    let mut accepted_before = mesh();
    accepted_before.add("shop", &peer(1, "{mtls: {mode: PERMISSIVE}}"));
    let compiled = accepted_before.add("shop", &peer(2, selecting)).compile();
    assert!(listed(&compiled, "a").is_empty(), "as it was accepted");
}

#[test]
fn an_object_that_was_made_again_has_no_earlier_version() {
    let with_uid =
        |uid: &str, spec: &str| policy(1, spec).replace("name: p,", &format!("name: p, uid: {uid},"));
    let mut mesh = mesh();
    mesh.add("shop", &with_uid("one", DENY));
    let compiled = mesh
        .add("shop", &with_uid("two", &DENY.replace("DENY", "AUDIT")))
        .compile();
    assert_eq!(compiled_policy(&compiled), None);
}
