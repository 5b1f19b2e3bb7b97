//! A small cluster made of network namespaces, veth pairs, bridges and cgroups.
//!
//! A daemon per lab plays API server, scheduler, kubelet and endpoints controller; a helper per node
//! plays kube-proxy, kube-dns and the prober. It refuses to know rollouts, scheduling policy and
//! storage: a real cluster is for those. Read [`Lab`] and [`layout::Layout`] first.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;

pub mod cli;
pub mod images;
pub mod layout;
pub mod protocol;
pub mod status;

mod cgroup;
mod cleanup;
mod client;
mod daemon;
mod enter;
mod manifest;
mod names;
mod netns;
pub mod network;
mod node;
mod proxy;
mod sandbox;
mod spec;
mod store;
mod tokens;
mod views;

use layout::LabName;
use network::Families;
use protocol::{Document, Request, Response, UpConfig};
use status::Status;

/// Where the program `aquifer-lab` is, when it is not beside the running one.
const PROGRAM_ENV: &str = "AQUIFER_LAB";
const PROGRAM: &str = "aquifer-lab";
/// Between two looks at what the proxies know, which nobody tells of.
const VIEWS_PAUSE: Duration = Duration::from_millis(50);

/// What to build; see `aquifer-lab up --help`.
#[derive(Clone, Debug)]
pub struct LabOptions {
    pub name: String,
    pub nodes: u8,
    pub families: Families,
    pub mesh: Mesh,
    /// `GLOB=COMMAND`, first match wins; the mesh's own images are mapped already.
    pub images: Vec<String>,
    /// Files or folders, applied in this order.
    pub manifests: Vec<PathBuf>,
    /// How long `up` waits for everything to be ready.
    pub timeout: Duration,
}

/// Whether the lab runs control plane, agents and ingress gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mesh {
    Installed,
    Absent,
}

impl LabOptions {
    /// Two IPv4 nodes with the mesh and nothing else.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            nodes: 2,
            families: Families::Ipv4,
            mesh: Mesh::Installed,
            images: Vec::new(),
            manifests: Vec::new(),
            timeout: Duration::from_secs(180),
        }
    }

    #[must_use]
    pub fn without_mesh(mut self) -> Self {
        self.mesh = Mesh::Absent;
        self
    }

    #[must_use]
    pub fn families(mut self, families: Families) -> Self {
        self.families = families;
        self
    }

    #[must_use]
    pub fn nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }

    #[must_use]
    pub fn image(mut self, glob: &str, command: &str) -> Self {
        self.images.push(format!("{glob}={command}"));
        self
    }

    #[must_use]
    pub fn manifest(mut self, path: impl Into<PathBuf>) -> Self {
        self.manifests.push(path.into());
        self
    }
}

/// A running lab; dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    name: LabName,
    program: PathBuf,
    at_drop: AtDrop,
    /// The daemon, when this process started it: waited for, so that no zombie is left.
    daemon: Option<Child>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtDrop {
    TakeDown,
    Leave,
}

#[derive(Debug, Error)]
pub enum LabError {
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Client(#[from] client::ClientError),
    #[error(transparent)]
    Cleanup(#[from] cleanup::CleanupError),
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error(
        "program {PROGRAM} is neither beside this program nor named by {PROGRAM_ENV}: build it with `cargo build -p aquifer-tests`"
    )]
    NoProgram,
    #[error("cannot run {program}: {source}")]
    Run { program: String, source: std::io::Error },
    #[error("after {waited:?} still not so: {what}\n{status}")]
    Timeout {
        what: String,
        waited: Duration,
        status: String,
    },
}

impl Lab {
    /// Clears what a dead lab of this name left, builds a new one, applies the manifests and waits
    /// until everything is ready.
    pub fn up(options: &LabOptions) -> Result<Self, LabError> {
        let lab = Self::start(options)?;
        lab.fill(options)?;
        Ok(lab)
    }

