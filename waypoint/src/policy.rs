//! The layer-4 policies of the workloads behind this waypoint, enforced for the client.
//!
//! A node agent sees the waypoint's identity and nothing of the client behind it; so what a policy says of clients is
//! decided here, for the endpoint that was chosen, and the agent lets the workload's own waypoint in.

use aquifer_core::http::cluster::Endpoint;
use aquifer_core::policy::evaluate::{Connection, Denial, authorize};
use aquifer_core::snapshot::MeshSnapshot;
use aquifer_core::workload::WorkloadUid;

use crate::source::ClientInfo;

/// Why a client may not reach an endpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    #[error("policy rejection: {0}")]
    Denied(Denial),
    /// Its policies are unknown with it; the record is on its way.
    #[error("the control plane has not told about workload {0} yet")]
    Unknown(String),
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
