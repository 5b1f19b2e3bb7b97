//! A cluster with the chart's definitions and roles, and a kubeconfig of the control plane's service account.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use aquifer_core::identity::TrustDomain;
use aquifer_identity::CertificateAuthority;
use aquifer_tests::cluster::kubectl::{self, KubectlError};
use aquifer_tests::cluster::layout::Member;
use aquifer_tests::cluster::mesh::Mesh;
use aquifer_tests::cluster::{Cluster, ClusterOptions, parts};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Generous: the machine may be slow, and busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

pub(crate) const WAYPOINT: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: own, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: foreign, namespace: shop}
spec: {gatewayClassName: nginx, listeners: [{name: http, port: 80, protocol: HTTP}]}
";

pub(crate) struct World {
    cluster: Cluster,
    folder: TempDir,
    /// Where the first control plane's pages are.
    pages: std::cell::Cell<u16>,
}

impl World {
    pub(crate) fn up(name: &str) -> Self {
        let options = ClusterOptions {
            nodes: 1,
            ..ClusterOptions::new(format!("test-api-{name}").parse().unwrap())
        };
        let world = Self {
            cluster: Cluster::up(&options, &|step| eprintln!("{step}")).unwrap(),
            folder: tempfile::tempdir().unwrap(),
            pages: std::cell::Cell::new(0),
        };
        world.kubectl(&["create", "namespace", "istio-system"]);
        world.kubectl(&[
            "apply",
            "--server-side",
            "-f",
            &repository("deploy/chart/files/crds"),
        ]);
        world.apply(&roles());
        world.write_kubeconfig();
        world
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl().run(arguments).unwrap()
    }

    /// As `kubectl`, tried until it succeeds.
    pub(crate) fn until_kubectl(&self, arguments: &[&str]) -> String {
        let kubectl = self.cluster.kubectl();
        kubectl.until_it_succeeds(arguments, PATIENCE).unwrap()
    }

    /// Waits until a pod is ready.
    pub(crate) fn pod_is_ready(&self, namespace: &str, pod: &str) {
        let (pod, limit) = (format!("pod/{pod}"), kubectl::limit(PATIENCE));
        self.kubectl(&["wait", "--for=condition=Ready", "-n", namespace, &pod, &limit]);
    }

    /// The chart's definitions of the Gateway API.
    pub(crate) fn apply_gateway_api(&self) {
        let folder = repository("deploy/chart/files/gateway-api");
        self.kubectl(&["apply", "--server-side", "-f", &folder]);
    }

    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Option<String> {
        self.cluster.kubectl().run(arguments).ok()
    }

    pub(crate) fn apply(&self, manifests: &str) {
        // A definition that was just made is served a little later.
        let apply = || self.cluster.kubectl().apply(manifests);
        self.cluster
            .kubectl()
            .until("apply manifests", PATIENCE, apply)
            .unwrap();
    }

    /// Why the API server does not take it.
    pub(crate) fn refused(&self, manifest: &str) -> String {
        let refused = self.cluster.kubectl().apply(manifest);
        refused.expect_err("it was taken").to_string()
    }

