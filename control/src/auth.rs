//! Who calls: tokens, and what the pod behind a token may ask for.
//!
//! The token is the only thing trusted. What a caller says about itself (its xDS node id) must agree with the Pod
//! object that its token is bound to.

pub mod pods;

use std::sync::Arc;

/// The bearer of a valid token, as the token's claims name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    pub namespace: Arc<str>,
    pub service_account: Arc<str>,
    pub pod_name: Arc<str>,
    pub pod_uid: Arc<str>,
    pub node_name: Arc<str>,
    pub node_uid: Arc<str>,
}
