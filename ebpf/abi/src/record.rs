//! Keys and values of the maps.

use crate::{Address, Endpoint};

/// A socket of a pod: its network namespace and its local endpoint.
///
/// The namespace's cookie is part of every key: two pods may well use the same loopback port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SocketKey {
    pub netns: u64,
    pub endpoint: Endpoint,
    reserved: u32,
}

impl SocketKey {
    #[inline(always)]
    pub const fn new(netns: u64, endpoint: Endpoint) -> Self {
        Self {
            netns,
            endpoint,
            reserved: 0,
        }
    }
}

/// A TCP connection seen from the side that opened it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ConnectionKey {
    pub source: Endpoint,
    pub destination: Endpoint,
}

/// What the kernel knows of an enrolled pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Pod {
    /// Its own addresses, unused slots unspecified: traffic to itself is not mesh traffic.
    pub addresses: [Address; Self::MAX_ADDRESSES],
}

impl Pod {
    /// Kubernetes gives a pod at most one address per family; the rest is room.
    pub const MAX_ADDRESSES: usize = 4;

    #[inline(always)]
    pub fn owns(&self, address: &Address) -> bool {
        let [a, b, c, d] = &self.addresses;
        a.same(address) || b.same(address) || c.same(address) || d.same(address)
    }
}
