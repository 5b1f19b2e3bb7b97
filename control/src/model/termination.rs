//! How TLS ends at a server, with Secrets as somebody named them.
//!
//! It knows nothing of the object that asked for it, so that Istio's Gateway and the Gateway API can share it; which
//! namespace a Secret without one is in is settled when a proxy's resources are made.

use std::sync::Arc;

use aquifer_core::http::server_tls::{CipherSuite, TlsVersions};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Termination {
    /// Secrets with a certificate and its key; for Istio's Gateway never empty.
    pub certificates: Vec<SecretRef>,
    pub clients: Option<ClientCheck>,
    pub versions: TlsVersions,
    /// Empty for every suite that the proxies speak.
    pub cipher_suites: Vec<CipherSuite>,
}

impl Termination {
    /// Every place that names a Secret.
    pub fn references(&self) -> impl Iterator<Item = &SecretRef> {
        let authorities = self.clients.as_ref().map(|c| c.authorities.reference());
        self.certificates.iter().chain(authorities)
    }
}

/// A Secret by its name, and the field that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// That of the proxy's pod where there is none.
    pub namespace: Option<Arc<str>>,
    pub name: Arc<str>,
    pub field: String,
}

/// Which certificates of clients are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCheck {
    /// Whether a client must have one.
    pub required: bool,
    pub authorities: AuthoritiesRef,
    pub names: Vec<Arc<str>>,
}

/// Where the authorities of clients are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthoritiesRef {
    /// In the Secret of the name with `-cacert` after it; where there is none, in the one of the name itself.
    Beside(SecretRef),
    In(SecretRef),
}

/// What Istio puts behind a credential's name for the authorities of its clients.
pub const CA_SUFFIX: &str = "-cacert";

impl AuthoritiesRef {
    pub fn reference(&self) -> &SecretRef {
        match self {
            Self::Beside(reference) | Self::In(reference) => reference,
        }
    }
}
