//! The mesh's certificate authority: a root of its own, or an intermediate given in Istio's `cacerts` files.
//!
//! What a certificate says is decided here and never by the request: from a CSR only the public key is taken, after its
//! signature has proved that the asker holds the private half.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer_core::identity::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::certificate::time_of;
use crate::pem::{self, PemError};

mod files;
#[cfg(test)]
mod tests;

pub use files::{AuthorityFiles, LoadError, SaveError};

/// The longest life of a workload's certificate, and what it gets when it asks for none.
pub const MAX_WORKLOAD_TTL: Duration = Duration::from_secs(24 * 3600);
/// The shortest: below it rotation would be all that a proxy does.
pub const MIN_WORKLOAD_TTL: Duration = Duration::from_secs(60);
const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const SERVER_TTL: Duration = Duration::from_secs(90 * 24 * 3600);
/// How far a certificate is dated back, for peers whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_secs(120);
/// A request of a 4096 bit RSA key with names has about 2 KiB.
const MAX_CSR: usize = 16 * 1024;

/// Signs certificates for the workloads of one trust domain and for the control plane's own port.
///
/// It has no `Debug`: a key must not reach a log line.
pub struct CertificateAuthority {
    signer: Arc<Signer>,
    /// What every workload trusts; the root that the signer leads to is one of them.
    roots: Vec<CertificateDer<'static>>,
}

/// The half with the key.
struct Signer {
    trust_domain: TrustDomain,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
    /// From the issuer up to, and without, the root: what follows a leaf.
    intermediates: Vec<CertificateDer<'static>>,
}

/// Why a workload's certificate was not signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignRequestError {
    #[error("the request has {size} bytes; at most {MAX_CSR} are read")]
    TooLong { size: usize },
    #[error("the request is no PEM certificate request: {0}")]
    Malformed(String),
    #[error("the request's signature is not made with the key that it holds")]
    Signature,
    #[error("the request's key is not supported: {0}; use ECDSA P-256 or RSA with 2048 bits or more")]
    Key(String),
    #[error("identity {identity} is not of the trust domain {trust_domain} that this authority speaks for")]
    TrustDomain {
        identity: SpiffeId,
        trust_domain: TrustDomain,
    },
    #[error("the authority's own certificate has expired; put another authority in its place")]
    Expired,
    #[error("cannot sign: {0}")]
    Sign(String),
}

/// A certificate for the control plane's port.
///
/// It has no `Debug`: a key must not reach a log line.
pub struct ServerCertificate {
    chain_pem: String,
    key: Zeroizing<Vec<u8>>,
    not_after: SystemTime,
}

impl ServerCertificate {
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// When to have issued the next one.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.to_vec()).into()
    }
}

impl CertificateAuthority {
    /// Creates an authority with a root of its own, good for ten years.
    pub fn new_self_signed(trust_domain: TrustDomain, now: SystemTime) -> Result<Self, SignRequestError> {
        let key = generate_key()?;
        let mut params = params(now, now + ROOT_TTL);
        params
            .distinguished_name
            .push(DnType::OrganizationName, trust_domain.as_str());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let certificate = params.self_signed(&key).map_err(sign_error)?.der().clone();
        let roots = vec![certificate.clone()];
        let signer = Arc::new(Signer {
            trust_domain,
            issuer: Issuer::new(params, key),
            not_before: now,
            not_after: now + ROOT_TTL,
            intermediates: Vec::new(),
            certificate,
        });
        Ok(Self { signer, roots })
    }

    /// The same signer under other roots: what is handed out with each certificate.
    #[must_use]
    pub fn trusting(&self, roots: Vec<CertificateDer<'static>>) -> Self {
        let signer = self.signer.clone();
        Self { signer, roots }
    }