    pub(crate) fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let attempt = || match holds() {
            true => Ok(()),
            false => Err(KubectlError::Failed {
                arguments: String::new(),
                message: "not yet".to_owned(),
            }),
        };
        self.cluster.kubectl().until(what, PATIENCE, attempt).unwrap();
    }

    /// As `until`, telling at the deadline what was so instead.
    pub(crate) fn until_said(&self, what: &str, attempt: impl FnMut() -> Result<(), String>) {
        self.cluster.kubectl().until(what, PATIENCE, attempt).unwrap();
    }

    /// `STATUS REASON OBSERVED-GENERATION MESSAGE`; empty where there is none.
    pub(crate) fn condition(&self, namespace: &str, object: &str, kind: &str) -> String {
        let object: Value =
            serde_json::from_str(&self.kubectl(&["get", object, "-n", namespace, "-o", "json"])).unwrap();
        let conditions = object["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let text = |c: &Value, field: &str| c[field].as_str().unwrap_or_default().to_owned();
        let found = conditions.iter().find(|c| c["type"] == kind);
        found.map_or_else(String::new, |c| {
            let generation = &c["observedGeneration"];
            format!(
                "{} {} {generation} {}",
                text(c, "status"),
                text(c, "reason"),
                text(c, "message")
            )
        })
    }

    /// A token as the kubelet would project it into the pod.
    pub(crate) fn token(&self, namespace: &str, account: &str, pod: &str, audience: &str) -> String {
        let audience = format!("--audience={audience}");
        let bound = format!("--bound-object-name={pod}");
        let token = self.kubectl(&[
            "create",
            "token",
            account,
            "-n",
            namespace,
            &audience,
            "--bound-object-kind=Pod",
            &bound,
        ]);
        token.trim().to_owned()
    }

    /// An authority of somebody else's making, under Istio's names.
    pub(crate) fn give_authority(&self) {
        let now = std::time::SystemTime::now();
        let authority = CertificateAuthority::new_self_signed(TrustDomain::default(), now).unwrap();
        let files = authority.files();
        let texts = [
            ("ca-cert.pem", files.ca_cert.as_str()),
            ("ca-key.pem", files.ca_key.as_str()),
            ("cert-chain.pem", files.cert_chain.as_str()),
            ("root-cert.pem", files.root_cert.as_str()),
        ];
        let metadata = json!({ "name": "cacerts", "namespace": "istio-system" });
        let data: serde_json::Map<String, Value> = texts
            .map(|(name, text)| (name.to_owned(), json!(text)))
            .into_iter()
            .collect();
        self.apply(
            &json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data })
                .to_string(),
        );
    }

    /// Puts the product's images on the node.
    pub(crate) fn load_programs(&self) {
        drop(Mesh::prepare(&self.cluster, &crate::control::programs()).unwrap());
    }

    /// The network namespace that the API server is in.
    pub(crate) fn netns_of_the_api_server(&self) -> String {
        self.cluster.layout().netns(Member::Control)
    }

    /// What kubectl says to the manifests, and whether they were taken; with these arguments beside `apply`.
    pub(crate) fn tells(&self, arguments: &[&str], manifests: &str) -> (bool, String) {
        let file = self.file("manifests.yaml");
        std::fs::write(&file, manifests).unwrap();
        let mut all = vec!["apply", "-f", file.to_str().unwrap()];
        all.extend(arguments);
        let output = self.cluster.kubectl().command(&all).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn pages_at(&self, port: u16) {
        self.pages.set(port);
    }

    /// A page of the control plane that was started last, once it listens.
    pub(crate) fn page(&self, path: &str) -> String {
        let page = || crate::control::page(self.pages.get(), path);
        self.cluster.kubectl().until(path, PATIENCE, page).unwrap()
    }

    fn write_kubeconfig(&self) {
        let token = self.kubectl(&[
            "create",
            "token",
            "aquifer-control",
            "-n",
            "istio-system",
            "--duration=2h",
        ]);
        self.kubeconfig_with(&token, "kubeconfig");
    }

    /// The administrator's, with a service account's token in place of the certificate.
    pub(crate) fn kubeconfig_with(&self, token: &str, file: &str) -> PathBuf {
        let raw = self.kubectl(&["config", "view", "--raw", "-o", "json"]);
        let mut config: Value = serde_json::from_str(&raw).unwrap();
        config["users"][0]["user"] = json!({ "token": token.trim() });
        let path = self.file(file);
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }
}

fn repository(path: &str) -> String {
    format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))
}

/// The service accounts and roles of the control plane and the agent, as the chart renders them.
fn roles() -> String {
    helm_template(
        "deploy/chart",
        &[
            "aquifer",
            "-n",
            "istio-system",
            "-s",
            "templates/control/rbac.yaml",
            "-s",
            "templates/agent/rbac.yaml",
        ],
    )
}

/// What a chart of the repository renders; the first argument is the release's name.
pub(crate) fn helm_template(chart: &str, arguments: &[&str]) -> String {
    let (release, rest) = arguments.split_first().unwrap();
    let output = Command::new(parts::tool(parts::HELM).unwrap())
        .args(["template", release, &repository(chart)])
        .args(rest)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
