//! Keeps open inbound connections true to the policies: when either changes, those now denied are closed.
//!
//! A connection is listed before it is decided and a snapshot is in place before it is announced, so that every
//! connection is judged by each snapshot: by its own decision or here.

use std::sync::Arc;

use aquifer_core::policy::evaluate::{Connection, authorize_at_node};
use aquifer_core::snapshot::MeshSnapshot;
use aquifer_core::workload::Workload;

use super::PodProxy;
use crate::connections::Direction;

/// What a decision depends on beside the connection.
#[derive(PartialEq)]
struct Basis {
    policies: u64,
    own: Option<Arc<Workload>>,
}

impl Basis {
    fn of(pod: &PodProxy, mesh: &MeshSnapshot) -> Self {
        Self {
            policies: mesh.policy_generation(),
            own: pod.own_workload(mesh).cloned(),
        }
    }
}

pub(super) async fn watch(pod: Arc<PodProxy>) {
    let mut changed = pod.shared.mesh.subscribe();
    let mut basis = None;
    loop {
        let mesh = pod.shared.mesh.snapshot();
        let now = Some(Basis::of(&pod, &mesh));
        if now != basis {
            check(&pod, &mesh);
            basis = now;
        }
        let Some(Ok(())) = pod.kill.run_until_cancelled(changed.changed()).await else {
            return;
        };
    }
}

fn check(pod: &PodProxy, mesh: &MeshSnapshot) {
    // Without a record nothing can be said; new connections are refused, open ones stay as they were decided.
    let Some(own) = pod.own_workload(mesh) else { return };
    let inbound = pod.connections.list();
    for open in inbound.iter().filter(|open| open.direction == Direction::Inbound) {
        let connection = Connection {
            source: open.identity.as_ref(),
            source_addr: open.source,
            destination: open.destination,
        };
        if let Err(denial) = authorize_at_node(mesh, own, &connection) {
            open.deny(denial);
        }
    }
}
