//! Connections that pods receive.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::protocol::{Dial, Event, Refusal, Request};
use crate::world::{A, B, C, D, NODE_V4, OUTSIDE_V4, Place, World};

/// Any port that nobody in a pod listens on.
const SHARED_PORT: u16 = 40_000;

#[test]
fn an_inbound_connection_is_steered_with_its_local_address_kept() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let port = a.listen("[::]:0");
    agent.enrol(world.spec(A));
    for (destination, source) in [(A.at_v4(port), C.v4()), (A.at_v6(port), C.v6())] {
        let seen = c.connect(destination);
        assert_eq!((seen.local.ip(), seen.peer), (source, destination));
        assert_eq!(
            agent.events(),
            [Event::Inbound {
                from: seen.local,
                destination
            }]
        );
    }
}

#[test]
fn the_application_sees_the_clients_address() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let (dual, v4) = (a.listen("[::]:0"), a.listen("0.0.0.0:0"));
    agent.enrol(world.spec(A));
    for destination in [A.at_v4(dual), A.at_v6(dual), A.at_v4(v4)] {
        let seen = c.connect(destination);
        assert_eq!(canonical(seen.server.accepted), canonical(seen.local), "accept()");
        assert_eq!(
            canonical(seen.server.peer),
            canonical(seen.local),
            "getpeername()"
        );
        assert_eq!(canonical(seen.server.local), canonical(destination));
        let mapped = destination.is_ipv4() && destination.port() == dual;
        assert_eq!(
            seen.server.peer.is_ipv6(),
            destination.is_ipv6() || mapped,
            "the socket's own family"
        );
    }
}

#[test]
fn many_clients_at_once_are_not_mixed_up() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c, mut d) = (world.agent(), world.pod(A), world.pod(C), world.pod(D));
    let port = a.listen("0.0.0.0:0");
    agent.enrol(world.spec(A));
    for _ in 0..50 {
        for client in [&mut c, &mut d] {
            let seen = client.connect(A.at_v4(port));
            assert_eq!(seen.server.accepted, seen.local);
        }
    }
}

#[test]
fn a_listener_on_loopback_stays_unreachable() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let port = a.listen("127.0.0.1:0");
    agent.enrol(world.spec(A));
    assert_eq!(c.refused(A.at_v4(port)), Refusal::ClosedBeforeGreeting);
    assert_eq!(
        agent.events().len(),
        1,
        "the agent was asked, the application was not"
    );
}

/// The reset of a closed port has to find its way back to the agent, in both families.
#[test]
fn a_closed_port_is_refused_and_not_waited_for() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let port = a.listen("127.0.0.1:0");
    agent.enrol(world.spec(A));
    for destination in [A.at_v4(port), A.at_v6(port)] {
        assert_eq!(
            c.refused(destination),
            Refusal::ClosedBeforeGreeting,
            "{destination}"
        );
    }
}

#[test]
fn without_a_listener_of_the_agent_nothing_gets_in() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a) = (world.agent(), world.pod(A));
    let (mut b, mut c, mut kubelet) = (world.pod(B), world.pod(C), world.kubelet());
    let port = a.listen("[::]:0");
    agent.enrol(world.spec(A));
    agent.enrol(world.spec(B));
    agent.done(&Request::DropListeners);
    for destination in [A.at_v4(port), A.at_v6(port)] {
        assert_eq!(
            c.refused(destination),
            Refusal::Errno(libc::ECONNREFUSED),
            "from a pod outside the mesh"
        );
        assert_eq!(
            b.refused(destination),
            Refusal::Errno(libc::ECONNREFUSED),
            "from a pod in the mesh"
        );
        let seen = a.connect(destination);
        assert_eq!(
            seen.server.peer.ip().to_canonical(),
            destination.ip(),
            "from itself"
        );
        kubelet.connect(destination);
    }
}

/// The rule that lets a pod talk to itself compares addresses: another pod must not profit.
#[test]
fn a_pod_cannot_pose_as_its_victim() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let port = a.listen("[::]:0");
    agent.enrol(world.spec(A));
    // c takes a's addresses as its own, and sends to a through eth0 all the same.
    let pose = |ip: IpAddr, bits: u8| {
        format!(
            "address add {ip}/{bits} dev lo\nrule add pref 1 to {ip} table 7\nroute add {ip} dev eth0 table 7\nrule add pref 2 table local\nrule delete pref 0\n"
        )
    };
    world.batch("c", &pose(A.v4(), 32));
    world.batch_v6("c", &pose(A.v6(), 128));
    for (source, destination) in [(A.v4(), A.at_v4(port)), (A.v6(), A.at_v6(port))] {
        let arrived = world.count_arriving(A, source);
        let dial = Dial {
            bind: Some(source),
            patience: Some(Duration::from_secs(5)),
            ..Dial::to(destination)
        };
        assert_eq!(
            c.refused_dial(dial),
            Refusal::TimedOut,
            "no handshake from {source}"
        );
        assert!(arrived() > 0, "or nothing was proven: the SYN must reach the pod");
    }
    assert_eq!(agent.events(), [], "not even the agent saw them");
}

