//! The lab's address plan, and the plumbing of its switch, nodes and outside world.

use std::fmt;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::layout::Layout;
use super::netns::{self, NetnsError};

/// Pods, nodes and Services of one lab have these families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Families {
    Ipv4,
    Ipv6,
    Dual,
}

/// One address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Family {
    V4,
    V6,
}

impl Families {
    /// The families in order; the first is that of single-stack Services.
    pub(super) fn list(self) -> &'static [Family] {
        match self {
            Self::Ipv4 => &[Family::V4],
            Self::Ipv6 => &[Family::V6],
            Self::Dual => &[Family::V4, Family::V6],
        }
    }
}

impl Family {
    pub(super) fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As Kubernetes writes it in ipFamilies and addressType.
    pub(super) fn kubernetes_name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn host_bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    fn any(self) -> &'static str {
        match self {
            Self::V4 => "0.0.0.0/0",
            Self::V6 => "::/0",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kubernetes_name())
    }
}

/// Nodes per lab: their numbers go into one byte of the addresses below.
pub(super) const MAX_NODES: u8 = 40;
/// The outside of the cluster, as a member like a node.
pub(super) const WORLD: &str = "world";
const SWITCH: &str = "switch";
/// The nodes' DNS server, as pods see it.
const DNS_HOST: u16 = 10;

pub(super) const POD_RANGE_V4: &str = "10.244.0.0/16";
pub(super) const POD_RANGE_V6: &str = "fd00:10:244::/48";
pub(super) const SERVICE_RANGE_V4: &str = "10.96.0.0/16";
pub(super) const SERVICE_RANGE_V6: &str = "fd00:10:96::/112";
/// Addresses of Services of type LoadBalancer; the world routes them to the first node.
pub(super) const BALANCER_RANGE_V4: &str = "172.31.0.0/24";
pub(super) const BALANCER_RANGE_V6: &str = "fd00:172:31::/64";

/// A node's number, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeNumber(pub(super) u8);

impl NodeNumber {
    pub(super) fn name(self) -> String {
        format!("node-{}", self.0)
    }

    /// The node's address on the switch: 172.30.0.1N, fd00:172:30::1N.
    pub(super) fn address(self, family: Family) -> IpAddr {
        node_network(family, 10 + self.0)
    }

    /// The address of a pod of this node; host 1 is the gateway.
    pub(super) fn pod_address(self, family: Family, host: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(10, 244, self.0, host).into(),
            Family::V6 => {
                Ipv6Addr::new(0xfd00, 0x10, 0x244, decimal_digits(self.0), 0, 0, 0, host.into()).into()
            }
        }
    }

    pub(super) fn pod_range(self, family: Family) -> String {
        let bits = if family == Family::V4 { 24 } else { 64 };
        format!("{}/{bits}", self.pod_address(family, 0))
    }
}

/// Number 12 written `12` in an IPv6 address: people read these as they read the IPv4 ones.
fn decimal_digits(number: u8) -> u16 {
    let number = u16::from(number);
    ((number / 100) << 8) | ((number / 10 % 10) << 4) | (number % 10)
}

fn node_network(family: Family, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(172, 30, 0, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, decimal_digits(host)).into(),
    }
}

pub(super) fn world_address(family: Family) -> IpAddr {
    node_network(family, 1)
}

/// An address of the world that lies outside every range of the cluster.
pub(super) fn outside_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}

pub(super) fn service_address(family: Family, number: u16) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    match family {
        Family::V4 => Ipv4Addr::new(10, 96, high, low).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, number).into(),
    }
}

pub(super) fn balancer_address(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(172, 31, 0, number).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x172, 0x31, 0, 0, 0, 0, number.into()).into(),
    }
}

pub(super) fn dns_address(family: Family) -> IpAddr {
    service_address(family, DNS_HOST)
}

/// What an agent captures even when it does not know the address.
pub(super) fn mesh_ranges(families: Families) -> String {
    let ranges = families.list().iter().flat_map(|family| match family {
        Family::V4 => [POD_RANGE_V4, SERVICE_RANGE_V4],
        Family::V6 => [POD_RANGE_V6, SERVICE_RANGE_V6],
    });
    ranges.collect::<Vec<_>>().join(",")
}

/// Builds the switch, the world and the nodes with their pod bridges and routes.
pub(super) fn build(layout: &Layout, families: Families, nodes: &[NodeNumber]) -> Result<(), NetnsError> {
    let members: Vec<String> = nodes
        .iter()
        .map(|node| node.name())
        .chain([WORLD.to_owned()])
        .collect();
    let mut script = format!("netns add {}\n", layout.netns(SWITCH));
    for member in &members {
        let _ = writeln!(script, "netns add {}", layout.netns(member));
    }
    netns::ip_batch(None, &script)?;
    for member in &members {
        netns::set_sysctls(&layout.netns(member), ROUTER_SYSCTLS)?;
    }
    let bridged = members.iter().map(String::as_str).chain([SWITCH]);
    bridged
        .into_iter()
        .try_for_each(|member| keep_bridges_plain(&layout.netns(member)))?;
    netns::ip_batch(Some(&layout.netns(SWITCH)), &switch_script(layout, &members))?;
    netns::ip_batch(Some(&layout.netns(WORLD)), &world_script(families, nodes))?;
    for node in nodes {
        netns::ip_batch(
            Some(&layout.netns(&node.name())),
            &node_script(families, *node, nodes),
        )?;
    }
    Ok(())
}

