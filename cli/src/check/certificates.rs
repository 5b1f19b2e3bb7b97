//! How long the mesh's root, and who signs under it, are still good for.

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
    judge("root certificate", end, now, report);
}

/// Who signs: an intermediate may end long before its root. A control plane of an earlier version has no such page.
pub(super) fn signer(view: Option<&Value>, report: &mut Report) {
    let end = view.and_then(|view| view["signer"]["notAfter"].as_str());
    let Some(end) = end.and_then(|text| text.parse::<Timestamp>().ok()) else {
        return;
    };
    judge(
        "signing certificate",
        end.as_second(),
        Timestamp::now().as_second(),
        report,
    );
}

fn judge(subject: &str, end: i64, now: i64, report: &mut Report) {
    let days = (end - now) / DAY;
    match days {
        _ if end < now => report.fail(subject, format!("expired {} days ago", -days), RENEW),
        0..WARN_DAYS => report.warn(subject, format!("expires in {days} days"), RENEW),
        _ => report.ok(subject, format!("good for {days} days")),
    }
}

const RENEW: &str =
    "put another authority into Secret cacerts, or `aquifer ca rotate` where the control plane made its own";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_before_they_come() {
        let mark = |days: i64| {
            let mut report = Report::default();
            judge("x", days * DAY, 0, &mut report);
            report.lines[0].to_string().split(' ').next().unwrap().to_owned()
        };
        assert_eq!(
            [mark(-1), mark(0), mark(59), mark(60)],
            ["FAIL", "warn", "warn", "ok"]
        );
        let mut report = Report::default();
        signer(None, &mut report);
        signer(
            Some(&serde_json::json!({ "signer": { "notAfter": "1970-01-02T00:00:00.000Z" } })),
            &mut report,
        );
        assert_eq!(report.lines.len(), 1);
        assert!(report.failed());
    }

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
