//! A cluster that somebody else made and goes on using: reached through its API server alone, and left as it was found.
//!
//! Nobody gets here because a KUBECONFIG happens to be set: how images come there has to be said. What is there already
//! under the names that are needed, or any mesh, is a reason to go no further.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;

use super::delivery::{Delivery, DeliveryError};
use super::helm::HelmError;
use super::kubectl::{Kubectl, KubectlError};
use super::mesh::{self, Mesh, MeshError};
use super::parts;
use super::programs::{self, ProgramError};

/// Which cluster, as for kubectl.
const KUBECONFIG: &str = "KUBECONFIG";
/// How `cargo xtask test` hands a suite what was said on its command line.
const TERMS: &str = "AQUIFER_OWN_CLUSTER";
/// On namespaces that are ours, so that a later run can clear what a dead one left.
const MARK: (&str, &str) = ("aquifer.io/made-by", "aquifer-tests");
/// What the chart's definitions carry.
const PART_OF: &str = "app.kubernetes.io/part-of=aquifer";
const PATIENCE: Duration = Duration::from_secs(120);

/// What has to be said to run on one's own cluster.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// Run on the cluster of KUBECONFIG; this command puts an image archive on its nodes, {} being the archive's path
    #[arg(long, value_name = "COMMAND")]
    pub load_with: Option<String>,
    /// Run on the cluster of KUBECONFIG; images are pushed below this place, from where it pulls them
    #[arg(long, value_name = "HOST/PATH", conflicts_with = "load_with")]
    pub registry: Option<String>,
    /// There: a value of the chart, as in helm's --set; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

