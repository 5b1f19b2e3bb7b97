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

    /// The pod's first address of the family of `other`; `other` itself where it has none.
    #[inline(always)]
    pub fn address_like(&self, other: &Address) -> Address {
        let fits = |own: &Address| own.is_v4() == other.is_v4() && !own.is_unspecified();
        let [a, b, c, d] = &self.addresses;
        if fits(a) {
            *a
        } else if fits(b) {
            *b
        } else if fits(c) {
            *c
        } else if fits(d) {
            *d
        } else {
            *other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn an_address_of_the_same_family_is_found_where_there_is_one() {
        let mut pod = Pod {
            addresses: [Address::UNSPECIFIED; Pod::MAX_ADDRESSES],
        };
        for loopback in ["127.0.0.1", "::1"] {
            assert_eq!(pod.address_like(&address(loopback)), address(loopback));
        }
        pod.addresses[0] = address("fd00::5");
        pod.addresses[1] = address("10.0.0.5");
        assert_eq!(pod.address_like(&address("127.0.0.1")), address("10.0.0.5"));
        assert_eq!(
            pod.address_like(&address("::ffff:127.0.0.1")),
            address("10.0.0.5")
        );
        assert_eq!(pod.address_like(&address("::1")), address("fd00::5"));
    }
}
