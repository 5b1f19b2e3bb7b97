//! The first second of a pod: it starts captured, and not without an agent.

use aquifer_tests::cluster::layout::Member;

use super::manifests::{STRICT, getting, object, one_attempt, serving};
use super::world::{NAMESPACE, PATIENCE, SYSTEM, World, limit};

/// Its init container makes one call, once, at once: in plaintext it is refused.
fn hasty() -> String {
    let [first, then] =
        ["first", "then"].map(|name| getting(name, "http://probed.bookinfo.svc.cluster.local/"));
    let pod = format!("initContainers: [{first}], containers: [{then}]");
    object("Job", "hasty", &one_attempt(&pod))
}

pub(crate) fn a_pods_first_call_is_in_the_mesh(world: &World) {
    world.peers_know();
    world.apply(NAMESPACE, STRICT);
    world.apply(NAMESPACE, &hasty());
    let limit = limit();
    world.kubectl(&[
        "-n",
        NAMESPACE,
        "wait",
        "--for=condition=Complete",
        "job/hasty",
        &limit,
    ]);
    world.kubectl(&["-n", NAMESPACE, "delete", "job", "hasty"]);
    world.kubectl(&["-n", NAMESPACE, "delete", "peerauthentication", "default"]);
}

pub(crate) fn without_an_agent_pods_of_the_mesh_wait_and_others_start(world: &World) {
    let node = Member::Node(1).to_string();
    away(world, &node, true);
    for namespace in [NAMESPACE, "default"] {
        world.apply(namespace, &pod_on(&node));
    }
    world.until("a pod outside of the mesh starts", |status| {
        status.pods_of("default", "newcomer").all(|pod| pod.ready)
            && status.pods_of("default", "newcomer").next().is_some()
    });
    let of_it = "--field-selector=involvedObject.name=newcomer";
    world.wait("the pod's events say what it waits for", || {
        let events = world.kubectl(&["-n", NAMESPACE, "get", "events", of_it]);
        match events.contains("waits for its node agent") {
            true => Ok(()),
            false => Err(events),
        }
    });
    let status = world.status();
    assert!(
        status.pods_of(NAMESPACE, "newcomer").all(|pod| !pod.ready),
        "{status}"
    );
    away(world, &node, false);
    world.until("the pod starts with the agent", |status| {
        let mut pods = status.pods_of(NAMESPACE, "newcomer");
        pods.next().is_some_and(|pod| pod.ready && pod.enrolled)
    });
    for namespace in [NAMESPACE, "default"] {
        world.kubectl(&["-n", namespace, "delete", "pod", "newcomer", "--grace-period=1"]);
    }
}

/// Takes the agent off a node, or puts it back.
fn away(world: &World, node: &str, is_away: bool) {
    let affinity = match is_away {
        true => format!(
            r#"{{"nodeAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":{{"nodeSelectorTerms":[{{"matchExpressions":[{{"key":"kubernetes.io/hostname","operator":"NotIn","values":["{node}"]}}]}}]}}}}}}"#
        ),
        false => "null".to_owned(),
    };
    let patch = format!(r#"{{"spec":{{"template":{{"spec":{{"affinity":{affinity}}}}}}}}}"#);
    world.kubectl(&[
        "-n",
        SYSTEM,
        "patch",
        "daemonset/aquifer-agent",
        "--type=merge",
        "-p",
        &patch,
    ]);
    world
        .mesh()
        .wait_rolled_out("daemonset/aquifer-agent", PATIENCE)
        .unwrap();
    let wanted = if is_away { 1 } else { 2 };
    world.until("the agents are where they belong", |status| {
        let agents = status.pods_of(SYSTEM, "aquifer-agent");
        agents.filter(|agent| agent.ready).count() == wanted
            && status.pods_of(SYSTEM, "aquifer-agent").count() == wanted
    });
}

fn pod_on(node: &str) -> String {
    let probed = "readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}";
    let pod = format!("nodeName: {node}, containers: [{}]", serving("web", 8080, probed));
    object("Pod", "newcomer", &pod)
}
