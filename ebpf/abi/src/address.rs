//! Addresses in one canonical form for both families.
//!
//! A dual-stack socket sees an IPv4 peer as `::ffff:a.b.c.d` while a plain one sees `a.b.c.d`.
//! With one form of 16 bytes, every map has one key type and the two are the same key.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP address as 16 bytes in network order; IPv4 is kept as v4-mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct Address(pub [u8; 16]);

impl Address {
    pub const LOOPBACK_V4: Self = Self::from_v4([127, 0, 0, 1]);
    pub const LOOPBACK_V6: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    pub const UNSPECIFIED: Self = Self([0; 16]);

    #[inline(always)]
    pub const fn from_v4(v4: [u8; 4]) -> Self {
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]])
    }

    /// The four words as the kernel's contexts hold them: network order in memory.
    #[inline(always)]
    pub fn from_words(words: [u32; 4]) -> Self {
        let [a, b, c, d] = words.map(u32::to_ne_bytes);
        Self([
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
        ])
    }

    #[inline(always)]
    pub fn words(&self) -> [u32; 4] {
        let b = &self.0;
        [
            u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
            u32::from_ne_bytes([b[4], b[5], b[6], b[7]]),
            u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
            u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
        ]
    }

    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        let words = self.words();
        words[0] == 0 && words[1] == 0 && words[2] == 0xffff_u32.to_be()
    }

    /// 127.0.0.0/8 in either spelling, or `::1`.
    #[inline(always)]
    pub fn is_loopback(&self) -> bool {
        (self.is_v4() && self.0[12] == 127) || self.same(&Self::LOOPBACK_V6)
    }

    /// `0.0.0.0` in either spelling, or `::`; the kernel connects such a socket to the host itself.
    #[inline(always)]
    pub fn is_unspecified(&self) -> bool {
        let words = self.words();
        words[3] == 0 && words[0] == 0 && words[1] == 0 && (words[2] == 0 || self.is_v4())
    }

    /// Equality by words: comparing arrays becomes a call of `memcmp`, which the kernel has not.
    #[inline(always)]
    pub fn same(&self, other: &Self) -> bool {
        let (a, b) = (self.words(), other.words());
        a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3]
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4(v4.octets()),
            IpAddr::V6(v6) => Self(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        if address.is_v4() {
            let b = address.0;
            Self::V4(Ipv4Addr::new(b[12], b[13], b[14], b[15]))
        } else {
            Self::V6(Ipv6Addr::from(address.0))
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
        Self { address, port, reserved: 0 }
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
        assert_eq!(IpAddr::from(address("::ffff:10.1.2.3")), IpAddr::from([10, 1, 2, 3]));
        assert_eq!(IpAddr::from(address("fd00::1")).to_string(), "fd00::1");
    }

    #[test]
    fn words_round_trip() {
        for text in ["10.1.2.3", "fd00:1:2:3:4:5:6:7", "::1", "0.0.0.0"] {
            let address = address(text);
            assert_eq!(Address::from_words(address.words()), address);
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
            assert_eq!((address.is_loopback(), address.is_unspecified()), (loopback, unspecified), "{text}");
        }
    }
}
