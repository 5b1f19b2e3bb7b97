//! A workload's certificate with its key and the roots that its peers must chain to.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aquifer_core::identity::SpiffeId;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::prelude::X509Certificate;

use crate::csr::KeyAndCsr;
use crate::peer::{self, PeerIdentityError};
use crate::pem::{self, PemError};
use crate::provider::provider;
use crate::tls;
use crate::trust::{Trust, TrustBundle};
use crate::verify::{Roots, Usage};

/// A certificate chain, its private key and the trust roots, checked to belong together.
///
/// Immutable; a rotation makes a new one. The TLS configurations are built once and shared by every connection.
pub struct WorkloadCertificate {
    identity: SpiffeId,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    certified: Arc<CertifiedKey>,
    trust: Trust,
    client: ClientConfig,
    server: OnceLock<Arc<ServerConfig>>,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum CertificateError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error(transparent)]
    Identity(#[from] PeerIdentityError),
    #[error("asked for {requested} but the certificate names {presented}")]
    WrongIdentity {
        requested: SpiffeId,
        presented: SpiffeId,
    },
    #[error("the private key does not belong to the certificate of {identity}: {cause}")]
    Key { identity: SpiffeId, cause: String },
    #[error("the chain of {identity} does not lead to the roots that came with it: {cause}")]
    Chain { identity: SpiffeId, cause: String },
    #[error("the certificate of {identity} has already expired; is this machine's clock right?")]
    Expired { identity: SpiffeId },
    #[error("the answer has no roots; expected the chain first and the roots as last element")]
    NoRoots,
}

impl WorkloadCertificate {
    /// Puts a certificate together from PEM texts and checks that its parts belong together.
    ///
    /// Whether it is in force now is not checked: clocks differ and [`Self::is_valid_at`] is asked on each use.
    pub fn from_pem(
        chain_pem: &str,
        key: PrivateKeyDer<'static>,
        roots_pem: &str,
    ) -> Result<Self, CertificateError> {
        let chain = pem::certificates(chain_pem.as_bytes(), "certificate chain")?;
        let roots = pem::certificates(roots_pem.as_bytes(), "root certificates")?;
        Self::from_parts(chain, key, roots)
    }

    /// Takes an authority's answer (leaf first, roots last) to `request`, made for `requested`.
    pub fn from_answer(
        answer: &[String],
        request: &KeyAndCsr,
        requested: &SpiffeId,
    ) -> Result<Self, CertificateError> {
        let (roots, chain) = answer.split_last().ok_or(CertificateError::NoRoots)?;
        if chain.is_empty() {
            return Err(CertificateError::NoRoots);
        }
        // Each element may lack its final newline.
        let certificate = Self::from_pem(&chain.join("\n"), request.private_key(), roots)?;
        if certificate.identity != *requested {
            return Err(CertificateError::WrongIdentity {
                requested: requested.clone(),
                presented: certificate.identity,
            });
        }
        Ok(certificate)
    }

    fn from_parts(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: Vec<CertificateDer<'static>>,
    ) -> Result<Self, CertificateError> {
        let leaf = chain.first().ok_or(PemError::Empty {
            what: "certificate chain",
        })?;
        let Facts {
            identity,
            serial,
            not_before,
            not_after,
        } = Facts::read(&peer::parse(leaf)?)?;
        let roots = Arc::new(Roots::new(roots).map_err(|cause| CertificateError::Chain {
            identity: identity.clone(),
            cause,
        })?);
        check_chain(&chain, &roots, &identity, middle(not_before, not_after))?;
        let certified =
            CertifiedKey::from_der(chain, key, &provider()).map_err(|e| CertificateError::Key {
                identity: identity.clone(),
                cause: e.to_string(),
            })?;
        let certified = Arc::new(certified);
        let trust = Trust::of(roots);
        Ok(Self {
            client: tls::client_base(&certified, &trust),
            server: OnceLock::new(),
            identity,
            serial,
            not_before,
            not_after,
            certified,
            trust,
        })
    }

    /// Judges peers by `bundle` from now on, as soon as it holds anything, and by this certificate's own roots before.
    #[must_use]
    pub fn trusting(mut self, bundle: TrustBundle) -> Self {
        self.trust.follow(bundle);
        self.server = OnceLock::new();
        self
    }

    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// The serial number, lowercase hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether the certificate has not expired. A start in the future is let pass: the authority's clock may be ahead.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        now < self.not_after
    }

    pub fn chain_pem(&self) -> String {
        pem::encode_certificates(&self.certified.cert)
    }

    /// The roots that peers must chain to now.
    pub fn roots_pem(&self) -> String {
        pem::encode_certificates(self.trust.roots().certificates())
    }

    /// Whether the chain leads to one of `roots` alone.
    pub(crate) fn leads_to(&self, roots: &Roots) -> bool {
        let at = middle(self.not_before, self.not_after);
        check_chain(&self.certified.cert, roots, &self.identity, at).is_ok()
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    pub(crate) fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(crate) fn client(&self) -> &ClientConfig {
        &self.client
    }

    pub(crate) fn server(&self) -> &OnceLock<Arc<ServerConfig>> {
        &self.server
    }
}

impl fmt::Debug for WorkloadCertificate {
    /// Everything but the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadCertificate")
            .field("identity", &self.identity)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

struct Facts {
    identity: SpiffeId,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Facts {
    fn read(leaf: &X509Certificate<'_>) -> Result<Self, CertificateError> {
        let validity = leaf.validity();
        Ok(Self {
            identity: peer::identity_of(leaf)?,
            serial: leaf.raw_serial().iter().map(|b| format!("{b:02x}")).collect(),
            not_before: time_of(validity.not_before.timestamp()),
            not_after: time_of(validity.not_after.timestamp()),
        })
    }
}

/// A certificate from before 1970 counts as one from 1970; both are long over.
pub(crate) fn time_of(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn middle(from: SystemTime, to: SystemTime) -> SystemTime {
    from + to.duration_since(from).unwrap_or_default() / 2
}

/// The middle of the leaf's life stands for "now": the question is whether the parts fit, not whether they are fresh.
fn check_chain(
    chain: &[CertificateDer<'static>],
    roots: &Roots,
    identity: &SpiffeId,
    at: SystemTime,
) -> Result<(), CertificateError> {
    let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default());
    let (leaf, intermediates) = chain.split_first().ok_or(PemError::Empty {
        what: "certificate chain",
    })?;
    roots
        .verify(leaf, intermediates, at, Usage::Client)
        .map_err(|e| CertificateError::Chain {
            identity: identity.clone(),
            cause: e.to_string(),
        })
}