#[test]
fn a_probe_from_the_node_passes_and_forwarded_traffic_does_not() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a) = (world.agent(), world.pod(A));
    let (mut kubelet, mut outside) = (world.kubelet(), world.outside());
    let port = a.listen("[::]:0");
    agent.enrol(world.spec(A));
    for destination in [A.at_v4(port), A.at_v6(port)] {
        let seen = kubelet.connect(destination);
        assert_eq!(seen.server.peer.ip().to_canonical(), seen.local.ip());
    }
    assert_eq!(agent.events(), [], "probes do not pass through the agent");

    world.masquerade_forwarded();
    let seen = outside.connect(A.at_v4(port));
    assert_eq!(seen.local.ip(), OUTSIDE_V4.parse::<IpAddr>().expect("an address"));
    let events = agent.events();
    let [Event::Inbound { from, .. }] = events.as_slice() else {
        panic!("forwarded traffic was to reach the agent: {events:?}");
    };
    assert_eq!(
        from.ip().to_string(),
        NODE_V4,
        "it came from the node's address, and was captured"
    );
}

#[test]
fn a_connection_of_the_node_that_ended_leaves_no_hole() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut kubelet) = (world.agent(), world.pod(A), world.kubelet());
    let port = a.listen("0.0.0.0:0");
    agent.enrol(world.spec(A));
    kubelet.connect(A.at_v4(port));
    assert_eq!(world.node_connections(), 1);
    kubelet.kill();
    world.wait_until("the record is gone", || world.node_connections() == 0);
    assert_eq!(agent.events(), []);
}

#[test]
fn clients_of_ended_connections_are_forgotten() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let port = a.listen("0.0.0.0:0");
    agent.enrol(world.spec(A));
    for _ in 0..3 {
        c.connect(A.at_v4(port));
    }
    assert_eq!(world.clients(), 3);
    agent.kill();
    world.wait_until("the records are gone", || world.clients() == 0);
}

/// The agent delivers from loopback, where the pod's own captured connections come from as well. Were the client of a
/// delivery looked up by its source port alone, the agent would be told that client by its accept() of the captured one.
#[test]
fn a_captured_connection_may_share_the_port_of_a_delivery() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let (served, far) = (a.listen("[::]:0"), c.listen("[::]:0"));
    agent.enrol(world.spec(A));
    world.single_local_port(A, SHARED_PORT);
    let at: [fn(Place, u16) -> SocketAddr; 2] = [Place::at_v4, Place::at_v6];
    for (at, loopback) in at.into_iter().zip(["127.0.0.1", "::1"]) {
        let loopback = SocketAddr::new(loopback.parse().expect("an address"), SHARED_PORT);
        let delivery = c.connect(at(A, served));
        assert_eq!(canonical(delivery.server.accepted), canonical(delivery.local));
        agent.events();

        let captured = a.connect(at(C, far));
        assert_eq!(captured.peer, at(C, far));
        assert_eq!(
            agent.events(),
            [Event::Outbound {
                from: loopback,
                destination: Some(at(C, far))
            }]
        );
        for (actor, connection) in [(&mut c, delivery.connection), (&mut a, captured.connection)] {
            let line = "still there".to_owned();
            actor.done(&Request::Echo { connection, line });
        }
    }
}

#[test]
fn deliveries_from_one_port_have_their_own_clients() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c, mut d) = (world.agent(), world.pod(A), world.pod(C), world.pod(D));
    let (first, second) = (a.listen("0.0.0.0:0"), a.listen("0.0.0.0:0"));
    agent.enrol(world.spec(A));
    world.single_local_port(A, SHARED_PORT);
    let seen = c.connect(A.at_v4(first));
    assert_eq!(seen.server.accepted, seen.local);
    let seen = d.connect(A.at_v4(second));
    assert_eq!(
        (seen.server.accepted, seen.server.peer),
        (seen.local, seen.local),
        "the other delivery's client is not shown"
    );
    assert_eq!(world.clients(), 2);

    // The end of one leaves the other's record alone.
    c.kill();
    world.wait_until("the first client is forgotten", || world.clients() == 1);
    let line = "still there".to_owned();
    let connection = seen.connection;
    d.done(&Request::Echo { connection, line });
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
