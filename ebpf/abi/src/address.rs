//! Addresses in one canonical form for both families.
//!
//! A dual-stack socket sees an IPv4 peer as `::ffff:a.b.c.d` while a plain one sees `a.b.c.d`.
//! With one form of 16 bytes, every map has one key type and the two are the same key.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP address as 16 bytes in network order; IPv4 is kept as v4-mapped.
///
/// Held as the four words of the kernel's contexts, each in network order in memory: copying words
/// is a handful of instructions, copying or comparing bytes would be a loop or a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Address([u32; 4]);

const V4_PREFIX: u32 = 0xffff_u32.to_be();

impl Address {
    pub const LOOPBACK_V4: Self = Self::from_v4_word(0x7f00_0001_u32.to_be());
    pub const LOOPBACK_V6: Self = Self([0, 0, 0, 1_u32.to_be()]);
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// An IPv4 address, its four bytes in network order in memory.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self([0, 0, V4_PREFIX, word])
    }

    /// The words as the kernel's contexts hold them.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.0
    }

    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == V4_PREFIX
    }

    /// 127.0.0.0/8 in either spelling, or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        (self.is_v4() && self.0[3].to_ne_bytes()[0] == 127) || self.same(&Self::LOOPBACK_V6)
    }

    /// `0.0.0.0` in either spelling, or `::`; the kernel connects such a socket to the host itself.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.0[3] == 0 && self.0[0] == 0 && self.0[1] == 0 && (self.0[2] == 0 || self.0[2] == V4_PREFIX)
    }

    /// Equality by words: comparing arrays may become a call of `memcmp`, which the kernel has not.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        let (a, b) = (&self.0, &other.0);
        a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
    }

    fn octets(self) -> [u8; 16] {
        let mut octets = [0; 16];
        for (slot, word) in octets.chunks_exact_mut(4).zip(self.0) {
            slot.copy_from_slice(&word.to_ne_bytes());
        }
        octets
    }

    fn from_octets(octets: [u8; 16]) -> Self {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        Self(words)
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4_word(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            Self::V4(Ipv4Addr::from(address.0[3].to_ne_bytes()))
        } else {
            Self::V6(Ipv6Addr::from(address.octets()))
        }
    }
}

/// An address and a port, the port in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Endpoint {
    pub address: Address,
    pub port: u16,
    /// Always zero: keys are compared as bytes.
    reserved: u16,
}

impl Endpoint {
    #[inline(always)]
    pub const fn new(address: Address, port: u16) -> Self {
        Self {
            address,
            port,
            reserved: 0,
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(addr: SocketAddr) -> Self {
        Self::new(addr.ip().into(), addr.port())
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.address.into(), endpoint.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect("an address").into()
    }

    #[test]
    fn both_spellings_of_an_ipv4_address_are_one_key() {
        assert_eq!(address("10.1.2.3"), address("::ffff:10.1.2.3"));
        assert_eq!(
            IpAddr::from(address("::ffff:10.1.2.3")),
            IpAddr::from([10, 1, 2, 3])
        );
        assert_eq!(
            IpAddr::from(address("fd00::1")),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1))
        );
    }

    #[test]
    fn words_round_trip() {
        for text in ["10.1.2.3", "fd00:1:2:3:4:5:6:7", "::1", "0.0.0.0"] {
            let address = address(text);
            assert_eq!(Address::from_words(address.words()), address);
            assert_eq!(IpAddr::from(address), text.parse::<IpAddr>().expect("an address"));
        }
    }

    #[test]
    fn loopback_and_unspecified_in_both_families() {
        for (text, loopback, unspecified) in [
            ("127.0.0.1", true, false),
            ("127.9.9.9", true, false),
            ("::ffff:127.0.0.1", true, false),
            ("::1", true, false),
            ("0.0.0.0", false, true),
            ("::", false, true),
            ("::ffff:0.0.0.0", false, true),
            ("10.0.0.1", false, false),
            ("fd00::1", false, false),
            // Not v4-mapped: the high words differ.
            ("fd00::ffff:127.0.0.1", false, false),
        ] {
            let address = address(text);
            assert_eq!(
                (address.is_loopback(), address.is_unspecified()),
                (loopback, unspecified),
                "{text}"
            );
        }
    }
}
