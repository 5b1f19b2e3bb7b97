//! A cluster that somebody else made and goes on using: reached through its API server alone, and left as it was found.
//!
//! Nobody gets here because a KUBECONFIG happens to be set: how images come there has to be said. What is there already
//! under the names that are needed, Istio, or Aquifer is a reason to go no further. Each run labels the namespaces that it
//! makes with its own name and removes those alone, whatever way it ends; another run's go only when that is asked for.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;

use super::delivery::{Delivered, Delivery, DeliveryError};
use super::helm::HelmError;
use super::kubectl::{self, Kubectl, KubectlError};
use super::mesh::{self, Mesh, MeshError};
use super::parts;
use super::programs::{self, ProgramError};
use crate::interrupt;

/// Which cluster, as for kubectl.
const KUBECONFIG: &str = "KUBECONFIG";
/// How `cargo xtask test` hands a suite what was said on its command line.
const TERMS: &str = "AQUIFER_OWN_CLUSTER";
/// On namespaces that are ours, so that a later run can clear what a dead one left.
const MARK: (&str, &str) = ("aquifer.io/made-by", "aquifer-tests");
/// Beside it, the run that made them.
const RUN: &str = "aquifer.io/run";
/// What the chart's objects carry.
const PART_OF: &str = "app.kubernetes.io/part-of=aquifer";
const PART_OF_OTHERS: &str = "app.kubernetes.io/part-of!=aquifer";
/// Control planes and node agents, Istio's and ours.
const MESHES: &str = "app in (istiod,ztunnel)";
/// How the webhooks of Istio are named that put sidecars into pods.
const INJECTOR: &str = "istio-sidecar-injector";
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
    /// There: first remove the mesh and the namespaces that an earlier run of the demo or the suite left
    #[arg(long)]
    #[serde(default)]
    pub clear: bool,
}

#[derive(Debug, Error)]
pub enum ForeignError {
    #[error("{KUBECONFIG} is not set: it says which cluster to run on")]
    NoKubeconfig,
    #[error("{TERMS} is wrong: {0}; it is set by `cargo xtask test`")]
    Terms(serde_json::Error),
    #[error("--set and --clear are for a cluster of one's own: say --load-with or --registry as well")]
    DetailsAlone,
    #[error("cannot reach the cluster of {KUBECONFIG}: {0}")]
    Unreachable(KubectlError),
    #[error("{0}, so this is left alone; take another cluster, or remove it first")]
    Occupied(String),
    #[error(
        "the cluster has namespaces of an earlier run, or of one that is still going on ({}); when none is, say --clear, or: {}",
        .0.join(", "), by_hand(.0)
    )]
    Left(Vec<String>),
    #[error(
        "namespace {system} was made by a run of ours, but holds {0}, which is not Aquifer's: nothing is removed; take out of it what you do not need, and off it the label {mark}",
        system = mesh::NAMESPACE, mark = MARK.0
    )]
    CameLater(String),
    #[error(
        "the cluster is not as it was found: {0}; once that is mended, the next run removes the rest when it is told --clear"
    )]
    NotCleared(Box<Self>),
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
        if self.settings.is_empty() && !self.clear {
            Ok(None)
        } else {
            Err(ForeignError::DetailsAlone)
        }
    }

    fn delivery(&self) -> Result<Delivery, ForeignError> {
        Ok(match (&self.load_with, &self.registry) {
            (Some(command), _) => Delivery::by_command(command)?,
            (None, Some(registry)) => Delivery::by_registry(registry)?,
            (None, None) => return Err(ForeignError::DetailsAlone),
        })
    }
}

/// The cluster that KUBECONFIG means at the start, for one run: a context that is switched meanwhile is another cluster.
#[derive(Clone, Debug)]
pub struct Access {
    kubectl: Kubectl,
    /// Programs of this build.
    programs: PathBuf,
    /// This run's name: what it made carries it.
    run: String,
    /// Holds the kubeconfig, and image archives while they are delivered.
    folder: Arc<tempfile::TempDir>,
}

impl Access {
    pub fn take(programs: &Path) -> Result<Self, ForeignError> {
        let folder = make_folder(&std::env::temp_dir())?;
        Ok(Self {
            kubectl: access(folder.path())?,
            programs: programs.to_owned(),
            run: name_of_run(),
            folder: Arc::new(folder),
        })
    }

