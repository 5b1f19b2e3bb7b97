//! A right that the role of the control plane lacks, and gets back.

use serde_json::{Value, json};

use crate::beside::Beside;
use crate::control::Control;
use crate::world::World;

const ROLE: [&str; 5] = ["get", "clusterrole", "aquifer-control", "-o", "json"];
const RULES: &str = "destinationrules.networking.istio.io";
const POLICIES: &str = "authorizationpolicies.security.istio.io";
const REMEDY: &str = "is a rule missing from the role aquifer-control?";
const BACK: &str = "kind can be read now";

const LATER: &str = r"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: later, namespace: shop}
spec: {mtls: {mode: STRICT}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: later, namespace: shop}
spec: {host: web, trafficPolicy: {loadBalancer: {simple: RANDOM}}}
";

/// A right that the role had; a watch that is open goes on for some minutes, so it is taken between two runs.
struct Taken<'a> {
    world: &'a World,
    kind: &'static str,
    role: Value,
}

impl<'a> Taken<'a> {
    fn from(world: &'a World, kind: &'static str) -> Self {
        let role: Value = serde_json::from_str(&world.kubectl(&ROLE)).unwrap();
        set_role(world, &without(&role, kind));
        world.until("the right is gone", || !may_list(world, kind));
        Self { world, kind, role }
    }

    /// The log names the kind and what to do.
    fn is_named_by(&self, control: &Control) -> bool {
        control.said_together(&["WARN", self.kind, "cannot be listed: ", REMEDY])
    }

    fn give_back(&self) {
        set_role(self.world, &self.role);
    }
}

pub(crate) fn a_kind_that_may_not_be_read_stops_nothing_else(world: &World, beside: &Beside<'_>) {
    let taken = Taken::from(world, RULES);
    let control = beside.start("without-rules", &[]);
    world.until("the kind is named", || problem(world).is_some());
    let named = problem(world).unwrap();
    assert!(
        named.starts_with("cannot be listed: ") && named.ends_with(REMEDY),
        "{named}"
    );
    world.until("and in the log", || taken.is_named_by(&control));
    world.apply(LATER);
    let accepted = |object: &str| world.condition("shop", object, "Accepted");
    world.until("the others are read and answered for", || {
        accepted("peerauthentication/later").starts_with("True")
    });
    assert_eq!(accepted("destinationrule/later"), "");
    taken.give_back();
    world.until("given back, it is read without a restart", || {
        accepted("destinationrule/later").starts_with("True")
    });
    world.until("and no longer named", || problem(world).is_none());
    world.until("the log says so", || {
        control.said_together(&["INFO", RULES, BACK])
    });
    control.ends_in_order();
}

/// Whoever knows of no policies would enforce none.
pub(crate) fn nobody_is_served_before_policies_are_read(world: &World, beside: &Beside<'_>) {
    let taken = Taken::from(world, POLICIES);
    let control = beside.begin("without-policies", &[]);
    world.until("the kind is named", || taken.is_named_by(&control));
    assert!(!control.is_ready());
    taken.give_back();
    control.ready();
    world.until("the log tells both in this order", || {
        control.said_in_order(&[&["INFO", POLICIES, BACK], &["the objects have been read"]])
    });
    control.ends_in_order();
}

/// What the page of objects says of the kind.
fn problem(world: &World) -> Option<String> {
    let page: Value = serde_json::from_str(&world.page("/debug/objects")).unwrap();
    page["unreadable"][RULES][0].as_str().map(str::to_owned)
}

fn may_list(world: &World, kind: &str) -> bool {
    let account = "--as=system:serviceaccount:istio-system:aquifer-control";
    world
        .try_kubectl(&["auth", "can-i", "list", kind, "-A", account])
        .is_some()
}

/// The role with no right to list or watch the kind; its statuses are other resources.
fn without(role: &Value, kind: &str) -> Value {
    let plural = kind.split('.').next();
    let mut role = role.clone();
    for rule in role["rules"].as_array_mut().unwrap() {
        let resources = rule["resources"].as_array_mut().unwrap();
        resources.retain(|resource| resource.as_str() != plural);
    }
    role
}

fn set_role(world: &World, role: &Value) {
    let patch = json!({ "rules": role["rules"] }).to_string();
    world.kubectl(&[
        "patch",
        "clusterrole",
        "aquifer-control",
        "--type=merge",
        "-p",
        &patch,
    ]);
}
