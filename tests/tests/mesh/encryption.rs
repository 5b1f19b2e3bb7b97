//! What the wire shows, and what the application sees.

use crate::sniffer::{Found, Sniffer};
use crate::world::{World, field};

#[test]
fn pod_to_pod_is_encrypted() {
    let Some(world) = World::new("encrypted") else {
        return;
    };
    // Every answer to the client names it; answers to probes name the node.
    let text = format!("client {}:", world.ip("mesh/client"));
    world.opt(false);
    let plain = seen_of_calls(&world, &text);
    assert!(
        plain.with_text > 0,
        "a sniffer that finds nothing proves nothing: {plain:?}"
    );

    world.opt(true);
    let meshed = seen_of_calls(&world, &text);
    assert!(meshed.packets > 0);
    assert_eq!(meshed.with_text, 0, "{meshed:?}");
}

/// What is on the links while the client calls every pod.
fn seen_of_calls(world: &World, text: &str) -> Found {
    let sniffer = Sniffer::start(&world.lab, text);
    call_every_pod(world);
    sniffer.stop()
}

/// Both web pods, of which one is on another node than the client.
fn call_every_pod(world: &World) {
    for pod in world.pods("mesh/web") {
        let target = format!("{}:8080", pod.ip.unwrap());
        world.get("mesh/client", &target).unwrap();
    }
}

#[test]
fn the_application_sees_its_client() {
    let Some(world) = World::new("client-ip") else {
        return;
    };
    let client = world.ip("mesh/client");
    for target in ["web:80", &format!("{}:8080", world.ip("mesh/web"))] {
        let answer = world.get("mesh/client", target).unwrap();
        let seen = field(&answer, "client").parse::<std::net::SocketAddr>().unwrap();
        assert_eq!(seen.ip().to_string(), client, "{target}");
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let Some(world) = World::new("hairpin") else {
        return;
    };
    let own = world.pod("mesh/web");
    let from = format!("mesh/{}", own.name);
    let mut met_itself = false;
    for _ in 0..40 {
        let answer = world.get(&from, "web:80").unwrap();
        met_itself |= field(&answer, "local").starts_with(&format!("{}:", own.ip.unwrap()));
    }
    assert!(met_itself, "of 40 calls to two endpoints none came back");
}

#[test]
fn a_listener_on_loopback_stays_unreachable() {
    let Some(world) = World::new("loopback") else {
        return;
    };
    let pod = world.pod("mesh/web");
    let inside = world
        .get(&format!("mesh/{}", pod.name), "127.0.0.1:7070")
        .unwrap();
    assert!(inside.contains("pod"), "{inside}");
    for from in ["mesh/client", "default/outsider"] {
        let target = format!("{}:7070", pod.ip.unwrap());
        world.get(from, &target).unwrap_err();
    }
}

#[test]
fn an_unlabelled_namespace_is_untouched() {
    let Some(world) = World::new("untouched") else {
        return;
    };
    world.end_agents(libc::SIGKILL);
    let target = format!("{}:8080", world.ip("default/plain"));
    let answer = world.get("default/outsider", &target).unwrap();
    assert!(
        field(&answer, "client").starts_with(&world.ip("default/outsider")),
        "{answer}"
    );
}