    /// The certificate that it signs with.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.signer.certificate
    }

    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// The first of the roots that what it signs leads to; it was proved that there is one.
    pub fn own_root(&self) -> Option<&CertificateDer<'static>> {
        let chain = || std::iter::once(self.certificate()).chain(&self.signer.intermediates);
        let signed_by = |root: &CertificateDer<'static>| {
            chain().any(|certificate| certificate == root || is_signed_by(certificate, root))
        };
        self.roots.iter().find(|root| signed_by(root))
    }

    /// Whether what it signs leads to a root of its own making, without an intermediate in between.
    pub fn is_self_signed(&self) -> bool {
        self.signer.intermediates.is_empty()
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.signer.trust_domain
    }

    pub fn not_before(&self) -> SystemTime {
        self.signer.not_before
    }

    /// When the authority's own certificate ends; nothing that it signs lives longer.
    pub fn not_after(&self) -> SystemTime {
        self.signer.not_after
    }

    /// The roots that every workload trusts, PEM.
    pub fn roots_pem(&self) -> String {
        pem::encode_certificates(&self.roots)
    }

    /// Signs the key of `csr_pem` for `identity`; the answer is the leaf, the intermediates, and last the roots.
    ///
    /// The life is `ttl`, at least a minute, at most a day and never beyond the authority's own; zero means a day.
    pub fn sign_workload(
        &self,
        csr_pem: &str,
        identity: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, SignRequestError> {
        if identity.trust_domain() != self.trust_domain() {
            return Err(SignRequestError::TrustDomain {
                identity: identity.clone(),
                trust_domain: self.trust_domain().clone(),
            });
        }
        let key = public_key(csr_pem)?;
        let mut params = params(now, self.expiry(workload_ttl(ttl), now)?);
        params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into().map_err(sign_error)?)];
        leaf_usages(&mut params);
        let leaf = self.sign(&params, &key)?;
        Ok(self.answer(&leaf))
    }

    /// Issues a certificate for the control plane's port.
    pub fn issue_server(
        &self,
        dns_names: &[String],
        now: SystemTime,
    ) -> Result<ServerCertificate, SignRequestError> {
        let key = generate_key()?;
        let not_after = self.expiry(SERVER_TTL, now)?;
        let mut params = params(now, not_after);
        params.subject_alt_names = CertificateParams::new(dns_names)
            .map_err(sign_error)?
            .subject_alt_names;
        leaf_usages(&mut params);
        let leaf = self.sign(&params, &key)?;
        Ok(ServerCertificate {
            chain_pem: pem::encode_certificates(std::iter::once(&leaf).chain(&self.signer.intermediates)),
            key: Zeroizing::new(key.serialize_der()),
            not_after,
        })
    }

    fn expiry(&self, ttl: Duration, now: SystemTime) -> Result<SystemTime, SignRequestError> {
        if self.not_after() <= now {
            return Err(SignRequestError::Expired);
        }
        Ok((now + ttl).min(self.not_after()))
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, SignRequestError> {
        let certificate = params.signed_by(key, &self.signer.issuer).map_err(sign_error)?;
        Ok(certificate.der().clone())
    }

    fn answer(&self, leaf: &CertificateDer<'static>) -> Vec<String> {
        std::iter::once(leaf)
            .chain(&self.signer.intermediates)
            .map(|certificate| pem::encode_certificates([certificate]))
            .chain([self.roots_pem()])
            .collect()
    }
}

fn workload_ttl(asked: Duration) -> Duration {
    if asked.is_zero() {
        MAX_WORKLOAD_TTL
    } else {
        asked.clamp(MIN_WORKLOAD_TTL, MAX_WORKLOAD_TTL)
    }
}

fn generate_key() -> Result<KeyPair, SignRequestError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(sign_error)
}

/// An empty certificate of the given life with a serial number of its own.
fn params(now: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = not_after.into();
    // Random (RFC 5280 section 4.1.2.2 asks for unique): rcgen's default is a hash of the key, which a renewal with the
    // same key would repeat. The top bit stays clear, so that the number is positive.
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    params
}

fn leaf_usages(params: &mut CertificateParams) {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
}

/// The public key of a request whose signature proves that the asker has the private key.
fn public_key(csr_pem: &str) -> Result<SubjectPublicKeyInfo, SignRequestError> {
    if csr_pem.len() > MAX_CSR {
        return Err(SignRequestError::TooLong { size: csr_pem.len() });
    }
    let malformed = |e: &dyn std::fmt::Display| SignRequestError::Malformed(e.to_string());
    let der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes()).map_err(|e| malformed(&e))?;
    let (_, request) = X509CertificationRequest::from_der(&der).map_err(|e| malformed(&e))?;
    request
        .verify_signature()
        .map_err(|_| SignRequestError::Signature)?;
    let key = &request.certification_request_info.subject_pki;
    if let Ok(x509_parser::public_key::PublicKey::RSA(rsa)) = key.parsed()
        && rsa.key_size() < 2048
    {
        return Err(SignRequestError::Key(format!("RSA with {} bits", rsa.key_size())));
    }
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|e| SignRequestError::Key(e.to_string()))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn sign_error(error: rcgen::Error) -> SignRequestError {
    SignRequestError::Sign(error.to_string())
}

/// A certificate in DER.
pub type Certificate = CertificateDer<'static>;

/// Reads every certificate of a PEM text; at least one.
pub fn certificates(pem: &str) -> Result<Vec<Certificate>, PemError> {
    pem::certificates(pem.as_bytes(), "certificate")
}

/// Writes certificates as PEM, one after another.
pub fn certificates_pem<'a>(certificates: impl IntoIterator<Item = &'a Certificate>) -> String {
    pem::encode_certificates(certificates)
}

/// Whom a certificate is for, as an X.500 name.
pub fn subject(certificate: &CertificateDer<'_>) -> Result<String, crate::peer::PeerIdentityError> {
    Ok(crate::peer::parse(certificate)?.subject().to_string())
}

/// From when until when a certificate is good.
pub fn validity(
    certificate: &CertificateDer<'_>,
) -> Result<(SystemTime, SystemTime), crate::peer::PeerIdentityError> {
    let parsed = crate::peer::parse(certificate)?;
    let (from, to) = (parsed.validity().not_before, parsed.validity().not_after);
    Ok((time_of(from.timestamp()), time_of(to.timestamp())))
}

/// Whether the key of `issuer` has signed `certificate`; what cannot be read was signed by nobody.
fn is_signed_by(certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    let (Ok(certificate), Ok(issuer)) = (crate::peer::parse(certificate), crate::peer::parse(issuer)) else {
        return false;
    };
    certificate.issuer() == issuer.subject()
        && certificate.verify_signature(Some(issuer.public_key())).is_ok()
}