    /// From now on SIGINT and SIGTERM remove what this run put there and end the process; see [`interrupt::on_signal`].
    pub fn clear_on_signal(&self) -> io::Result<()> {
        let access = self.clone();
        interrupt::on_signal(move || access.clear_and_end().map_err(|error| error.to_string()))
    }

    /// Removes what this run put there, as the last that the process does: nothing is dropped then, so the folder with the
    /// copy of the kubeconfig is removed here.
    fn clear_and_end(&self) -> Result<(), ForeignError> {
        let cleared = self.clear();
        let removed = fs::remove_dir_all(self.folder.path()).map_err(|source| ForeignError::Io {
            action: "remove the folder with the copy of the kubeconfig",
            source,
        });
        cleared.and(removed)
    }

    /// Removes what this run put there.
    fn clear(&self) -> Result<(), ForeignError> {
        let made = self.namespaces((RUN, &self.run));
        made.and_then(|namespaces| self.clear_namespaces(namespaces))
            .map_err(|error| ForeignError::NotCleared(Box::new(error)))
    }

    /// Those with this label.
    fn namespaces(&self, (key, value): (&str, &str)) -> Result<Vec<String>, ForeignError> {
        names(&self.kubectl, &["namespaces", "-l", &format!("{key}={value}")])
    }

    /// Applications first: the mesh has nobody to give back then, and is removed by its own command.
    fn clear_namespaces(&self, namespaces: Vec<String>) -> Result<(), ForeignError> {
        let (system, others): (Vec<String>, Vec<String>) =
            namespaces.into_iter().partition(|name| name == mesh::NAMESPACE);
        if !system.is_empty() {
            self.refuse_what_came_later()?;
        }
        for name in &others {
            self.delete_namespace(name)?;
        }
        for name in &system {
            self.uninstall()?;
            self.delete_namespace(name)?;
        }
        Ok(())
    }

    fn delete_namespace(&self, name: &str) -> Result<(), ForeignError> {
        let limit = kubectl::limit(PATIENCE);
        let delete = ["delete", "namespace", name, "--ignore-not-found", &limit];
        self.kubectl.run(&delete)?;
        Ok(())
    }

    /// The namespace of a dead run may have become somebody's own.
    fn refuse_what_came_later(&self) -> Result<(), ForeignError> {
        let theirs = format!("{MESHES},{PART_OF_OTHERS}");
        let parts = ["deployments,daemonsets", "-n", mesh::NAMESPACE, "-l", &theirs];
        match names(&self.kubectl, &parts)?.into_iter().next() {
            Some(name) => Err(ForeignError::CameLater(name)),
            None => Ok(()),
        }
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

    /// Another run's namespaces, dead or alive, go only when that is asked for.
    fn make_room(&self, clear: bool, tell: &dyn Fn(&str)) -> Result<(), ForeignError> {
        let left = self.namespaces(MARK)?;
        if left.is_empty() {
            return Ok(());
        }
        if !clear {
            return Err(ForeignError::Left(left));
        }
        tell(&format!(
            "removing what an earlier run left there: {}",
            left.join(", ")
        ));
        interrupt::in_turn(|| self.clear_namespaces(left))
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
        let meshes = names(&self.kubectl, &["deployments,daemonsets", "-A", "-l", MESHES])?;
        let injectors = names(&self.kubectl, &["mutatingwebhookconfigurations"])?;
        let injectors = injectors.into_iter().filter(|name| name.starts_with(INJECTOR));
        if let Some(name) = meshes.into_iter().chain(injectors).next() {
            return Err(occupied(format!("the cluster has Istio or Aquifer ({name})")));
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

/// What a run needs on the cluster.
pub struct Wanted<'a> {
    /// Made at the start, beside that of the mesh.
    pub namespaces: &'a [&'a str],
    /// Made by the caller, with [`Foreign::marks`].
    pub later: &'a [&'a str],
    /// Archives of images beside those of mesh and sample.
    pub images: &'a dyn Fn() -> Result<Vec<PathBuf>, parts::PartsError>,
}

/// The cluster, with the namespaces that were made on it.
#[derive(Debug)]
pub struct Foreign {
    access: Access,
    delivered: Delivered,
    settings: Vec<String>,
    at_drop: AtDrop,
}

#[derive(Debug, PartialEq, Eq)]
enum AtDrop {
    Clear,
    Leave,
}

impl Foreign {
    /// Delivers images and makes the namespaces, unless somebody has one of those, or Istio, or Aquifer.
    pub fn attach(
        terms: &Terms,
        access: Access,
        wanted: &Wanted<'_>,
        tell: &dyn Fn(&str),
    ) -> Result<Self, ForeignError> {
        let delivery = terms.delivery()?;
        tell(&format!("cluster of {KUBECONFIG}: {}", access.describe()?));
        access.make_room(terms.clear, tell)?;
        access.refuse_what_is_there(&[wanted.namespaces, wanted.later].concat())?;
        tell("loading images");
        let folder = make_folder(access.folder.path())?;
        let mut archives = programs::archives(&access.programs, folder.path())?;
        archives.extend((wanted.images)()?);
        let cluster = Self {
            access,
            delivered: delivery.deliver(&archives)?,
            settings: terms.settings.clone(),
            at_drop: AtDrop::Clear,
        };
        interrupt::in_turn(|| cluster.make_namespaces(wanted.namespaces))?;
        Ok(cluster)
    }

