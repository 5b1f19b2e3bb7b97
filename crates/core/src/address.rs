//! Addresses as the mesh keys them: an IP on a named network.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// An IP address on a network; pods of two networks may share an IP.
///
/// IPv4-mapped IPv6 addresses are stored as IPv4, so that each address has one form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetworkAddress {
    network: Arc<str>,
    ip: IpAddr,
}

impl NetworkAddress {
    /// `network` is empty where the mesh has only one.
    pub fn new(network: &Arc<str>, ip: IpAddr) -> Self {
        Self {
            network: network.clone(),
            ip: ip.to_canonical(),
        }
    }

    pub fn network(&self) -> &Arc<str> {
        &self.network
    }

    pub fn ip(&self) -> IpAddr {
        self.ip
    }
}

/// Whether an address may be that of a service somewhere else. Others mean another host to each that dials them, and to a
/// proxy its own ports, its node, or what its cloud tells its machine (169.254.169.254).
pub fn is_of_a_host(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    let is_near = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(is_near || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast())
}

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_addresses_are_of_nobody_else() {
        let near = [
            "0.0.0.0",
            "127.1.2.3",
            "169.254.169.254",
            "255.255.255.255",
            "224.0.0.1",
        ];
        for ip in near
            .into_iter()
            .chain(["::", "::1", "fe80::1", "ff02::1", "::ffff:127.0.0.1"])
        {
            assert!(!is_of_a_host(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["10.0.0.1", "192.0.2.1", "2001:db8::1", "fd00::1"] {
            assert!(is_of_a_host(ip.parse().unwrap()), "{ip}");
        }
    }
}
