//! The agent's state for people and tools, as JSON in the shape of ztunnel's dump.

mod facts;
mod mesh;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use aquifer_identity::CertificateStatus;
use aquifer_telemetry::admin::{Reply, Routes};
use aquifer_telemetry::readiness::Readiness;
use aquifer_telemetry::registry::Registry;
use aquifer_telemetry::timestamp::rfc3339;
use aquifer_xds::client::AdsStatus;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::config::Config;
use crate::connections::{Direction, Open};
use crate::enrol::Reports;
use crate::node::Node;
use crate::pod::{PodProxy, Shared};

/// Everything that the admin port can show.
pub(crate) struct Admin {
    pub(crate) config: Arc<Config>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) node: Arc<Node>,
    pub(crate) reports: Reports,
    pub(crate) xds: watch::Receiver<AdsStatus>,
}

/// The routes of the admin port; metrics and readiness have ports of their own as well.
pub(crate) fn routes(admin: &Arc<Admin>, registry: &Registry, readiness: &Readiness) -> Routes {
    let page = |show: fn(&Admin) -> Value| {
        let admin = admin.clone();
        move |_| {
            let admin = admin.clone();
            // Off the control thread: a large mesh takes a while to write.
            async move { render(tokio::task::spawn_blocking(move || show(&admin)).await) }
        }
    };
    Routes::new()
        .metrics(registry)
        .readiness(readiness)
        .add("/config_dump", page(Admin::dump))
        .add("/debug/connections", page(Admin::connections))
        .add("/debug/syncz", page(Admin::sync))
        .add("/debug/pods", page(Admin::pods))
        .add("/debug/node", page(Admin::facts))
}

fn render(shown: Result<Value, tokio::task::JoinError>) -> Reply {
    match shown {
        Ok(value) => Reply::json(&value),
        Err(error) => Reply::error(
            http::StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot show this page: {error}\n"),
        ),
    }
}

impl Admin {
    fn dump(&self) -> Value {
        let mesh = self.shared.mesh.snapshot();
        let mut workloads: Vec<_> = mesh.workloads().collect();
        workloads.sort_by(|a, b| a.uid.cmp(&b.uid));
        let mut services: Vec<_> = mesh.services().collect();
        services.sort_by_key(|s| s.key());
        let mut policies: Vec<_> = mesh.policies().collect();
        policies.sort_by_key(|p| p.key());
        let certificates = self.shared.certificates.list();
        json!({
            "workloads": workloads.into_iter().map(|w| mesh::workload(w)).collect::<Vec<_>>(),
            "services": services.into_iter().map(|s| mesh::service(&mesh, s)).collect::<Vec<_>>(),
            "policies": policies.into_iter().map(|p| mesh::policy(p)).collect::<Vec<_>>(),
            "certificates": certificates.iter().map(certificate).collect::<Vec<_>>(),
            "config": self.config(),
            "xds": self.sync(),
            "pods": self.pods(),
            "workloadState": self.connections(),
            "version": env!("CARGO_PKG_VERSION"),
        })
    }

    fn config(&self) -> Value {
        let c = &*self.config;
        json!({
            "nodeName": c.node_name,
            "podName": c.pod_name,
            "podNamespace": c.pod_namespace,
            "instanceIp": c.instance_ip,
            "trustDomain": c.proxy.trust_domain.as_str(),
            "clusterId": c.proxy.cluster,
            "network": c.proxy.network,
            "xdsAddress": c.control.xds_address,
            "caAddress": c.control.ca_address,
            "bpffs": c.capture.bpffs,
            "capturedCgroup": c.capture.captured_cgroup,
            "nodeCgroup": c.capture.node_cgroup,
            "meshCidrs": c.capture.mesh_cidrs,
            "workers": c.workers,
            "maxConnectionsPerPod": c.proxy.max_connections_per_pod,
            "drainDeadlineSeconds": c.drain_deadline.as_secs(),
        })
    }

    fn sync(&self) -> Value {
        let status = self.xds.borrow().clone();
        json!({ "synced": status.synced(), "status": status })
    }

    fn facts(&self) -> Value {
        facts::of(&self.config, SystemTime::now())
    }

    fn pods(&self) -> Value {
        json!(*self.reports.lock())
    }

    /// By pod, as ztunnel's `workloadState`.
    fn connections(&self) -> Value {
        let pods = self.node.proxies();
        let by_uid: BTreeMap<&str, Value> = pods
            .iter()
            .map(|proxy| (&*proxy.pod.uid, pod_state(proxy)))
            .collect();
        json!(by_uid)
    }
}

fn pod_state(proxy: &PodProxy) -> Value {
    let open = proxy.connections.list();
    let of = |direction: Direction| -> Vec<Value> {
        let mut all: Vec<_> = open.iter().filter(|o| o.direction == direction).collect();
        all.sort_by_key(|o| o.since);
        all.into_iter().map(|o| connection(o)).collect()
    };
    let pool = proxy.pool.stats();
    json!({
        "state": "Up",
        "info": {
            "name": proxy.pod.name,
            "namespace": proxy.pod.namespace,
            "serviceAccount": proxy.pod.service_account,
            "identity": proxy.identity.as_str(),
        },
        "connections": { "inbound": of(Direction::Inbound), "outbound": of(Direction::Outbound) },
        "pool": { "connections": pool.connections, "streams": pool.streams, "waiting": pool.waiting },
    })
}

fn connection(open: &Open) -> Value {
    json!({
        "src": open.source,
        "originalDst": open.destination,
        "actualDst": open.peer.get(),
        "identity": open.identity.as_ref().map(|id| id.as_str()),
        "since": rfc3339(open.since),
    })
}

/// A certificate's chain; its key is never shown.
fn certificate(status: &CertificateStatus) -> Value {
    let state = match (&status.certificate, &status.error) {
        (Some(_), _) => "Available".to_owned(),
        (None, Some(error)) => format!("Unavailable: {error}"),
        (None, None) => "Initializing".to_owned(),
    };
    let chain = status.certificate.as_ref().map(|certificate| {
        json!([{
            "pem": STANDARD.encode(certificate.chain_pem()),
            "serialNumber": certificate.serial(),
            "validFrom": rfc3339(certificate.not_before()),
            "expirationTime": rfc3339(certificate.not_after()),
        }])
    });
    let roots = status
        .certificate
        .as_ref()
        .map(|certificate| json!([{ "pem": STANDARD.encode(certificate.roots_pem()) }]));
    json!({
        "identity": status.identity.as_str(),
        "state": state,
        "certChain": chain.unwrap_or_else(|| json!([])),
        "rootCerts": roots.unwrap_or_else(|| json!([])),
        "nextFetch": status.next_fetch.map(rfc3339),
    })
}
