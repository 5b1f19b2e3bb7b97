//! Virtual hosts and their routes, indexed by the hosts they serve.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::action::Action;
use super::cors::Cors;
use super::fault::Fault;
use super::matching::RouteMatch;
use super::mutation::HeaderMutations;
use super::rewrite::without_port;

#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// As the access log shows it; may be empty.
    pub name: Arc<str>,
    pub matches: RouteMatch,
    pub action: Action,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    pub fault: Option<Fault>,
    pub cors: Option<Cors>,
}

impl Route {
    pub fn new(name: &str, matches: RouteMatch, action: Action) -> Self {
        Self {
            name: name.into(),
            matches,
            action,
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            fault: None,
            cors: None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct VirtualHost {
    pub name: Arc<str>,
    pub domains: Vec<Arc<str>>,
    /// In the order in which they are tried.
    pub routes: Vec<Route>,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    /// Tell the service in `x-envoy-attempt-count` which attempt this is.
    pub attempt_count: bool,
    /// Requests of another scheme are sent to `https`, whatever the routes say.
    pub https_only: bool,
}

/// Whether the port of a request's host takes part in the comparison with domains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostPort {
    #[default]
    Compared,
    Ignored,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RouteTable {
    pub name: Arc<str>,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    host_port: HostPort,
    virtual_hosts: Vec<VirtualHost>,
    index: DomainIndex,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    #[error(
        "domain {domain:?} is in virtual host {first:?} and again in {second:?}; a domain belongs to one"
    )]
    Duplicate {
        domain: String,
        first: String,
        second: String,
    },
    #[error(
        "domain {domain:?} of virtual host {host:?} has a wildcard that is neither its first nor its last character"
    )]
    Wildcard { domain: String, host: String },
    #[error("virtual host {host:?} has an empty domain")]
    Empty { host: String },
}

impl RouteTable {
    pub fn new(name: &str, host_port: HostPort, virtual_hosts: Vec<VirtualHost>) -> Result<Self, TableError> {
        Ok(Self {
            name: name.into(),
            request_headers: HeaderMutations::default(),
            response_headers: HeaderMutations::default(),
            host_port,
            index: DomainIndex::build(&virtual_hosts)?,
            virtual_hosts,
        })
    }

    pub fn virtual_hosts(&self) -> &[VirtualHost] {
        &self.virtual_hosts
    }

    pub fn host_port(&self) -> HostPort {
        self.host_port
    }

    /// The virtual host with the most specific domain for `host`.
    pub fn virtual_host(&self, host: &str) -> Option<&VirtualHost> {
        let host = match self.host_port {
            HostPort::Compared => host,
            HostPort::Ignored => without_port(host),
        };
        let host = lower(host);
        self.index.find(&host).and_then(|i| self.virtual_hosts.get(i))
    }
}

/// Allocates only where there is an upper-case letter.
fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return Cow::Owned(text.to_ascii_lowercase());
    }
    Cow::Borrowed(text)
}

/// Domains by kind. Exact names win over suffix wildcards (`*.b`), these over prefix wildcards (`a.*`), these over `*`;
/// of two wildcards of one kind the longer wins.
#[derive(Clone, Debug, Default, PartialEq)]
struct DomainIndex {
    exact: HashMap<Box<str>, usize>,
    suffixes: Wildcards,
    prefixes: Wildcards,
    any: Option<usize>,
}

/// Wildcards without their star, by length, longest first: one hash look-up per distinct length.
#[derive(Clone, Debug, Default, PartialEq)]
struct Wildcards(Vec<(usize, HashMap<Box<str>, usize>)>);

impl Wildcards {
    fn insert(&mut self, text: &str, host: usize) -> Option<usize> {
        let at = match self.0.binary_search_by(|(len, _)| text.len().cmp(len)) {
            Ok(at) => at,
            Err(at) => {
                self.0.insert(at, (text.len(), HashMap::new()));
                at
            }
        };
        self.0[at].1.insert(text.into(), host)
    }

    /// A wildcard stands for at least one character.
    fn find<'h>(&self, host: &'h str, part: impl Fn(&'h str, usize) -> Option<&'h str>) -> Option<usize> {
        let shorter = self.0.iter().filter(|(len, _)| *len < host.len());
        shorter
            .filter_map(|(len, names)| names.get(part(host, *len)?))
            .copied()
            .next()
    }
}

impl DomainIndex {
    fn build(hosts: &[VirtualHost]) -> Result<Self, TableError> {
        let mut index = Self::default();
        for (at, host) in hosts.iter().enumerate() {
            for domain in &host.domains {
                index.check(domain, host)?;
                if let Some(first) = index.insert(&domain.to_ascii_lowercase(), at) {
                    return Err(TableError::Duplicate {
                        domain: domain.to_string(),
                        first: hosts[first].name.to_string(),
                        second: host.name.to_string(),
                    });
                }
            }
        }
        Ok(index)
    }

