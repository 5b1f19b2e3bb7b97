//! Whether the validating webhook is there, can be asked, and answers.

use serde_json::{Value, json};

use crate::check::report::Report;
use crate::kubectl::Kubectl;

const OURS: &str = "app.kubernetes.io/part-of=aquifer";
/// How the API server names it where it has refused something.
const NAME: &str = "validation.aquifer.istio.io";
const REMEDY: &str = "the API server must reach port 15017 of the control plane's pods: see its log, firewalls and NetworkPolicies";

pub(super) fn check(kubectl: &Kubectl, namespace: &str, report: &mut Report) -> anyhow::Result<()> {
    let found = kubectl.items(&["validatingwebhookconfigurations", "-l", OURS])?;
    let Some(configuration) = found.first() else {
        report.ok(
            "webhook",
            "not installed (webhook.enabled); objects are checked when the control plane reads them",
        );
        return Ok(());
    };
    let mut hooks = configuration["webhooks"].as_array().into_iter().flatten();
    let bare = |hook: &Value| {
        hook["clientConfig"]["caBundle"]
            .as_str()
            .unwrap_or_default()
            .is_empty()
    };
    if hooks.any(bare) {
        report.warn(
            "webhook",
            "has no caBundle: the API server cannot ask it",
            "the control plane's leader writes it; see its log",
        );
        return Ok(());
    }
    let asked = kubectl.with_input(
        &["create", "--dry-run=server", "-f", "-"],
        Some(&wrong(namespace)),
    );
    judge(asked.map_err(|error| format!("{error:#}")), report);
    Ok(())
}

/// What every webhook of this mesh refuses; nothing is stored of a dry run.
fn wrong(namespace: &str) -> String {
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": { "name": "aquifer-check", "namespace": namespace },
        "spec": { "hosts": ["no host"], "http": [{ "route": [{ "destination": { "host": "nobody" } }] }] },
    })
    .to_string()
}

fn judge(asked: Result<String, String>, report: &mut Report) {
    match asked {
        Err(message) if message.contains(NAME) && message.contains("denied") => {
            report.ok("webhook", "installed, and refuses what is wrong");
        }
        // Its failure policy is Fail.
        Err(message) if message.contains(NAME) => report.fail("webhook", message, REMEDY),
        // Its failure policy is Ignore.
        Ok(_) => report.warn(
            "webhook",
            "does not answer: what is wrong is let in, and the object's status says so later",
            REMEDY,
        ),
        Err(message) => report.warn(
            "webhook",
            format!("installed, but it cannot be tried: {message}"),
            "an account that may create VirtualServices can try it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_what_is_hoped_for() {
        for (asked, mark) in [
            (
                Err(
                    "kubectl create: Error from server: admission webhook \"validation.aquifer.istio.io\" denied the request: x",
                ),
                "ok",
            ),
            (
                Err("failed calling webhook \"validation.aquifer.istio.io\": connection refused"),
                "FAIL",
            ),
            (Ok("created (server dry run)"), "warn"),
            (Err("forbidden"), "warn"),
        ] {
            let mut report = Report::default();
            judge(asked.map(str::to_owned).map_err(str::to_owned), &mut report);
            assert!(report.lines[0].to_string().starts_with(mark), "{asked:?}");
        }
    }
}
