//! What a node goes through: its services restart, its kernel has no eBPF.

use aquifer_tests::cluster::layout::Member;
use serde_json::{Value, json};

use super::living::{assert_all_enrolled, renew_probed};
use super::world::{SYSTEM, World};

pub(crate) fn kubelet_and_container_runtime_may_restart(world: &World) {
    for service in ["kubelet", "containerd"] {
        let before = restarts(world);
        let pages = world.under_load(|| {
            for node in world.cluster().nodes() {
                restart(world, node, service);
            }
            // On both nodes pods end and start, and are enrolled, as before.
            renew_probed(world);
        });
        world.assert_none_failed(&format!("restart of every {service}"), &pages);
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
    let ended = [
        "-n",
        SYSTEM,
        "wait",
        "pod/aquifer-agent-without",
        "--for=jsonpath={.status.phase}=Failed",
        "--timeout=60s",
    ];
    world.kubectl(&ended);
    let logs = world.kubectl(&["-n", SYSTEM, "logs", "aquifer-agent-without"]);
    assert!(logs.contains("is the kernel 6.1 or later"), "{logs}");
    assert!(!logs.contains("panicked"), "{logs}");
    world.kubectl(&["-n", SYSTEM, "delete", "pod", "aquifer-agent-without"]);
    world.in_node(node, &format!("rm -r {FOLDER}"));
    // New pods start there as before, and the node's own agent has them.
    renew_probed(world);
}
