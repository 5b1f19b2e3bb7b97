//! The admin pages: what the proxy was configured with, in the shape of Envoy's, and its certificates.

mod chains;
mod dump;
mod routes;

use std::sync::Arc;

use aquifer_identity::CertificateManager;
use aquifer_telemetry::admin::{Reply, Routes};
use aquifer_telemetry::readiness::Readiness;
use aquifer_telemetry::registry::Registry;
use aquifer_telemetry::timestamp::rfc3339;
use aquifer_xds::client::AdsStatus;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::config::Config;
use crate::state::Shared;

#[derive(Clone)]
pub(crate) struct AdminState {
    pub(crate) shared: Arc<Shared>,
    pub(crate) certificates: CertificateManager,
    pub(crate) status: watch::Receiver<AdsStatus>,
    pub(crate) config: Config,
}

pub(crate) fn routes(state: AdminState, registry: &Registry, readiness: &Readiness) -> Routes {
    let dump = state.clone();
    let certs = state.clone();
    let xds = state.clone();
    let info = state;
    Routes::new()
        .metrics(registry)
        .readiness(readiness)
        .add("/config_dump", move |_| {
            let dump = dump::config_dump(&dump);
            async move { Reply::json(&dump) }
        })
        .add("/certs", move |_| {
            let certs = certificates(&certs.certificates);
            async move { Reply::json(&certs) }
        })
        .add("/xds", move |_| {
            let status = xds.status.borrow().clone();
            async move { Reply::json(&status) }
        })
        .add("/server_info", move |_| {
            let info = server_info(&info.config);
            async move { Reply::json(&info) }
        })
}

/// As Envoy's `/certs`, without key material.
pub(crate) fn certificates(manager: &CertificateManager) -> Value {
    let list = manager.list().into_iter().map(|status| {
        let certificate = status.certificate.as_ref();
        json!({
            "identity": status.identity.as_str(),
            "state": if certificate.is_some() { "Available" } else { "Unavailable" },
            "serial_number": certificate.map(|c| c.serial().to_owned()),
            "valid_from": certificate.map(|c| rfc3339(c.not_before())),
            "expiration_time": certificate.map(|c| rfc3339(c.not_after())),
            "error": status.error,
        })
    });
    json!({ "certificates": list.collect::<Vec<_>>() })
}

fn server_info(config: &Config) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "role": config.role.as_str(),
        "node": { "pod": config.pod_name, "namespace": config.pod_namespace, "ip": config.instance_ip.to_string() },
    })
}
