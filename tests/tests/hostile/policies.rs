//! Policies that are edited into something wrong, and connections that were open before.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::transparency::port;
use crate::world::{PATIENCE, World, eventually};

/// Refuses the client's account at the server.
const DENY: &str = r"
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: clients, namespace: mesh}
spec:
  selector: {matchLabels: {app: server}}
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/mesh/sa/client]}}]}]
";

/// What the control plane says of a refused policy.
fn refusal(world: &World, policy: &str, words: &str) {
    let told = |status: &aquifer_tests::lab::status::Status| {
        let mut refused = status.refused.iter();
        refused.any(|object| object.name == policy && object.reason.contains(words))
    };
    world.lab.wait_until(words, PATIENCE, told).unwrap();
}

fn is_refused(world: &World, client: &str) {
    let url = format!("{}:8080", world.ip("mesh/server"));
    eventually("the policy holds", || world.get(client, &url), Result::is_err).unwrap_err();
}

fn is_let_in(world: &World, client: &str) {
    let url = format!("{}:8080", world.ip("mesh/server"));
    eventually("the client is let in", || world.get(client, &url), Result::is_ok).unwrap();
}

#[test]
fn a_policy_that_is_edited_into_something_wrong_stays_in_effect() {
    let Some(world) = World::new("edited") else { return };
    let client = world.client("mesh", &world.pod("mesh/server").node, false);
    is_let_in(&world, &client);
    world.apply("mesh", DENY);
    is_refused(&world, &client);
    for (wrong, field) in [
        ("DENNY", "spec.action"),
        ("CUSTOM", "spec.action"),
        ("{}", "spec.action"),
    ] {
        world.apply("mesh", &DENY.replace("DENY", wrong));
        refusal(&world, "clients", field);
        refusal(
            &world,
            "clients",
            "the last accepted version (generation 1) stays in effect",
        );
        is_refused(&world, &client);
    }

    // Started while the policy is wrong, the control plane has no earlier version: nobody is let in.
    world
        .lab
        .kill("istio-system/istiod", libc::SIGKILL, false)
        .unwrap();
    refusal(
        &world,
        "clients",
        "no version was accepted before: it denies everything",
    );
    is_refused(&world, &client);
    let bystander = world.client("plain", &world.pod("mesh/server").node, false);
    is_refused(&world, &bystander);
    world.apply("mesh", &DENY.replace("sa/client", "sa/nobody"));
    is_let_in(&world, &client);
    is_let_in(&world, &bystander);

    let allow = DENY
        .replace("name: clients", "name: allowed")
        .replace("DENY", "ALLOW")
        .replace("principals", "principls");
    world.apply("mesh", &allow);
    refusal(&world, "allowed", "it allows nothing");
    is_refused(&world, &client);
    world.delete("mesh", &allow);
    is_let_in(&world, &client);
}

/// Through an agent, and through a waypoint: what a later policy denies is cut.
#[test]
fn a_policy_that_comes_later_reaches_open_connections() {
    let Some(world) = World::new("open") else { return };
    let client = world.client("mesh", &world.pod("mesh/server").node, false);
    let address = format!("{}:{}", world.ip("mesh/server"), port::ECHO);
    let mut command = world.command(&client, &format!("hold {address}"));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        while !line.contains('~') {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "the holder has died");
        }
        line
    };
    assert!(next().contains("open"));
    world.apply("mesh", DENY);
    assert!(next().contains("cut"));
    child.stdin.take().unwrap().flush().unwrap();
    child.wait().unwrap();
    world.assert_nobody_died();
}
