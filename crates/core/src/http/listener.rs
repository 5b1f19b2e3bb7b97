//! Listeners: which addresses are served, and how.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::action::Destinations;
use super::server_tls::ServerTls;

/// How a listener is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// A socket of its own.
    Bound,
    /// Only through a tunnel whose authority names one of its addresses.
    Tunnel,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: Arc<str>,
    pub addresses: Vec<SocketAddr>,
    pub binding: Binding,
    pub chains: Chains,
}

/// One way of serving connections.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    pub name: Arc<str>,
    /// The names that a client may ask for in its TLS handshake, whole or as `*.suffix`; empty for any and none.
    pub server_names: Vec<Arc<str>>,
    /// Where TLS ends here. A chain with names and without it passes TLS on as it is.
    pub tls: Option<ServerTls>,
    pub protocol: ListenerProtocol,
}

impl Chain {
    /// A chain for every connection, without TLS.
    pub fn plain(name: &str, protocol: ListenerProtocol) -> Self {
        Self {
            name: name.into(),
            server_names: Vec::new(),
            tls: None,
            protocol,
        }
    }
}

/// The chains of a listener; at least one, and no name twice.
#[derive(Clone, Debug, PartialEq)]
pub struct Chains(Arc<[Chain]>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainsError {
    #[error("there is none")]
    Empty,
    #[error("chains {first:?} and {second:?} both serve {name}")]
    Twice {
        name: String,
        first: String,
        second: String,
    },
    #[error("server name {0:?} has a wildcard that is not a whole first label")]
    Wildcard(String),
}

impl Chains {
    pub fn new(chains: Vec<Chain>) -> Result<Self, ChainsError> {
        if chains.is_empty() {
            return Err(ChainsError::Empty);
        }
        for (at, chain) in chains.iter().enumerate() {
            chain.server_names.iter().try_for_each(|name| check(name))?;
            chains[..at]
                .iter()
                .try_for_each(|earlier| apart(earlier, chain))?;
        }
        Ok(Self(chains.into()))
    }

    pub fn only(chain: Chain) -> Self {
        Self([chain].into())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Chain> {
        self.0.iter()
    }

    /// The chain for connections without a look into them; `None` where the client's first message decides.
    pub fn unseen(&self) -> Option<&Chain> {
        match &*self.0 {
            [only] if only.tls.is_none() && only.server_names.is_empty() => Some(only),
            _ => None,
        }
    }

    /// The chain for a TLS client that asks for a name: whole names first, then the longest suffix, then the chain
    /// for any.
    pub fn choose(&self, server_name: Option<&str>) -> Option<&Chain> {
        let name = server_name.map(str::to_ascii_lowercase);
        let rank = |chain: &Chain| match &name {
            Some(name) => chain.server_names.iter().filter_map(|n| fits(n, name)).max(),
            None => None,
        };
        let named = self.0.iter().filter_map(|c| Some((rank(c)?, c)));
        let best = named.max_by_key(|(rank, _)| *rank).map(|(_, chain)| chain);
        best.or_else(|| self.0.iter().find(|c| c.server_names.is_empty()))
    }
}

fn check(name: &str) -> Result<(), ChainsError> {
    let rest = name.strip_prefix("*.").unwrap_or(name);
    if rest.is_empty() || rest.contains('*') {
        return Err(ChainsError::Wildcard(name.to_owned()));
    }
    Ok(())
}

fn apart(first: &Chain, second: &Chain) -> Result<(), ChainsError> {
    let both_any = first.server_names.is_empty() && second.server_names.is_empty();
    let same = first
        .server_names
        .iter()
        .find(|name| second.server_names.contains(name));
    let name = match same {
        Some(name) => name.to_string(),
        None if both_any => "every name".to_owned(),
        None => return Ok(()),
    };
    Err(ChainsError::Twice {
        name,
        first: first.name.to_string(),
        second: second.name.to_string(),
    })
}

/// How well a chain's name fits the one that is asked for.
fn fits(pattern: &str, name: &str) -> Option<usize> {
    match pattern.strip_prefix('*') {
        Some(suffix) => (name.len() > suffix.len() && name.ends_with(suffix)).then_some(suffix.len()),
        None => (pattern == name).then_some(usize::MAX),
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum ListenerProtocol {
    Http(HttpListener),
    Tcp(TcpListener),
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpListener {
    /// Name of the route table.
    pub routes: Arc<str>,
    pub path: PathHandling,
    /// Requests come from outside the mesh: the client's address is the connection's, and `x-forwarded-for` of the
    /// client is extended, not believed.
    pub edge: bool,
    /// Proxies in front whose `x-forwarded-for` entries are believed; edge only.
    pub trusted_hops: u32,
    pub stream_idle_timeout: Option<Duration>,
    /// Whether upstreams are told of the client's certificate.
    pub forward_client_certificate: bool,
}

/// What is done to a path before it is matched and forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathHandling {
    pub normalize: bool,
    pub merge_slashes: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TcpListener {
    pub destinations: Destinations,
    pub idle_timeout: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(name: &str, server_names: &[&str]) -> Chain {
        let tcp = TcpListener {
            destinations: Destinations::single(name),
            idle_timeout: None,
        };
        Chain {
            server_names: server_names.iter().map(|n| (*n).into()).collect(),
            ..Chain::plain(name, ListenerProtocol::Tcp(tcp))
        }
    }

    #[test]
    fn the_most_specific_name_wins() {
        let chains = Chains::new(vec![
            chain("any", &[]),
            chain("short", &["*.org"]),
            chain("long", &["*.shop.org", "x.com"]),
            chain("exact", &["a.shop.org"]),
        ])
        .unwrap();
        let choose = |name| chains.choose(name).map(|c| c.name.to_string());
        for (name, want) in [
            (Some("A.shop.org"), "exact"),
            (Some("b.shop.org"), "long"),
            (Some("c.b.shop.org"), "long"),
            (Some("shop.org"), "short"),
            (Some("x.com"), "long"),
            (Some("org"), "any"),
            (None, "any"),
        ] {
            assert_eq!(choose(name).as_deref(), Some(want), "{name:?}");
        }
        assert!(chains.unseen().is_none());
    }

    #[test]
    fn without_a_chain_for_any_an_unknown_name_has_none() {
        let chains = Chains::new(vec![chain("a", &["a.org"])]).unwrap();
        assert!(chains.choose(Some("b.org")).is_none() && chains.choose(None).is_none());
        assert!(Chains::only(chain("a", &[])).unseen().is_some());
    }

    #[test]
    fn refuses_what_is_not_clear() {
        let twice = Chains::new(vec![chain("a", &["x.org"]), chain("b", &["y.org", "x.org"])]);
        assert!(matches!(twice, Err(ChainsError::Twice { .. })));
        assert!(Chains::new(vec![chain("a", &[]), chain("b", &[])]).is_err());
        assert!(Chains::new(vec![chain("a", &["*"])]).is_err());
        assert!(Chains::new(vec![chain("a", &["a*.org"])]).is_err());
        assert_eq!(Chains::new(Vec::new()), Err(ChainsError::Empty));
    }
}
