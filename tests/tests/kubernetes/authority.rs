//! The mesh's authority is replaced while the cluster is in use.

use serde_json::Value;

use super::command::aquifer;
use super::living::{assert_all_enrolled, encrypted_and_unfailing, roll_agents};
use super::world::{PATIENCE, SYSTEM, World};

/// Instead of a minute; longer than replicas take to hear of each other's proxies, also on a busy machine.
const HURRY: &str = "AQUIFER_ROOT_ANNOUNCE=15";

/// Agents of the new root's certificates among gateways and waypoints that have one of the old, and the other way round.
pub(crate) fn another_root_signs_and_no_request_fails(world: &World) {
    set_environment(world, HURRY);
    let first = signer(&view(world));
    encrypted_and_unfailing(world, "another root", || {
        aquifer(world, &["ca", "rotate"]);
        world.wait("every proxy knows the new root, and it signs", || {
            let now = view(world);
            if now["stage"] == "renewing" && signer(&now) != first && now["inEffect"] == now["of"] {
                return Ok(());
            }
            Err(now.to_string())
        });
        roll_agents(world);
    });
    let now = view(world);
    assert_eq!(
        now["roots"].as_array().map(Vec::len),
        Some(2),
        "the old one is trusted for a day: {now}"
    );
    assert_all_enrolled(world);
    set_environment(world, "AQUIFER_ROOT_ANNOUNCE-");
}

/// Of the control plane's pods, as `kubectl set env` takes it.
fn set_environment(world: &World, variable: &str) {
    let control = "deployment/aquifer-control";
    world.kubectl(&["-n", SYSTEM, "set", "env", control, variable]);
    world.mesh().wait_rolled_out(control, PATIENCE).unwrap();
}

fn view(world: &World) -> Value {
    serde_json::from_str(&aquifer(world, &["ca", "status", "-o", "json"])).unwrap()
}

fn signer(view: &Value) -> String {
    let fingerprint = view["signer"]["fingerprint"].as_str();
    fingerprint.expect("somebody signs").to_owned()
}
