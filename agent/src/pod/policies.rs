//! Keeps open inbound connections true to the policies: when either changes, those now denied are closed, and so they are
//! when a former waypoint of the pod is none any more.
//!
//! A connection is listed before it is decided and a snapshot is in place before it is announced, so that every
//! connection is judged by each snapshot: by its own decision or here.

use std::sync::Arc;
use std::time::Instant;

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
        let (mesh, now) = (pod.shared.mesh.snapshot(), Instant::now());
        let next = Some(Basis::of(&pod, &mesh));
        if next != basis {
            check(&pod, &mesh, now);
            basis = next;
        }
        let own = pod.own_workload(&mesh);
        let until = own.and_then(|own| mesh.former_waypoints().until(own, now));
        let waits = async {
            match until {
                Some(until) => tokio::time::timeout_at(until.into(), changed.changed()).await,
                None => Ok(changed.changed().await),
            }
        };
        match pod.kill.run_until_cancelled(waits).await {
            Some(Ok(Ok(()))) => {}
            // A waypoint is none of this pod's any more: everything is judged anew.
            Some(Err(_elapsed)) => basis = None,
            Some(Ok(Err(_))) | None => return,
        }
    }
}

fn check(pod: &PodProxy, mesh: &MeshSnapshot, now: Instant) {
    // Without a record nothing can be said; new connections are refused, open ones stay as they were decided.
    let Some(own) = pod.own_workload(mesh) else { return };
    let inbound = pod.connections.list();
    for open in inbound.iter().filter(|open| open.direction == Direction::Inbound) {
        let connection = Connection {
            source: open.identity.as_ref(),
            source_addr: open.source,
            destination: open.destination,
        };
        if let Err(denial) = authorize_at_node(mesh, own, &connection, now) {
            open.deny(denial);
        }
    }
}
