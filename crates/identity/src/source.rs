//! Where certificates come from: the seam to the certificate authority's client.

use aquifer_core::identity::SpiffeId;
use async_trait::async_trait;

/// Signs certificate requests. The gRPC client of the mesh's authority is one; tests have their own.
#[async_trait]
pub trait CertificateSource: Send + Sync {
    /// Has `csr_pem` signed for `identity`. The answer is PEM: the leaf first, then intermediates, the roots last
    /// (each element may hold several certificates).
    ///
    /// Cancel safe: the manager drops the future when an identity is forgotten or the time is over.
    async fn sign(&self, identity: &SpiffeId, csr_pem: &str) -> Result<Vec<String>, SignError>;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    #[error("the certificate authority refused: {0}; check the token and what this node may ask for")]
    Refused(String),
    #[error("the certificate authority is unavailable: {0}; is the control plane reachable?")]
    Unavailable(String),
    #[error("the certificate authority sent an answer that makes no sense: {0}")]
    Malformed(String),
}
