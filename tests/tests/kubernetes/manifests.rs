//! Manifests of the shapes that chapters need. What is given to them is YAML's flow style, without the outer braces; an
//! object has the namespace that it is applied to.

/// Nothing but mutual TLS is let in.
pub(crate) const STRICT: &str = "---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default}
spec: {mtls: {mode: STRICT}}
";

pub(crate) fn namespace(name: &str, labels: &str) -> String {
    format!("---\n{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{labels}}}}}}}\n")
}

/// It has the label `app` with its own name.
pub(crate) fn object(kind: &str, name: &str, spec: &str) -> String {
    let version = match kind {
        "Deployment" | "StatefulSet" => "apps/v1",
        "Job" | "CronJob" => "batch/v1",
        _ => "v1",
    };
    format!(
        "---\napiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec: {{{spec}}}\n"
    )
}

/// Of pods with the label `app` and this value.
pub(crate) fn service(name: &str, app: &str, more: &str) -> String {
    object("Service", name, &format!("selector: {{app: {app}}}, {more}"))
}

pub(crate) fn deployment(name: &str, pod: &str) -> String {
    object("Deployment", name, &pods(name, pod))
}

/// Which pods are whose, and what they are: for what replicates them.
pub(crate) fn pods(app: &str, pod: &str) -> String {
    format!(
        "selector: {{matchLabels: {{app: {app}}}}}, template: {{metadata: {{labels: {{app: {app}}}}}, spec: {{terminationGracePeriodSeconds: 1, {pod}}}}}"
    )
}

/// Of a job that fails with its first failure.
pub(crate) fn one_attempt(pod: &str) -> String {
    format!("backoffLimit: 0, template: {{spec: {{restartPolicy: Never, {pod}}}}}")
}

/// A container of the tests' application that serves.
pub(crate) fn serving(name: &str, port: u16, more: &str) -> String {
    app(name, &format!("serve, '{port}'"), more)
}

/// One that asks once, and fails unless it is answered.
pub(crate) fn getting(name: &str, url: &str) -> String {
    app(name, &format!("get, '{url}'"), "")
}

fn app(name: &str, arguments: &str, more: &str) -> String {
    format!("{{name: {name}, image: 'aquifer-cluster/app:1', args: [{arguments}], {more}}}")
}
