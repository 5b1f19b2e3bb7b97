//! What the demo asks of any API server, whoever made its cluster.

use std::time::Duration;

use crate::cluster::kubectl::{Kubectl, KubectlError};
use crate::cluster::observe;
use crate::demo::story::{NAMESPACE, SYSTEM};
use crate::lab::status::Status;

pub(super) fn status(kubectl: &Kubectl) -> Result<Status, String> {
    observe::status(kubectl).map_err(text)
}

pub(super) fn apply(kubectl: &Kubectl, namespace: &str, manifests: &str) -> Result<(), String> {
    kubectl.apply_in(namespace, manifests).map(drop).map_err(text)
}

pub(super) fn wait_until(
    kubectl: &Kubectl,
    what: &str,
    timeout: Duration,
    wanted: &dyn Fn(&Status) -> bool,
) -> Result<Status, String> {
    let attempt = || {
        let status = observe::status(kubectl)?;
        if wanted(&status) {
            return Ok(status);
        }
        Err(KubectlError::Failed {
            arguments: "get pods".to_owned(),
            message: status.to_string(),
        })
    };
    kubectl.until(what, timeout, attempt).map_err(text)
}

/// Waits until every Deployment of the mesh and of the application is available.
pub(super) fn wait_ready(kubectl: &Kubectl, timeout: Duration) -> Result<Status, String> {
    let limit = format!("--timeout={}s", timeout.as_secs());
    for namespace in [SYSTEM, NAMESPACE] {
        let wait = [
            "-n",
            namespace,
            "wait",
            "--for=condition=Available",
            "deployment",
            "--all",
            &*limit,
        ];
        kubectl.run(&wait).map_err(text)?;
    }
    status(kubectl)
}

pub(super) fn routing_status(kubectl: &Kubectl) -> String {
    let template = "jsonpath={range .items[*]}\n  status of VirtualService {.metadata.name}: {.status}{end}";
    let get = ["-n", NAMESPACE, "get", "virtualservices", "-o", template];
    kubectl.run(&get).unwrap_or_else(|error| error.to_string())
}

#[allow(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
