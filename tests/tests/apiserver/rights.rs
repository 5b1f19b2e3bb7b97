//! A right that the role of the control plane lacks, and gets back.

use serde_json::{Value, json};

use crate::control::Control;
use crate::world::World;

const ROLE: [&str; 5] = ["get", "clusterrole", "aquifer-control", "-o", "json"];
const PLURAL: &str = "destinationrules";
const TAKEN: &str = "destinationrules.networking.istio.io";

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
pub(crate) struct Taken<'a> {
    world: &'a World,
    role: Value,
}

impl<'a> Taken<'a> {
    pub(crate) fn from(world: &'a World) -> Self {
        let role: Value = serde_json::from_str(&world.kubectl(&ROLE)).unwrap();
        let taken = Self { world, role };
        set_role(world, &without(&taken.role));
        world.until("the right is gone", || !may_list(world));
        taken
    }

    pub(crate) fn comes_back_and_its_absence_stops_nothing_else(self, control: &Control) {
        let world = self.world;
        let cannot = "cannot be listed: ";
        let remedy = "is a rule missing from the role aquifer-control?";
        world.until("the kind is named", || problem(world).is_some());
        let named = problem(world).unwrap();
        assert!(named.starts_with(cannot) && named.ends_with(remedy), "{named}");
        assert!(control.said_together(&["WARN", TAKEN, cannot, remedy]));
        world.apply(LATER);
        let accepted = |object: &str| world.condition("shop", object, "Accepted");
        world.until("the others are read and answered for", || {
            accepted("peerauthentication/later").starts_with("True")
        });
        assert_eq!(accepted("destinationrule/later"), "");
        set_role(world, &self.role);
        world.until("given back, it is read without a restart", || {
            accepted("destinationrule/later").starts_with("True")
        });
        world.until("and no longer named", || problem(world).is_none());
        assert!(control.said_together(&["INFO", TAKEN, "kind can be read now"]));
    }
}

/// What the page of objects says of the kind.
fn problem(world: &World) -> Option<String> {
    let page: Value = serde_json::from_str(&world.page("/debug/objects")).unwrap();
    page["unreadable"][TAKEN][0].as_str().map(str::to_owned)
}

fn may_list(world: &World) -> bool {
    let account = "--as=system:serviceaccount:istio-system:aquifer-control";
    world
        .try_kubectl(&["auth", "can-i", "list", TAKEN, "-A", account])
        .is_some()
}

/// The role with no right to list or watch the kind; its statuses are other resources.
fn without(role: &Value) -> Value {
    let mut role = role.clone();
    for rule in role["rules"].as_array_mut().unwrap() {
        let resources = rule["resources"].as_array_mut().unwrap();
        resources.retain(|resource| resource != PLURAL);
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
