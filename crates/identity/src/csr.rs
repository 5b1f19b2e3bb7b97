//! A fresh key and the request to certify it.

use aquifer_core::identity::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

/// A private key (ECDSA P-256) and the request that asks for a certificate of its public half.
///
/// It has no `Debug`: a key must not reach a log line.
pub struct KeyAndCsr {
    pkcs8: Zeroizing<Vec<u8>>,
    csr_pem: String,
}

#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot create a certificate request for {identity}: {cause}")]
pub struct CsrError {
    identity: SpiffeId,
    cause: String,
}

impl KeyAndCsr {
    /// The request, PEM.
    pub fn csr_pem(&self) -> &str {
        &self.csr_pem
    }

    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()).into()
    }
}

/// Creates a key and its request: empty subject and one critical URI name, as Istio's proxies ask.
pub fn new_csr(identity: &SpiffeId) -> Result<KeyAndCsr, CsrError> {
    create(identity).map_err(|e| CsrError {
        identity: identity.clone(),
        cause: e.to_string(),
    })
}

fn create(identity: &SpiffeId) -> Result<KeyAndCsr, rcgen::Error> {
    let mut key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    // An empty subject also makes the name critical (RFC 5280 section 4.2.1.6).
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
    let csr_pem = params.serialize_request(&key)?.pem()?;
    let pkcs8 = Zeroizing::new(key.serialize_der());
    key.zeroize();
    Ok(KeyAndCsr { pkcs8, csr_pem })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::CertificateSigningRequestDer;
    use rustls_pki_types::pem::PemObject;
    use x509_parser::certification_request::X509CertificationRequest;
    use x509_parser::extensions::{GeneralName, ParsedExtension};
    use x509_parser::prelude::FromDer;

    #[test]
    fn request_has_empty_subject_and_the_identity_only() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/b").unwrap();
        let request = new_csr(&id).unwrap();
        let der = CertificateSigningRequestDer::from_pem_slice(request.csr_pem().as_bytes()).unwrap();
        let (_, csr) = X509CertificationRequest::from_der(&der).unwrap();
        csr.verify_signature().unwrap();
        assert_eq!(csr.certification_request_info.subject.iter().count(), 0);
        let names: Vec<_> = csr
            .requested_extensions()
            .unwrap()
            .map(|extension| match extension {
                ParsedExtension::SubjectAlternativeName(san) => san.general_names.clone(),
                other => panic!("unexpected extension {other:?}"),
            })
            .collect();
        assert_eq!(names, vec![vec![GeneralName::URI(id.as_str())]]);
    }

    #[test]
    fn every_request_has_its_own_key() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/a/sa/b").unwrap();
        let (a, b) = (new_csr(&id).unwrap(), new_csr(&id).unwrap());
        assert_ne!(a.private_key().secret_der(), b.private_key().secret_der());
    }
}
