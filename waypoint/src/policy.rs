//! The layer-4 policies of the workloads behind this waypoint, enforced for the client.
//!
//! A node agent sees the waypoint's identity and nothing of the client behind it; so what a policy says of clients is
//! decided here, for the endpoint that was chosen, and the agent lets the workload's own waypoint in.

use std::net::SocketAddr;
use std::sync::Arc;

use aquifer_core::http::cluster::Endpoint;
use aquifer_core::identity::SpiffeId;
use aquifer_core::policy::evaluate::{Connection, Denial, authorize};
use aquifer_core::snapshot::MeshSnapshot;
use aquifer_core::workload::{Workload, WorkloadUid};

use http::StatusCode;

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

/// Why a client may not use this proxy as a gateway.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwelcome {
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    #[error("this gateway takes no tunnels: its pod lacks the label networking.istio.io/tunnel=http")]
    NoTunnels,
}

impl Unwelcome {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::NotAdmitted(refusal) => refusal.status(),
            Self::NoTunnels => StatusCode::BAD_REQUEST,
        }
    }
}

impl NotAdmitted {
    /// What a tunnel is answered: ztunnel says 401 where a policy refuses.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Denied(_) => StatusCode::UNAUTHORIZED,
            Self::Unknown(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
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

/// Decides whether somebody may use this proxy as a gateway: by the policies of its own pod, where agents are told that
/// it takes tunnels. Clients without an identity use such a gateway only where no policy asks for one.
///
/// A pod that takes no tunnels is for strangers; its policies are not asked. Until its own record is known nobody can say
/// which of the two it is, and nobody is let in.
pub(crate) fn arrive(
    mesh: &MeshSnapshot,
    own: &WorkloadUid,
    identity: Option<&SpiffeId>,
    (peer, local): (SocketAddr, SocketAddr),
) -> Result<(), Unwelcome> {
    let Some(workload) = mesh.workload(own) else {
        return Err(NotAdmitted::Unknown(own.to_string()).into());
    };
    if !workload.native_tunnel {
        return match identity {
            Some(_) => Err(Unwelcome::NoTunnels),
            None => Ok(()),
        };
    }
    let connection = Connection {
        source: identity,
        source_addr: peer,
        destination: local,
    };
    authorize(mesh, workload, &connection)
        .map(drop)
        .map_err(|denial| NotAdmitted::Denied(denial).into())
}

/// Waits until the client that arrived would not be let in any more.
pub(crate) async fn ousted(
    shared: &Shared,
    own: &WorkloadUid,
    identity: Option<&SpiffeId>,
    ends: (SocketAddr, SocketAddr),
) -> Unwelcome {
    let mut changes = shared.mesh_changed();
    let mut last = None;
    loop {
        let mesh = shared.mesh();
        let basis = Some(Basis {
            policies: mesh.policy_generation(),
            workload: mesh.workload(own).cloned(),
        });
        if basis != last
            && let Err(denied @ (Unwelcome::NoTunnels | Unwelcome::NotAdmitted(NotAdmitted::Denied(_)))) =
                arrive(&mesh, own, identity, ends)
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
    let Some(identity) = client.identity.as_ref().filter(|_| !client.of_gateway) else {
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
