//! Upgrades and failures under load.

use std::time::Instant;

use aquifer_tests::cluster::layout::Member;

use super::world::{NAMESPACE, PATIENCE, SYSTEM, World};

pub(crate) fn a_rolling_update_of_the_agents_fails_no_request(world: &World) {
    let before = uids(world, SYSTEM, "aquifer-agent");
    let pages = world.under_load(|| {
        world.kubectl(&["-n", SYSTEM, "rollout", "restart", "daemonset/aquifer-agent"]);
        // Pods that start while two agents are on a node.
        renew_probed(world);
        world
            .mesh()
            .wait_rolled_out("daemonset/aquifer-agent", PATIENCE)
            .unwrap();
        world.until("the old agents are gone", |status| {
            let now: Vec<&String> = status
                .pods_of(SYSTEM, "aquifer-agent")
                .map(|pod| &pod.uid)
                .collect();
            now.len() == before.len() && before.iter().all(|uid| !now.contains(&uid))
        });
        world.settled("bookinfo answers after the update", |_| true);
    });
    world.assert_none_failed("rolling update of the agents", &pages);
    assert_all_enrolled(world);
    assert_probed_answers(world);
}

pub(crate) fn the_control_plane_and_the_api_server_may_be_away(world: &World) {
    let pages = world.under_load(|| {
        world.kubectl(&[
            "-n",
            SYSTEM,
            "delete",
            "pods",
            "-l",
            "app=istiod",
            "--grace-period=1",
        ]);
        world
            .mesh()
            .wait_rolled_out("deployment/aquifer-control", PATIENCE)
            .unwrap();
    });
    world.assert_none_failed("restart of the control plane", &pages);

    let cluster = world.cluster();
    let pages = world.under_load(|| {
        cluster.stop_service(Member::Control, "kube-apiserver").unwrap();
        world.settled("bookinfo answers without the API server", |_| true);
        cluster.start_service(Member::Control, "kube-apiserver").unwrap();
        cluster
            .kubectl()
            .until_it_succeeds(&["get", "--raw", "/readyz"], PATIENCE)
            .unwrap();
    });
    world.assert_none_failed("loss of the API server", &pages);

    // And then everything goes on: a new pod is enrolled.
    renew_probed(world);
}

/// Connections that were open may be cut; new ones wait or are refused, and work again when the agent is back.
pub(crate) fn a_killed_agent_comes_back_and_nothing_was_plain_meanwhile(world: &World) {
    let mut back = None;
    let pages = world.under_load(|| {
        let killed = Instant::now();
        let kill = "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = aquifer-agent ] && kill -9 ${p#/proc/} && echo killed; done";
        assert!(world.in_node(Member::Node(1), kill).contains("killed"));
        world.settled("bookinfo answers again", |_| true);
        back = Some(killed.elapsed());
    });
    eprintln!(
        "killed agent: served again after {} ms, {} of {} requests failed meanwhile",
        back.unwrap_or_default().as_millis(),
        pages.failures,
        pages.requests
    );
    assert!(pages.clean_at_the_end > 0, "{pages:?}");
    world.until("the killed agent is ready", |status| {
        let mut agents = status.pods_of(SYSTEM, "aquifer-agent");
        agents.all(|pod| pod.ready)
            && status
                .pods_of(SYSTEM, "aquifer-agent")
                .any(|pod| pod.restarts == 1)
    });
    assert_all_enrolled(world);
}

/// Replaces pods and waits until the new ones are enrolled.
fn renew_probed(world: &World) {
    let first = uids(world, NAMESPACE, "probed");
    world.kubectl(&["-n", NAMESPACE, "rollout", "restart", "deployment/probed"]);
    world.until("pods that came later are enrolled", |status| {
        let pods: Vec<_> = status.pods_of(NAMESPACE, "probed").collect();
        pods.len() == first.len()
            && pods
                .iter()
                .all(|pod| pod.enrolled && pod.ready && !first.contains(&pod.uid))
    });
}

/// Each pod by its own address: one whose connections nobody takes would not answer.
fn assert_probed_answers(world: &World) {
    let status = world.status();
    for pod in status.pods_of(NAMESPACE, "probed") {
        let url = format!("http://{}:8080/", pod.ip.unwrap());
        let answer = world.get_from(NAMESPACE, "client", &url);
        assert!(answer.is_ok(), "{}: {answer:?}", pod.name);
    }
}

fn uids(world: &World, namespace: &str, workload: &str) -> Vec<String> {
    let status = world.status();
    let pods = status.pods_of(namespace, workload);
    pods.map(|pod| pod.uid.clone()).collect()
}

/// Nobody was withdrawn meanwhile: peers would have talked plaintext.
fn assert_all_enrolled(world: &World) {
    let status = world.status();
    assert!(
        World::application(&status).iter().all(|pod| pod.enrolled),
        "{status}"
    );
}
