//! Certificates of clients outside the mesh: an authority that people chose, and names if they asked for some.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::X509Certificate;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::X509Version;

use super::key_pair::ip_address;
use crate::peer;
use crate::pem::{self, PemError};

const MIN_RSA_BITS: usize = 2048;
/// RFC 4055 (RSA with SHA-256, 384, 512, PSS), RFC 5758 (ECDSA with the same), RFC 8410 (Ed25519).
const STRONG_SIGNATURES: [&str; 8] = [
    "1.2.840.113549.1.1.11",
    "1.2.840.113549.1.1.12",
    "1.2.840.113549.1.1.13",
    "1.2.840.113549.1.1.10",
    "1.2.840.10045.4.3.2",
    "1.2.840.10045.4.3.3",
    "1.2.840.10045.4.3.4",
    "1.3.101.112",
];

/// The authorities whose client certificates are good.
pub struct ClientRoots {
    certificates: Vec<CertificateDer<'static>>,
    store: Arc<RootCertStore>,
}

/// Without the certificates: there may be hundreds, and who prints something else that holds them wants none.
impl fmt::Debug for ClientRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientRoots({} certificates)", self.certificates.len())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("a certificate of the authorities cannot be used: {0}")]
    Unusable(String),
}

impl ClientRoots {
    pub fn from_pem(pem: &[u8]) -> Result<Self, RootsError> {
        let certificates = pem::certificates(pem, "authorities of client certificates")?;
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            store
                .add(certificate.clone())
                .map_err(|e| RootsError::Unusable(e.to_string()))?;
        }
        Ok(Self {
            certificates,
            store: Arc::new(store),
        })
    }

    pub fn pem(&self) -> String {
        pem::encode_certificates(&self.certificates)
    }
}

/// rustls' verifier, with the names, and with the version 1 certificates that `openssl x509 -req` makes.
#[derive(Debug)]
pub(super) struct EdgeClientVerifier {
    inner: Arc<dyn ClientCertVerifier>,
    roots: Arc<ClientRoots>,
    names: Vec<Arc<str>>,
    provider: Arc<CryptoProvider>,
}

impl EdgeClientVerifier {
    pub(super) fn new(
        roots: Arc<ClientRoots>,
        names: Vec<Arc<str>>,
        mandatory: bool,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, String> {
        let builder = WebPkiClientVerifier::builder_with_provider(roots.store.clone(), provider.clone());
        let builder = match mandatory {
            true => builder,
            false => builder.allow_unauthenticated(),
        };
        Ok(Self {
            inner: builder.build().map_err(|e| e.to_string())?,
            roots,
            names,
            provider,
        })
    }

    fn check_names(&self, leaf: &X509Certificate<'_>) -> Result<(), Error> {
        if self.names.is_empty()
            || presented(leaf)
                .iter()
                .any(|p| self.names.iter().any(|n| **n == *p))
        {
            return Ok(());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    /// A version 1 certificate has no extensions: no name, no usage, and it cannot be an authority. So it is good where
    /// one of the authorities signed it itself, and its time is now.
    fn verify_version_1(&self, leaf: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if leaf.validity().not_after.timestamp() < seconds {
            return Err(CertificateError::Expired.into());
        }
        if leaf.validity().not_before.timestamp() > seconds {
            return Err(CertificateError::NotValidYet.into());
        }
        let signed = self.roots.certificates.iter().any(|root| {
            peer::parse(root).is_ok_and(|root| {
                root.subject().as_raw() == leaf.issuer().as_raw()
                    && is_strong(leaf, &root)
                    && leaf.verify_signature(Some(root.public_key())).is_ok()
            })
        });
        match signed {
            true => Ok(()),
            false => Err(CertificateError::UnknownIssuer.into()),
        }
    }
}

/// The signatures that rustls takes of other versions' certificates: neither SHA-1 nor short RSA keys.
fn is_strong(leaf: &X509Certificate<'_>, root: &X509Certificate<'_>) -> bool {
    let algorithm = leaf.signature_algorithm.algorithm.to_id_string();
    let long_enough = match root.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => key.key_size() >= MIN_RSA_BITS,
        Ok(_) => true,
        Err(_) => false,
    };
    long_enough && STRONG_SIGNATURES.contains(&algorithm.as_str())
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    peer::parse(der).map_err(|_| CertificateError::BadEncoding.into())
}

fn is_version_1(certificate: &X509Certificate<'_>) -> bool {
    certificate.version() == X509Version::V1
}

/// Every subject alternative name as text.
pub(super) fn presented(leaf: &X509Certificate<'_>) -> Vec<String> {
    let names = leaf.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|n| &n.value.general_names);
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => {
            Some((*text).to_owned())
        }
        GeneralName::IPAddress(bytes) => ip_address(bytes).map(|ip| ip.to_string()),
        _ => None,
    };
    names.filter_map(text).collect()
}

impl ClientCertVerifier for EdgeClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let leaf = parse(end_entity)?;
        if is_version_1(&leaf) {
            self.verify_version_1(&leaf, now)?;
        } else {
            self.inner.verify_client_cert(end_entity, intermediates, now)?;
        }
        self.check_names(&leaf)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // rustls has no way to check it for a version 1 certificate, and refuses it here.
        self.inner.verify_tls12_signature(message, certificate, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let leaf = parse(certificate)?;
        if !is_version_1(&leaf) {
            return self.inner.verify_tls13_signature(message, certificate, dss);
        }
        let key = SubjectPublicKeyInfoDer::from(leaf.public_key().raw);
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
