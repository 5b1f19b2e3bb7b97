//! Enrolling, un-enrolling, and agents that die.

use aquifer_ebpf_abi::program;

use crate::protocol::{Refusal, Reply, Request};
use crate::world::{A, B, C, D, OUTSIDE_V4, World};

const ECONNREFUSED: Refusal = Refusal::Errno(libc::ECONNREFUSED);

#[test]
fn a_killed_agent_leaves_pods_closed_and_the_next_one_adopts_them() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut b) = (world.agent(), world.pod(A), world.pod(B));
    let (mut c, mut outside) = (world.pod(C), world.outside());
    let (port, outside_port) = (b.listen("[::]:0"), outside.listen("0.0.0.0:0"));
    let mut enrolled = [A, B].map(|place| agent.enrol(world.spec(place)));
    enrolled.sort_unstable();
    a.connect(B.at_v4(port));
    agent.kill();

    for destination in [B.at_v4(port), B.at_v6(port)] {
        assert_eq!(a.refused(destination), ECONNREFUSED, "out of a pod");
        assert_eq!(c.refused(destination), ECONNREFUSED, "into a pod");
    }
    world.kubelet().connect(B.at_v4(port));
    a.connect(
        format!("{OUTSIDE_V4}:{outside_port}")
            .parse()
            .expect("an address"),
    );

    // As after an upgrade from an agent that had fewer programs.
    for name in [program::GETSOCKNAME4, program::GETSOCKNAME6] {
        world.forget_program(name);
    }
    let mut agent = world.agent();
    assert_eq!(agent.pods(&Request::Adopted), enrolled);
    assert_eq!(
        c.refused(B.at_v4(port)),
        ECONNREFUSED,
        "adopted, but nobody listens yet"
    );
    for place in [A, B] {
        agent.enrol(world.spec(place));
    }
    assert_eq!(agent.pods(&Request::Retain(enrolled.to_vec())), Vec::<u64>::new());
    for (destination, own) in [(B.at_v4(port), A.v4()), (B.at_v6(port), A.v6())] {
        let seen = a.connect(destination);
        assert_eq!(seen.local.ip(), own);
        assert_eq!(
            seen.server.peer.ip().to_canonical().is_ipv4(),
            destination.is_ipv4()
        );
    }
    assert_eq!(agent.events().len(), 4);
}

/// The programs read stable contexts, and are not fitted to the types of the kernel that runs.
#[test]
fn an_agent_does_without_the_kernels_btf() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut b) = (world.agent_without_btf(), world.pod(A), world.pod(B));
    assert!(!agent.sees_btf());
    for place in [A, B] {
        agent.enrol(world.spec(place));
    }
    let port = b.listen("[::]:0");
    for destination in [B.at_v4(port), B.at_v6(port)] {
        a.connect(destination);
    }
    assert_eq!(agent.events().len(), 4, "both ways, for both families");
}

#[test]
fn two_agents_overlap_without_a_refused_connection() {
    let Some(world) = World::build() else { return };
    let (mut old, mut a, mut b) = (world.agent(), world.pod(A), world.pod(B));
    let port = b.listen("0.0.0.0:0");
    for place in [A, B] {
        old.enrol(world.spec(place));
    }
    let before = a.connect(B.at_v4(port));
    let mut new = world.agent();
    a.connect(B.at_v4(port));
    for place in [A, B] {
        new.enrol(world.spec(place));
        a.connect(B.at_v4(port));
    }
    old.done(&Request::DropListeners);
    new.events();
    a.connect(B.at_v4(port));
    assert_eq!(new.events().len(), 2, "all new connections are the new agent's");
    a.done(&Request::Echo {
        connection: before.connection,
        line: "still served by the old one".to_owned(),
    });
}

#[test]
fn unenrolling_restores_plain_connectivity() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let (port, a_port) = (c.listen("0.0.0.0:0"), a.listen("0.0.0.0:0"));
    let cookie = agent.enrol(world.spec(A));
    let captured = a.connect(C.at_v4(port));
    agent.done(&Request::Unenrol(cookie));
    assert_eq!(agent.pods(&Request::Adopted), Vec::<u64>::new());
    agent.events();
    let seen = a.connect(C.at_v4(port));
    assert_eq!((seen.local.ip(), seen.server.peer), (A.v4(), seen.local));
    let seen = c.connect(A.at_v4(a_port));
    assert_eq!(seen.server.peer, seen.local);
    assert_eq!(agent.events(), []);
    a.done(&Request::Echo {
        connection: captured.connection,
        line: "drained, not cut".to_owned(),
    });
    agent.enrol(world.spec(A));
    a.connect(C.at_v4(port));
    assert_eq!(agent.events().len(), 1, "enrolled again");
}

