//! Layer-4 policies, judged as a node agent judges them.

use std::collections::BTreeSet;

use aquifer_core::policy::{Action, Authorization, Scope, StringMatch};

use super::fixture::{Mesh, message, report};
use crate::compile::Compiled;

fn mesh() -> Mesh {
    let mut mesh = Mesh::new();
    mesh.namespace("shop", "istio.io/dataplane-mode: ambient")
        .namespace("other", "");
    mesh.pod("shop", "a", "app: a", "10.244.0.1")
        .pod("shop", "b", "app: b", "10.244.0.2")
        .pod("other", "c", "app: a", "10.244.0.3");
    mesh
}

fn peer(spec: &str) -> String {
    format!("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p}}\nspec: {spec}")
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}}}\nspec: {spec}"
    )
}

fn listed(compiled: &Compiled, pod: &str) -> BTreeSet<String> {
    let workload = compiled.workloads.values().find(|w| &*w.name == pod).unwrap();
    workload.policies.iter().map(ToString::to_string).collect()
}

fn one<'a>(compiled: &'a Compiled, key: &str) -> &'a Authorization {
    compiled
        .policies
        .values()
        .find(|p| p.key() == key)
        .unwrap_or_else(|| panic!("{:?}", compiled.policies))
}

fn set(keys: &[&str]) -> BTreeSet<String> {
    keys.iter().map(|k| (*k).to_owned()).collect()
}

const STRICT: &str = "istio-system/istio_converted_static_strict";

#[test]
fn strict_denies_who_proved_nothing() {
    let mut mesh = mesh();
    mesh.add("shop", &peer("{mtls: {mode: STRICT}}"));
    let compiled = mesh.compile();
    assert_eq!(listed(&compiled, "a"), set(&[STRICT]));
    assert_eq!(listed(&compiled, "c"), set(&[]));
    let policy = one(&compiled, STRICT);
    assert_eq!(
        (policy.action, policy.scope),
        (Action::Deny, Scope::WorkloadSelector)
    );
    assert_eq!(
        policy.groups[0].rules[0].matches[0].not_principals,
        [StringMatch::Presence]
    );
}

#[test]
fn the_narrower_scope_wins_and_unset_inherits() {
    let mut mesh = mesh();
    mesh.add("istio-system", &peer("{mtls: {mode: STRICT}}"));
    mesh.add(
        "shop",
        &peer("{mtls: {mode: PERMISSIVE}}").replace("name: p", "name: ns"),
    );
    mesh.add(
        "shop",
        &peer("{selector: {matchLabels: {app: b}}, mtls: {mode: STRICT}}").replace("name: p", "name: w"),
    );
    let compiled = mesh.compile();
    assert_eq!(listed(&compiled, "a"), set(&[]));
    assert_eq!(listed(&compiled, "b"), set(&[STRICT]));
    assert_eq!(listed(&compiled, "c"), set(&[STRICT]));
}

#[test]
fn ports_have_their_own_mode() {
    let mut mesh = mesh();
    mesh.add("shop", &peer("{mtls: {mode: STRICT}}"));
    mesh.add(
        "shop",
        &peer("{selector: {matchLabels: {app: a}}, portLevelMtls: {'8080': {mode: PERMISSIVE}}}")
            .replace("name: p", "name: open"),
    );
    mesh.add(
        "other",
        &peer("{selector: {matchLabels: {app: a}}, portLevelMtls: {'9090': {mode: STRICT}}}")
            .replace("name: p", "name: shut"),
    );
    let compiled = mesh.compile();
    let open = one(&compiled, "shop/converted_peer_authentication_open");
    assert_eq!(open.groups[0].rules[0].matches[0].not_destination_ports, [8080]);
    let shut = one(&compiled, "other/converted_peer_authentication_shut");
    assert_eq!(shut.groups[0].rules[0].matches[0].destination_ports, [9090]);
    assert_eq!(
        listed(&compiled, "a"),
        set(&["shop/converted_peer_authentication_open"])
    );
    assert_eq!(listed(&compiled, "b"), set(&[STRICT]));
}

