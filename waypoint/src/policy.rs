//! The layer-4 policies of the workloads behind this waypoint, enforced for the client.
//!
//! A node agent sees the waypoint's identity and nothing of the client behind it; so what a policy says of clients is
//! decided here, for the endpoint that was chosen, and the agent lets the workload's own waypoint in.

use std::sync::Arc;

use aquifer_core::http::cluster::Endpoint;
use aquifer_core::policy::evaluate::{Connection, Denial, authorize};
use aquifer_core::snapshot::MeshSnapshot;
use aquifer_core::workload::{Workload, WorkloadUid};

use crate::source::ClientInfo;
use crate::state::Shared;

/// Why a client may not reach an endpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    #[error("policy rejection: {0}")]
    Denied(Denial),
    /// Its policies are unknown with it; the record is on its way.
    #[error("the control plane has not told about workload {0} yet")]
    Unknown(String),
}

/// What a decision depends on beside the client.
#[derive(PartialEq)]
struct Basis {
    policies: u64,
    workload: Option<Arc<Workload>>,
}

/// Waits until policies that came later deny what was admitted before.
pub(crate) async fn denied(shared: &Shared, client: &ClientInfo, endpoint: &Endpoint) -> NotAdmitted {
    let mut changes = shared.mesh_changed();
    let mut last = None;
    loop {
        let mesh = shared.mesh();
        let basis = Some(Basis {
            policies: mesh.policy_generation(),
            workload: mesh.workload(&WorkloadUid::new(&endpoint.workload)).cloned(),
        });
        // An endpoint that is not known any more is leaving; its connections end with it.
        if basis != last
            && let Err(denied @ NotAdmitted::Denied(_)) = admit(&mesh, client, endpoint)
        {
            return denied;
        }
        last = basis;
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Decides whether a client may reach the endpoint that was chosen for it.
///
/// A client without a tunnel is one of a gateway, which is a client itself: the endpoint's agent judges it.
pub(crate) fn admit(
    mesh: &MeshSnapshot,
    client: &ClientInfo,
    endpoint: &Endpoint,
) -> Result<(), NotAdmitted> {
    let Some(identity) = &client.identity else {
        return Ok(());
    };
    if endpoint.workload.is_empty() {
        return Ok(());
    }
    let uid = WorkloadUid::new(&endpoint.workload);
    let Some(workload) = mesh.workload(&uid) else {
        return Err(NotAdmitted::Unknown(uid.to_string()));
    };
    let connection = Connection {
        source: Some(identity),
        source_addr: client.peer,
        destination: endpoint.address,
    };
    authorize(mesh, workload, &connection)
        .map(drop)
        .map_err(NotAdmitted::Denied)
}
