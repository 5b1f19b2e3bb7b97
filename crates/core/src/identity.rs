//! Who a workload is: SPIFFE identities in the form that Istio writes them.
//!
//! Source: the SPIFFE ID specification and Istio's `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The administrative domain that a certificate authority speaks for, such as `cluster.local`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// The longest trust domain that the SPIFFE ID specification (section 2.1) allows, in bytes.
const MAX_TRUST_DOMAIN: usize = 255;
/// The longest SPIFFE ID (specification section 2.3), in bytes.
const MAX_SPIFFE_ID: usize = 2048;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("trust domain {0:?} is not 1 to 255 lowercase letters, digits, '.', '-' or '_'")]
    TrustDomain(String),
    #[error("identity {0:?} does not have the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT")]
    Form(String),
}

impl TrustDomain {
    /// Parses a trust domain name.
    pub fn parse(name: &str) -> Result<Self, IdentityError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if name.is_empty() || name.len() > MAX_TRUST_DOMAIN || !name.bytes().all(allowed) {
            return Err(IdentityError::TrustDomain(shorten(name)));
        }
        Ok(Self(name.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    /// `cluster.local`, the default of Istio.
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The identity of a workload: one shared string and the places of its parts, cheap to clone and compare.
#[derive(Clone)]
pub struct SpiffeId {
    text: Arc<str>,
    trust_domain: TrustDomain,
    namespace: (u32, u32),
    service_account: (u32, u32),
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// Builds the identity of a service account.
    ///
    /// # Errors
    /// [`IdentityError::Form`] where a part is empty, too long or holds a character that a SPIFFE path segment cannot.
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdentityError> {
        let text = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        Self::parse(&text)
    }

    /// Parses `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`, exactly these five segments.
    pub fn parse(text: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(shorten(text));
        if text.len() > MAX_SPIFFE_ID {
            return Err(form());
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(form)?;
        let mut parts = rest.split('/');
        let (Some(td), Some("ns"), Some(ns), Some("sa"), Some(sa), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(form());
        };
        let trust_domain = TrustDomain::parse(td).map_err(|_| form())?;
        if !is_segment(ns) || !is_segment(sa) {
            return Err(form());
        }
        let ns_start = SCHEME.len() + td.len() + "/ns/".len();
        let sa_start = ns_start + ns.len() + "/sa/".len();
        Ok(Self {
            text: text.into(),
            trust_domain,
            namespace: span(ns_start, ns),
            service_account: span(sa_start, sa),
        })
    }

    /// The whole identity, `spiffe://…`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The identity as Istio's policies write principals: without the scheme.
    pub fn principal(&self) -> &str {
        &self.text[SCHEME.len()..]
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn namespace(&self) -> &str {
        &self.text[self.namespace.0 as usize..self.namespace.1 as usize]
    }

    pub fn service_account(&self) -> &str {
        &self.text[self.service_account.0 as usize..self.service_account.1 as usize]
    }
}

fn span(start: usize, part: &str) -> (u32, u32) {
    // Lossless: the whole identity is at most MAX_SPIFFE_ID bytes.
    (start as u32, (start + part.len()) as u32)
}

/// A path segment of a SPIFFE ID (specification section 2.2): letters, digits, `.`, `-`, `_`, and neither `.` nor `..`.
fn is_segment(s: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !s.is_empty() && s != "." && s != ".." && s.bytes().all(allowed)
}

/// Keeps hostile input out of log lines.
fn shorten(s: &str) -> String {
    s.chars().take(100).collect()
}

impl FromStr for SpiffeId {
    type Err = IdentityError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::parse(s)
    }
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}
impl Eq for SpiffeId {}
impl std::hash::Hash for SpiffeId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}
impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}
impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_istio_form() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/bookinfo/sa/bookinfo-reviews").unwrap();
        assert_eq!(id.trust_domain().as_str(), "cluster.local");
        assert_eq!(
            (id.namespace(), id.service_account()),
            ("bookinfo", "bookinfo-reviews")
        );
        assert_eq!(id.principal(), "cluster.local/ns/bookinfo/sa/bookinfo-reviews");
    }

    #[test]
    fn refuses_other_forms() {
        for bad in [
            "",
            "spiffe://",
            "spiffe://td",
            "spiffe://td/ns/a/sa/",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/a/sa/b/c",
            "spiffe://td/ns/../sa/b",
            "spiffe://TD/ns/a/sa/b",
            "https://td/ns/a/sa/b",
            "spiffe://td/ns/a b/sa/c",
            "spiffe://td/sa/a/ns/b",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn spiffe_id_round_trips(td in "[a-z0-9._-]{1,20}", ns in "[a-z0-9-]{1,20}", sa in "[a-z0-9-]{1,20}") {
            let td = TrustDomain::parse(&td).unwrap();
            let id = SpiffeId::new(&td, &ns, &sa).unwrap();
            let again = SpiffeId::parse(id.as_str()).unwrap();
            prop_assert_eq!(&id, &again);
            prop_assert_eq!(again.namespace(), ns);
            prop_assert_eq!(again.service_account(), sa);
            prop_assert_eq!(again.trust_domain(), &td);
        }

        #[test]
        fn never_panics(text in "\\PC{0,80}") {
            let _ = SpiffeId::parse(&text);
        }
    }
}
