//! TLS towards clients outside the mesh: certificates that people bring, TLS 1.2 and 1.3, any key that rustls signs with.
//!
//! Nothing here is an identity of the mesh: a client certificate that is checked here opens a door and names nobody.

mod client;
mod forwarded;
mod hello;
mod key_pair;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use aquifer_core::http::server_tls::{CipherSuite, ClientCertificates, ClientCheck, ServerTls, TlsVersion};
use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello as Hello, NoClientAuth, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};

pub use client::{ClientRoots, RootsError};
pub use forwarded::forwarded_client_certificate;
pub use hello::{ClientHello, HelloError, HelloReader};
pub use key_pair::{KeyPairError, ServerKeyPair};

use client::EdgeClientVerifier;

/// What a secret holds that TLS is ended with.
#[derive(Clone, Debug)]
pub enum EdgeSecret {
    KeyPair(Arc<ServerKeyPair>),
    Roots(Arc<ClientRoots>),
}

/// Why a server cannot end TLS now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EdgeError {
    #[error("secret {0} is not there")]
    Missing(String),
    #[error(
        "secret {0} is of the wrong kind: a certificate with its key and authorities of clients are different secrets"
    )]
    Kind(String),
    #[error("the authorities of client certificates cannot be used: {0}")]
    Verifier(String),
}

/// Builds the configuration of one server; `secret` gives the secrets that it names.
pub fn edge_server_config(
    tls: &ServerTls,
    secret: impl Fn(&str) -> Option<EdgeSecret>,
) -> Result<Arc<ServerConfig>, EdgeError> {
    let keys = tls.certificates.iter().map(|name| key_pair(name, &secret));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    let provider = Arc::new(provider(&tls.cipher_suites));
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions(tls))
        .expect("the provider has cipher suites of both versions")
        .with_client_cert_verifier(verifier(&tls.clients, &provider, &secret)?)
        .with_cert_resolver(Arc::new(Resolver(keys)));
    config.alpn_protocols = tls.alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

fn key_pair(
    name: &str,
    secret: &impl Fn(&str) -> Option<EdgeSecret>,
) -> Result<Arc<CertifiedKey>, EdgeError> {
    match secret(name) {
        Some(EdgeSecret::KeyPair(pair)) => Ok(pair.certified().clone()),
        Some(EdgeSecret::Roots(_)) => Err(EdgeError::Kind(name.to_owned())),
        None => Err(EdgeError::Missing(name.to_owned())),
    }
}

fn verifier(
    clients: &ClientCertificates,
    provider: &Arc<CryptoProvider>,
    secret: &impl Fn(&str) -> Option<EdgeSecret>,
) -> Result<Arc<dyn ClientCertVerifier>, EdgeError> {
    let (check, mandatory) = match clients {
        ClientCertificates::NotAsked => return Ok(Arc::new(NoClientAuth)),
        ClientCertificates::Optional(check) => (check, false),
        ClientCertificates::Required(check) => (check, true),
    };
    let ClientCheck { authorities, names } = check;
    let roots = match secret(authorities) {
        Some(EdgeSecret::Roots(roots)) => roots,
        Some(EdgeSecret::KeyPair(_)) => return Err(EdgeError::Kind(authorities.to_string())),
        None => return Err(EdgeError::Missing(authorities.to_string())),
    };
    let verifier = EdgeClientVerifier::new(roots, names.clone(), mandatory, provider.clone());
    Ok(Arc::new(verifier.map_err(EdgeError::Verifier)?))
}

fn versions(tls: &ServerTls) -> Vec<&'static SupportedProtocolVersion> {
    let spoken = [(TlsVersion::V1_3, &TLS13), (TlsVersion::V1_2, &TLS12)];
    let within = spoken
        .into_iter()
        .filter(|(version, _)| tls.versions.contain(*version));
    within.map(|(_, version)| version).collect()
}

/// All of TLS 1.3, and those suites of TLS 1.2 that were asked for.
fn provider(asked: &[CipherSuite]) -> CryptoProvider {
    let default = aws_lc_rs::default_provider();
    let listed: Vec<SupportedCipherSuite> = asked.iter().map(|s| tls12_suite(*s)).collect();
    let spoken = |suite: &SupportedCipherSuite| match suite {
        SupportedCipherSuite::Tls13(_) => true,
        SupportedCipherSuite::Tls12(_) => asked.is_empty() || listed.contains(suite),
    };
    let kx_groups: Vec<&'static dyn SupportedKxGroup> = default.kx_groups.clone();
    CryptoProvider {
        cipher_suites: default.cipher_suites.iter().copied().filter(spoken).collect(),
        kx_groups,
        ..default
    }
}

fn tls12_suite(suite: CipherSuite) -> SupportedCipherSuite {
    match suite {
        CipherSuite::EcdsaAes128 => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdsaAes256 => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdsaChacha20 => cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::RsaAes128 => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::RsaAes256 => cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::RsaChacha20 => cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

/// The first certificate whose key can sign as the client wants it.
#[derive(Debug)]
struct Resolver(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: Hello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = hello.signature_schemes();
        let fits = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(schemes).is_some();
        self.0.iter().find(fits).cloned()
    }
}
