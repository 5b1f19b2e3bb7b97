//! The TLS configurations of the mesh, all of them.
//!
//! Tunnels between workloads are mutual TLS 1.3 with ALPN `h2`, without server names and without resumption (a resumed
//! session would not show the certificate again). The control plane's port is ordinary server-authenticated TLS 1.3.

use std::sync::Arc;

use aquifer_core::identity::TrustDomain;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::authority::ServerCertificate;
use crate::certificate::WorkloadCertificate;
use crate::pem::{self, PemError};
use crate::provider::provider;
use crate::trust::Trust;
use crate::verify::{ExpectedPeers, TunnelClientVerifier, TunnelServerVerifier};

/// The protocol of HBONE and of gRPC.
pub const ALPN_H2: &[u8] = b"h2";

#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsConfigError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("the control plane's root certificate cannot be used: {0}")]
    Root(String),
    #[error("the serving certificate cannot be used: {0}")]
    Server(String),
}

/// The configuration to open a tunnel as the workload of `certificate` to one of `expected`.
///
/// Cheap: all but the verifier is shared with the certificate's other connections.
pub fn tunnel_client_config(certificate: &WorkloadCertificate, expected: ExpectedPeers) -> Arc<ClientConfig> {
    let mut config = certificate.client().clone();
    config
        .dangerous()
        .set_certificate_verifier(server_verifier(certificate.trust(), expected));
    Arc::new(config)
}

/// The configuration to accept tunnels for the workload of `certificate` from workloads of `trust_domain`.
///
/// Built once per certificate and trust domain of its own; every connection shares it.
pub fn tunnel_server_config(
    certificate: &WorkloadCertificate,
    trust_domain: &TrustDomain,
) -> Arc<ServerConfig> {
    let build = || Arc::new(server_config(certificate, trust_domain));
    if trust_domain == certificate.identity().trust_domain() {
        certificate.server().get_or_init(build).clone()
    } else {
        build()
    }
}

/// The part of a tunnel client's configuration that all connections of a certificate share; it accepts nobody yet.
pub(crate) fn client_base(certified: &Arc<CertifiedKey>, trust: &Trust) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has cipher suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(server_verifier(trust, ExpectedPeers::any_of([])))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified.clone())));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    config
}

fn server_verifier(trust: &Trust, expected: ExpectedPeers) -> Arc<TunnelServerVerifier> {
    Arc::new(TunnelServerVerifier {
        trust: trust.clone(),
        expected,
    })
}

fn server_config(certificate: &WorkloadCertificate, trust_domain: &TrustDomain) -> ServerConfig {
    let verifier = TunnelClientVerifier {
        trust: certificate.trust().clone(),
        trust_domain: trust_domain.clone(),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has cipher suites of TLS 1.3")
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate.certified().clone())));
    without_resumption(&mut config);
    config
}

fn without_resumption(config: &mut ServerConfig) {
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

/// The configuration to dial the control plane: its host name and its chain to the roots are checked.
pub fn control_client_config(roots_pem: &[u8]) -> Result<Arc<ClientConfig>, TlsConfigError> {
    let mut roots = RootCertStore::empty();
    for root in pem::certificates(roots_pem, "control plane root certificate")? {
        roots.add(root).map_err(|e| TlsConfigError::Root(e.to_string()))?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|e| TlsConfigError::Root(e.to_string()))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has cipher suites of TLS 1.3")
        .with_webpki_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// The configuration of the control plane's port; callers prove themselves by a token, not by a certificate.
pub fn control_server_config(certificate: &ServerCertificate) -> Result<Arc<ServerConfig>, TlsConfigError> {
    let chain = pem::certificates(certificate.chain_pem().as_bytes(), "serving certificate")?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has cipher suites of TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, certificate.private_key())
        .map_err(|e| TlsConfigError::Server(e.to_string()))?;
    without_resumption(&mut config);
    Ok(Arc::new(config))
}

/// The same for the webhook's port: the API server offers HTTP/1.1 to webhooks, and nothing else.
pub fn webhook_server_config(certificate: &ServerCertificate) -> Result<Arc<ServerConfig>, TlsConfigError> {
    let mut config = Arc::unwrap_or_clone(control_server_config(certificate)?);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
