//! Certificates of gateways whose time is over, not yet come, or nearly over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aquifer_telemetry::timestamp::rfc3339;

use super::{Checks, Subject};
use crate::compile::credentials::{Credentials, of_open};
use crate::model::gateway::Gateway;
use crate::model::secret::ServerCertificate;
use crate::model::termination::SecretRef;
use crate::validate::finding::{Finding, Level};

/// Short of this, a certificate should have been renewed: what renews automatically does it at a third of 90 days.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

pub(super) fn lifetimes(checks: &Checks<'_>, subject: &Subject<'_>, gateway: &Gateway) -> Vec<Finding> {
    let inputs = &checks.compiled.inputs;
    let pods = checks.compiled.selected.running(inputs, &gateway.selector);
    let namespaces: BTreeSet<Arc<str>> = pods.into_iter().map(|(namespace, _)| namespace).collect();
    let mut findings = Vec::new();
    for namespace in &namespaces {
        let credentials = Credentials::new(inputs, namespace);
        for (_, termination) in gateway.terminations() {
            for reference in &termination.certificates {
                if let Ok(certificate) = credentials.certificate(reference) {
                    findings.extend(lifetime(checks, subject, namespace, reference, certificate));
                }
            }
        }
    }
    findings
}

/// Of a Gateway of the Gateway API.
pub(super) fn of_listeners(checks: &Checks<'_>, subject: &Subject<'_>) -> Vec<Finding> {
    let name = (subject.key.namespace.clone(), subject.key.name.clone());
    let Some(gateway) = checks.compiled.gateway_api.gateways.get(&name) else {
        return Vec::new();
    };
    let credentials = of_open(&checks.compiled.inputs, gateway);
    let references = gateway.terminations().flat_map(|(_, t)| &t.certificates);
    let found = references.filter_map(|reference| {
        let certificate = credentials.certificate(reference).ok()?;
        let namespace = reference.namespace.as_deref()?;
        lifetime(checks, subject, namespace, reference, certificate)
    });
    found.collect()
}

fn lifetime(
    checks: &Checks<'_>,
    subject: &Subject<'_>,
    namespace: &str,
    reference: &SecretRef,
    certificate: &ServerCertificate,
) -> Option<Finding> {
    let pair = &certificate.pair;
    let (from, to) = (rfc3339(pair.not_before()), rfc3339(pair.not_after()));
    let (level, reason, what) = if pair.not_after() <= checks.now {
        (Level::Error, "Expired", format!("has expired on {to}"))
    } else if pair.not_before() > checks.now {
        (Level::Error, "NotYetValid", format!("is not valid before {from}"))
    } else if pair.not_after() <= checks.now + SOON {
        (Level::Warning, "ExpiresSoon", format!("expires on {to}"))
    } else {
        return None;
    };
    let message = format!("the certificate in Secret {namespace}/{} {what}", reference.name);
    let finding = subject.finding(level, reason);
    Some(
        finding
            .at(reference.field.as_str(), message)
            .remedy("put a new certificate with its key into the Secret; gateways take it up at once"),
    )
}
