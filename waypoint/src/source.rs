//! Who sent a connection: the proven identity, and the workload record that belongs to it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aquifer_core::address::NetworkAddress;
use aquifer_core::http::request::Source;
use aquifer_core::identity::SpiffeId;
use aquifer_core::snapshot::MeshSnapshot;
use aquifer_core::workload::Workload;
use aquifer_telemetry::peer::{PeerLabels, Security};

/// The client end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct ClientInfo {
    /// Proven by the tunnel's certificate; absent outside the mesh.
    pub(crate) identity: Option<SpiffeId>,
    /// The record of the client's pod, if its identity is the proven one.
    pub(crate) workload: Option<Arc<Workload>>,
    pub(crate) labels: PeerLabels,
    /// The address to show: the application's own where the tunnel told it.
    pub(crate) address: SocketAddr,
    /// Where its connection really comes from, whatever it tells.
    pub(crate) peer: SocketAddr,
    /// A gateway is a client itself: who uses it is judged where they arrive, and endpoints judge the gateway.
    pub(crate) of_gateway: bool,
}

impl ClientInfo {
    /// A client outside the mesh.
    pub(crate) fn outside(address: SocketAddr) -> Self {
        Self {
            identity: None,
            workload: None,
            labels: PeerLabels::unknown(),
            address,
            peer: address,
            of_gateway: true,
        }
    }

    /// The client of a tunnel. `peer` is the tunnel's own source address, `told` the one in its `forwarded` header.
    ///
    /// An address only says which record to look at: one whose identity is not the proven one is not used.
    pub(crate) fn tunnelled(
        mesh: &MeshSnapshot,
        network: &Arc<str>,
        identity: &SpiffeId,
        peer: SocketAddr,
        told: Option<SocketAddr>,
    ) -> Self {
        let candidates = [Some(peer), told].into_iter().flatten();
        let workload = candidates
            .filter_map(|address| proven(mesh, network, address.ip(), identity))
            .next();
        let labels = match &workload {
            Some(workload) => PeerLabels::of(workload, Some(identity)),
            None => PeerLabels::principal(identity),
        };
        Self {
            identity: Some(identity.clone()),
            workload,
            labels,
            address: told.unwrap_or(peer),
            peer,
            of_gateway: false,
        }
    }

    pub(crate) fn security(&self) -> Security {
        match self.identity {
            Some(_) => Security::MutualTls,
            None => Security::None,
        }
    }

    /// What routing may look at.
    pub(crate) fn source(&self) -> Source<'_> {
        Source {
            labels: self.workload.as_ref().map(|w| &w.labels),
            namespace: self.identity.as_ref().map(SpiffeId::namespace),
        }
    }
}

fn proven(mesh: &MeshSnapshot, network: &Arc<str>, ip: IpAddr, identity: &SpiffeId) -> Option<Arc<Workload>> {
    let workload = mesh.workload_at(&NetworkAddress::new(network, ip))?;
    let own = workload.identity().ok()?;
    (own == *identity).then(|| workload.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_core::snapshot::Change;
    use aquifer_core::workload::WorkloadUid;

    fn mesh() -> MeshSnapshot {
        let mut workload = Workload::empty(WorkloadUid::pod("c", "bookinfo", "reviews-v3"));
        workload.namespace = "bookinfo".into();
        workload.service_account = "reviews".into();
        workload.addresses = vec!["10.244.0.5".parse().unwrap()];
        workload.labels.insert("version".into(), "v3".into());
        MeshSnapshot::default().apply([Change::Workload(Arc::new(workload))])
    }

    fn client(sa: &str, peer: &str) -> ClientInfo {
        let identity = SpiffeId::parse(&format!("spiffe://cluster.local/ns/bookinfo/sa/{sa}")).unwrap();
        ClientInfo::tunnelled(&mesh(), &"".into(), &identity, peer.parse().unwrap(), None)
    }

    #[test]
    fn labels_belong_to_the_proven_identity_only() {
        let known = client("reviews", "10.244.0.5:4000");
        assert_eq!(known.source().labels.unwrap()["version"].as_ref(), "v3");
        let stranger = client("other", "10.244.0.5:4000");
        assert!(stranger.source().labels.is_none());
        assert_eq!(stranger.source().namespace, Some("bookinfo"));
        assert!(client("reviews", "10.244.0.6:4000").workload.is_none());
    }
}
