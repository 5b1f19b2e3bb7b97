//! From an authenticated pod and its xDS node id to the client that is served.

use std::sync::Arc;

use super::{Authenticated, TrustedNodeAccounts};
use crate::serve::{ClientIdentity, ProxyType};

/// The label of pods that the control plane renders for a Gateway, and the class that makes one a waypoint.
const CLASS_LABEL: &str = "gateway.networking.k8s.io/gateway-class-name";
const WAYPOINT_CLASS: &str = "istio-waypoint";
/// The longest node id that is read: names of Kubernetes have at most 253 bytes each.
const MAX_NODE_ID: usize = 1024;

/// Why an authenticated caller is not the proxy that it says it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error("the first request has no node; send node.id as TYPE~IP~POD.NAMESPACE~DOMAIN")]
    Missing,
    #[error("node id {0:?} is not TYPE~IP~POD.NAMESPACE~DOMAIN with a type of ztunnel, waypoint or router")]
    Form(String),
    #[error("node id names pod {claimed:?} but the token is bound to {bound}")]
    OtherPod { claimed: String, bound: String },
    #[error("service account {0} is not a node agent's; is it missing from --trusted-node-accounts?")]
    NotAgent(String),
    #[error("pod {0} is not a waypoint: it lacks the label {CLASS_LABEL}={WAYPOINT_CLASS}")]
    NotWaypoint(String),
    #[error("pod {0} is a waypoint and must say so in its node id")]
    IsWaypoint(String),
}

/// Checks that the node id agrees with the pod that the token is bound to.
pub fn identify(
    authenticated: &Authenticated,
    node_id: &str,
    trusted: &TrustedNodeAccounts,
) -> Result<ClientIdentity, NodeError> {
    let (proxy_type, claimed) = parse(node_id)?;
    let caller = &authenticated.caller;
    let bound = format!("{}.{}", caller.pod_name, caller.namespace);
    if claimed != bound {
        return Err(NodeError::OtherPod {
            claimed: claimed.to_owned(),
            bound,
        });
    }
    let is_waypoint = authenticated
        .pod
        .labels
        .get(CLASS_LABEL)
        .is_some_and(|class| &**class == WAYPOINT_CLASS);
    match proxy_type {
        ProxyType::Agent if !trusted.contains(caller) => {
            return Err(NodeError::NotAgent(format!(
                "{}/{}",
                caller.namespace, caller.service_account
            )));
        }
        ProxyType::Waypoint if !is_waypoint => return Err(NodeError::NotWaypoint(bound)),
        ProxyType::Gateway if is_waypoint => return Err(NodeError::IsWaypoint(bound)),
        ProxyType::Agent | ProxyType::Waypoint | ProxyType::Gateway => {}
    }
    Ok(ClientIdentity {
        caller: caller.clone(),
        proxy_type,
        node_id: Arc::from(node_id),
        pod_labels: authenticated.pod.labels.clone(),
    })
}

/// The type and the `POD.NAMESPACE` of a node id.
fn parse(node_id: &str) -> Result<(ProxyType, &str), NodeError> {
    if node_id.is_empty() {
        return Err(NodeError::Missing);
    }
    let form = || NodeError::Form(node_id.chars().take(200).collect());
    let parts: Vec<&str> = node_id.split('~').collect();
    let [proxy_type, _ip, pod, _domain] = parts[..] else {
        return Err(form());
    };
    let proxy_type = match proxy_type {
        "ztunnel" => ProxyType::Agent,
        "waypoint" => ProxyType::Waypoint,
        "router" => ProxyType::Gateway,
        _ => return Err(form()),
    };
    if node_id.len() > MAX_NODE_ID {
        Err(form())
    } else {
        Ok((proxy_type, pod))
    }
}
