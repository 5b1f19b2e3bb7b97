//! Reads the SPIFFE identity out of a certificate.

use aquifer_core::identity::{IdentityError, SpiffeId};
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdentityError {
    #[error("the peer presented no certificate")]
    NoCertificate,
    #[error("the certificate cannot be parsed: {0}")]
    Malformed(String),
    #[error("the certificate has no URI name; expected one spiffe:// identity")]
    NoUri,
    #[error("the certificate has {0} URI names; an X.509-SVID has exactly one")]
    ManyUris(usize),
    #[error(transparent)]
    Form(#[from] IdentityError),
}

/// The identity in a peer's chain, as rustls hands it out after the handshake.
///
/// It reads; it does not verify. Call it only on chains that a verifier of [`crate::verify`] accepted.
pub fn peer_identity(certificates: Option<&[CertificateDer<'_>]>) -> Result<SpiffeId, PeerIdentityError> {
    let leaf = certificates
        .and_then(<[_]>::first)
        .ok_or(PeerIdentityError::NoCertificate)?;
    identity_of(&parse(leaf)?)
}

pub(crate) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PeerIdentityError> {
    X509Certificate::from_der(der)
        .map(|(_, certificate)| certificate)
        .map_err(|e| PeerIdentityError::Malformed(e.to_string()))
}

/// SPIFFE X.509-SVID section 2: exactly one URI name, and it is the identity.
pub(crate) fn identity_of(certificate: &X509Certificate<'_>) -> Result<SpiffeId, PeerIdentityError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|e| PeerIdentityError::Malformed(e.to_string()))?
        .ok_or(PeerIdentityError::NoUri)?;
    let uris: Vec<&str> = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris[..] {
        [] => Err(PeerIdentityError::NoUri),
        [uri] => Ok(SpiffeId::parse(uri)?),
        _ => Err(PeerIdentityError::ManyUris(uris.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_chain_has_no_identity() {
        assert_eq!(peer_identity(None), Err(PeerIdentityError::NoCertificate));
        assert_eq!(peer_identity(Some(&[])), Err(PeerIdentityError::NoCertificate));
    }

    proptest! {
        #[test]
        fn never_panics(der in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(peer_identity(Some(&[CertificateDer::from(der)])).is_err());
        }
    }
}
