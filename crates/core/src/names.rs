//! Names of Kubernetes objects and of services, and how short ones become full ones.

use std::fmt;
use std::sync::Arc;

/// A service as the mesh keys it: the namespace that declares it and its host name.
///
/// Written `namespace/hostname`, as in Istio's workload API.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespacedHostname {
    pub namespace: Arc<str>,
    pub hostname: Arc<str>,
}

impl NamespacedHostname {
    pub fn new(namespace: &str, hostname: &str) -> Self {
        Self {
            namespace: namespace.into(),
            hostname: hostname.to_ascii_lowercase().into(),
        }
    }

    /// Parses `namespace/hostname`.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, hostname) = text.split_once('/')?;
        (!namespace.is_empty() && !hostname.is_empty() && !hostname.contains('/'))
            .then(|| Self::new(namespace, hostname))
    }
}

impl fmt::Display for NamespacedHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}
impl fmt::Debug for NamespacedHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The full name of a host in a VirtualService, DestinationRule or destination.
///
/// Istio expands only names without a dot: `reviews` in namespace `bookinfo` is
/// `reviews.bookinfo.svc.cluster.local`; anything with a dot, and `*`, stays as written.
pub fn qualify_host(host: &str, namespace: &str, cluster_domain: &str) -> String {
    if host.contains('.') || host.starts_with('*') || host.parse::<std::net::IpAddr>().is_ok() {
        return host.to_ascii_lowercase();
    }
    format!("{}.{namespace}.svc.{cluster_domain}", host.to_ascii_lowercase())
}

/// The names under which a client may address a Kubernetes service, longest first.
pub fn service_host_forms(name: &str, namespace: &str, cluster_domain: &str) -> Vec<String> {
    vec![
        format!("{name}.{namespace}.svc.{cluster_domain}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}"),
        name.to_owned(),
    ]
}

/// Whether a Kubernetes object name or namespace is a DNS-1123 label of at most 63 bytes.
pub fn is_dns_label(s: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !s.is_empty() && s.len() <= 63 && s.bytes().all(inner) && !s.starts_with('-') && !s.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qualifies_only_names_without_a_dot() {
        let check =
            |host: &str, want: &str| assert_eq!(qualify_host(host, "bookinfo", "cluster.local"), want);
        check("reviews", "reviews.bookinfo.svc.cluster.local");
        check("Reviews", "reviews.bookinfo.svc.cluster.local");
        check("reviews.other", "reviews.other");
        check("*", "*");
        check("*.example.com", "*.example.com");
        check("::1", "::1");
    }

    #[test]
    fn namespaced_hostname_round_trips() {
        let name = NamespacedHostname::parse("bookinfo/Reviews.bookinfo.svc.cluster.local").unwrap();
        assert_eq!(name.to_string(), "bookinfo/reviews.bookinfo.svc.cluster.local");
        for bad in ["", "a", "/b", "a/", "a/b/c"] {
            assert!(NamespacedHostname::parse(bad).is_none(), "{bad}");
        }
    }
}
