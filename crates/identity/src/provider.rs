//! The one cryptographic provider of the mesh.
//!
//! Every configuration names it, so that nothing depends on rustls' process-wide default, which is ambiguous as soon
//! as some dependency turns a second provider on.

use std::sync::{Arc, OnceLock};

use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};

/// aws-lc with the two cipher suites that Istio's proxies speak; AES-128 first because it costs less per byte.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| {
            Arc::new(CryptoProvider {
                cipher_suites: vec![
                    cipher_suite::TLS13_AES_128_GCM_SHA256,
                    cipher_suite::TLS13_AES_256_GCM_SHA384,
                ],
                ..aws_lc_rs::default_provider()
            })
        })
        .clone()
}

pub(crate) fn signature_algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}