#[derive(Debug, Error)]
pub enum ForeignError {
    #[error("{KUBECONFIG} is not set: it says which cluster to run on")]
    NoKubeconfig,
    #[error("{TERMS} is wrong: {0}; it is set by `cargo xtask test`")]
    Terms(serde_json::Error),
    #[error("--set is for a cluster of one's own: say --load-with or --registry as well")]
    SettingsAlone,
    #[error("cannot reach the cluster of {KUBECONFIG}: {0}")]
    Unreachable(KubectlError),
    #[error("{0}, so this is left alone; take another cluster, or remove it first")]
    Occupied(String),
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    #[error(transparent)]
    Kubectl(#[from] KubectlError),
    #[error(transparent)]
    Helm(#[from] HelmError),
    #[error(transparent)]
    Tool(#[from] parts::PartsError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error(transparent)]
    Mesh(#[from] Box<MeshError>),
    #[error("cannot {action}: {source}")]
    Io { action: &'static str, source: io::Error },
    #[error("`aquifer uninstall` failed: {0}")]
    Uninstall(String),
}

impl From<MeshError> for ForeignError {
    fn from(error: MeshError) -> Self {
        Self::Mesh(Box::new(error))
    }
}

impl Terms {
    /// As `cargo xtask test` was told them; none where the suite makes a cluster.
    pub fn from_environment() -> Result<Option<Self>, ForeignError> {
        let Ok(text) = std::env::var(TERMS) else {
            return Ok(None);
        };
        let terms: Self = serde_json::from_str(&text).map_err(ForeignError::Terms)?;
        terms.given()
    }

    /// None where nothing was said of a cluster of one's own.
    pub fn given(self) -> Result<Option<Self>, ForeignError> {
        if self.load_with.is_some() || self.registry.is_some() {
            return Ok(Some(self));
        }
        if self.settings.is_empty() {
            Ok(None)
        } else {
            Err(ForeignError::SettingsAlone)
        }
    }

    fn delivery(&self) -> Result<Delivery, ForeignError> {
        Ok(match (&self.load_with, &self.registry) {
            (Some(command), _) => Delivery::by_command(command)?,
            (None, Some(registry)) => Delivery::by_registry(registry)?,
            (None, None) => return Err(ForeignError::SettingsAlone),
        })
    }
}

/// The cluster, with the namespaces that were made on it.
#[derive(Debug)]
pub struct Foreign {
    kubectl: Kubectl,
    delivery: Delivery,
    settings: Vec<String>,
    /// Programs of this build.
    programs: PathBuf,
    /// Holds the access to the cluster.
    _folder: tempfile::TempDir,
}

impl Foreign {
    /// Finds the cluster and makes the namespace of the mesh and `namespaces` on it, unless somebody has one of them, or
    /// of those that are made `later`, or a mesh.
    pub fn attach(
        terms: &Terms,
        programs: &Path,
        namespaces: &[&str],
        later: &[&str],
        tell: &dyn Fn(&str),
    ) -> Result<Self, ForeignError> {
        let delivery = terms.delivery()?;
        let folder = make_folder()?;
        let cluster = Self {
            kubectl: access(folder.path())?,
            delivery,
            settings: terms.settings.clone(),
            programs: programs.to_owned(),
            _folder: folder,
        };
        tell(&format!("cluster of {KUBECONFIG}: {}", cluster.describe()?));
        if !marked(&cluster.kubectl)?.is_empty() {
            tell("removing what an earlier run left there");
            cluster.remains().clear()?;
        }
        cluster.refuse_what_is_there(&[namespaces, later].concat())?;
        for name in namespaces.iter().chain([&mesh::NAMESPACE]) {
            cluster.kubectl.run(&["create", "namespace", name])?;
            let (key, value) = MARK;
            cluster
                .kubectl
                .run(&["label", "namespace", name, &format!("{key}={value}")])?;
        }
        Ok(cluster)
    }

    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Manifests with the names that their images have there.
    pub fn rename(&self, manifests: &str) -> String {
        self.delivery.rename(manifests)
    }

    /// The label of namespaces that a later run may remove.
    pub fn mark(&self) -> (&'static str, &'static str) {
        MARK
    }

    /// Puts the mesh's images there, and these.
    pub fn deliver(&self, others: &[PathBuf]) -> Result<(), ForeignError> {
        let folder = make_folder()?;
        let mut archives = programs::archives(&self.programs, folder.path())?;
        archives.extend_from_slice(others);
        Ok(self.delivery.deliver(&archives)?)
    }

    pub fn mesh(&self) -> Result<Mesh<'_>, ForeignError> {
        let mut global = self.delivery.values();
        global["tag"] = json!(programs::TAG);
        let values = json!({
            "global": global,
            // Reached by port-forward, wherever this machine is.
            "ingressGateway": {"service": {"type": "ClusterIP"}},
        });
        Ok(Mesh::on(&self.kubectl, &values, &self.settings)?)
    }

    /// What a pod's program serves, through the API server.
    pub fn read(&self, namespace: &str, pod: &str, port: u16, path: &str) -> Result<String, KubectlError> {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy{path}");
        self.kubectl.run(&["get", "--raw", &path])
    }

    /// Removes everything that was put there.
    pub fn leave(self) -> Result<(), ForeignError> {
        self.remains().clear()
    }

    fn remains(&self) -> Remains<'_> {
        Remains {
            kubectl: &self.kubectl,
            programs: &self.programs,
        }
    }

    /// Context, address and nodes.
    fn describe(&self) -> Result<String, ForeignError> {
        self.kubectl
            .run(&["get", "--raw", "/readyz", "--request-timeout=20s"])
            .map_err(ForeignError::Unreachable)?;
        let template = "jsonpath={.current-context} at {.clusters[0].cluster.server}";
        let place = self.kubectl.run(&["config", "view", "-o", template])?;
        let nodes = self.kubectl.run(&["get", "nodes", "-o", "name"])?;
        Ok(format!("context {place}, {} nodes", nodes.lines().count()))
    }

    fn refuse_what_is_there(&self, namespaces: &[&str]) -> Result<(), ForeignError> {
        let there = names(&self.kubectl, &["namespaces"])?;
        let wanted = namespaces.iter().chain([&mesh::NAMESPACE]);
        if let Some(name) = wanted
            .into_iter()
            .find(|name| there.iter().any(|there| there == *name))
        {
            return Err(occupied(format!("the cluster has a namespace {name} of its own")));
        }
        let meshes = ["-A", "-l", "app in (istiod,ztunnel)"];
        let meshes = names(
            &self.kubectl,
            &[&["deployments,daemonsets"][..], &meshes].concat(),
        )?;
        if let Some(name) = meshes.first() {
            return Err(occupied(format!("the cluster has a mesh ({name})")));
        }
        let definitions = names(&self.kubectl, &["customresourcedefinitions", "-l", PART_OF])?;
        if let Some(name) = definitions.first() {
            return Err(occupied(format!(
                "the cluster has definitions of an earlier Aquifer ({name} and others) and maybe objects of them"
            )));
        }
        Ok(())
    }
}

/// What was put on a cluster, and who removes it.
struct Remains<'a> {
    kubectl: &'a Kubectl,
    programs: &'a Path,
}

impl Remains<'_> {
    /// Applications first: the mesh has nobody to give back then, and is removed by its own command.
    fn clear(&self) -> Result<(), ForeignError> {
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        let (system, others): (Vec<String>, Vec<String>) = marked(self.kubectl)?
            .into_iter()
            .partition(|name| name == mesh::NAMESPACE);
        for name in others {
            self.kubectl.run(&["delete", "namespace", &name, &limit])?;
        }
        for name in system {
            self.uninstall()?;
            self.kubectl.run(&["delete", "namespace", &name, &limit])?;
        }
        Ok(())
    }

    fn uninstall(&self) -> Result<(), ForeignError> {
        let output = Command::new(self.programs.join("aquifer"))
            .args(["uninstall", "--purge", "--namespace", mesh::NAMESPACE])
            .env(KUBECONFIG, self.kubectl.kubeconfig())
            .env("KUBECTL", parts::tool(parts::KUBECTL)?)
            .env("HELM", parts::tool(parts::HELM)?)
            .output()
            .map_err(|source| ForeignError::Io {
                action: "run the program aquifer",
                source,
            })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(ForeignError::Uninstall(said.trim().to_owned()))
    }
}

/// Removes what this or an earlier run put on the cluster of KUBECONFIG.
pub fn clear(programs: &Path) -> Result<(), ForeignError> {
    let folder = make_folder()?;
    Remains {
        kubectl: &access(folder.path())?,
        programs,
    }
    .clear()
}

fn marked(kubectl: &Kubectl) -> Result<Vec<String>, ForeignError> {
    let (key, value) = MARK;
    names(kubectl, &["namespaces", "-l", &format!("{key}={value}")])
}

/// Names of the objects that kubectl lists.
fn names(kubectl: &Kubectl, what: &[&str]) -> Result<Vec<String>, ForeignError> {
    let template = "jsonpath={range .items[*]}{.metadata.name}{'\\n'}{end}";
    let list = kubectl.run(&[&["get"][..], what, &["-o", template]].concat())?;
    Ok(list.lines().map(str::to_owned).collect())
}

fn make_folder() -> Result<tempfile::TempDir, ForeignError> {
    tempfile::tempdir().map_err(|source| ForeignError::Io {
        action: "make a folder",
        source,
    })
}

fn occupied(why: String) -> ForeignError {
    ForeignError::Occupied(why)
}

/// What KUBECONFIG means now: a context that is switched meanwhile is another cluster.
fn access(folder: &Path) -> Result<Kubectl, ForeignError> {
    let given = std::env::var_os(KUBECONFIG).filter(|value| !value.is_empty());
    if given.is_none() {
        return Err(ForeignError::NoKubeconfig);
    }
    let program = parts::tool(parts::KUBECTL)?;
    let io = |action| move |source| ForeignError::Io { action, source };
    let view = Command::new(&program)
        .args(["config", "view", "--raw", "--minify", "--flatten"])
        .output()
        .map_err(io("run kubectl"))?;
    if !view.status.success() {
        return Err(ForeignError::Unreachable(KubectlError::Failed {
            arguments: "config view --minify".to_owned(),
            message: String::from_utf8_lossy(&view.stderr).trim().to_owned(),
        }));
    }
    let path = folder.join("kubeconfig");
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        file.write_all(&view.stdout)
    };
    write().map_err(io("keep the access to the cluster"))?;
    Ok(Kubectl::new(program, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(load_with: Option<&str>, settings: &[&str]) -> Terms {
        Terms {
            load_with: load_with.map(str::to_owned),
            registry: None,
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
        }
    }

    #[test]
    fn nothing_said_is_no_cluster_of_ones_own() {
        assert!(terms(None, &[]).given().unwrap().is_none());
        assert!(terms(Some("load {}"), &["a=b"]).given().unwrap().is_some());
        let error = terms(None, &["a=b"]).given().unwrap_err().to_string();
        assert!(error.contains("--load-with or --registry"), "{error}");
    }

    #[test]
    fn terms_reach_a_suite_as_they_were_said() {
        let text = serde_json::to_string(&terms(Some("load {}"), &["a=b"])).unwrap();
        let read: Terms = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (read.load_with.as_deref(), &*read.settings),
            (Some("load {}"), &["a=b".to_owned()][..])
        );
    }
}
