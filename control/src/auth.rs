//! Who calls: tokens, and what the pod behind a token may ask for.
//!
//! The token is the only thing trusted. What a caller says about itself (its xDS node id) must agree with the Pod
//! object that its token is bound to. Messages name what is wrong and never the token.

mod claims;
pub mod jwks;
mod keys;
pub mod node;
pub mod pods;
pub mod token_review;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use tonic::Status;
use tonic::metadata::MetadataMap;

use pods::{PodFacts, PodPhase, Pods};

/// The audience that a token must be made for: a token for another service must not open the mesh.
pub const AUDIENCE: &str = "istio-ca";
/// No service account token comes near this.
const MAX_TOKEN: usize = 16 * 1024;

/// The bearer of a valid token, as the token's claims name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
    pub pod_name: Arc<str>,
    pub pod_uid: Arc<str>,
    /// Empty where the cluster does not write it into tokens (Kubernetes before 1.30); the Pod object has it then.
    pub node_name: Arc<str>,
    pub node_uid: Arc<str>,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.pod_name)
    }
}

/// Why a call is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("no service account token; send it as metadata `authorization: Bearer TOKEN`")]
    NoToken,
    #[error("the authorization metadata is not one bearer token")]
    NotBearer,
    #[error("the token is not a signed JWT: {0}")]
    Malformed(String),
    #[error("the token is signed with a key that is not in the key set; is it of another cluster?")]
    UnknownKey,
    #[error("the token's algorithm is not the one of its key")]
    Algorithm,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token has expired; is the clock right, and does the kubelet renew the token?")]
    Expired,
    #[error("the token is not valid yet; is the clock right?")]
    NotYetValid,
    #[error("the token is made for another audience than {AUDIENCE}")]
    Audience,
    #[error("the token was issued by another issuer than the expected one")]
    Issuer,
    #[error("the token is not one of a pod's service account: {0}")]
    Claims(String),
    #[error("the API server does not accept the token; is it of another cluster, or of a pod that is gone?")]
    NotAuthenticated,
    #[error("tokens cannot be checked now: {0}")]
    Unavailable(String),
    #[error(
        "pod {pod} with the UID of the token is not known here; was it deleted, or has it just been created?"
    )]
    UnknownPod { pod: String },
    #[error("pod {pod} {reason}")]
    PodDisagrees { pod: String, reason: String },
}

impl From<AuthError> for Status {
    fn from(error: AuthError) -> Self {
        let message = error.to_string();
        match error {
            AuthError::Unavailable(_) => Self::unavailable(message),
            AuthError::UnknownPod { .. } | AuthError::PodDisagrees { .. } => Self::permission_denied(message),
            _ => Self::unauthenticated(message),
        }
    }
}

/// Checks tokens: against a key set, or by asking the API server.
#[async_trait]
pub trait TokenVerifier: Send + Sync {
    /// The bearer of `token`, if it is genuine, made for [`AUDIENCE`] and valid at `now`.
    async fn verify(&self, token: &str, now: SystemTime) -> Result<Caller, AuthError>;
}

/// A caller whose pod is known, alive and runs as the token says.
#[derive(Clone, Debug)]
pub struct Authenticated {
    pub caller: Caller,
    pub pod: PodFacts,
}

/// The service accounts of node agents, `NAMESPACE/NAME`; only these may ask in the name of other pods.
#[derive(Clone, Debug, Default)]
pub struct TrustedNodeAccounts(BTreeSet<String>);

impl TrustedNodeAccounts {
    pub fn new(accounts: impl IntoIterator<Item = String>) -> Self {
        Self(accounts.into_iter().collect())
    }

    pub fn contains(&self, caller: &Caller) -> bool {
        self.0
            .contains(&format!("{}/{}", caller.namespace, caller.service_account))
    }
}

/// From a call's metadata to a caller; shared by xDS and the certificate service.
#[derive(Clone)]
pub struct Authenticator {
    verifier: Arc<dyn TokenVerifier>,
    pods: Arc<dyn Pods>,
    trusted: Arc<TrustedNodeAccounts>,
}

impl Authenticator {
    pub fn new(verifier: Arc<dyn TokenVerifier>, pods: Arc<dyn Pods>, trusted: TrustedNodeAccounts) -> Self {
        Self {
            verifier,
            pods,
            trusted: Arc::new(trusted),
        }
    }

    pub fn pods(&self) -> &dyn Pods {
        &*self.pods
    }

    pub fn trusted(&self) -> &TrustedNodeAccounts {
        &self.trusted
    }

    /// Who makes a call with this metadata.
    pub async fn authenticate(
        &self,
        metadata: &MetadataMap,
        now: SystemTime,
    ) -> Result<Authenticated, AuthError> {
        let caller = self.verifier.verify(bearer(metadata)?, now).await?;
        let found = self
            .pods
            .pod(&caller.namespace, &caller.pod_name, &caller.pod_uid);
        let pod = found.ok_or_else(|| AuthError::UnknownPod {
            pod: caller.to_string(),
        })?;
        agree(&caller, &pod)?;
        Ok(Authenticated { caller, pod })
    }
}

/// A token outlives its pod: the Pod object decides whether the pod still is what the token says.
fn agree(caller: &Caller, pod: &PodFacts) -> Result<(), AuthError> {
    let disagrees = |reason: &str| {
        Err(AuthError::PodDisagrees {
            pod: caller.to_string(),
            reason: reason.to_owned(),
        })
    };
    if pod.service_account != caller.service_account {
        return disagrees("does not run as the token's service account");
    }
    if !caller.node_name.is_empty() && pod.node != caller.node_name {
        return disagrees("is not on the node that the token names");
    }
    if matches!(pod.phase, PodPhase::Failed | PodPhase::Succeeded) {
        return disagrees("has ended");
    }
    Ok(())
}

fn bearer(metadata: &MetadataMap) -> Result<&str, AuthError> {
    let mut values = metadata.get_all("authorization").iter();
    let value = values.next().ok_or(AuthError::NoToken)?;
    if values.next().is_some() {
        return Err(AuthError::NotBearer);
    }
    let text = value.to_str().map_err(|_| AuthError::NotBearer)?;
    let (scheme, token) = text.split_once(' ').ok_or(AuthError::NotBearer)?;
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() || token.len() > MAX_TOKEN {
        return Err(AuthError::NotBearer);
    }
    Ok(token)
}
