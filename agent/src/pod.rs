//! One enrolled pod: who it is, what it may use, and its open connections.

mod accept;
mod policies;

use std::sync::Arc;
use std::time::Duration;

use aquifer_core::identity::{IdentityError, SpiffeId};
use aquifer_core::snapshot::MeshSnapshot;
use aquifer_core::workload::{TunnelProtocol, Workload, WorkloadUid};
use aquifer_hbone::{Pool, PoolConfig};
use aquifer_identity::CertificateManager;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ProxyConfig;
use crate::connections::Connections;
use crate::mesh::MeshStore;
use crate::network::PodNetwork;
use crate::pods::NodePod;
use crate::telemetry::Telemetry;
use crate::{inbound, outbound};

/// What all pods of the node share.
pub(crate) struct Shared {
    pub(crate) config: ProxyConfig,
    pub(crate) mesh: Arc<MeshStore>,
    pub(crate) certificates: CertificateManager,
    pub(crate) telemetry: Arc<Telemetry>,
}

/// The proxy of one pod. Nothing of it is shared with another pod: not its identity, pool, limits or connections.
pub(crate) struct PodProxy {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pod: Arc<NodePod>,
    pub(crate) identity: SpiffeId,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) pool: Pool,
    pub(crate) connections: Arc<Connections>,
    uid: WorkloadUid,
    /// What is known of the pod without the control plane.
    local: Arc<Workload>,
    permits: Arc<Semaphore>,
    /// No new connections.
    pub(crate) stop: CancellationToken,
    /// Everything ends now.
    kill: CancellationToken,
    tasks: TaskTracker,
    watchers: TaskTracker,
}

/// Listeners of one pod, not yet in a runtime.
pub(crate) struct PodListeners {
    pub(crate) outbound: Vec<std::net::TcpListener>,
    pub(crate) inbound: Vec<std::net::TcpListener>,
}

impl PodProxy {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        pod: &Arc<NodePod>,
        network: Arc<dyn PodNetwork>,
    ) -> Result<Arc<Self>, IdentityError> {
        let config = &shared.config;
        let identity = Self::identity(shared, pod)?;
        let uid = Self::uid(shared, pod);
        Ok(Arc::new(Self {
            local: Arc::new(local_workload(config, pod, &uid)),
            permits: Arc::new(Semaphore::new(config.max_connections_per_pod)),
            shared: shared.clone(),
            pod: pod.clone(),
            identity,
            network,
            pool: Pool::new(PoolConfig::default()),
            connections: Arc::default(),
            uid,
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
            watchers: TaskTracker::new(),
        }))
    }

    /// The identity of a pod of this node: from its service account, never from an address.
    pub(crate) fn identity(shared: &Shared, pod: &NodePod) -> Result<SpiffeId, IdentityError> {
        SpiffeId::new(&shared.config.trust_domain, &pod.namespace, &pod.service_account)
    }

    /// The name of its record.
    pub(crate) fn uid(shared: &Shared, pod: &NodePod) -> WorkloadUid {
        WorkloadUid::pod(&shared.config.cluster, &pod.namespace, &pod.name)
    }

    /// Serves connections until [`Self::drain`] or [`Self::kill`].
    pub(crate) fn serve(self: &Arc<Self>, listeners: PodListeners, data: &Handle) {
        for listener in listeners.outbound {
            let serving = accept::accept(self.clone(), listener, outbound::serve);
            self.tasks.spawn_on(serving, data);
        }
        for listener in listeners.inbound {
            let serving = accept::accept(self.clone(), listener, inbound::serve);
            self.tasks.spawn_on(serving, data);
        }
        let watching = policies::watch(self.clone());
        self.watchers.spawn_on(watching, data);
    }

    /// Takes no new connections, lets open ones finish until the deadline, then ends them.
    pub(crate) async fn drain(&self, deadline: Duration) {
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(deadline, self.tasks.wait()).await;
        self.kill().await;
    }

    /// Ends every connection now.
    pub(crate) async fn kill(&self) {
        self.stop.cancel();
        self.kill.cancel();
        self.tasks.close();
        self.watchers.close();
        self.tasks.wait().await;
        self.watchers.wait().await;
    }

    /// Leave for one more connection, while the pod is below its limit.
    pub(crate) fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    /// This pod's own record, from the control plane.
    pub(crate) fn own_workload<'a>(&self, mesh: &'a MeshSnapshot) -> Option<&'a Arc<Workload>> {
        mesh.workload(&self.uid)
    }

    /// This pod as the source of connections: an absent record must not keep it from connecting.
    pub(crate) fn as_source(&self, mesh: &MeshSnapshot) -> Arc<Workload> {
        self.own_workload(mesh).unwrap_or(&self.local).clone()
    }

    /// Waits until the control plane's record of this pod has come.
    pub(crate) async fn known(&self, within: Duration) -> Option<Arc<Workload>> {
        self.shared.mesh.known(&self.uid, within).await
    }
}

/// Whether other nodes are told to use a tunnel to a pod.
pub(crate) fn is_advertised(mesh: &MeshSnapshot, pod: &WorkloadUid) -> bool {
    mesh.workload(pod)
        .is_some_and(|own| own.tunnel == TunnelProtocol::Hbone)
}

fn local_workload(config: &ProxyConfig, pod: &NodePod, uid: &WorkloadUid) -> Workload {
    Workload {
        name: pod.name.clone(),
        namespace: pod.namespace.clone(),
        network: config.network.clone(),
        addresses: pod.ips.clone(),
        trust_domain: config.trust_domain.clone(),
        service_account: pod.service_account.clone(),
        cluster: config.cluster.clone(),
        ..Workload::empty(uid.clone())
    }
}

#[cfg(test)]
mod tests;