#[test]
fn scopes_of_an_authorization_policy() {
    let mut mesh = mesh();
    mesh.add("istio-system", &policy("global", "{}"));
    mesh.add("shop", &policy("ns", "{}"));
    mesh.add("shop", &policy("one", "{selector: {matchLabels: {app: a}}}"));
    mesh.add(
        "istio-system",
        &policy("everywhere", "{selector: {matchLabels: {app: a}}}"),
    );
    let compiled = mesh.compile();
    assert_eq!(one(&compiled, "istio-system/global").scope, Scope::Global);
    assert_eq!(one(&compiled, "shop/ns").scope, Scope::Namespace);
    assert_eq!(
        listed(&compiled, "a"),
        set(&["shop/one", "istio-system/everywhere"])
    );
    assert_eq!(listed(&compiled, "c"), set(&["istio-system/everywhere"]));
    assert!(
        one(&compiled, "shop/ns").groups.is_empty(),
        "an ALLOW policy without rules allows nobody"
    );
}

#[test]
fn connection_fields_are_taken_as_written() {
    let mut mesh = mesh();
    let spec = "{action: DENY, rules: [{from: [{source: {principals: ['*/sa/x', 'spiffe://td/ns/a/sa/b'], notNamespaces: [dev*], serviceAccounts: [yy, z/w], ipBlocks: [10.0.0.0/8, '::1']}}], to: [{operation: {ports: ['80'], notPorts: ['81']}}], when: [{key: source.namespace, values: ['*']}]}]}";
    mesh.add("shop", &policy("p", spec));
    let compiled = mesh.compile();
    let [group] = one(&compiled, "shop/p").groups.as_slice() else {
        panic!()
    };
    let [from, to, when] = group.rules.as_slice() else {
        panic!("{group:?}")
    };
    let from = &from.matches[0];
    assert_eq!(
        from.principals,
        [
            StringMatch::Suffix("/sa/x".into()),
            StringMatch::Exact("td/ns/a/sa/b".into())
        ]
    );
    assert_eq!(from.not_namespaces, [StringMatch::Prefix("dev".into())]);
    assert_eq!(
        (
            &*from.service_accounts[0].namespace,
            &*from.service_accounts[1].namespace
        ),
        ("shop", "z")
    );
    assert_eq!(from.source_ips[1].prefix_len(), 128);
    assert_eq!(
        (
            to.matches[0].destination_ports.as_slice(),
            to.matches[0].not_destination_ports.as_slice()
        ),
        (&[80][..], &[81][..])
    );
    assert_eq!(when.matches[0].namespaces, [StringMatch::Presence]);
    assert!(
        message(
            report(&compiled, "AuthorizationPolicy", "shop", "p"),
            "ZtunnelAccepted"
        )
        .starts_with("True")
    );
}

#[test]
fn what_needs_a_request_closes_and_is_said() {
    let mut mesh = mesh();
    mesh.add(
        "shop",
        &policy(
            "allow",
            "{rules: [{to: [{operation: {methods: [GET]}}]}, {from: [{source: {namespaces: [x]}}]}]}",
        ),
    );
    mesh.add("shop", &policy("deny", "{action: DENY, rules: [{from: [{source: {namespaces: [x]}}], to: [{operation: {paths: [/admin]}}]}]}"));
    let compiled = mesh.compile();
    let allow = one(&compiled, "shop/allow");
    assert_eq!(
        allow.groups.len(),
        1,
        "the rule that needs a request allows nothing"
    );
    let deny = one(&compiled, "shop/deny");
    assert_eq!(deny.groups[0].rules.len(), 1, "the rule denies every path");
    for name in ["allow", "deny"] {
        let said = message(
            report(&compiled, "AuthorizationPolicy", "shop", name),
            "ZtunnelAccepted",
        );
        assert!(
            said.starts_with("False UnsupportedValue: spec.rules[0].to[0].operation."),
            "{said}"
        );
    }
}
