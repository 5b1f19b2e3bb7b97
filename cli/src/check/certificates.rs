//! How long the mesh's root is still good for.

use jiff::Timestamp;
use serde_json::Value;
use x509_parser::pem::Pem;

use crate::check::report::Report;
use crate::kubectl::Kubectl;

const CONFIG_MAP: &str = "istio-ca-root-cert";
const KEY: &str = "root-cert.pem";
/// A root is replaced in stages, and whoever has to make the next one may need weeks for that.
const WARN_DAYS: i64 = 60;
const DAY: i64 = 24 * 3600;

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
    // The one that is signed under comes first; the end of an old one beside it matters to nobody.
    let end = Pem::iter_from_buffer(pem.as_bytes())
        .find_map(|pem| Some(pem.ok()?.parse_x509().ok()?.validity().not_after.timestamp()));
    let Some(end) = end else {
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
    "put another authority into Secret cacerts, or `aquifer ca rotate` where the control plane made its own";

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