    /// Each with its labels from the first: nobody takes it for somebody else's.
    fn make_namespaces(&self, names: &[&str]) -> Result<(), ForeignError> {
        let labels: BTreeMap<&str, &str> = self.marks().into();
        for name in [&mesh::NAMESPACE].into_iter().chain(names) {
            let namespace = json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": name, "labels": labels},
            });
            self.kubectl().create(&namespace.to_string())?;
        }
        Ok(())
    }

    /// Leaves everything there when this is dropped.
    pub fn keep(&mut self) {
        self.at_drop = AtDrop::Leave;
    }

    pub fn kubectl(&self) -> &Kubectl {
        &self.access.kubectl
    }

    /// Manifests with the names that their images have there.
    pub fn rename(&self, manifests: &str) -> String {
        self.delivered.rename(manifests)
    }

    /// The labels of namespaces that go with this run.
    pub fn marks(&self) -> [(&str, &str); 2] {
        [MARK, (RUN, &self.access.run)]
    }

    pub fn mesh(&self) -> Result<Mesh<'_>, ForeignError> {
        let values = json!({
            "global": self.delivered.values(programs::TAG),
            // Reached by port-forward, wherever this machine is.
            "ingressGateway": {"service": {"type": "ClusterIP"}},
        });
        Ok(Mesh::on(self.kubectl(), &values, &self.settings)?)
    }

    /// Removes everything that was put there.
    pub fn leave(mut self) -> Result<(), ForeignError> {
        self.at_drop = AtDrop::Leave;
        interrupt::in_turn(|| self.access.clear())
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if self.at_drop == AtDrop::Leave {
            return;
        }
        eprintln!("removing what was put on the cluster");
        if let Err(error) = interrupt::in_turn(|| self.access.clear()) {
            eprintln!("{error}");
        }
    }
}

/// What a label takes, and no other run has.
fn name_of_run() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", std::process::id(), now.as_nanos())
}

/// The commands that remove these namespaces, and the mesh where one of them is its own.
fn by_hand(namespaces: &[String]) -> String {
    let (system, others): (Vec<&str>, Vec<&str>) = namespaces
        .iter()
        .map(String::as_str)
        .partition(|name| *name == mesh::NAMESPACE);
    let mut commands = Vec::new();
    if !others.is_empty() {
        commands.push(format!("kubectl delete namespace {}", others.join(" ")));
    }
    for name in system {
        commands.push("aquifer uninstall --purge".to_owned());
        commands.push(format!("kubectl delete namespace {name}"));
    }
    commands.join("; ")
}

/// Names of the objects that kubectl lists.
fn names(kubectl: &Kubectl, what: &[&str]) -> Result<Vec<String>, ForeignError> {
    let template = "jsonpath={range .items[*]}{.metadata.name}{'\\n'}{end}";
    let list = kubectl.run(&[&["get"][..], what, &["-o", template]].concat())?;
    Ok(list.lines().map(str::to_owned).collect())
}

fn make_folder(below: &Path) -> Result<tempfile::TempDir, ForeignError> {
    tempfile::tempdir_in(below).map_err(|source| ForeignError::Io {
        action: "make a folder",
        source,
    })
}

fn occupied(why: String) -> ForeignError {
    ForeignError::Occupied(why)
}

/// What KUBECONFIG means now.
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
mod tests;
