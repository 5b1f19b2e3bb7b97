//! What the control plane must know of pods to decide who may ask for what.

use std::collections::BTreeMap;
use std::sync::Arc;

/// `status.phase` of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodPhase {
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

/// The facts of one Pod object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    pub service_account: Arc<str>,
    /// `spec.nodeName`; empty before scheduling.
    pub node: Arc<str>,
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    pub phase: PodPhase,
}

/// The Pod objects; cheap to ask, since every stream and every certificate does.
pub trait Pods: Send + Sync {
    /// The pod with this name and exactly this UID: a recreated pod is another one.
    fn pod(&self, namespace: &str, name: &str, uid: &str) -> Option<PodFacts>;

    /// Whether a pod that has not failed or finished runs as `namespace/service_account` on `node`.
    fn service_account_on_node(&self, node: &str, namespace: &str, service_account: &str) -> bool;
}
