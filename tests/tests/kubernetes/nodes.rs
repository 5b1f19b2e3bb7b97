//! What a node goes through: its services restart, its kernel has no eBPF, it loses its power.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use aquifer_tests::cluster::layout::Member;
use aquifer_tests::lab::status::PodStatus;
use serde_json::{Value, json};

use super::living::{assert_all_enrolled, assert_encrypted, encrypted_and_unfailing, renew_probed};
use super::manifests::{deployment, namespace, service};
use super::world::{SYSTEM, World, limit};

pub(crate) fn kubelet_and_container_runtime_may_restart(world: &World) {
    for service in ["kubelet", "containerd"] {
        let before = restarts(world);
        encrypted_and_unfailing(world, &format!("restart of every {service}"), || {
            for node in world.cluster().nodes() {
                restart(world, node, service);
            }
            // On both nodes pods end and start, and are enrolled, as before.
            renew_probed(world);
        });
        assert_all_enrolled(world);
        let after = restarts(world);
        for (name, count) in before {
            let now = after.iter().find(|(other, _)| *other == name);
            assert!(
                now.is_none_or(|(_, now)| *now == count),
                "{name} was restarted with {service}"
            );
        }
    }
}

fn restart(world: &World, node: Member, service: &str) {
    let starts = |states: Vec<_>| {
        let is = |state: &&aquifer_tests::cluster::ServiceState| state.name == service;
        states
            .iter()
            .find(is)
            .map(|state| (state.starts, state.pid.is_some()))
    };
    let (before, _) = starts(world.cluster().kill_service(node, service).unwrap()).unwrap();
    world.wait(&format!("{service} of {node} runs again"), || {
        match starts(world.cluster().services(node).unwrap()) {
            Some((now, true)) if now > before => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

fn restarts(world: &World) -> Vec<(String, u32)> {
    let status = world.status();
    status
        .pods
        .into_iter()
        .map(|pod| (pod.name, pod.restarts))
        .collect()
}

/// To a program whose calls are answered so, a kernel has no eBPF.
const NO_EBPF: &str = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["bpf"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#;
const FOLDER: &str = "/sys/fs/bpf/without";

/// The chart's own agent, on such a node: it refuses, says why, and leaves the node as it is.
pub(crate) fn an_agent_whose_kernel_has_no_ebpf_says_so(world: &World) {
    let node = Member::Node(1);
    let profile = format!(
        "mkdir -p /var/lib/kubelet/seccomp && echo '{NO_EBPF}' > /var/lib/kubelet/seccomp/no-ebpf.json"
    );
    world.in_node(node, &profile);
    let agents = world.kubectl(&["-n", SYSTEM, "get", "daemonset", "aquifer-agent", "-o", "json"]);
    let agents: Value = serde_json::from_str(&agents).unwrap();
    let mut spec = agents["spec"]["template"]["spec"].clone();
    spec["nodeName"] = json!(node.to_string());
    spec["nodeSelector"] = json!({});
    spec["restartPolicy"] = json!("Never");
    let container = &mut spec["containers"][0];
    container["securityContext"]["seccompProfile"] =
        json!({"type": "Localhost", "localhostProfile": "no-ebpf.json"});
    // A folder of its own: what is pinned is the other agents'.
    let mut variables = container["env"].as_array_mut().unwrap().iter_mut();
    variables.find(|one| one["name"] == "AQUIFER_BPFFS").unwrap()["value"] = json!(FOLDER);
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "aquifer-agent-without", "namespace": SYSTEM},
        "spec": spec,
    });
    world.apply(SYSTEM, &pod.to_string());
    let limit = limit();
    let ended = [
        "-n",
        SYSTEM,
        "wait",
        "pod/aquifer-agent-without",
        "--for=jsonpath={.status.phase}=Failed",
        &*limit,
    ];
    world.kubectl(&ended);
    let logs = world.kubectl(&["-n", SYSTEM, "logs", "aquifer-agent-without"]);
    assert!(logs.contains("is the kernel 6.1 or later"), "{logs}");
    assert!(!logs.contains("panicked"), "{logs}");
    // Whoever may not read logs, and `aquifer check`, find it in the status.
    let said = "jsonpath={.status.containerStatuses[0].state.terminated.message}";
    let said = world.kubectl(&["-n", SYSTEM, "get", "pod", "aquifer-agent-without", "-o", said]);
    assert!(said.contains("is the kernel 6.1 or later"), "{said}");
    world.kubectl(&["-n", SYSTEM, "delete", "pod", "aquifer-agent-without"]);
    world.in_node(node, &format!("rm -r {FOLDER}"));
    // New pods start there as before, and the node's own agent has them.
    renew_probed(world);
}

/// An application that needs nothing of another node, reached at its own node alone.
fn resident(node: Member) -> String {
    let front =
        "type: NodePort, externalTrafficPolicy: Local, ports: [{name: http, port: 9080, nodePort: 30083}]";
    let parts = ["productpage", "details", "reviews"].map(|part| {
        let pod = format!(
            "nodeSelector: {{kubernetes.io/hostname: {node}}}, containers: [{{name: {part}, image: 'docker.io/istio/examples-bookinfo-{part}-v1:1.20.3', imagePullPolicy: Never}}]"
        );
        let inside = service(part, part, "ports: [{name: http, port: 9080}]");
        inside + &deployment(part, &pod)
    });
    [
        namespace("resident", "istio.io/dataplane-mode: ambient"),
        service("front", "productpage", front),
        parts.concat(),
    ]
    .concat()
}

pub(crate) fn a_node_that_loses_its_power_comes_back_into_the_mesh(world: &World) {
    // The only name server stays: without it no cluster answers.
    let (survivor, victim) = world.nodes_by_name_server();
    world.apply("resident", &resident(survivor));
    world.available("resident");
    world.until("the other node's pods are enrolled", |status| {
        let mut pods = status.pods.iter().filter(|pod| pod.namespace == "resident");
        pods.all(|pod| pod.enrolled)
    });

    let front = SocketAddr::new(IpAddr::V4(survivor.address()), 30083);
    // Its port is opened a moment after its pods are available.
    world.answers("the resident application answers", front);
    let here = world.watch(&[survivor]);
    let mut there = None;
    let before = restarts(world);
    let pages = world.under_load_at(front, || {
        let off = Instant::now();
        world.cluster().restart_member(victim).unwrap();
        // Before its kubelet has started anything.
        there = Some(world.watch(&[victim]));
        everything_is_back(world, victim, &before);
        eprintln!(
            "power cut to all pods captured again: {} ms",
            off.elapsed().as_millis()
        );
    });
    world.assert_none_failed("the other node, meanwhile", &pages);
    assert_encrypted(&here.stop().unwrap());
    assert_encrypted(&there.unwrap().stop().unwrap());
    world.kubectl(&["delete", "namespace", "resident", "--wait=false"]);
}

/// Every pod of the mesh on that node runs, and is captured: not by its annotation, which outlived the node.
fn everything_is_back(world: &World, node: Member, before: &[(String, u32)]) {
    let name = node.to_string();
    let earlier = |pod: &PodStatus| {
        before
            .iter()
            .find(|(other, _)| *other == pod.name)
            .map(|(_, count)| *count)
    };
    world.until("the node's pods are back", |status| {
        let mut pods = status.pods.iter().filter(|pod| pod.node == name);
        pods.all(|pod| pod.ready && earlier(pod).is_none_or(|count| pod.restarts > count))
    });
    world.wait("the node's pods are captured", || {
        let status = world.status();
        let pods = status
            .pods
            .iter()
            .filter(|pod| pod.node == name && pod.enrolled)
            .count();
        let pins = aquifer_tests::cluster::mesh::pins(world.cluster(), node).unwrap();
        let captured = pins.iter().filter(|pin| pin.contains("sk_lookup_")).count();
        if pods > 0 && captured == pods {
            return Ok(());
        }
        Err(format!("{captured} of {pods} are captured"))
    });
    world.settled("bookinfo answers with both nodes", |_| true);
}
