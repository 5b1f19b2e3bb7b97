//! Enrolling and un-enrolling what runs, and agents that die.

use crate::world::{World, eventually, field};

#[test]
fn running_pods_leave_and_join_without_a_restart() {
    let Some(world) = World::new("join") else { return };
    let direct = format!("{}:8080", world.ip("mesh/web"));
    for round in 0..2 {
        world.get("mesh/client", "web:80").unwrap();
        world.opt(false);
        let answer = world.get("mesh/client", &direct).unwrap();
        assert!(
            field(&answer, "client").starts_with(&world.ip("mesh/client")),
            "{answer}"
        );
        world.get("mesh/client", "web:80").unwrap();
        world.opt(true);
        let answer = world.get("mesh/client", &direct).unwrap();
        assert!(
            field(&answer, "client").starts_with(&world.ip("mesh/client")),
            "round {round}: {answer}"
        );
    }
    let pods = world.lab.status().unwrap().pods;
    assert!(pods.iter().all(|pod| pod.restarts == 0), "{pods:?}");
}

#[test]
fn traffic_fails_closed_without_agents_and_recovers_unaided() {
    let Some(world) = World::new("sigkill") else {
        return;
    };
    let direct = format!("{}:8080", world.ip("mesh/web"));
    world.get("mesh/client", "web:80").unwrap();
    world.end_agents(libc::SIGKILL);

    world.get("mesh/client", "web:80").unwrap_err();
    world.get("mesh/client", &direct).unwrap_err();
    world.get("default/outsider", &direct).unwrap_err();
    // An address of the mesh's ranges that nobody has is captured too; one outside of them is not.
    let to_plain = format!("{}:8080", world.ip("default/plain"));
    world.get("mesh/client", &to_plain).unwrap_err();
    // What the node itself opens is a probe.
    world.get_from_node(&world.pod("mesh/web").node, &direct).unwrap();

    world.lab.release(world.agents()).unwrap();
    for from in ["mesh/client", "default/outsider"] {
        eventually("traffic recovers", || world.get(from, &direct), Result::is_ok);
    }
    eventually(
        "services recover",
        || world.get("mesh/client", "web:80"),
        Result::is_ok,
    );
    world.get("mesh/client", &to_plain).unwrap();
}

#[test]
fn a_restarted_agent_never_talks_plaintext_to_the_mesh() {
    let Some(world) = World::new("restart") else {
        return;
    };
    world.get("mesh/client", "web:80").unwrap();
    for _ in 0..3 {
        world.lab.kill(world.agents(), libc::SIGKILL, false).unwrap();
        // Whenever an answer comes, it came through a tunnel: no plaintext connection to the web pods is logged.
        eventually(
            "traffic recovers",
            || world.get("mesh/client", "web:80"),
            Result::is_ok,
        );
    }
    let client = format!("src.addr={}:", world.ip("mesh/client"));
    let is_call = |line: &&str| line.contains(&client) && line.contains("connection complete");
    let logs = world.told("calls of the client", |logs| {
        logs.lines().any(|line| is_call(&line))
    });
    for line in logs.lines().filter(is_call) {
        assert!(line.contains("hbone_addr"), "not through a tunnel: {line}");
    }
}

#[test]
fn the_agent_ends_in_order_when_told() {
    let Some(world) = World::new("sigterm") else {
        return;
    };
    world.get("mesh/client", "web:80").unwrap();
    world.end_agents(libc::SIGTERM);
    world.get("mesh/client", "web:80").unwrap_err();
    let logs = world.agent_logs();
    assert!(logs.contains("draining; pods stay captured"), "{logs}");
    world.lab.release(world.agents()).unwrap();
    eventually(
        "traffic recovers",
        || world.get("mesh/client", "web:80"),
        Result::is_ok,
    );
}
