//! The certificate client: Istio's `CreateCertificate`, for oneself or in the name of a pod of one's node.

use std::time::Duration;

use aquifer_core::identity::SpiffeId;
use aquifer_identity::{CertificateSource, SignError};
use async_trait::async_trait;
use prost_types::{Struct, Value};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::channel::ControlPlane;
use crate::pb::istio::v1::auth::IstioCertificateRequest;
use crate::pb::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use crate::token::TokenFile;

/// The life that is asked for, as Istio's proxies do.
const TTL: Duration = Duration::from_secs(24 * 3600);
/// For one certificate, connecting included.
const DEADLINE: Duration = Duration::from_secs(10);
/// A chain with its roots is a few KiB; a bundle of many roots fits.
const MAX_RESPONSE: usize = 4 * 1024 * 1024;
/// The metadata field by which a node agent names the pod's identity.
pub const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";

/// Whose certificates are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// A waypoint or gateway, for the identity of its own token.
    ForItself,
    /// A node agent, in the name of the pods of its node.
    ForPods,
}

/// Asks the control plane for certificates.
#[derive(Clone, Debug)]
pub struct CaClient {
    channel: Channel,
    token: TokenFile,
    cluster: String,
    asking: Asking,
}

impl CaClient {
    /// Connects when the first certificate is asked for, and again whenever the connection was lost.
    ///
    /// Must be called from within a tokio runtime.
    pub fn new(control_plane: &ControlPlane, token: TokenFile, cluster: &str, asking: Asking) -> Self {
        Self {
            channel: control_plane.connect_lazy(),
            token,
            cluster: cluster.to_owned(),
            asking,
        }
    }

    async fn request(
        &self,
        identity: &SpiffeId,
        csr_pem: &str,
    ) -> Result<Request<IstioCertificateRequest>, SignError> {
        let bearer = self
            .token
            .bearer()
            .await
            .map_err(|error| SignError::Unavailable(error.to_string()))?;
        let mut request = Request::new(IstioCertificateRequest {
            csr: csr_pem.to_owned(),
            validity_duration: TTL.as_secs().cast_signed(),
            metadata: self.metadata(identity),
        });
        request.metadata_mut().insert("authorization", bearer);
        if let Ok(cluster) = self.cluster.parse() {
            request.metadata_mut().insert("clusterid", cluster);
        }
        request.set_timeout(DEADLINE);
        Ok(request)
    }

    fn metadata(&self, identity: &SpiffeId) -> Option<Struct> {
        let field = (IMPERSONATED_IDENTITY.to_owned(), Value::from(identity.as_str()));
        (self.asking == Asking::ForPods).then(|| Struct {
            fields: [field].into(),
        })
    }
}

#[async_trait]
impl CertificateSource for CaClient {
    async fn sign(&self, identity: &SpiffeId, csr_pem: &str) -> Result<Vec<String>, SignError> {
        let request = self.request(identity, csr_pem).await?;
        let mut client =
            IstioCertificateServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_RESPONSE);
        // The deadline in the request is for the server; this one also covers connecting.
        let answer = tokio::time::timeout(DEADLINE, client.create_certificate(request)).await;
        let answer = answer
            .map_err(|_| SignError::Unavailable(format!("no answer within {}s", DEADLINE.as_secs())))?
            .map_err(|status| sign_error(&status))?;
        let chain = answer.into_inner().cert_chain;
        if chain.len() < 2 {
            return Err(SignError::Malformed("a chain without a root".to_owned()));
        }
        Ok(chain)
    }
}

fn sign_error(status: &Status) -> SignError {
    let text = format!("{}: {}", status.code(), with_causes(status));
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented => {
            SignError::Refused(text)
        }
        _ => SignError::Unavailable(text),
    }
}

/// A status made by the transport says only "transport error"; its sources say why.
fn with_causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text = format!("{text}: {line}");
        }
        cause = error.source();
    }
    text
}
