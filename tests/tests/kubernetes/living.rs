//! Upgrades and failures under load.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use aquifer_tests::cluster::layout::Member;
use aquifer_tests::demo::capture::Seen;
use aquifer_tests::lab::status::PodStatus;

use super::gateways::INGRESS;
use super::world::{NAMESPACE, PATIENCE, SYSTEM, World};

/// Seconds that control plane and API server stay away at least; without it, and in CI, a moment.
const ABSENCE_ENV: &str = "AQUIFER_ABSENCE_SECONDS";

pub(crate) fn a_rolling_update_of_the_agents_fails_no_request(world: &World) {
    encrypted_and_unfailing(world, "rolling update of the agents", || roll_agents(world));
    assert_all_enrolled(world);
    assert_probed_answers(world);
}

/// One after the other: who has not heard of the new pod comes to the old one, which has been told to end.
pub(crate) fn replaced_waypoints_and_gateways_fail_no_request(world: &World) {
    encrypted_and_unfailing(world, "another waypoint", || {
        replace(world, NAMESPACE, "waypoint");
    });

    world.apply_sample("bookinfo/bookinfo-gateway");
    let way = world.way_into(SYSTEM, INGRESS, 80);
    world.answers("pages come through the gateway", way.address);
    let pages = world.under_load_at(way.address, || replace(world, SYSTEM, INGRESS));
    world.assert_none_failed("another gateway", &pages);
    let made = [
        "gateways.networking.istio.io/bookinfo-gateway",
        "virtualservices/bookinfo",
    ];
    world.kubectl(&["-n", NAMESPACE, "delete", made[0], made[1]]);
}

/// Until the old pods are gone.
fn replace(world: &World, namespace: &str, name: &str) {
    let before = uids(world, namespace, name);
    world.kubectl(&[
        "-n",
        namespace,
        "rollout",
        "restart",
        &format!("deployment/{name}"),
    ]);
    world.until("only new ones are left", |status| {
        let mut now = status.pods_of(namespace, name).peekable();
        now.peek().is_some() && now.all(|pod| pod.ready && !before.contains(&pod.uid))
    });
    world.settled("bookinfo answers after it", |_| true);
}

/// Replaces every agent, and pods that start while two are on a node.
pub(crate) fn roll_agents(world: &World) {
    let before = restart_agents(world);
    renew_probed(world);
    agents_are_replaced(world, &before);
}

/// Begins it; the agents of before.
fn restart_agents(world: &World) -> Vec<String> {
    let before = uids(world, SYSTEM, "aquifer-agent");
    world.kubectl(&["-n", SYSTEM, "rollout", "restart", "daemonset/aquifer-agent"]);
    before
}

fn agents_are_replaced(world: &World, before: &[String]) {
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
}

pub(crate) fn the_control_plane_and_the_api_server_may_be_away(world: &World) {
    encrypted_and_unfailing(world, "loss of the leader", || {
        let before = killed_leader(world);
        world.wait("another one leads, or the same one anew", || {
            let now = leader(world);
            let restarted = world.status();
            let mut control = restarted.pods_of(SYSTEM, "aquifer-control");
            if now != before || control.any(|pod| pod.name == before && pod.restarts > 0) {
                return Ok(());
            }
            Err(format!("{now} leads"))
        });
    });

    encrypted_and_unfailing(world, "absence of the control plane", || {
        let scale = |replicas| {
            let replicas = format!("--replicas={replicas}");
            world.kubectl(&["-n", SYSTEM, "scale", "deployment/aquifer-control", &replicas]);
        };
        scale(0);
        world.until("no control plane is left", |status| {
            status.pods_of(SYSTEM, "aquifer-control").next().is_none()
        });
        // A new agent, which cannot know the mesh, leaves the pods to the old one.
        let before = restart_agents(world);
        world.wait("a new agent has started beside an old one", || {
            started_beside(world, &before)
        });
        served_meanwhile(world, "bookinfo answers without a control plane");
        scale(2);
        world
            .mesh()
            .wait_rolled_out("deployment/aquifer-control", PATIENCE)
            .unwrap();
        agents_are_replaced(world, &before);
    });

    let cluster = world.cluster();
    encrypted_and_unfailing(world, "loss of the API server", || {
        cluster.stop_service(Member::Control, "kube-apiserver").unwrap();
        served_meanwhile(world, "bookinfo answers without the API server");
        cluster.start_service(Member::Control, "kube-apiserver").unwrap();
        cluster
            .kubectl()
            .until_it_succeeds(&["get", "--raw", "/readyz"], PATIENCE)
            .unwrap();
    });

    // And then everything goes on: a new pod is enrolled.
    renew_probed(world);
}

fn started_beside(world: &World, before: &[String]) -> Result<(), String> {
    let status = world.status();
    let agents = status.pods_of(SYSTEM, "aquifer-agent");
    let log = |pod: &PodStatus| {
        world
            .api()
            .run(&["-n", SYSTEM, "logs", &pod.name])
            .unwrap_or_default()
    };
    let mut new = agents.filter(|pod| !before.contains(&pod.uid)).map(log);
    match new.any(|log| log.contains("agent started")) {
        true => Ok(()),
        false => Err("no new agent has started".to_owned()),
    }
}