    fn check(&self, domain: &str, host: &VirtualHost) -> Result<(), TableError> {
        let host = || host.name.to_string();
        if domain.is_empty() {
            return Err(TableError::Empty { host: host() });
        }
        let stars = domain.matches('*').count();
        let at_an_end = domain.starts_with('*') || domain.ends_with('*');
        if stars > 1 || (stars == 1 && !at_an_end) {
            return Err(TableError::Wildcard {
                domain: domain.to_owned(),
                host: host(),
            });
        }
        Ok(())
    }

    /// The host that had this domain before.
    fn insert(&mut self, domain: &str, host: usize) -> Option<usize> {
        if domain == "*" {
            return self.any.replace(host);
        }
        match (domain.strip_prefix('*'), domain.strip_suffix('*')) {
            (Some(suffix), _) => self.suffixes.insert(suffix, host),
            (None, Some(prefix)) => self.prefixes.insert(prefix, host),
            (None, None) => self.exact.insert(domain.into(), host),
        }
    }

    fn find(&self, host: &str) -> Option<usize> {
        self.exact
            .get(host)
            .copied()
            .or_else(|| self.suffixes.find(host, |h, len| h.get(h.len() - len..)))
            .or_else(|| self.prefixes.find(host, |h, len| h.get(..len)))
            .or(self.any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(port: HostPort, domains: &[&str]) -> Result<RouteTable, TableError> {
        let host = |d: &&str| VirtualHost {
            name: (*d).into(),
            domains: vec![(*d).into()],
            ..VirtualHost::default()
        };
        RouteTable::new("t", port, domains.iter().map(host).collect())
    }

    #[test]
    fn most_specific_domain_wins() {
        let t = table(
            HostPort::Ignored,
            &[
                "*",
                "*.example.com",
                "*.a.example.com",
                "b.*",
                "b.example.com",
                "*-x.example.com",
            ],
        )
        .unwrap();
        let check = |host: &str, want: &str| assert_eq!(&*t.virtual_host(host).unwrap().name, want, "{host}");
        check("b.example.com", "b.example.com");
        check("B.Example.Com:8080", "b.example.com");
        check("c.example.com", "*.example.com");
        check("c.a.example.com", "*.a.example.com");
        check("c-x.example.com", "*-x.example.com");
        check("b.org", "b.*");
        check("example.com", "*");
        check(".example.com", "*");
        check("", "*");
    }

    #[test]
    fn ports_are_compared_unless_told() {
        let t = table(HostPort::Compared, &["a:80", "b"]).unwrap();
        assert!(t.virtual_host("a:80").is_some());
        assert!(t.virtual_host("a").is_none() && t.virtual_host("b:80").is_none());
    }

    #[test]
    fn refuses_what_envoy_refuses() {
        assert!(matches!(
            table(HostPort::Ignored, &["a", "A"]),
            Err(TableError::Duplicate { .. })
        ));
        assert!(matches!(
            table(HostPort::Ignored, &["*", "*"]),
            Err(TableError::Duplicate { .. })
        ));
        assert!(matches!(
            table(HostPort::Ignored, &["a.*.b"]),
            Err(TableError::Wildcard { .. })
        ));
        assert!(matches!(
            table(HostPort::Ignored, &[""]),
            Err(TableError::Empty { .. })
        ));
    }

    /// Specificity by brute force: kind first, then length.
    fn naive<'d>(domains: &'d [String], host: &str) -> Option<&'d str> {
        let rank = |d: &str| -> Option<(u8, usize)> {
            match (d.strip_prefix('*'), d.strip_suffix('*')) {
                _ if d == host => Some((3, d.len())),
                (Some(""), _) => Some((0, 0)),
                (Some(s), _) => (host.len() > s.len() && host.ends_with(s)).then_some((2, s.len())),
                (_, Some(p)) => (host.len() > p.len() && host.starts_with(p)).then_some((1, p.len())),
                _ => None,
            }
        };
        let ranked = domains.iter().filter_map(|d| Some((rank(d)?, d.as_str())));
        ranked.max_by_key(|(r, _)| *r).map(|(_, d)| d)
    }

    proptest! {
        #[test]
        fn agrees_with_brute_force(
            domains in prop::collection::hash_set("\\*|[ab]{1,3}|\\*[ab.]{1,3}|[ab.]{1,3}\\*", 1..8),
            host in "[ab.]{0,5}",
        ) {
            let domains: Vec<String> = domains.into_iter().collect();
            let names: Vec<&str> = domains.iter().map(String::as_str).collect();
            let t = table(HostPort::Ignored, &names).unwrap();
            let found = t.virtual_host(&host).map(|v| v.name.to_string());
            prop_assert_eq!(found.as_deref(), naive(&domains, &host));
        }

        #[test]
        fn never_panics(host in "\\PC{0,30}") {
            let t = table(HostPort::Ignored, &["*.ä", "é*", "x"]).unwrap();
            let _ = t.virtual_host(&host);
        }
    }
}
