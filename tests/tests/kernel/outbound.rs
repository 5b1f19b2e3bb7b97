//! Connections that pods open.

use std::time::{Duration, Instant};

use crate::protocol::{Dial, Event, Refusal, Request};
use crate::world::{A, B, C, D, OUTSIDE_V4, OUTSIDE_V6, World};

fn outbound(events: &[Event]) -> Vec<Option<std::net::SocketAddr>> {
    let destination = |event: &Event| match event {
        Event::Outbound { destination, .. } => Some(*destination),
        Event::Inbound { .. } => None,
    };
    events.iter().filter_map(destination).collect()
}

#[test]
fn a_captured_connection_reaches_the_agent_with_its_original_destination() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let port = c.listen("[::]:0");
    agent.enrol(world.spec(A));
    for (destination, own) in [(C.at_v4(port), A.v4()), (C.at_v6(port), A.v6())] {
        let seen = a.connect(destination);
        assert_eq!(seen.peer, destination, "getpeername() shows what was dialled");
        assert_eq!(seen.local.ip(), own, "getsockname() shows no loopback address");
        assert_eq!(outbound(&agent.events()), [Some(destination)]);
    }
}

#[test]
fn a_v4_mapped_destination_of_a_dual_stack_socket_is_captured() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let port = c.listen("0.0.0.0:0");
    agent.enrol(world.spec(A));
    let seen = a.dial(Dial {
        dual_stack: true,
        ..Dial::to(C.at_v4(port))
    });
    assert_eq!(seen.peer.ip().to_canonical(), C.v4());
    assert!(seen.peer.is_ipv6(), "the application's own spelling: {seen:?}");
    assert_eq!(seen.local.ip().to_canonical(), A.v4());
    assert!(seen.local.is_ipv6(), "the application's own spelling: {seen:?}");
    assert_eq!(outbound(&agent.events()), [Some(C.at_v4(port))]);
}

#[test]
fn an_mptcp_socket_does_not_slip_through() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let port = c.listen("0.0.0.0:0");
    agent.enrol(world.spec(A));
    let seen = a.dial(Dial {
        mptcp: true,
        ..Dial::to(C.at_v4(port))
    });
    assert_eq!(seen.server.peer.ip(), A.v4());
    assert_eq!(outbound(&agent.events()), [Some(C.at_v4(port))]);
}

#[test]
fn a_socket_bound_to_the_pods_address_is_captured() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let port = c.listen("[::]:0");
    agent.enrol(world.spec(A));
    for (bind, destination) in [(A.v4(), C.at_v4(port)), (A.v6(), C.at_v6(port))] {
        let seen = a.dial(Dial {
            bind: Some(bind),
            ..Dial::to(destination)
        });
        assert_eq!((seen.local.ip(), seen.peer), (bind, destination));
        assert_eq!(outbound(&agent.events()), [Some(destination)]);
    }
}

#[test]
fn a_socket_bound_to_a_device_is_refused_at_once_inside_the_mesh_only() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c, mut outside) = (world.agent(), world.pod(A), world.pod(C), world.outside());
    let port = c.listen("[::]:0");
    let outside_port = outside.listen("0.0.0.0:0");
    agent.enrol(world.spec(A));
    let bound = |to| Dial {
        device: Some("eth0".to_owned()),
        ..Dial::to(to)
    };
    for destination in [C.at_v4(port), C.at_v6(port)] {
        assert_eq!(
            a.refused_dial(bound(destination)),
            Refusal::Errno(libc::ENETUNREACH)
        );
    }
    a.dial(bound(
        format!("{OUTSIDE_V4}:{outside_port}")
            .parse()
            .expect("an address"),
    ));
    assert_eq!(agent.events(), []);
}

#[test]
fn a_destination_outside_the_ranges_passes_untouched() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut outside) = (world.agent(), world.pod(A), world.outside());
    let port = outside.listen("[::]:0");
    agent.enrol(world.spec(A));
    for (destination, source) in [
        (format!("{OUTSIDE_V4}:{port}"), A.v4()),
        (format!("[{OUTSIDE_V6}]:{port}"), A.v6()),
    ] {
        let seen = a.connect(destination.parse().expect("an address"));
        assert_eq!(
            (seen.local.ip(), seen.server.peer.ip().to_canonical()),
            (source, source)
        );
    }
    assert_eq!(agent.events(), []);
}

#[test]
fn an_unknown_address_inside_the_ranges_is_captured() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a) = (world.agent(), world.pod(A));
    agent.enrol(world.spec(A));
    let service = "10.96.0.10:80".parse().expect("an address");
    // Nobody answers there; the agent is told all the same.
    a.refused(service);
    assert_eq!(outbound(&agent.events()), [Some(service)]);
}

#[test]
fn a_pod_that_is_not_enrolled_is_left_alone() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut c, mut d) = (world.agent(), world.pod(C), world.pod(D));
    agent.enrol(world.spec(A));
    let port = d.listen("[::]:0");
    for (destination, source) in [(D.at_v4(port), C.v4()), (D.at_v6(port), C.v6())] {
        let seen = c.connect(destination);
        assert_eq!((seen.local.ip(), seen.peer), (source, destination));
        assert_eq!(seen.server.peer.ip().to_canonical(), source);
    }
    assert_eq!(agent.events(), []);
}

