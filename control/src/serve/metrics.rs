//! Metrics of the control plane's port, under the names that Istio's dashboards read.

use std::time::Duration;

use aquifer_telemetry::registry::Registry;
use aquifer_xds::type_url::short_name;

/// Handles of one registry.
#[derive(Clone)]
pub(crate) struct ServeMetrics {
    registry: Registry,
}

impl ServeMetrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            registry: registry.clone(),
        }
    }

    /// `pilot_xds`: streams that are open now.
    pub(super) fn connected(&self, streams: usize) {
        self.registry.gauge("pilot_xds", &[]).set(streams as f64);
    }

    /// `pilot_xds_pushes` by type: responses sent.
    pub(super) fn pushed(&self, type_url: &str) {
        self.registry
            .counter("pilot_xds_pushes", &[type_label(type_url)])
            .increment(1);
    }

    /// `pilot_total_xds_rejects` by type: responses that a proxy rejected.
    pub(super) fn rejected(&self, type_url: &str) {
        self.registry
            .counter("pilot_total_xds_rejects", &[type_label(type_url)])
            .increment(1);
    }

    /// `pilot_proxy_convergence_time`: from a change to the last acknowledgement of what it changed, in seconds.
    pub(super) fn converged(&self, took: Duration) {
        self.registry
            .histogram("pilot_proxy_convergence_time", &[])
            .record(took.as_secs_f64());
    }

    /// `pilot_xds_refused_total` by reason: calls that were not served.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.registry
            .counter("pilot_xds_refused_total", &[("reason", reason.to_owned())])
            .increment(1);
    }

    /// `citadel_server_csr_count`: requests for a certificate.
    pub(crate) fn csr(&self) {
        self.registry
            .counter("citadel_server_csr_count", &[])
            .increment(1);
    }

    /// `citadel_server_success_cert_issuance_count`.
    pub(crate) fn issued(&self) {
        self.registry
            .counter("citadel_server_success_cert_issuance_count", &[])
            .increment(1);
    }

    /// `citadel_server_authentication_failure_count`.
    pub(crate) fn unauthenticated(&self) {
        self.registry
            .counter("citadel_server_authentication_failure_count", &[])
            .increment(1);
    }

    /// `citadel_server_csr_sign_err_count` by reason.
    pub(crate) fn not_signed(&self, reason: &'static str) {
        self.registry
            .counter(
                "citadel_server_csr_sign_err_count",
                &[("error", reason.to_owned())],
            )
            .increment(1);
    }
}

/// Types without a short name share one label: a client chooses them.
fn type_label(type_url: &str) -> (&'static str, String) {
    let name = short_name(type_url);
    let known = matches!(name, "WDS" | "WADS" | "CDS" | "EDS" | "LDS" | "RDS" | "SDS");
    (
        "type",
        if known {
            name.to_lowercase()
        } else {
            "other".to_owned()
        },
    )
}
