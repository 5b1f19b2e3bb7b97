//! Who may have whose certificate.

use aquifer_core::identity::{IdentityError, SpiffeId, TrustDomain};
use aquifer_xds::ca::IMPERSONATED_IDENTITY;
use prost_types::Struct;
use prost_types::value::Kind;
use tonic::Status;

use crate::auth::{Authenticated, Authenticator};

/// Why an identity is not given to a caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("metadata {IMPERSONATED_IDENTITY} is not a string")]
    NotText,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(
        "service account {account} may not ask for {wanted}: only node agents ask in the name of others; is it missing from --trusted-node-accounts?"
    )]
    NotAgent { account: String, wanted: SpiffeId },
    #[error("{wanted} is not of trust domain {trust_domain}")]
    TrustDomain {
        wanted: SpiffeId,
        trust_domain: TrustDomain,
    },
    #[error("no running pod of node {node} has the service account of {wanted}")]
    NotOnNode { node: String, wanted: SpiffeId },
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let message = denied.to_string();
        match denied {
            Denied::NotText | Denied::Identity(_) => Self::invalid_argument(message),
            _ => Self::permission_denied(message),
        }
    }
}

/// The identity that the request names, if it names one.
pub fn requested(metadata: Option<&Struct>) -> Result<Option<SpiffeId>, Denied> {
    let Some(value) = metadata.and_then(|fields| fields.fields.get(IMPERSONATED_IDENTITY)) else {
        return Ok(None);
    };
    match &value.kind {
        Some(Kind::StringValue(text)) => Ok(Some(SpiffeId::parse(text)?)),
        _ => Err(Denied::NotText),
    }
}

/// The identity to sign for: the caller's own, or the one of a pod on the caller's node where a node agent asks.
///
/// The node is taken from the Pod object and not from the token, so that an old token of a moved pod is of no use.
pub fn authorise(
    caller: &Authenticated,
    wanted: Option<SpiffeId>,
    trust_domain: &TrustDomain,
    authenticator: &Authenticator,
) -> Result<SpiffeId, Denied> {
    let own = SpiffeId::new(
        trust_domain,
        &caller.caller.namespace,
        &caller.caller.service_account,
    )?;
    let Some(wanted) = wanted.filter(|wanted| *wanted != own) else {
        return Ok(own);
    };
    if !authenticator.trusted().contains(&caller.caller) {
        let account = format!("{}/{}", caller.caller.namespace, caller.caller.service_account);
        return Err(Denied::NotAgent { account, wanted });
    }
    if wanted.trust_domain() != trust_domain {
        return Err(Denied::TrustDomain {
            wanted,
            trust_domain: trust_domain.clone(),
        });
    }
    let node = &caller.pod.node;
    let pods = authenticator.pods();
    if node.is_empty() || !pods.service_account_on_node(node, wanted.namespace(), wanted.service_account()) {
        return Err(Denied::NotOnNode {
            node: node.to_string(),
            wanted,
        });
    }
    Ok(wanted)
}