#[test]
fn the_agents_own_connections_are_not_captured() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut b) = (world.agent(), world.pod(A), world.pod(B));
    let port = b.listen("0.0.0.0:0");
    agent.enrol(world.spec(A));
    agent.enrol(world.spec(B));
    let seen = a.connect(B.at_v4(port));
    // One outbound, one inbound: the agent's dial from a's namespace was not captured in turn.
    let events = agent.events();
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(outbound(&events), [Some(B.at_v4(port))]);
    assert_eq!(seen.server.peer.ip(), A.v4());
}

#[test]
fn a_pod_reaches_itself_without_the_mesh() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a) = (world.agent(), world.pod(A));
    let port = a.listen("[::]:0");
    agent.enrol(world.spec(A));
    let loopback =
        ["127.0.0.1", "[::1]", "0.0.0.0"].map(|ip| format!("{ip}:{port}").parse().expect("an address"));
    for destination in [A.at_v4(port), A.at_v6(port)].into_iter().chain(loopback) {
        let seen = a.connect(destination);
        assert_eq!(
            seen.server.peer.ip().to_canonical(),
            seen.local.ip(),
            "nothing substituted: {seen:?}"
        );
    }
    // From loopback to its address, as the agent delivers: an application that trusts localhost is
    // not told that it is talking to it when the kernel knows no client.
    let local = ["127.0.0.1", "::1"].map(|ip| ip.parse().expect("an address"));
    for (bind, destination) in [(local[0], A.at_v4(port)), (local[1], A.at_v6(port))] {
        let seen = a.dial(Dial {
            bind: Some(bind),
            ..Dial::to(destination)
        });
        assert_eq!(seen.server.accepted.ip().to_canonical(), destination.ip());
        assert_eq!(seen.server.accepted.port(), seen.local.port());
    }
    assert_eq!(agent.events(), []);
}

#[test]
fn dialling_the_agents_listener_itself_leads_nowhere() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a) = (world.agent(), world.pod(A));
    agent.enrol(world.spec(A));
    for address in ["127.0.0.1:15001", "[::1]:15001", "127.0.0.1:15006", "[::1]:15006"] {
        assert_eq!(
            a.refused(address.parse().expect("an address")),
            Refusal::ClosedBeforeGreeting,
            "{address}"
        );
    }
    assert_eq!(outbound(&agent.events()), [None, None]);
}

#[test]
fn a_socket_that_failed_inside_the_mesh_forgets_it() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut outside) = (world.agent(), world.pod(A), world.outside());
    let port = outside.listen("0.0.0.0:0");
    agent.enrol(world.spec(A));
    agent.done(&Request::DropListeners);
    let second = format!("{OUTSIDE_V4}:{port}").parse().expect("an address");
    match a.ask(&Request::ConnectTwice(C.at_v4(80), second)) {
        crate::protocol::Reply::Connected(seen) => assert_eq!(seen.peer, second),
        other => panic!("{other:?}"),
    }
}

#[test]
fn tcp_fast_open_does_not_slip_through() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let port = c.listen("[::]:0");
    agent.enrol(world.spec(A));
    for destination in [C.at_v4(port), C.at_v6(port)] {
        a.dial(Dial {
            fast_open: true,
            ..Dial::to(destination)
        });
        assert_eq!(outbound(&agent.events()), [Some(destination)]);
    }
}

#[test]
fn datagrams_pass_untouched_in_both_directions() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    agent.enrol(world.spec(A));
    let at_a = a.listen_datagrams("[::]:0");
    let at_c = c.listen_datagrams("[::]:0");
    for (from_a, from_c) in [(C.at_v4(at_c), A.at_v4(at_a)), (C.at_v6(at_c), A.at_v6(at_a))] {
        assert_eq!(a.datagram(from_a).ip().to_canonical(), from_c.ip());
        assert_eq!(c.datagram(from_c).ip().to_canonical(), from_a.ip());
    }
    assert_eq!(agent.events(), []);
}

#[test]
fn refusals_are_logged_but_not_each_of_them() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a) = (world.agent(), world.pod(A));
    let cookie = agent.enrol(world.spec(A));
    let bound = Dial {
        device: Some("eth0".to_owned()),
        ..Dial::to(C.at_v4(80))
    };
    let began = Instant::now();
    for _ in 0..20 {
        a.refused_dial(bound.clone());
    }
    let took = began.elapsed();
    let first = agent.kernel_log(Duration::from_secs(60)).expect("a line");
    let pod = format!("network namespace {cookie:x}:");
    assert!(
        first.contains(&pod) && first.contains("SO_BINDTODEVICE"),
        "{first}"
    );
    let more: Vec<String> = std::iter::from_fn(|| agent.kernel_log(Duration::from_secs(5))).collect();
    assert!(
        more.len() as u64 <= took.as_secs(),
        "20 refusals in {took:?} are a line for each second: {more:?}"
    );
}
