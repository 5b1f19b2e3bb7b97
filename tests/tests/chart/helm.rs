//! The real helm, and what it prints.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

pub(crate) const NAMESPACE: &str = "istio-system";

/// What `values.yaml` says, whole profiles, and single settings that change what is rendered.
pub(crate) const VALUE_SETS: &[&[&str]] = &[
    &[],
    &["-f", "profiles/default.yaml"],
    &["-f", "profiles/demo.yaml"],
    &["-f", "profiles/minimal.yaml"],
    &["--set", "webhook.enabled=true,egressGateway.enabled=true"],
    &[
        "--set",
        "global.hub=registry.example:5000/mesh,global.tag=1.2.3,global.imagePullSecrets={a,b}",
    ],
    &[
        "--set",
        "agent.nodeNetnsDir=/run/node,agent.admissionPolicy=false",
    ],
    &[
        "--set",
        "agent.resourceQuota.enabled=true,agent.seLinuxOptions.type=spc_t,control.topologySpread=false",
    ],
    &[
        "--set",
        "ingressGateway.autoscaling.enabled=true,ingressGateway.podDisruptionBudget.enabled=true",
    ],
    &[
        "--set",
        "crds.install=false,gatewayApi.install=true,gatewayApi.parameters=false,gatewayApi.secretNamespaces={shop,edge},control.env.A=b,control.podAnnotations.a=b",
    ],
];

pub(crate) fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart")
}

pub(crate) fn gateway_chart() -> PathBuf {
    chart().join("charts/gateway")
}

pub(crate) fn helm(arguments: &[&str]) -> Output {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(find);
    Command::new(program)
        .args(arguments)
        .current_dir(chart())
        .env_remove("KUBECONFIG")
        .output()
        .unwrap()
}

/// On PATH, else where `cargo xtask setup` puts it.
fn find() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/helm");
    std::env::split_paths(&path)
        .chain([installed])
        .map(|folder| folder.join("helm"))
        .find(|candidate| candidate.is_file())
        .expect("no helm here: `cargo xtask setup` installs it")
}

/// The objects that the chart in `folder` renders.
pub(crate) fn render(folder: &Path, release: &str, values: &[&str]) -> Vec<Value> {
    let mut arguments = vec!["template", release, folder.to_str().unwrap(), "-n", NAMESPACE];
    arguments.extend(values);
    let output = helm(&arguments);
    assert!(
        output.status.success(),
        "{values:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    objects(&String::from_utf8(output.stdout).unwrap())
}

pub(crate) fn rendered(values: &[&str]) -> Vec<Value> {
    render(&chart(), "aquifer", values)
}

/// What helm says to values that it must refuse.
pub(crate) fn refused(folder: &Path, values: &[&str]) -> String {
    let mut arguments = vec!["template", "aquifer", folder.to_str().unwrap(), "-n", NAMESPACE];
    arguments.extend(values);
    let output = helm(&arguments);
    assert!(!output.status.success(), "{values:?} were taken");
    String::from_utf8(output.stderr).unwrap()
}

/// Objects of a text with one or more documents.
pub(crate) fn objects(text: &str) -> Vec<Value> {
    text.split("\n---")
        .filter_map(|document| {
            let value: Value = serde_saphyr::from_str(document)
                .unwrap_or_else(|error| panic!("{error}\n{}", &document[..document.len().min(400)]));
            (!value.is_null()).then_some(value)
        })
        .collect()
}

pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &'a str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(crate) fn texts(value: &Value) -> Vec<&str> {
    list(value).filter_map(Value::as_str).collect()
}
