//! Host names of services and rules, with a leading wildcard.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use aquifer_core::names::qualify_host;

use crate::model::field::shorten;
use crate::objects::Rejection;

/// A host of a VirtualService, DestinationRule or Gateway server, in lower case and fully qualified.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    Exact(Arc<str>),
    /// `*.example.com`, stored as `.example.com`.
    Suffix(Arc<str>),
    Any,
}

impl HostPattern {
    /// Parses a host as it is written; `qualify` adds the namespace and domain to a name without a dot.
    pub fn parse(text: &str, field: &str) -> Result<Self, Rejection> {
        let bad = |why: &str| {
            Err(Rejection::invalid(
                field,
                format!("host {:?} {why}", shorten(text)),
            ))
        };
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            if !is_dns_name(suffix) {
                return bad("is not a DNS name after its wildcard");
            }
            return Ok(Self::Suffix(format!(".{}", suffix.to_ascii_lowercase()).into()));
        }
        if text.contains('*') {
            return bad("has a wildcard that is not its whole first label");
        }
        if text.parse::<std::net::IpAddr>().is_err() && !is_dns_name(text) {
            return bad("is not a DNS name or IP address");
        }
        Ok(Self::Exact(text.to_ascii_lowercase().into()))
    }

    #[must_use]
    pub fn qualify(self, namespace: &str, domain: &str) -> Self {
        match self {
            Self::Exact(host) => Self::Exact(qualify_host(&host, namespace, domain).into()),
            other => other,
        }
    }

    /// The name where it is one.
    pub fn exact(&self) -> Option<&Arc<str>> {
        match self {
            Self::Exact(host) => Some(host),
            Self::Suffix(_) | Self::Any => None,
        }
    }

    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *host,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
            Self::Any => true,
        }
    }

    /// All patterns that match a name, the most specific first.
    pub fn covering(host: &str) -> impl Iterator<Item = Self> {
        let dots = host.match_indices('.').filter(|(at, _)| *at > 0);
        let suffixes = dots.map(|(at, _)| Self::Suffix(host[at..].into()));
        std::iter::once(Self::Exact(host.into()))
            .chain(suffixes)
            .chain([Self::Any])
    }

    /// Larger is more specific: exact, then the longest wildcard, then `*`.
    pub fn specificity(&self) -> usize {
        match self {
            Self::Exact(_) => usize::MAX,
            Self::Suffix(suffix) => suffix.len(),
            Self::Any => 0,
        }
    }

    /// The narrower of two patterns where one contains the other.
    pub fn intersect(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, narrow) | (narrow, Self::Any) => Some(narrow.clone()),
            (Self::Exact(a), pattern) => pattern.matches(a).then(|| self.clone()),
            (pattern, Self::Exact(b)) => pattern.matches(b).then(|| other.clone()),
            (Self::Suffix(a), Self::Suffix(b)) if a.ends_with(&**b) => Some(self.clone()),
            (Self::Suffix(a), Self::Suffix(b)) if b.ends_with(&**a) => Some(other.clone()),
            _ => None,
        }
    }
}

/// Those of many that a wildcard among the hosts covers, by their names. Without a wildcard nothing is looked at.
pub fn covered<T>(
    hosts: &[HostPattern],
    many: impl Iterator<Item = T>,
    name: impl Fn(&T) -> &str,
) -> impl Iterator<Item = T> {
    let wild: BTreeSet<&HostPattern> = hosts.iter().filter(|host| host.exact().is_none()).collect();
    let many = (!wild.is_empty()).then_some(many).into_iter().flatten();
    many.filter(move |one| HostPattern::covering(name(one)).any(|pattern| wild.contains(&pattern)))
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// The host of a destination: an exact name. The seed's `namespace/host` is taken as `host.namespace`.
pub fn destination_host(
    text: &str,
    namespace: &str,
    domain: &str,
    field: &str,
) -> Result<Arc<str>, Rejection> {
    if let Some((ns, name)) = text.split_once('/') {
        let (ns, name) = (ns.to_ascii_lowercase(), name.to_ascii_lowercase());
        if !is_dns_name(&ns) || !is_dns_name(&name) {
            return Err(Rejection::invalid(
                field,
                format!("host {:?} is not a DNS name", shorten(text)),
            ));
        }
        return Ok(qualify_host(&name, &ns, domain).into());
    }
    match HostPattern::parse(text, field)?.qualify(namespace, domain) {
        HostPattern::Exact(host) => Ok(host),
        _ => Err(Rejection::invalid(
            field,
            format!("host {:?} of a destination has a wildcard", shorten(text)),
        )),
    }
}

fn is_dns_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let label = |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(inner);
    !text.is_empty() && text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostPattern {
        HostPattern::parse(text, "f").unwrap()
    }

    #[test]
    fn intersects_in_both_directions() {
        let check = |a: &str, b: &str, want: Option<&str>| {
            assert_eq!(
                host(a).intersect(&host(b)).map(|h| h.to_string()).as_deref(),
                want,
                "{a} {b}"
            );
        };
        check("*.com", "foo.com", Some("foo.com"));
        check("foo.com", "*.com", Some("foo.com"));
        check("*", "*.com", Some("*.com"));
        check("*.a.com", "*.com", Some("*.a.com"));
        check("a.com", "b.com", None);
        check("*.com", "com", None);
    }

    #[test]
    fn what_covers_a_name_is_what_matches_it() {
        let covering: Vec<String> = HostPattern::covering("a.b.com").map(|h| h.to_string()).collect();
        assert_eq!(covering, ["a.b.com", "*.b.com", "*.com", "*"]);
        for pattern in [
            "a.b.com",
            "*.b.com",
            "*.com",
            "*",
            "*.a.b.com",
            "b.com",
            "*.example",
        ] {
            let covers = HostPattern::covering("a.b.com").any(|h| h == host(pattern));
            assert_eq!(covers, host(pattern).matches("a.b.com"), "{pattern}");
        }
    }

    #[test]
    fn refuses_what_is_no_host() {
        for bad in ["", "a..b", "a*", "*a.com", "a b", "*.*.com", "-/-"] {
            assert!(HostPattern::parse(bad, "f").is_err(), "{bad}");
        }
    }

    #[test]
    fn takes_the_namespaced_form_of_a_destination() {
        let full = destination_host("shop/cart", "x", "cluster.local", "f").unwrap();
        assert_eq!(&*full, "cart.shop.svc.cluster.local");
        assert!(destination_host("*", "x", "cluster.local", "f").is_err());
    }
}
