//! What is shown of the authority: a page for `aquifer ca status`, and metrics under Istio's names.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aquifer_identity::CertificateAuthority;
use aquifer_identity::authority::{Certificate, subject, validity};
use aquifer_identity::succession::{Reach, Stage};
use aquifer_telemetry::registry::Registry;
use aquifer_telemetry::timestamp::rfc3339;
use arc_swap::ArcSwapOption;
use serde::Serialize;

/// The newest view; none before the authority is there.
pub type Views = Arc<ArcSwapOption<AuthorityView>>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorityView {
    pub stage: &'static str,
    /// Where the authority that is wanted comes from.
    pub origin: String,
    /// Why what is wanted cannot be used, or what holds it up.
    pub problem: Option<String>,
    pub signer: CertificateView,
    /// The one that is signed under first.
    pub roots: Vec<CertificateView>,
    /// Since when these are the roots.
    pub since: String,
    /// Proxies that have them.
    pub in_effect: usize,
    pub of: usize,
    /// When roots that are not wanted any more are dropped, as things stand.
    pub retires_at: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateView {
    pub subject: String,
    /// SHA-256, as `openssl x509 -fingerprint -sha256` prints it.
    pub fingerprint: String,
    pub not_after: Option<String>,
    /// A root only: whether it is one of those that are wanted.
    pub wanted: bool,
}

impl CertificateView {
    pub(super) fn of(certificate: &Certificate, wanted: bool) -> Self {
        Self {
            subject: subject(certificate).unwrap_or_else(|_| "unreadable".to_owned()),
            fingerprint: fingerprint(certificate),
            not_after: validity(certificate).ok().map(|(_, end)| rfc3339(end)),
            wanted,
        }
    }
}

fn fingerprint(certificate: &Certificate) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let bytes: Vec<String> = digest.as_ref().iter().map(|b| format!("{b:02X}")).collect();
    bytes.join(":")
}

const ROOT_EXPIRY: [&str; 2] = [
    "citadel_server_root_cert_expiry_timestamp",
    "citadel_server_root_cert_expiry_seconds",
];
const CHAIN_EXPIRY: [&str; 2] = [
    "citadel_server_cert_chain_expiry_timestamp",
    "citadel_server_cert_chain_expiry_seconds",
];

/// Gauges of one registry.
pub(super) struct AuthorityMetrics {
    registry: Registry,
}

impl AuthorityMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            registry: registry.clone(),
        }
    }

    /// `citadel_server_root_cert_expiry_*`, `citadel_server_cert_chain_expiry_*`, and `aquifer_ca_stage`,
    /// `aquifer_ca_roots`, `aquifer_ca_proxies`, `aquifer_ca_unusable`.
    pub(super) fn set(
        &self,
        active: &CertificateAuthority,
        (stage, reach): (Stage, Reach),
        unusable: bool,
        now: SystemTime,
    ) {
        let root = active.own_root().and_then(|root| validity(root).ok());
        if let Some((_, end)) = root {
            self.expiry(&ROOT_EXPIRY, end, now);
        }
        self.expiry(&CHAIN_EXPIRY, active.not_after(), now);
        for one in Stage::ALL {
            let is = f64::from(u8::from(one == stage));
            self.gauge("aquifer_ca_stage", &[("stage", one.as_str().to_owned())], is);
        }
        self.gauge("aquifer_ca_roots", &[], active.roots().len() as f64);
        let proxies = |know: &str| [("roots", know.to_owned())];
        self.gauge("aquifer_ca_proxies", &proxies("known"), reach.in_effect as f64);
        let lacking = reach.of.saturating_sub(reach.in_effect);
        self.gauge("aquifer_ca_proxies", &proxies("unknown"), lacking as f64);
        self.gauge("aquifer_ca_unusable", &[], f64::from(u8::from(unusable)));
    }

    /// Seconds since 1970 under the first name, seconds that are left under the second.
    fn expiry(&self, names: &[&'static str; 2], end: SystemTime, now: SystemTime) {
        let at = end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let left = match end.duration_since(now) {
            Ok(left) => left.as_secs_f64(),
            Err(over) => -over.duration().as_secs_f64(),
        };
        self.gauge(names[0], &[], at as f64);
        self.gauge(names[1], &[], left.trunc());
    }

    fn gauge(&self, name: &'static str, labels: &[(&'static str, String)], value: f64) {
        self.registry.gauge(name, labels).set(value);
    }
}
