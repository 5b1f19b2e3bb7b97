//! The API server: its version, the kinds it knows, and what another mesh left.

use serde_json::Value;

use crate::check::report::Report;
use crate::install::conflicts::istio_parts;
use crate::install::plain::PART_OF;
use crate::kubectl::Kubectl;

/// Service account tokens name the node of their pod from then on.
const OLDEST: (u32, u32) = (1, 30);
/// Names of pods that a line shows.
const SHOWN: usize = 5;

pub(super) fn check(
    kubectl: &Kubectl,
    version: &Value,
    namespace: &str,
    report: &mut Report,
) -> anyhow::Result<()> {
    server(version, report);
    definitions(kubectl, report)?;
    leftovers(kubectl, namespace, report)
}

fn server(version: &Value, report: &mut Report) {
    let text = version["serverVersion"]["gitVersion"]
        .as_str()
        .unwrap_or("unknown");
    match release(text) {
        Some(release) if release >= OLDEST => report.ok("API server", text),
        _ => report.fail(
            "API server",
            format!("{text}, but {}.{} is needed", OLDEST.0, OLDEST.1),
            "upgrade the cluster: the certificate authority depends on tokens that name their node",
        ),
    }
}

/// `v1.33.1-eks-5d` to (1, 33).
pub(super) fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim_start_matches('v').split(['.', '-', '+', '_']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn definitions(kubectl: &Kubectl, report: &mut Report) -> anyhow::Result<()> {
    let all = kubectl.items(&["customresourcedefinitions"])?;
    let of_group = |group: &str| -> Vec<&Value> {
        all.iter()
            .filter(|d| d["spec"]["group"].as_str().is_some_and(|g| g.ends_with(group)))
            .collect()
    };
    let istio = of_group(".istio.io");
    let ours = istio
        .iter()
        .filter(|d| d["metadata"]["labels"][PART_OF] == "aquifer")
        .count();
    match (istio.len(), ours) {
        (0, _) => report.ok(
            "definitions",
            "none of Istio's kinds yet; the installation brings them",
        ),
        (all, ours) if ours == all => {
            report.ok("definitions", format!("{all} of Istio's kinds, this mesh's own"))
        }
        (all, ours) => report.ok(
            "definitions",
            format!(
                "{all} of Istio's kinds, of which {} are another's and stay as they are",
                all - ours
            ),
        ),
    }
    match of_group("gateway.networking.k8s.io").len() {
        0 => report.warn(
            "Gateway API",
            "its kinds are not here",
            "if you want waypoints and gateways of your own by Gateway objects: --set gatewayApi.install=true of `aquifer install` and `upgrade` brings them; nothing else needs them",
        ),
        n => report.ok("Gateway API", format!("{n} kinds")),
    }
    Ok(())
}

fn leftovers(kubectl: &Kubectl, namespace: &str, report: &mut Report) -> anyhow::Result<()> {
    match istio_parts(kubectl, namespace)? {
        parts if parts.is_empty() => report.ok("Istio", "no control plane, agent or injector of it is here"),
        parts => report.fail(
            "Istio",
            format!("is here: {}", parts.join(", ")),
            "remove these and keep your objects and definitions; see \"Coming from Istio\" in docs/install.md",
        ),
    }
    let pods = kubectl.items(&["pods", "--all-namespaces"])?;
    let sidecars: Vec<String> = pods.iter().filter(|p| has_sidecar(p)).map(pod_name).collect();
    if !sidecars.is_empty() {
        let shown = sidecars
            .iter()
            .take(SHOWN)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        report.warn(
            "sidecars",
            format!("{} pods still have one: {shown}", sidecars.len()),
            "restart their workloads (`kubectl rollout restart`): a pod with a sidecar is not enrolled",
        );
    }
    Ok(())
}

fn has_sidecar(pod: &Value) -> bool {
    !pod["metadata"]["annotations"]["sidecar.istio.io/status"].is_null()
}

fn pod_name(pod: &Value) -> String {
    let text = |key: &str| pod["metadata"][key].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_distributions_write() {
        assert_eq!(release("v1.33.1"), Some((1, 33)));
        assert_eq!(release("v1.30.4-eks-a737599"), Some((1, 30)));
        assert_eq!(release("6.1.0-18-cloud-amd64"), Some((6, 1)));
        assert_eq!(release("6.12+deb13"), Some((6, 12)));
        assert_eq!(release("x"), None);
    }
}