/// A pod may get the address of another that is gone, before the agent has heard of the end.
#[test]
fn a_reused_address_is_the_new_pods() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut c, mut d) = (world.agent(), world.pod(C), world.pod(D));
    let gone = agent.enrol(world.spec(A));
    world.batch("a", &format!("address delete {}/24 dev eth0\n", A.v4()));
    world.batch("c", &format!("address add {}/24 dev eth0\n", A.v4()));
    let port = c.listen("0.0.0.0:0");
    let mut spec = world.spec(C);
    spec.ips.push(A.v4());
    agent.enrol(spec);
    agent.done(&Request::Unenrol(gone));
    let seen = d.connect(A.at_v4(port));
    assert_eq!(seen.server.accepted, seen.local);
    assert_eq!(agent.events().len(), 1, "captured still");
}

#[test]
fn connections_opened_before_enrolment_survive_it() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let (port, a_port) = (c.listen("0.0.0.0:0"), a.listen("0.0.0.0:0"));
    let (out, into) = (a.connect(C.at_v4(port)), c.connect(A.at_v4(a_port)));
    agent.enrol(world.spec(A));
    agent.done(&Request::DropListeners);
    a.done(&Request::Echo {
        connection: out.connection,
        line: "out".to_owned(),
    });
    c.done(&Request::Echo {
        connection: into.connection,
        line: "in".to_owned(),
    });
}

#[test]
fn pods_that_are_no_longer_wanted_are_let_go_by_the_next_agent() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let port = a.listen("0.0.0.0:0");
    let cookie = agent.enrol(world.spec(A));
    agent.kill();
    assert_eq!(c.refused(A.at_v4(port)), ECONNREFUSED);
    let mut agent = world.agent();
    assert_eq!(agent.pods(&Request::Retain(vec![])), [cookie]);
    c.connect(A.at_v4(port));
    assert_eq!(agent.events(), []);
}

#[test]
fn teardown_leaves_no_pin_and_no_program() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a, mut c) = (world.agent(), world.pod(A), world.pod(C));
    let port = a.listen("0.0.0.0:0");
    agent.enrol(world.spec(A));
    agent.kill();
    assert_eq!(c.refused(A.at_v4(port)), ECONNREFUSED);
    aquifer_agent::capture::Capture::teardown(&world.bpffs()).expect("tear down");
    assert_eq!(std::fs::read_dir(world.bpffs()).expect("the folder").count(), 0);
    c.connect(A.at_v4(port));
    aquifer_agent::capture::Capture::teardown(&world.bpffs()).expect("nothing to do is no error");
}

#[test]
fn pins_of_another_version_go_once_pods_are_enrolled() {
    let Some(world) = World::build() else { return };
    let other = world.bpffs().join("v999");
    for folder in ["links", "maps"] {
        std::fs::create_dir_all(other.join(folder)).expect("make a folder");
    }
    let mut agent = world.agent();
    assert!(other.exists(), "left alone until its pods are enrolled anew");
    let cookie = agent.enrol(world.spec(A));
    assert_eq!(agent.pods(&Request::Retain(vec![cookie])), Vec::<u64>::new());
    assert!(!other.exists());
}

#[test]
fn what_cannot_be_enrolled_is_said() {
    let Some(world) = World::build() else { return };
    let (mut agent, mut a) = (world.agent(), world.pod(A));
    let mut reason = |spec| match agent.ask(&Request::Enrol(spec)) {
        Reply::Failed(reason) => reason,
        other => panic!("{other:?}"),
    };
    assert!(reason(world.node_spec()).contains("host network"));
    let mut gone = world.spec(A);
    gone.netns = "/run/netns/aqk-none".into();
    assert!(reason(gone).contains("/run/netns/aqk-none"));
    let mut elsewhere = world.spec(A);
    elsewhere.cgroup = world.agent_config().node_cgroup.join("kubelet");
    assert!(reason(elsewhere).contains("not below the captured one"));
    let mut nowhere = world.spec(A);
    nowhere.ips.clear();
    assert!(reason(nowhere).contains("0 addresses"));
    a.listen("127.0.0.1:15006");
    assert!(reason(world.spec(A)).contains("cannot listen on 127.0.0.1:15006"));
}

#[test]
fn pins_of_another_layout_are_refused() {
    let Some(world) = World::build() else { return };
    world.pin_foreign_map("PODS");
    let mut agent = world.unloaded_agent();
    match agent.ask(&Request::Load(world.agent_config())) {
        Reply::Failed(reason) => assert!(reason.contains("another layout"), "{reason}"),
        other => panic!("{other:?}"),
    }
}
