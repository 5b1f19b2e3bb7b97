//! The `forwarded` header of an HBONE request (RFC 7239): the client's address and the host it asked for.

use std::net::SocketAddr;
use std::sync::Arc;

/// A longer header is ignored.
const MAX_FORWARDED: usize = 4096;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// The client's address as its node agent saw it. A hint: a peer can write anything here.
    pub client: Option<SocketAddr>,
    /// The service host that the client addressed.
    pub host: Option<Arc<str>>,
}

impl Forwarded {
    /// Reads `for` and `host` of the first element; malformed parts are left out.
    pub fn parse(header: &str) -> Self {
        let mut forwarded = Self::default();
        if header.len() > MAX_FORWARDED || !header.is_ascii() {
            return forwarded;
        }
        let first = header.split(',').next().unwrap_or_default();
        for (key, value) in first.split(';').filter_map(|pair| pair.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "for" => forwarded.client = value.parse().ok(),
                "host" if !value.is_empty() => forwarded.host = Some(value.into()),
                _ => {}
            }
        }
        forwarded
    }

    /// The header's value, such as `for="10.0.0.1:40000";host=reviews.bookinfo.svc.cluster.local`.
    pub fn to_header(&self) -> String {
        let client = self.client.map(|c| format!("for=\"{c}\""));
        let host = self.host.as_ref().map(|h| format!("host={h}"));
        [client, host].into_iter().flatten().collect::<Vec<_>>().join(";")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn forwarded_round_trips(client: SocketAddr, host in "[a-z][a-z0-9.]{0,30}") {
            let client = SocketAddr::new(client.ip(), client.port());
            let f = Forwarded { client: Some(client), host: Some(host.as_str().into()) };
            prop_assert_eq!(Forwarded::parse(&f.to_header()), f);
        }

        #[test]
        fn never_panics(text in "\\PC{0,100}") {
            let _ = Forwarded::parse(&text);
        }
    }
}
