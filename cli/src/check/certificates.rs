//! How long the mesh's root is still good for.

use jiff::Timestamp;
use serde_json::Value;
use x509_parser::pem::Pem;

use crate::check::report::Report;
use crate::kubectl::Kubectl;

const CONFIG_MAP: &str = "istio-ca-root-cert";
const KEY: &str = "root-cert.pem";
/// A root is replaced in stages, which take weeks where certificates of workloads outside the cluster depend on it.
const WARN_DAYS: i64 = 60;
const DAY: i64 = 24 * 3600;
/// More roots than this are not read; two are there while one replaces the other.
const MAX_ROOTS: usize = 16;

pub(super) fn check(kubectl: &Kubectl, namespace: &str, report: &mut Report) -> anyhow::Result<()> {
    let map = kubectl.object(&["configmap", CONFIG_MAP, "-n", namespace])?;
    match map.as_ref().map(|m| &m["data"][KEY]) {
        Some(Value::String(pem)) => root(pem, Timestamp::now().as_second(), report),
        _ => report.fail(
            "root certificate",
            format!("ConfigMap {CONFIG_MAP} is not in namespace {namespace}: agents cannot start"),
            "the control plane's leader writes it; see its log",
        ),
    }
    Ok(())
}

fn root(pem: &str, now: i64, report: &mut Report) {
    let ends: Vec<i64> = Pem::iter_from_buffer(pem.as_bytes())
        .take(MAX_ROOTS)
        .filter_map(|pem| Some(pem.ok()?.parse_x509().ok()?.validity().not_after.timestamp()))
        .collect();
    let Some(end) = ends.iter().min() else {
        let remedy = "delete the ConfigMap; the control plane writes it again";
        report.fail(
            "root certificate",
            format!("ConfigMap {CONFIG_MAP} holds no certificate"),
            remedy,
        );
        return;
    };
    let days = (end - now) / DAY;
    match days {
        ..0 => report.fail("root certificate", format!("expired {} days ago", -days), RENEW),
        0..WARN_DAYS => report.warn("root certificate", format!("expires in {days} days"), RENEW),
        _ => report.ok("root certificate", format!("good for {days} days")),
    }
}

const RENEW: &str =
    "give a new authority in Secret cacerts, with the old root beside the new one in root-cert.pem";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_fails() {
        for text in [
            "",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "\u{0}",
        ] {
            let mut report = Report::default();
            root(text, 0, &mut report);
            assert!(report.failed(), "{text:?}");
        }
    }
}
