//! The `:authority` of an HBONE CONNECT request: where the tunnel should lead.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// A socket address, or a host name with a mandatory port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    Address(SocketAddr),
    Host { host: Arc<str>, port: u16 },
}

/// The longest host name (RFC 1035 section 2.3.4), in bytes.
const MAX_HOST: usize = 253;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authority {0:?} is neither IP:PORT nor HOST:PORT")]
pub struct AuthorityError(String);

impl Authority {
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        let bad = || AuthorityError(text.chars().take(100).collect());
        if let Ok(address) = text.parse::<SocketAddr>() {
            let ip = address.ip().to_canonical();
            return nonzero(address.port())
                .map(|p| Self::Address(SocketAddr::new(ip, p)))
                .ok_or_else(bad);
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().ok().and_then(nonzero).ok_or_else(bad)?;
        if !port_digits(text) || !is_host(host) {
            return Err(bad());
        }
        Ok(Self::Host {
            host: host.to_ascii_lowercase().into(),
            port,
        })
    }

    pub fn port(&self) -> u16 {
        match self {
            Self::Address(a) => a.port(),
            Self::Host { port, .. } => *port,
        }
    }

    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Address(a) => Some(a.ip()),
            Self::Host { .. } => None,
        }
    }
}

fn nonzero(port: u16) -> Option<u16> {
    (port != 0).then_some(port)
}

/// `str::parse` takes a leading `+`; a port has digits only.
fn port_digits(text: &str) -> bool {
    text.rsplit(':')
        .next()
        .is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()))
}

fn is_host(host: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !host.is_empty() && host.len() <= MAX_HOST && host.bytes().all(allowed)
}

impl FromStr for Authority {
    type Err = AuthorityError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

impl From<SocketAddr> for Authority {
    fn from(a: SocketAddr) -> Self {
        Self::Address(SocketAddr::new(a.ip().to_canonical(), a.port()))
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(a) => a.fmt(f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_both_forms() {
        assert_eq!(
            Authority::parse("10.0.0.1:80").unwrap().to_string(),
            "10.0.0.1:80"
        );
        assert_eq!(
            Authority::parse("[fd00::1]:80").unwrap().to_string(),
            "[fd00::1]:80"
        );
        assert_eq!(
            Authority::parse("[::ffff:10.0.0.1]:80").unwrap().to_string(),
            "10.0.0.1:80"
        );
        assert_eq!(
            Authority::parse("Reviews.bookinfo.svc.cluster.local:9080")
                .unwrap()
                .to_string(),
            "reviews.bookinfo.svc.cluster.local:9080"
        );
    }

    #[test]
    fn refuses_what_has_no_port_or_host() {
        for bad in [
            "",
            "a",
            ":80",
            "a:",
            "a:0",
            "a:+80",
            "a:99999",
            "fd00::1:80",
            "[fd00::1]",
            "a b:80",
            "u@h:80",
            "10.0.0.1:0",
        ] {
            assert!(Authority::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn authority_round_trips(ip: IpAddr, port in 1u16..) {
            let authority = Authority::from(SocketAddr::new(ip, port));
            prop_assert_eq!(Authority::parse(&authority.to_string()).unwrap(), authority);
        }

        #[test]
        fn host_round_trips(host in "[a-z][a-z0-9.-]{0,40}", port in 1u16..) {
            let text = format!("{host}:{port}");
            prop_assert_eq!(Authority::parse(&text).unwrap().to_string(), text);
        }

        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let _ = Authority::parse(&text);
        }
    }
}