/// Pages are served, for as long as the run is to be.
fn served_meanwhile(world: &World, what: &str) {
    let least = std::env::var(ABSENCE_ENV).map_or(Duration::ZERO, |text| {
        Duration::from_secs(text.parse().expect("a number of seconds"))
    });
    let start = Instant::now();
    world.settled(what, |_| true);
    while start.elapsed() < least {
        world.settled(what, |_| true);
    }
}

/// Kills the one that writes. Just after a rollout it may be nobody's turn, or that of a pod that is gone.
fn killed_leader(world: &World) -> String {
    let killed = RefCell::new(String::new());
    world.wait("the leader is killed", || {
        let leader = leader(world);
        let status = world.status();
        let pod = status.pods.iter().find(|pod| pod.name == leader);
        let node = pod.and_then(|pod| pod.node.parse().ok());
        match node.map(|node| kill(world, node, "aquifer-control")) {
            Some(1..) => {
                killed.replace(leader);
                Ok(())
            }
            _ => Err(format!("{leader:?} leads, and is not there")),
        }
    });
    killed.into_inner()
}

/// The pod that writes; empty while none does.
fn leader(world: &World) -> String {
    let template = "jsonpath={.spec.holderIdentity}";
    world.kubectl(&["-n", SYSTEM, "get", "lease", "aquifer-leader", "-o", template])
}

/// Kills every process of that name on a node; tells how many there were.
pub(crate) fn kill(world: &World, node: Member, program: &str) -> usize {
    let script = format!(
        "for p in /proc/[0-9]*; do [ \"$(cat $p/comm 2>/dev/null)\" = {program} ] && kill -9 ${{p#/proc/}} && echo killed; done"
    );
    world.in_node(node, &script).lines().count()
}

/// How often the agent is killed, each time as soon as it works again.
const KILLS: u32 = 3;

/// Connections that were open may be cut; new ones wait or are refused, and work again when the agent is back.
pub(crate) fn a_killed_agent_comes_back_and_nothing_was_plain_meanwhile(world: &World) {
    let mut back = Vec::new();
    let mut pages = None;
    let seen = world.watched(|| {
        pages =
            Some(world.under_load(|| back = (1..=KILLS).map(|nth| killed_and_back(world, nth)).collect()));
    });
    let pages = pages.unwrap();
    eprintln!(
        "agent killed {KILLS} times in a row: served again after {back:?} ms, {} of {} requests failed meanwhile",
        pages.failures, pages.requests
    );
    // That it serves again was seen each time; what began before may fail slowly, and end last.
    assert!(pages.failures < pages.requests, "{pages:?}");
    assert_encrypted(&seen);
    assert_all_enrolled(world);
}

/// Milliseconds from the kill to pages served again, for the nth time. The kubelet waits longer each time before it starts
/// a container anew.
fn killed_and_back(world: &World, nth: u32) -> u128 {
    let start = Instant::now();
    assert_eq!(kill(world, Member::Node(1), "aquifer-agent"), 1);
    world.until("the killed agent is ready", |status| {
        let mut agents = status.pods_of(SYSTEM, "aquifer-agent");
        agents.any(|pod| pod.ready && pod.restarts == nth && pod.node == "node-1")
    });
    world.settled("bookinfo answers again", |_| true);
    start.elapsed().as_millis()
}

/// Does something under load: no request fails meanwhile, and no node and no pod has anything plain on its links.
pub(crate) fn encrypted_and_unfailing(world: &World, what: &str, act: impl FnOnce()) {
    let mut pages = None;
    let seen = world.watched(|| pages = Some(world.under_load(act)));
    world.assert_none_failed(what, &pages.unwrap());
    assert_encrypted(&seen);
}

/// Something went through tunnels, and nothing beside them.
pub(crate) fn assert_encrypted(seen: &Seen) {
    let mesh = seen.mesh();
    eprintln!("watched: {mesh:?}, {} not seen", seen.dropped);
    assert!(mesh.hbone > 0 && mesh.plaintext == 0, "{seen:?}");
    assert!(
        seen.dropped * 100 <= mesh.packets,
        "too much was not seen: {seen:?}"
    );
}

/// Replaces pods and waits until the new ones are enrolled.
pub(crate) fn renew_probed(world: &World) {
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
        world.reaches(NAMESPACE, "client", &url);
    }
}

fn uids(world: &World, namespace: &str, workload: &str) -> Vec<String> {
    let status = world.status();
    let pods = status.pods_of(namespace, workload);
    pods.map(|pod| pod.uid.clone()).collect()
}

/// Nobody was withdrawn meanwhile: peers would have talked plaintext.
pub(crate) fn assert_all_enrolled(world: &World) {
    let status = world.status();
    assert!(
        World::application(&status).iter().all(|pod| pod.enrolled),
        "{status}"
    );
}