    /// Starts the daemon, which builds nodes and, unless it is absent, the mesh.
    fn start(options: &LabOptions) -> Result<Self, LabError> {
        let name: LabName = options
            .name
            .parse()
            .map_err(|error: layout::NameError| refused(&error))?;
        let program = find_program()?;
        let config = UpConfig::new(&name, options, &program).map_err(|error| refused(&error))?;
        let daemon = client::start_daemon(&program, &config)?;
        Ok(Self {
            name,
            program,
            at_drop: AtDrop::TakeDown,
            daemon: Some(daemon),
        })
    }

    /// Applies the manifests and waits until everything is ready.
    fn fill(&self, options: &LabOptions) -> Result<(), LabError> {
        for path in &options.manifests {
            self.apply_path("default", path)?;
        }
        self.wait_ready(options.timeout).map(drop)
    }

    /// A handle on a lab that someone else brought up; dropping it changes nothing.
    pub fn attach(name: &str) -> Result<Self, LabError> {
        Ok(Self {
            name: name.parse().map_err(|error: layout::NameError| refused(&error))?,
            program: find_program()?,
            at_drop: AtDrop::Leave,
            daemon: None,
        })
    }

    /// Leaves the lab running when this handle is dropped.
    pub fn keep(&mut self) {
        self.at_drop = AtDrop::Leave;
    }

    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Applies manifests given as text; objects without a namespace go to `namespace`.
    pub fn apply(&self, namespace: &str, yaml: &str) -> Result<Vec<String>, LabError> {
        self.change(&Request::Apply {
            namespace: namespace.to_owned(),
            documents: vec![Document::inline(yaml)],
        })
    }

    /// Applies a file, or every YAML and JSON file of a folder in the order of their names.
    pub fn apply_path(&self, namespace: &str, path: &Path) -> Result<Vec<String>, LabError> {
        self.change(&Request::Apply {
            namespace: namespace.to_owned(),
            documents: client::read_documents(path)?,
        })
    }

    /// Deletes the objects that the text names and waits until their pods are gone.
    pub fn delete(&self, namespace: &str, yaml: &str) -> Result<Vec<String>, LabError> {
        self.change(&Request::Delete {
            namespace: namespace.to_owned(),
            documents: vec![Document::inline(yaml)],
        })
    }

    pub fn delete_path(&self, namespace: &str, path: &Path) -> Result<Vec<String>, LabError> {
        self.change(&Request::Delete {
            namespace: namespace.to_owned(),
            documents: client::read_documents(path)?,
        })
    }

    /// Runs a command inside a pod and waits for it. `target` is NAMESPACE/POD or NAMESPACE/WORKLOAD.
    pub fn exec<S: AsRef<str>>(&self, target: &str, argv: &[S]) -> Result<Output, LabError> {
        run(self.exec_command(target, argv))
    }

    /// The command that `exec` would run, for callers that want its streams or its pid.
    pub fn exec_command<S: AsRef<str>>(&self, target: &str, argv: &[S]) -> Command {
        self.enter_command("exec", target, argv)
    }

    /// Runs a command in a node's own namespace, or outside the cluster on the node `world`.
    pub fn node<S: AsRef<str>>(&self, node: &str, argv: &[S]) -> Result<Output, LabError> {
        run(self.node_command(node, argv))
    }

    pub fn node_command<S: AsRef<str>>(&self, node: &str, argv: &[S]) -> Command {
        self.enter_command("node", node, argv)
    }

    pub fn status(&self) -> Result<Status, LabError> {
        Ok(client::status(&self.name, &Request::Status)?)
    }

    /// The last `bytes` of what a pod's containers wrote.
    pub fn logs(&self, target: &str, bytes: u64) -> Result<String, LabError> {
        Ok(client::logs(&self.name, target, bytes)?)
    }

    /// Sends a signal to the main processes of a pod. `hold` keeps it from being started again.
    pub fn kill(&self, target: &str, signal: i32, hold: bool) -> Result<(), LabError> {
        let target = target.to_owned();
        self.change(&Request::Kill { target, signal, hold }).map(drop)
    }

    /// Starts what `kill` with `hold` keeps down.
    pub fn release(&self, target: &str) -> Result<(), LabError> {
        let target = target.to_owned();
        self.change(&Request::Release { target }).map(drop)
    }

