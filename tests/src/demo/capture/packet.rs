//! Just enough of IP and TCP to know who speaks to whom and what is said.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const TCP: u8 = 6;

#[derive(Debug)]
pub(super) struct Segment<'a> {
    pub(super) source: (IpAddr, u16),
    pub(super) destination: (IpAddr, u16),
    pub(super) payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// A TCP segment; none for anything else, fragments after the first included.
    pub(super) fn parse(packet: &'a [u8]) -> Option<Self> {
        let (source, destination, tcp) = match packet.first()? >> 4 {
            4 => ipv4(packet)?,
            6 => ipv6(packet)?,
            _ => return None,
        };
        let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        Some(Self {
            source: (source, port(0)?),
            destination: (destination, port(2)?),
            payload: tcp.get(header..)?,
        })
    }
}

type Parts<'a> = (IpAddr, IpAddr, &'a [u8]);

fn ipv4(packet: &[u8]) -> Option<Parts<'_>> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let fragment = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?) & 0x1fff;
    if *packet.get(9)? != TCP || fragment != 0 {
        return None;
    }
    let address = |at: usize| {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(IpAddr::from(Ipv4Addr::from(octets)))
    };
    Some((address(12)?, address(16)?, packet.get(header..)?))
}

/// Extension headers do not occur between our pods.
fn ipv6(packet: &[u8]) -> Option<Parts<'_>> {
    if *packet.get(6)? != TCP {
        return None;
    }
    let address = |at: usize| {
        let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::from(Ipv6Addr::from(octets)))
    };
    Some((address(8)?, address(24)?, packet.get(40..)?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn tcp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let mut segment = vec![0; 20];
        segment[..2].copy_from_slice(&from.to_be_bytes());
        segment[2..4].copy_from_slice(&to.to_be_bytes());
        segment[12] = 5 << 4;
        segment.extend(payload);
        segment
    }

    pub(in super::super) fn ipv4(from: (&str, u16), to: (&str, u16), payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 20];
        packet[0] = 0x45;
        packet[9] = TCP;
        packet[12..16].copy_from_slice(&from.0.parse::<Ipv4Addr>().unwrap().octets());
        packet[16..20].copy_from_slice(&to.0.parse::<Ipv4Addr>().unwrap().octets());
        packet.extend(tcp(from.1, to.1, payload));
        packet
    }

    #[test]
    fn ipv4_segments_are_read() {
        let packet = ipv4(("10.0.0.1", 5), ("10.0.0.2", 6), b"hi");
        let segment = Segment::parse(&packet).unwrap();
        assert_eq!(segment.source, ("10.0.0.1".parse().unwrap(), 5));
        assert_eq!(segment.destination, ("10.0.0.2".parse().unwrap(), 6));
        assert_eq!(segment.payload, b"hi");
    }

    #[test]
    fn ipv6_segments_are_read() {
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[6] = TCP;
        packet[23] = 1;
        packet[39] = 2;
        packet.extend(tcp(5, 6, b"hi"));
        let segment = Segment::parse(&packet).unwrap();
        assert_eq!(segment.source, ("::1".parse().unwrap(), 5));
        assert_eq!((segment.destination.1, segment.payload), (6, &b"hi"[..]));
    }

    #[test]
    fn what_is_cut_short_or_not_tcp_is_nothing() {
        let packet = ipv4(("10.0.0.1", 5), ("10.0.0.2", 6), b"");
        for length in 0..packet.len() {
            assert!(Segment::parse(&packet[..length]).is_none(), "{length}");
        }
        assert!(Segment::parse(&[0xff; 60]).is_none());
    }
}
