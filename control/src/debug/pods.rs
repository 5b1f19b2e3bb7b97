//! `/debug/pods`: every pod, enrolled or why not.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::compile::discovery::{PodRecord, pods};
use crate::debug::DebugState;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodStatus {
    namespace: Arc<str>,
    name: Arc<str>,
    uid: Arc<str>,
    node: Arc<str>,
    ips: Vec<IpAddr>,
    phase: Arc<str>,
    ready: bool,
    /// `enrolled`, `pending`, `not-wanted`, or `proxy` for waypoints and gateways.
    state: &'static str,
    /// Which label or fact decided, or what is waited for.
    reason: String,
}

pub(super) fn all(state: &DebugState) -> Vec<PodStatus> {
    let compiled = state.snapshots.compiled();
    compiled
        .map(|c| pods(&c.inputs).map(|pod| status(&pod)).collect())
        .unwrap_or_default()
}

fn status(pod: &PodRecord) -> PodStatus {
    let (state, reason) = state_of(pod);
    PodStatus {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        node: pod.node.clone(),
        ips: pod.ips.clone(),
        phase: pod.phase.clone(),
        ready: pod.ready,
        state,
        reason,
    }
}

fn state_of(pod: &PodRecord) -> (&'static str, String) {
    let because = pod.wanted.because();
    match (pod.enrolled, pod.wanted.is_wanted(), pod.is_proxy) {
        (true, true, _) => ("enrolled", because.to_owned()),
        (true, false, _) => ("enrolled", format!("about to leave the mesh: {because}")),
        (false, _, true) => ("proxy", "a proxy of the mesh, which is never captured".to_owned()),
        (false, true, false) => {
            let node = &pod.node;
            (
                "pending",
                format!("{because}; the agent of node {node:?} has not enrolled it yet"),
            )
        }
        (false, false, false) => ("not-wanted", because.to_owned()),
    }
}
