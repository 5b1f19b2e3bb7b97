//! IPv6 alone, and both families together.

use std::net::SocketAddr;

use aquifer_tests::lab::network::Families;

use crate::world::{World, field};

fn check(world: &World, families: usize) {
    let client = world.pod("mesh/client");
    assert_eq!(client.ips.len(), families);
    let status = world.lab.status().unwrap();
    let vips = &status.service("mesh", "web").unwrap().vips;
    assert_eq!(vips.len(), families);
    let targets = vips.iter().map(|vip| SocketAddr::new(*vip, 80));
    let pods = world.pod("mesh/web").ips.clone();
    let targets = targets.chain(pods.into_iter().map(|ip| SocketAddr::new(ip, 8080)));
    for target in targets {
        let answer = world.get("mesh/client", &target.to_string()).unwrap();
        let seen: SocketAddr = field(&answer, "client").parse().unwrap();
        assert!(client.ips.contains(&seen.ip()), "{target}: {answer}");
        assert_eq!(seen.is_ipv4(), target.is_ipv4(), "{target}: {answer}");
        world.get("default/outsider", &target.to_string()).unwrap();
    }
    world.told("there are tunnels", |logs| logs.contains("hbone_addr"));
}

#[test]
fn ipv6_alone() {
    let Some(world) = World::with("ipv6", Families::Ipv6) else {
        return;
    };
    check(&world, 1);
}

#[test]
fn both_families() {
    let Some(world) = World::with("dual", Families::Dual) else {
        return;
    };
    check(&world, 2);
}
