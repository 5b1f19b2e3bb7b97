//! Service addresses as nftables rules: the lab's kube-proxy. The mesh itself makes no such rule.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::network::{
    BALANCER_RANGE_V4, BALANCER_RANGE_V6, Family, POD_RANGE_V4, POD_RANGE_V6, SERVICE_RANGE_V4,
    SERVICE_RANGE_V6,
};

/// One port of a Service, in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct VirtualPort {
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// Addresses for pods and nodes.
    pub(super) vips: Vec<IpAddr>,
    /// Addresses for the outside; sources are masqueraded to the node.
    pub(super) balancers: Vec<IpAddr>,
    pub(super) node_port: Option<u16>,
    /// Ready endpoints, as this node may use them.
    pub(super) internal: Vec<SocketAddr>,
    pub(super) external: Vec<SocketAddr>,
    /// externalTrafficPolicy: whether the outside's address stays.
    pub(super) source: ExternalSource,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ExternalSource {
    Masqueraded,
    Kept,
}

impl Protocol {
    pub(super) fn parse(name: &str) -> Self {
        if name == "UDP" { Self::Udp } else { Self::Tcp }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Set on packets whose source becomes the node's address, as kube-proxy does.
const MASQUERADE_MARK: &str = "0x4000";

/// A script that replaces all rules of one family in one transaction.
pub(super) fn script(family: Family, ports: &[VirtualPort]) -> String {
    let words = Words::of(family);
    let mut script = format!(
        "table {0} lab {{}}\ndelete table {0} lab\ntable {0} lab {{\n",
        words.table
    );
    let mut maps = Maps::default();
    let mut chains = String::new();
    for (index, port) in ports.iter().enumerate() {
        maps.add(index, port);
        chains += &port_chains(index, port);
    }
    script += &maps.declare(&words, ports);
    script += &chains;
    script += &base_chains(&words);
    script += "}\n";
    script
}

/// The words that differ between `ip` and `ip6`.
struct Words {
    table: &'static str,
    address: &'static str,
    pods: &'static str,
    services: &'static str,
    balancers: &'static str,
    loopback: &'static str,
    unreachable: &'static str,
}

impl Words {
    fn of(family: Family) -> Self {
        match family {
            Family::V4 => Self {
                table: "ip",
                address: "ipv4_addr",
                pods: POD_RANGE_V4,
                services: SERVICE_RANGE_V4,
                balancers: BALANCER_RANGE_V4,
                loopback: "127.0.0.0/8",
                unreachable: "icmp port-unreachable",
            },
            Family::V6 => Self {
                table: "ip6",
                address: "ipv6_addr",
                pods: POD_RANGE_V6,
                services: SERVICE_RANGE_V6,
                balancers: BALANCER_RANGE_V6,
                loopback: "::1/128",
                unreachable: "icmpv6 port-unreachable",
            },
        }
    }
}

#[derive(Default)]
struct Maps {
    addresses: Vec<String>,
    node_ports: Vec<String>,
}

impl Maps {
    fn add(&mut self, index: usize, port: &VirtualPort) {
        let protocol = port.protocol.word();
        if !port.internal.is_empty() {
            let vips = port.vips.iter();
            self.addresses.extend(
                vips.map(|vip| format!("{vip} . {protocol} . {} : goto internal-{index}", port.port)),
            );
        }
        if port.external.is_empty() {
            return;
        }
        for address in &port.balancers {
            self.addresses.push(format!(
                "{address} . {protocol} . {} : goto external-{index}",
                port.port
            ));
        }
        if let Some(number) = port.node_port {
            self.node_ports
                .push(format!("{protocol} . {number} : goto external-{index}"));
        }
    }

    fn declare(&self, words: &Words, ports: &[VirtualPort]) -> String {
        let address = words.address;
        // A pod that reaches itself through a Service must see another source than itself.
        let own: BTreeSet<IpAddr> = ports
            .iter()
            .flat_map(|port| &port.internal)
            .map(SocketAddr::ip)
            .collect();
        let own: Vec<String> = own.iter().map(|ip| format!("{ip} . {ip}")).collect();
        let addresses = elements(&self.addresses);
        let node_ports = elements(&self.node_ports);
        let own = elements(&own);
        format!(
            " map addresses {{ type {address} . inet_proto . inet_service : verdict; {addresses} }}\n \
             map node-ports {{ type inet_proto . inet_service : verdict; {node_ports} }}\n \
             set itself {{ type {address} . {address}; {own} }}\n"
        )
    }
}

fn elements(list: &[String]) -> String {
    if list.is_empty() {
        return String::new();
    }
    format!("elements = {{ {} }};", list.join(", "))
}

fn port_chains(index: usize, port: &VirtualPort) -> String {
    let mut chains = String::new();
    if !port.internal.is_empty() {
        let _ = writeln!(
            chains,
            " chain internal-{index} {{\n  {}\n }}",
            translate(&port.internal)
        );
    }
    if !port.external.is_empty() {
        let mark = match port.source {
            ExternalSource::Masqueraded => format!("meta mark set meta mark | {MASQUERADE_MARK}\n  "),
            ExternalSource::Kept => String::new(),
        };
        let _ = writeln!(
            chains,
            " chain external-{index} {{\n  {mark}{}\n }}",
            translate(&port.external)
        );
    }
    chains
}

fn translate(endpoints: &[SocketAddr]) -> String {
    if let [only] = endpoints {
        return format!("meta l4proto {{ tcp, udp }} dnat to {only}");
    }
    let choices = endpoints.iter().enumerate();
    let choices: Vec<String> = choices
        .map(|(index, endpoint)| format!("{index} : {} . {}", endpoint.ip(), endpoint.port()))
        .collect();
    format!(
        "meta l4proto {{ tcp, udp }} dnat to numgen random mod {} map {{ {} }}",
        endpoints.len(),
        choices.join(", ")
    )
}

fn base_chains(words: &Words) -> String {
    let Words {
        table,
        pods,
        services,
        balancers,
        loopback,
        unreachable,
        ..
    } = words;
    let lookup = format!(
        "{table} daddr . meta l4proto . th dport vmap @addresses\n  \
         {table} daddr != {loopback} fib daddr type local meta l4proto . th dport vmap @node-ports"
    );
    // After translation no packet is for a Service's address: what still is has no endpoint.
    let refuse = format!("{table} daddr {{ {services}, {balancers} }} reject with {unreachable}");
    format!(
        " chain prerouting {{\n  type nat hook prerouting priority dstnat;\n  {lookup}\n }}\n \
         chain local {{\n  type nat hook output priority -100;\n  {lookup}\n }}\n \
         chain postrouting {{\n  type nat hook postrouting priority srcnat;\n  \
         meta mark & {MASQUERADE_MARK} == {MASQUERADE_MARK} masquerade\n  \
         ct status dnat {table} saddr . {table} daddr @itself masquerade\n  \
         oifname eth0 {table} saddr {pods} {table} daddr != {pods} masquerade\n }}\n \
         chain forward {{\n  type filter hook forward priority filter;\n  {refuse}\n }}\n \
         chain refuse-local {{\n  type filter hook output priority filter;\n  {refuse}\n }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(endpoints: &[&str]) -> VirtualPort {
        let endpoints: Vec<SocketAddr> = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        VirtualPort {
            protocol: Protocol::Tcp,
            port: 80,
            vips: vec!["10.96.0.11".parse().unwrap()],
            balancers: Vec::new(),
            node_port: Some(30_000),
            internal: endpoints.clone(),
            external: endpoints,
            source: ExternalSource::Masqueraded,
        }
    }

    #[test]
    fn spreads_over_endpoints_and_masquerades_the_outside_only() {
        let script = script(Family::V4, &[port(&["10.244.1.2:8080", "10.244.2.2:8080"])]);
        assert!(
            script.contains("10.96.0.11 . tcp . 80 : goto internal-0"),
            "{script}"
        );
        assert!(
            script.contains("numgen random mod 2 map { 0 : 10.244.1.2 . 8080, 1 : 10.244.2.2 . 8080 }"),
            "{script}"
        );
        let external = script.split("chain external-0").nth(1).unwrap();
        assert!(
            external
                .trim_start_matches([' ', '{', '\n'])
                .starts_with("meta mark set"),
            "{script}"
        );
        assert!(script.contains("tcp . 30000 : goto external-0"), "{script}");
    }

    #[test]
    fn a_service_without_endpoints_is_refused() {
        let script = script(Family::V4, &[port(&[])]);
        assert!(!script.contains("goto internal-0"), "{script}");
        assert!(script.contains("reject with icmp port-unreachable"), "{script}");
    }
}
