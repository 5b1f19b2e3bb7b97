//! What TCP promises, an application gets: within the mesh, across its border, and beside it.

pub(crate) mod client;
pub(crate) mod server;

use crate::world::World;

/// Where the server's behaviours listen.
pub(crate) mod port {
    /// Sends back what comes, TCP and UDP, and ends when the client ends.
    pub(crate) const ECHO: u16 = 7001;
    /// Reads to the end, then answers what it was.
    pub(crate) const SINK: u16 = 7002;
    /// Sends much, ends its side, then waits for what the client makes of it.
    pub(crate) const SOURCE: u16 = 7003;
    /// Speaks first: whom it sees.
    pub(crate) const GREETING: u16 = 7004;
    /// Resets after the first byte.
    pub(crate) const RESET: u16 = 7005;
    /// Notices how a client ends; a client that opens with `?` is told how the last one did.
    pub(crate) const WATCH: u16 = 7006;
    /// Nobody listens.
    pub(crate) const CLOSED: u16 = 7999;
}

/// What goes each way in one piece: many times every buffer and window on the way.
pub(crate) const BULK: u64 = 100 * 1024 * 1024;

/// Bytes that depend on where they are: one that is lost, doubled or misplaced shows.
pub(crate) fn pattern(at: u64, buffer: &mut [u8]) {
    for (n, byte) in buffer.iter_mut().enumerate() {
        *byte = ((at + n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    }
}

fn converse(world: &World, from: &str, target: &str) {
    let said = world
        .run(from, &format!("converse {target}"))
        .unwrap_or_else(|error| panic!("{from} to {target}: {error}"));
    assert!(said.ends_with("all is well\n"), "{from} to {target}: {said}");
}

#[test]
fn applications_cannot_tell_whether_there_is_a_mesh() {
    let Some(world) = World::new("tcp") else { return };
    for (client, server) in [
        ("plain", "plain"),
        ("mesh", "mesh"),
        ("plain", "mesh"),
        ("mesh", "plain"),
    ] {
        let pod = world.pod(&format!("{server}/server"));
        for same_node in [true, false] {
            let from = world.client(client, &pod.node, same_node);
            converse(&world, &from, &pod.ip.unwrap().to_string());
        }
        let from = world.client(client, &pod.node, false);
        converse(&world, &from, &format!("server.{server}"));
    }
    world.assert_nobody_died();
}

/// How many descriptors the node agents hold.
fn descriptors(world: &World) -> usize {
    let agents = world.pods("istio-system/ztunnel");
    let pids = agents.iter().flat_map(|pod| &pod.pids);
    pids.map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
        .sum()
}

#[test]
fn many_connections_all_succeed_and_leave_nothing() {
    let Some(world) = World::new("many") else { return };
    let pod = world.pod("mesh/server");
    let address = pod.ip.unwrap().to_string();
    let clients = [true, false].map(|same| world.client("mesh", &pod.node, same));
    let run = |part: &str| {
        for client in &clients {
            world
                .run(client, part)
                .unwrap_or_else(|error| panic!("{client}: {part}: {error}"));
        }
    };
    // Twice, since tunnels stay open for the next: what one run leaves, another must not add to.
    run(&format!("parallel {address} 500"));
    run(&format!("sequence {address} 100"));
    let before = descriptors(&world);
    run(&format!("parallel {address} 500"));
    run(&format!("sequence {address} 2500"));
    // The agents close their ends when they have seen the client's; the client does not wait for that.
    crate::world::eventually(
        "descriptors come back",
        || descriptors(&world),
        |now| *now <= before,
    );
    world.assert_nobody_died();
}
