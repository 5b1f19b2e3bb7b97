//! Decides whether a peer's certificate is acceptable: the chain by webpki, the identity by us.
//!
//! webpki does not match URI names, and host names mean nothing between workloads, so the name check is ours: a client
//! demands one of the exact identities that it expects, a server demands a workload of its own trust domain.

use std::fmt;
use std::sync::Arc;

use aquifer_core::identity::{SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};

use crate::peer::{self, PeerIdentityError};
use crate::provider::signature_algorithms;
use crate::trust::Trust;

#[cfg(test)]
mod tests;

/// The identities that a client accepts from the peer it dials; any one of them, exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedPeers(Arc<[SpiffeId]>);

impl ExpectedPeers {
    /// An empty list accepts nobody.
    pub fn any_of(identities: impl IntoIterator<Item = SpiffeId>) -> Self {
        Self(identities.into_iter().collect())
    }

    pub fn contains(&self, identity: &SpiffeId) -> bool {
        self.0.contains(identity)
    }
}

impl fmt::Display for ExpectedPeers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0[..] {
            [] => f.write_str("nobody"),
            [one] => one.fmt(f),
            many => {
                f.write_str("one of")?;
                many.iter().try_for_each(|identity| write!(f, " {identity}"))
            }
        }
    }
}

/// Why a peer's certificate was not accepted. It travels inside rustls' error: see [`PeerRejected::find`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerRejected {
    #[error("the peer is {presented} but {expected} was expected")]
    UnexpectedIdentity {
        presented: SpiffeId,
        expected: ExpectedPeers,
    },
    #[error("the peer is {presented}, of another trust domain than ours, {ours}")]
    WrongTrustDomain { presented: SpiffeId, ours: TrustDomain },
    #[error("the certificate that names {presented} does not chain to our roots: {cause}")]
    Untrusted { presented: String, cause: String },
    #[error("the peer's certificate has no usable identity: {0}")]
    NoIdentity(#[from] PeerIdentityError),
}

impl PeerRejected {
    /// Looks for the rejection in an error of a TLS handshake.
    pub fn find<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.get_ref().and_then(|inner| Self::find(inner));
        }
        match error.downcast_ref::<Error>() {
            Some(Error::InvalidCertificate(CertificateError::Other(other))) => other.0.downcast_ref(),
            _ => None,
        }
    }
}

impl From<PeerRejected> for Error {
    fn from(rejected: PeerRejected) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rejected))))
    }
}

/// What a certificate is used for in a handshake.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Usage {
    Client,
    Server,
}

/// The trust roots of the mesh.
#[derive(Debug)]
pub(crate) struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl Roots {
    pub(crate) fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, String> {
        let anchors = certificates
            .iter()
            .map(|der| webpki::anchor_from_trusted_cert(der).map(|anchor| anchor.to_owned()))
            .collect::<Result<_, _>>()
            .map_err(|e| format!("a root certificate cannot be used: {e}"))?;
        Ok(Self {
            certificates,
            anchors,
        })
    }

    pub(crate) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<(), webpki::Error> {
        let usage = match usage {
            Usage::Client => KeyUsage::client_auth(),
            Usage::Server => KeyUsage::server_auth(),
        };
        EndEntityCert::try_from(leaf)?
            .verify_for_usage(
                signature_algorithms().all,
                &self.anchors,
                intermediates,
                now,
                usage,
                None,
                None,
            )
            .map(drop)
    }

    /// Verifies the chain and reads the identity, in this order: what is not trusted is not believed.
    pub(crate) fn identify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: Usage,
    ) -> Result<SpiffeId, PeerRejected> {
        let identity = peer::parse(leaf).and_then(|certificate| peer::identity_of(&certificate));
        self.verify(leaf, intermediates, now, usage)
            .map_err(|e| PeerRejected::Untrusted {
                presented: identity
                    .as_ref()
                    .map_or_else(|_| "nobody".to_owned(), ToString::to_string),
                cause: e.to_string(),
            })?;
        Ok(identity?)
    }
}

/// What both sides of a tunnel do with the other's signature.
macro_rules! tunnel_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _cert: &CertificateDer<'_>,
            _dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(tls12())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            rustls::crypto::verify_tls13_signature(message, cert, dss, &signature_algorithms())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            signature_algorithms().supported_schemes()
        }
    };
}

/// The client's side: the server must be one of the expected workloads.
#[derive(Debug)]
pub(crate) struct TunnelServerVerifier {
    pub(crate) trust: Trust,
    pub(crate) expected: ExpectedPeers,
}

impl ServerCertVerifier for TunnelServerVerifier {
    /// The server's name and OCSP answer are ignored: workloads have identities, not host names.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let presented = self
            .trust
            .roots()
            .identify(end_entity, intermediates, now, Usage::Server)?;
        if !self.expected.contains(&presented) {
            let expected = self.expected.clone();
            return Err(PeerRejected::UnexpectedIdentity { presented, expected }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    tunnel_signatures!();
}

/// The server's side: the client must be a workload of our trust domain.
#[derive(Debug)]
pub(crate) struct TunnelClientVerifier {
    pub(crate) trust: Trust,
    pub(crate) trust_domain: TrustDomain,
}

impl ClientCertVerifier for TunnelClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// No hints: a workload has one certificate, and the list would only make the handshake longer.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let presented = self
            .trust
            .roots()
            .identify(end_entity, intermediates, now, Usage::Client)?;
        if *presented.trust_domain() != self.trust_domain {
            let ours = self.trust_domain.clone();
            return Err(PeerRejected::WrongTrustDomain { presented, ours }.into());
        }
        Ok(ClientCertVerified::assertion())
    }

    tunnel_signatures!();
}

/// Never seen: the configurations offer TLS 1.3 only.
fn tls12() -> Error {
    Error::General("TLS 1.2 is not spoken between workloads".to_owned())
}
