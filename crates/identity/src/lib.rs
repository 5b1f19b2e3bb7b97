//! Keys, certificates and TLS: everything that proves who a workload is.
//!
//! This is the only crate that builds rustls configurations, creates keys or signs certificates, so that one
//! cryptographic provider and one set of rules hold for the whole mesh: TLS 1.3, ALPN `h2`, exact SPIFFE identities.
//! It refuses to know how a certificate authority is reached (that is a [`source::CertificateSource`]) and what a
//! tunnel carries.
//!
//! Read first: [`WorkloadCertificate`] and [`CertificateManager`].
#![forbid(unsafe_code)]

pub mod authority;
pub mod certificate;
pub mod csr;
pub mod edge;
pub mod manager;
pub mod peer;
mod pem;
mod provider;
mod rotation;
pub mod source;
pub mod succession;
pub mod tls;
pub mod trust;
pub mod verify;

pub use authority::CertificateAuthority;
pub use certificate::{CertificateError, WorkloadCertificate};
pub use csr::{CsrError, KeyAndCsr, new_csr};
pub use manager::{CertificateManager, CertificateStatus, FetchError, ManagerConfig};
pub use peer::{PeerIdentityError, peer_identity};
pub use source::{CertificateSource, SignError};
pub use tls::{
    control_client_config, control_server_config, tunnel_client_config, tunnel_server_config,
    webhook_server_config,
};
pub use trust::TrustBundle;
pub use verify::{ExpectedPeers, PeerRejected};
