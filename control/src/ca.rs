//! The certificate service: `istio.v1.auth.IstioCertificateService/CreateCertificate`.
//!
//! Whose certificate is issued is decided from the caller's token and the Pod objects ([`authorise`]); the request's
//! CSR gives nothing but a public key.

pub mod authorise;
mod rate;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aquifer_core::identity::SpiffeId;
use aquifer_identity::authority::SignRequestError;
use aquifer_telemetry::registry::Registry;
use aquifer_xds::pb::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use aquifer_xds::pb::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use async_trait::async_trait;
use parking_lot::Mutex;
use tonic::{Request, Response, Status};

use crate::auth::{Authenticated, Authenticator};
use crate::authority::Active;
use crate::serve::ServeMetrics;
use rate::RateLimit;

/// A CSR and a name.
const MAX_REQUEST: usize = 64 * 1024;

/// Signs certificates for workloads.
#[derive(Clone)]
pub struct CaService {
    authenticator: Authenticator,
    authority: Active,
    /// The longest life of a certificate.
    life: Duration,
    /// Per calling pod. Held for a lookup, never over an await.
    rate: Arc<Mutex<RateLimit>>,
    metrics: ServeMetrics,
}

impl CaService {
    pub fn new(authenticator: Authenticator, authority: Active, life: Duration, metrics: &Registry) -> Self {
        Self {
            authenticator,
            authority,
            life,
            rate: Arc::default(),
            metrics: ServeMetrics::new(metrics),
        }
    }

    pub(crate) fn into_server(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    fn admit(&self, caller: &Authenticated) -> Result<(), Status> {
        if self.rate.lock().allow(&caller.caller.pod_uid, Instant::now()) {
            return Ok(());
        }
        self.metrics.not_signed("rate");
        Err(Status::resource_exhausted(format!(
            "pod {} asks for too many certificates; slow down",
            caller.caller
        )))
    }

    fn authorise(
        &self,
        caller: &Authenticated,
        request: &IstioCertificateRequest,
    ) -> Result<SpiffeId, Status> {
        let authority = self.authority.borrow().clone();
        let decided = authorise::requested(request.metadata.as_ref()).and_then(|wanted| {
            authorise::authorise(caller, wanted, authority.trust_domain(), &self.authenticator)
        });
        decided.map_err(|denied| {
            self.metrics.not_signed("authorization");
            tracing::warn!(caller = %caller.caller, %denied, "certificate refused");
            denied.into()
        })
    }

    fn sign(&self, identity: &SpiffeId, request: &IstioCertificateRequest) -> Result<Vec<String>, Status> {
        // A negative or absent lifetime is none: the authority gives its default, and shortens what is too long.
        let asked = Duration::from_secs(request.validity_duration.try_into().unwrap_or(0));
        let ttl = if asked.is_zero() {
            self.life
        } else {
            asked.min(self.life)
        };
        let authority = self.authority.borrow().clone();
        authority
            .sign_workload(&request.csr, identity, ttl, SystemTime::now())
            .map_err(|error| {
                self.metrics.not_signed("sign");
                tracing::warn!(%identity, %error, "certificate not signed");
                status(&error)
            })
    }
}

#[async_trait]
impl IstioCertificateService for CaService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.metrics.csr();
        let caller = self
            .authenticator
            .authenticate(request.metadata(), SystemTime::now())
            .await;
        let caller = caller.map_err(|error| {
            self.metrics.unauthenticated();
            tracing::warn!(%error, "certificate call refused");
            Status::from(error)
        })?;
        self.admit(&caller)?;
        let request = request.into_inner();
        let identity = self.authorise(&caller, &request)?;
        let cert_chain = self.sign(&identity, &request)?;
        self.metrics.issued();
        tracing::info!(caller = %caller.caller, %identity, "certificate issued");
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }
}

fn status(error: &SignRequestError) -> Status {
    let message = error.to_string();
    match error {
        SignRequestError::TooLong { .. }
        | SignRequestError::Malformed(_)
        | SignRequestError::Signature
        | SignRequestError::Key(_) => Status::invalid_argument(message),
        SignRequestError::TrustDomain { .. } => Status::permission_denied(message),
        SignRequestError::Expired | SignRequestError::Sign(_) => Status::unavailable(message),
    }
}
