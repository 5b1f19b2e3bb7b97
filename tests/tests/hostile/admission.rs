//! Pods that come while their node's agent is away, and agents that die under load.

use aquifer_tests::lab::status::{PodStatus, Status};

use crate::upheaval::Load;
use crate::world::{PATIENCE, World, eventually};

/// A server that must not say a word in plaintext, bound to a node.
fn late(namespace: &str, node: &str) -> String {
    format!(
        r"
apiVersion: v1
kind: Pod
metadata: {{name: late, namespace: {namespace}, labels: {{app: late}}}}
spec:
  nodeSelector: {{kubernetes.io/hostname: {node}}}
  containers: [{{name: server, image: actor}}]
"
    )
}

fn is_late(namespace: &'static str, what: impl Fn(&PodStatus) -> bool) -> impl Fn(&Status) -> bool {
    move |status| status.pods_of(namespace, "late").any(&what)
}

#[test]
fn a_pod_of_the_mesh_waits_for_its_nodes_agent_and_no_other_does() {
    let Some(world) = World::new("late") else { return };
    let node = world.pod("mesh/server").node;
    let agents = world.pods("istio-system/ztunnel");
    let agent = agents.iter().find(|pod| pod.node == node).unwrap();
    let agent = format!("istio-system/{}", agent.name);
    world.lab.kill(&agent, libc::SIGKILL, true).unwrap();
    for namespace in ["mesh", "plain"] {
        world.apply(namespace, &late(namespace, &node));
    }
    let wait =
        |what: &str, is_so: &dyn Fn(&Status) -> bool| world.lab.wait_until(what, PATIENCE, is_so).unwrap();
    wait("a plain pod starts", &is_late("plain", |pod| pod.ready));
    let waits = is_late("mesh", |pod| {
        pod.reason.starts_with("waiting for its node's agent")
    });
    wait("a pod of the mesh waits", &waits);
    let held = world.pod("mesh/late");
    assert!(held.pids.is_empty() && !held.ready, "{held:?}");

    world.lab.release(&agent).unwrap();
    wait(
        "the pod starts with its agent",
        &is_late("mesh", |pod| pod.ready && pod.enrolled),
    );
    // One that is deleted while it waits is gone, and its place with it.
    world.lab.kill(&agent, libc::SIGKILL, true).unwrap();
    world.delete("mesh", &late("mesh", &node));
    world.apply("mesh", &late("mesh", &node));
    wait("another one waits", &waits);
    world.delete("mesh", &late("mesh", &node));
    wait("it is gone", &|status| {
        status.pods_of("mesh", "late").count() == 0
    });
    world.lab.release(&agent).unwrap();
    world.settle();
}

#[test]
fn agents_that_die_under_load_are_back_without_help() {
    let Some(world) = World::new("agents") else { return };
    let node = world.pod("mesh/server").node;
    let client = world.client("mesh", &node, false);
    let url = format!("{}:8080", world.ip("mesh/server"));
    let load = Load::start(&world, &client, &url, 5);
    for agent in world.pods("istio-system/ztunnel") {
        let name = format!("istio-system/{}", agent.name);
        world.lab.kill(&name, libc::SIGKILL, false).unwrap();
        let again = |status: &Status| {
            let mut pods = status.pods_of("istio-system", &agent.name);
            pods.any(|pod| pod.ready && pod.restarts > agent.restarts)
        };
        world
            .lab
            .wait_until("the agent is back", PATIENCE, again)
            .unwrap();
        world.settle();
        let answered = eventually("traffic recovers", || world.get(&client, &url), Result::is_ok);
        answered.unwrap();
    }
    // What was cut is an error and not a wrong answer; the load itself goes on.
    assert!(load.finish().answered > 0);
    let load = Load::start(&world, &client, &url, 5);
    for _ in 0..20 {
        world.get(&client, &url).unwrap();
    }
    load.finish_without_failure("all agents are back");
}
