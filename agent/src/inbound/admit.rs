//! What both kinds of inbound connections share: the decision and its facts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_core::address::NetworkAddress;
use aquifer_core::identity::SpiffeId;
use aquifer_core::policy::evaluate::{Connection, Permit, authorize_at_node};
use aquifer_core::service::Service;
use aquifer_core::snapshot::MeshSnapshot;
use aquifer_core::workload::Workload;
use aquifer_telemetry::access_log::LoggedPeer;
use aquifer_telemetry::peer::{PeerLabels, Reporter, Security, ServiceLabels};

use crate::connections::Open;
use crate::mesh::NotSynced;
use crate::pod::PodProxy;
use crate::telemetry::{Facts, peer};

/// How long the control plane's record of a pod may be late, as it is for pods just started.
pub(super) const RECORD_WAIT: Duration = Duration::from_secs(5);

/// Why a connection is not let in.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotAdmitted {
    #[error("the control plane has not told about workload {0} yet")]
    Unknown(String),
    #[error(transparent)]
    NotSynced(#[from] NotSynced),
    #[error("policy rejection: {0}")]
    Denied(aquifer_core::policy::evaluate::Denial),
}

/// Decides whether a listed connection may reach the pod.
pub(super) async fn admit(pod: &PodProxy, open: &Open) -> Result<Permit, NotAdmitted> {
    pod.shared.mesh.synced(RECORD_WAIT).await?;
    if pod.known(RECORD_WAIT).await.is_none() {
        return Err(NotAdmitted::Unknown(format!(
            "{}/{}",
            pod.pod.namespace, pod.pod.name
        )));
    }
    // From the present snapshot, after the connection was listed: see `pod::policies`.
    let mesh = pod.shared.mesh.load();
    let own = pod.own_workload(&mesh);
    let own = own.ok_or_else(|| NotAdmitted::Unknown(format!("{}/{}", pod.pod.namespace, pod.pod.name)))?;
    let connection = Connection {
        source: open.identity.as_ref(),
        source_addr: open.source,
        destination: open.destination,
    };
    authorize_at_node(&mesh, own, &connection, Instant::now()).map_err(NotAdmitted::Denied)
}

/// What the request says that helps telemetry, and nothing else.
#[derive(Default)]
pub(super) struct Hints {
    /// The service host that the client addressed.
    pub(super) host: Option<Arc<str>>,
    pub(super) hbone_target: Option<Arc<str>>,
}

pub(super) fn facts(pod: &PodProxy, open: &Open, hints: Hints) -> Facts {
    let mesh = pod.shared.mesh.load();
    let own = pod.as_source(&mesh);
    let service = service(&mesh, &own, open.destination.port(), hints.host.as_deref());
    let proved = open.identity.as_ref().map(|_| &pod.identity);
    Facts {
        reporter: Reporter::Destination,
        source: source(&mesh, &own, open),
        destination: peer(open.destination, Some(&own), proved),
        service: service.map_or_else(ServiceLabels::unknown, |s| ServiceLabels::of(s)),
        security: if proved.is_some() {
            Security::MutualTls
        } else {
            Security::Unknown
        },
        hbone_target: hints.hbone_target,
    }
}

/// The client's record is found by its address, and believed only where it fits the identity that was proved.
fn source(mesh: &MeshSnapshot, own: &Workload, open: &Open) -> LoggedPeer {
    let address = NetworkAddress::new(&own.network, open.source.ip());
    let record = mesh.workload_at(&address);
    let record = record.filter(|w| fits(w, open.identity.as_ref()));
    match (record, &open.identity) {
        (None, None) => LoggedPeer {
            address: open.source,
            labels: PeerLabels::unknown(),
        },
        (record, identity) => peer(open.source, record.map(AsRef::as_ref), identity.as_ref()),
    }
}

fn fits(workload: &Workload, identity: Option<&SpiffeId>) -> bool {
    identity.is_none_or(|proved| workload.identity().is_ok_and(|own| own == *proved))
}

/// The service that the client addressed: as it says, if this pod serves that one; else the only one on the port.
fn service<'a>(
    mesh: &'a MeshSnapshot,
    own: &Workload,
    port: u16,
    host: Option<&str>,
) -> Option<&'a Arc<Service>> {
    if let Some(named) = host.and_then(|host| mesh.service_named(host, &own.namespace))
        && own.services.contains_key(&named.key())
    {
        return Some(named);
    }
    let mut serving = own
        .services
        .iter()
        .filter(|(_, ports)| ports.iter().any(|p| p.target_port == port));
    match (serving.next(), serving.next()) {
        (Some((key, _)), None) => mesh.service(key),
        _ => None,
    }
}
