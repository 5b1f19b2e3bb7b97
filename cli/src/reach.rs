//! How a page of a proxy or of the control plane is reached: through the cluster's API server, directly, or by a
//! command that runs inside its pod.

mod forward;

use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::fetch;
use crate::kubectl::{Access, Kubectl};

/// The workload that serves the control plane's pages, as the exec command names it.
const CONTROL_PLANE: &str = "istio-system/istiod";
/// Its pods, as every tool of Istio's users finds them.
const CONTROL_LABELS: &str = "app=istiod";
const CONTROL_PORT: u16 = 15014;
const ADMIN_PORT: u16 = 15000;
const CONTROL_DEFAULT: &str = "127.0.0.1:15014";

pub(crate) enum Reach {
    /// Ports of pods are forwarded by kubectl, as images hold no program that could fetch a page.
    Cluster {
        kubectl: Kubectl,
        istio_namespace: String,
    },
    /// The words of a command that runs another one inside a pod.
    Exec(Vec<String>),
    /// The control plane's monitoring address.
    Direct(String),
}

impl Reach {
    /// `exec` before `control` before the cluster, where there is one.
    pub(crate) fn new(
        control: Option<String>,
        exec: Option<&str>,
        access: &Access,
        istio_namespace: &str,
    ) -> anyhow::Result<Self> {
        if let Some(words) = exec {
            let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
            if words.is_empty() {
                bail!("--exec (AQUIFER_EXEC) is empty; give a command such as 'aquifer-lab exec'");
            }
            return Ok(Self::Exec(words));
        }
        Ok(match control {
            Some(address) => Self::Direct(address),
            None if access.is_there() => Self::Cluster {
                kubectl: Kubectl::new(access),
                istio_namespace: istio_namespace.to_owned(),
            },
            None => Self::Direct(CONTROL_DEFAULT.to_owned()),
        })
    }

    /// A debug page of one replica of the control plane; all have the same model.
    pub(crate) fn control(&self, path: &str) -> anyhow::Result<Value> {
        let first = self.control_pages(path, 1)?.into_iter().next();
        first.context("no replica of the control plane answered")
    }

    /// The proxies that all replicas know, each once: a replica may know only those that are connected to it.
    pub(crate) fn proxies(&self) -> anyhow::Result<Value> {
        let mut proxies: Vec<Value> = Vec::new();
        for page in self.control_pages("/debug/syncz", usize::MAX)? {
            let Value::Array(page) = page else {
                bail!("the control plane's /debug/syncz is not a list")
            };
            let news = page
                .into_iter()
                .filter(|p| !proxies.iter().any(|known| known["proxy"] == p["proxy"]));
            let news: Vec<Value> = news.collect();
            proxies.extend(news);
        }
        Ok(Value::Array(proxies))
    }

    fn control_pages(&self, path: &str, most: usize) -> anyhow::Result<Vec<Value>> {
        let local = format!("http://127.0.0.1:{CONTROL_PORT}{path}");
        let texts = match self {
            Self::Exec(words) => fetch_inside(words, CONTROL_PLANE, &local).map(|text| vec![text]),
            Self::Direct(address) => {
                fetch::get(&format!("http://{address}{path}"), fetch::DUMP).map(|text| vec![text])
            }
            Self::Cluster {
                kubectl,
                istio_namespace,
            } => control_pods(kubectl, istio_namespace).and_then(|pods| {
                let pods = pods.iter().take(most);
                pods.map(|pod| forward::get(kubectl, istio_namespace, pod, CONTROL_PORT, path, fetch::DUMP))
                    .collect()
            }),
        };
        let texts = texts
            .context("cannot ask the control plane (--kubeconfig, --control or --exec says where it is)")?;
        let parse = |text: String| {
            serde_json::from_str(&text)
                .with_context(|| format!("the control plane's page {path} is not JSON"))
        };
        texts.into_iter().map(parse).collect()
    }

    /// An admin page of a proxy; these listen on the loopback address of the proxy's pod only.
    pub(crate) fn proxy(
        &self,
        namespace: &str,
        pod: &str,
        path: &str,
        longest: usize,
    ) -> anyhow::Result<Value> {
        let url = format!("http://127.0.0.1:{ADMIN_PORT}{path}");
        let text = match self {
            Self::Cluster { kubectl, .. } => forward::get(kubectl, namespace, pod, ADMIN_PORT, path, longest)?,
            Self::Exec(words) => fetch_inside(words, &format!("{namespace}/{pod}"), &url)?,
            Self::Direct(_) => fetch::get(&url, longest).context(
                "the admin port is open inside the proxy's pod only: give --kubeconfig or --exec, or run this command in that pod",
            )?,
        };
        serde_json::from_str(&text)
            .with_context(|| format!("the page {path} of {namespace}/{pod} is not JSON"))
    }
}

/// Names of the running pods of the control plane.
fn control_pods(kubectl: &Kubectl, namespace: &str) -> anyhow::Result<Vec<String>> {
    let pods = kubectl.items(&["pods", "-n", namespace, "-l", CONTROL_LABELS])?;
    let running = pods
        .iter()
        .filter(|p| p["status"]["phase"] == "Running" && p["metadata"]["deletionTimestamp"].is_null());
    let names: Vec<String> = running
        .filter_map(|p| Some(p["metadata"]["name"].as_str()?.to_owned()))
        .collect();
    if names.is_empty() {
        bail!(
            "no pod of the control plane runs in {namespace}; `aquifer check -n {namespace}` says why, `aquifer install` makes one, -n says where it is"
        );
    }
    Ok(names)
}

fn fetch_inside(words: &[String], target: &str, url: &str) -> anyhow::Result<String> {
    let this = std::env::current_exe().context("cannot find this program's own file")?;
    let output = Command::new(&words[0])
        .args(&words[1..])
        .args([target, "--"])
        .arg(this)
        .args(["fetch", url])
        .output()
        .with_context(|| format!("cannot run {}", words[0]))?;
    if !output.status.success() {
        bail!("{target}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
