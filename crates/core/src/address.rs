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

impl fmt::Display for NetworkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.ip)
    }
}