/// Bridges forward frames and nothing else: with br_netfilter loaded they would run the IP rules too, translate
/// a pod's packet to its own Service before it is routed, and then refuse to send it back where it came from.
fn keep_bridges_plain(netns: &str) -> Result<(), NetnsError> {
    const SWITCHES: &[(&str, &str)] = &[
        ("bridge/bridge-nf-call-iptables", "0"),
        ("bridge/bridge-nf-call-ip6tables", "0"),
        ("bridge/bridge-nf-call-arptables", "0"),
    ];
    if !std::path::Path::new("/proc/sys/net/bridge").exists() {
        return Ok(());
    }
    netns::set_sysctls(netns, SWITCHES)
}

/// DAD off before any link appears: a tentative address delays the first connection by a second.
const ROUTER_SYSCTLS: &[(&str, &str)] = &[
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // Pods hold host routes to their gateway: a redirect to a neighbour would only cost a packet.
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/ping_group_range", "0 2147483647"),
];

pub(super) const POD_SYSCTLS: &[(&str, &str)] = &[
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    // As container runtimes set them: images run as another user and still listen on port 80.
    ("ipv4/ip_unprivileged_port_start", "0"),
    ("ipv4/ping_group_range", "0 2147483647"),
];

fn switch_script(layout: &Layout, members: &[String]) -> String {
    let mut script =
        String::from("link add br0 type bridge mcast_snooping 0\nlink set br0 up\nlink set lo up\n");
    for (index, member) in members.iter().enumerate() {
        let peer = layout.netns(member);
        let _ = writeln!(
            script,
            "link add port{index} type veth peer name eth0 netns {peer}"
        );
        let _ = writeln!(script, "link set port{index} master br0 up");
    }
    script
}

fn world_script(families: Families, nodes: &[NodeNumber]) -> String {
    let mut script = String::from("link set lo up\nlink set eth0 up\n");
    for &family in families.list() {
        script += &on_switch(family, world_address(family));
        let _ = writeln!(
            script,
            "addr add {}/{} dev lo{}",
            outside_address(family),
            family.host_bits(),
            nodad(family)
        );
        if let Some(first) = nodes.first() {
            let range = if family == Family::V4 {
                BALANCER_RANGE_V4
            } else {
                BALANCER_RANGE_V6
            };
            let _ = writeln!(script, "route add {range} via {}", first.address(family));
        }
    }
    script
}

fn node_script(families: Families, node: NodeNumber, nodes: &[NodeNumber]) -> String {
    let mut script = String::from("link set lo up\nlink set eth0 up\n");
    // A fixed address: a bridge otherwise takes its lowest port's, and pods' neighbour entries go stale.
    let _ = writeln!(
        script,
        "link add cni0 address 02:aa:00:00:00:{:02x} type bridge mcast_snooping 0",
        node.0
    );
    script += "link set cni0 up\n";
    for &family in families.list() {
        script += &on_switch(family, node.address(family));
        let bits = if family == Family::V4 { 24 } else { 64 };
        let gateway = node.pod_address(family, 1);
        let _ = writeln!(script, "addr add {gateway}/{bits} dev cni0{}", nodad(family));
        for other in nodes.iter().filter(|other| **other != node) {
            let _ = writeln!(
                script,
                "route add {} via {}",
                other.pod_range(family),
                other.address(family)
            );
        }
        let _ = writeln!(script, "route add {} via {}", family.any(), world_address(family));
    }
    script
}

fn on_switch(family: Family, address: IpAddr) -> String {
    let bits = if family == Family::V4 { 24 } else { 64 };
    format!("addr add {address}/{bits} dev eth0{}\n", nodad(family))
}

fn nodad(family: Family) -> &'static str {
    if family == Family::V6 { " nodad" } else { "" }
}

/// The commands that connect a pod, in the node's and in the pod's namespace.
pub(super) fn pod_link_script(interface: &str, pod_netns: &str) -> String {
    format!(
        "link add {interface} type veth peer name eth0 netns {pod_netns}\nlink set {interface} master cni0 up\n"
    )
}

/// A host address and a gateway: traffic between pods of one node goes through the node's rules too.
pub(super) fn pod_address_script(node: NodeNumber, addresses: &[IpAddr]) -> String {
    let mut script = String::from("link set lo up\nlink set eth0 up\n");
    for &address in addresses {
        let family = Family::of(address);
        let gateway = node.pod_address(family, 1);
        let _ = writeln!(
            script,
            "addr add {address}/{} dev eth0{}",
            family.host_bits(),
            nodad(family)
        );
        let _ = writeln!(script, "route add {gateway} dev eth0");
        let _ = writeln!(script, "route add {} via {gateway} dev eth0", family.any());
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_the_plan() {
        let node = NodeNumber(2);
        assert_eq!(node.address(Family::V4).to_string(), "172.30.0.12");
        assert_eq!(node.address(Family::V6).to_string(), "fd00:172:30::12");
        assert_eq!(node.pod_range(Family::V4), "10.244.2.0/24");
        assert_eq!(node.pod_range(Family::V6), "fd00:10:244:2::/64");
        assert_eq!(dns_address(Family::V4).to_string(), "10.96.0.10");
        assert_eq!(service_address(Family::V4, 258).to_string(), "10.96.1.2");
    }

    #[test]
    fn twelve_reads_as_twelve_in_both_families() {
        assert_eq!(NodeNumber(12).pod_range(Family::V6), "fd00:10:244:12::/64");
    }
}