    /// Waits until every pod is ready (and enrolled where its namespace opts in), and every proxy of the mesh knows it.
    pub fn wait_ready(&self, timeout: Duration) -> Result<Status, LabError> {
        let deadline = Instant::now() + timeout;
        let left = || deadline.saturating_duration_since(Instant::now());
        loop {
            let (status, ready) = self.wait(left(), |status| status.ready)?;
            if !ready {
                let details = client::explain(&self.name, &status);
                return Err(not_ready(timeout, &details));
            }
            let unheard = views::unheard(&status);
            // A change meanwhile would be one that the views were not compared with.
            if unheard.is_empty() && self.status()?.generation == status.generation {
                return Ok(status);
            }
            if left().is_zero() {
                let is_restless = unheard.is_empty().then_some("the lab changed all the time");
                let reasons = is_restless.into_iter().chain(unheard.iter().map(String::as_str));
                return Err(not_ready(timeout, &reasons.collect::<Vec<_>>().join("\n")));
            }
            self.wait(left().min(VIEWS_PAUSE), |now| now.generation > status.generation)?;
        }
    }

    /// Waits for a state of the lab, woken by its changes.
    pub fn wait_until(
        &self,
        what: &str,
        timeout: Duration,
        wanted: impl Fn(&Status) -> bool,
    ) -> Result<Status, LabError> {
        match self.wait(timeout, wanted)? {
            (status, true) => Ok(status),
            (status, false) => Err(LabError::Timeout {
                what: what.to_owned(),
                waited: timeout,
                status: status.to_string(),
            }),
        }
    }

    /// Stops everything and removes every trace.
    pub fn down(mut self) -> Result<(), LabError> {
        self.at_drop = AtDrop::Leave;
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), LabError> {
        take_down(&self.name)?;
        if let Some(mut daemon) = self.daemon.take() {
            // Its exit status says nothing: clearing may have killed it.
            drop(daemon.wait());
        }
        Ok(())
    }

    /// The folder of objects that stands for etcd.
    pub fn objects_dir(&self) -> PathBuf {
        layout::Layout::new(&self.name).objects()
    }

    /// The folder that the control plane writes to.
    pub fn sink_dir(&self) -> PathBuf {
        layout::Layout::new(&self.name).sink()
    }

    fn wait(&self, timeout: Duration, wanted: impl Fn(&Status) -> bool) -> Result<(Status, bool), LabError> {
        Ok(client::wait(&self.name, timeout, wanted)?)
    }

    fn change(&self, request: &Request) -> Result<Vec<String>, LabError> {
        match client::call(&self.name, request)? {
            Response::Done { lines } => Ok(lines),
            other => Err(LabError::Refused(other.unexpected())),
        }
    }

    fn enter_command<S: AsRef<str>>(&self, verb: &str, target: &str, argv: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--name", self.name.as_str(), verb, target, "--"]);
        command.args(argv.iter().map(AsRef::as_ref));
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.at_drop == AtDrop::Leave {
            return;
        }
        if let Err(error) = self.take_down() {
            tracing::error!(lab = %self.name, %error, "could not take the lab down");
        }
    }
}

/// Takes down the lab of that name, running or dead.
pub fn take_down(name: &LabName) -> Result<(), LabError> {
    client::shut_down(name);
    cleanup::clear(name)?;
    Ok(())
}

fn not_ready(waited: Duration, details: &str) -> LabError {
    LabError::Refused(format!("not everything is ready after {waited:?}:\n{details}"))
}

fn refused(error: &dyn std::fmt::Display) -> LabError {
    LabError::Refused(error.to_string())
}

fn run(mut command: Command) -> Result<Output, LabError> {
    command.stdin(Stdio::null());
    command.output().map_err(|source| LabError::Run {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })
}

/// Beside the running program, or one folder up (test programs live in `deps/`).
fn find_program() -> Result<PathBuf, LabError> {
    if let Some(path) = std::env::var_os(PROGRAM_ENV) {
        return Ok(PathBuf::from(path));
    }
    let current = std::env::current_exe().map_err(|_| LabError::NoProgram)?;
    let mut folders = current.ancestors().skip(1).take(2);
    folders
        .find_map(|folder| Some(folder.join(PROGRAM)).filter(|path| path.is_file()))
        .ok_or(LabError::NoProgram)
}
