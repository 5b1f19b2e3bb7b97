//! The mesh on a cluster: images loaded, chart installed by helm, and what can be seen of it from outside.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use thiserror::Error;

use super::cgroup::{Cgroups, Kind};
use super::helm::{self, Helm, HelmError};
use super::kubectl::{self, Kubectl, KubectlError};
use super::layout::Member;
use super::parts;
use super::programs::{self, ProgramError};
use super::root::BPFFS;
use super::{Cluster, ClusterError};

pub const NAMESPACE: &str = "istio-system";
/// Of the release; also the prefix of what it makes.
const RELEASE: &str = "aquifer";
/// Where the ingress gateway is reached on each node from outside.
const GATEWAY_NODE_PORT: u16 = 30080;
/// The cgroup above all pods: these kubelets use no systemd.
const CAPTURED: &str = "kubepods";
/// The agents' folder of the nodes' bpffs.
const PINS: &str = "aquifer";

#[derive(Debug, Error)]
pub enum MeshError {
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Cluster(#[from] Box<ClusterError>),
    #[error(transparent)]
    Tool(#[from] parts::PartsError),
    #[error(transparent)]
    Helm(#[from] HelmError),
    #[error(transparent)]
    Kubectl(#[from] KubectlError),
    #[error("{what} is not ready: {source}\n{status}")]
    NotReady {
        what: &'static str,
        source: KubectlError,
        status: String,
    },
    #[error("cannot {action}: {source}")]
    Io { action: &'static str, source: io::Error },
}

impl From<ClusterError> for MeshError {
    fn from(error: ClusterError) -> Self {
        Self::Cluster(Box::new(error))
    }
}

/// A cluster with the mesh's images; [`Mesh::install`] puts the mesh on it.
#[derive(Debug)]
pub struct Mesh<'a> {
    kubectl: &'a Kubectl,
    helm: Helm,
    /// Archives and values, for as long as the cluster is used.
    files: tempfile::TempDir,
    values: PathBuf,
    /// More values, as helm's --set takes them.
    settings: &'a [String],
}

impl<'a> Mesh<'a> {
    /// Loads the images of the programs that lie in `programs` into every node.
    pub fn prepare(cluster: &'a Cluster, programs: &Path) -> Result<Self, MeshError> {
        let mesh = Self::of(cluster)?;
        for archive in programs::archives(programs, mesh.files.path())? {
            cluster.load(&archive)?;
        }
        Ok(mesh)
    }

    /// For a cluster that has the images, or needs none.
    pub fn of(cluster: &'a Cluster) -> Result<Self, MeshError> {
        Self::on(cluster.kubectl(), &values_for_this_machine()?, &[])
    }

    /// For any cluster, with what its owner has to say to the chart.
    pub(super) fn on(
        kubectl: &'a Kubectl,
        values: &serde_json::Value,
        settings: &'a [String],
    ) -> Result<Self, MeshError> {
        let io = |action| move |source| MeshError::Io { action, source };
        let files = tempfile::tempdir().map_err(io("make a folder for the images"))?;
        let path = files.path().join("values.json");
        fs::write(&path, values.to_string()).map_err(io("write the chart's values"))?;
        Ok(Self {
            helm: Helm::new(parts::tool(parts::HELM)?, kubectl.kubeconfig().to_owned()),
            kubectl,
            files,
            values: path,
            settings,
        })
    }

    /// Installs the chart, with more values as helm takes them, and waits until all of it is ready.
    pub fn install(&self, settings: &[&str], timeout: Duration) -> Result<(), MeshError> {
        self.put(settings)?;
        self.wait_ready(timeout)
    }

    /// Installs it, and does not wait.
    pub fn put(&self, settings: &[&str]) -> Result<(), MeshError> {
        self.helm_with_chart("install", &["--create-namespace"], settings)
    }

    /// Upgrades the release to the chart as it is, with these values in place of the earlier ones.
    pub fn upgrade(&self, settings: &[&str]) -> Result<(), MeshError> {
        self.helm_with_chart("upgrade", &[], settings)
    }

    fn helm_with_chart(&self, verb: &str, more: &[&str], settings: &[&str]) -> Result<(), MeshError> {
        let (chart, values) = (helm::chart(), self.values.clone());
        let (chart, values) = (chart.to_string_lossy(), values.to_string_lossy());
        let mut arguments = vec![
            verb,
            RELEASE,
            &*chart,
            "--namespace",
            NAMESPACE,
            "--values",
            &*values,
        ];
        arguments.extend(more);
        let own = self.settings.iter().map(String::as_str);
        for setting in settings.iter().copied().chain(own) {
            arguments.extend(["--set", setting]);
        }
        self.helm.run(&arguments)?;
        Ok(())
    }

    pub fn uninstall(&self, timeout: Duration) -> Result<(), MeshError> {
        let limit = format!("{}s", timeout.as_secs());
        let arguments = [
            "uninstall",
            RELEASE,
            "--namespace",
            NAMESPACE,
            "--wait",
            "--timeout",
            &*limit,
        ];
        self.helm.run(&arguments)?;
        Ok(())
    }

    /// Waits for every workload of the chart.
    pub fn wait_ready(&self, timeout: Duration) -> Result<(), MeshError> {
        for what in [
            "deployment/aquifer-control",
            "daemonset/aquifer-agent",
            "deployment/istio-ingressgateway",
        ] {
            self.wait_rolled_out(what, timeout)?;
        }
        Ok(())
    }

    pub fn wait_rolled_out(&self, what: &'static str, timeout: Duration) -> Result<(), MeshError> {
        let limit = kubectl::limit(timeout);
        let rolled_out = self
            .kubectl
            .run(&["-n", NAMESPACE, "rollout", "status", what, &limit]);
        rolled_out.map(drop).map_err(|source| MeshError::NotReady {
            what,
            source,
            status: self.describe(),
        })
    }

    /// What helps to see why something is not as it should be.
    pub fn describe(&self) -> String {
        let kubectl = self.kubectl;
        let look = |arguments: &[&str]| kubectl.run(arguments).unwrap_or_else(|error| error.to_string());
        let logs = |selector: &str| {
            look(&[
                "-n",
                NAMESPACE,
                "logs",
                "-l",
                selector,
                "--tail=15",
                "--prefix",
                "--all-containers",
            ])
        };
        format!(
            "{}\n{}\n{}\n{}\n{}",
            look(&["get", "pods", "-A", "-o", "wide"]),
            look(&["-n", NAMESPACE, "get", "events", "--field-selector=type=Warning"]),
            logs("app=istiod"),
            logs("app=ztunnel"),
            logs("app=istio-ingressgateway"),
        )
    }
}

/// What agents have pinned on a node; empty where none ever was, or the last one has left.
pub fn pins(cluster: &Cluster, node: Member) -> Result<Vec<String>, MeshError> {
    let listed = cluster
        .exec_command(node, &["find", &format!("{BPFFS}/{PINS}")])
        .output()
        .map_err(|source| MeshError::Io {
            action: "look at a node's bpffs",
            source,
        })?;
    let text = String::from_utf8_lossy(&listed.stdout);
    Ok(text.lines().map(str::to_owned).collect())
}

/// What the chart has to be told of the cgroups of this machine's nodes, as helm's --set takes it.
pub fn cgroup_settings() -> Result<[String; 2], MeshError> {
    Ok([
        format!("agent.cgroup.root={}", cgroup_root()?),
        format!("agent.cgroup.captured={CAPTURED}"),
    ])
}

/// Where cgroup v2 is mounted.
fn cgroup_root() -> Result<String, MeshError> {
    let cgroups = Cgroups::find().map_err(ClusterError::from)?;
    let unified = cgroups.hierarchies.iter().find(|one| one.kind == Kind::Two);
    let below = unified.and_then(|one| one.subfolder());
    Ok(below.map_or_else(
        || "/sys/fs/cgroup".to_owned(),
        |folder| format!("/sys/fs/cgroup/{}", folder.display()),
    ))
}

/// Where this machine's nodes have what the chart asks for.
fn values_for_this_machine() -> Result<serde_json::Value, MeshError> {
    Ok(json!({
        "global": {"tag": programs::TAG, "imagePullPolicy": "Never"},
        "agent": {"cgroup": {"root": cgroup_root()?, "captured": CAPTURED}},
        "ingressGateway": {
            "service": {
                "type": "NodePort",
                "ports": [
                    {"name": "http2", "port": 80, "targetPort": 8080, "nodePort": GATEWAY_NODE_PORT},
                    {"name": "https", "port": 443, "targetPort": 8443},
                ],
            },
        },
    }))
}
