//! A Kubernetes cluster on one machine, of the real parts: etcd, API server, controllers, kubelets, containerd.
//!
//! Beside the lab, which is quicker and plays these parts itself. A member (the control plane or a node) is a network,
//! mount, PID and cgroup namespace with a small supervisor as its first process; when that ends, so does everything in
//! it. No daemon outside holds the cluster together: all that is known of it is in its folder and in its names. Read
//! [`Cluster`] and [`layout::Layout`] first.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub mod audit;
pub mod cli;
pub mod delivery;
pub mod foreign;
pub mod ground;
pub mod helm;
pub mod image;
pub mod kubectl;
pub mod layout;
pub mod mesh;
pub mod observe;
pub mod parts;
pub mod programs;
pub mod status;
pub mod tunnel;

mod addons;
mod cgroup;
mod files;
mod forward;
mod member;
mod netns;
mod pki;
mod power;
mod root;
mod services;
mod supervisor;

use crate::interrupt;
use cgroup::Cgroups;
use kubectl::{Kubectl, KubectlError};
use layout::{API_PORT, ClusterName, Layout, MAX_NODES, Member};
use member::{Forward, Spec};
use parts::Parts;
use pki::Pki;
use root::Root;
use status::Status;
pub use supervisor::ServiceState;

/// Where the program `aquifer-cluster` is, when it is not beside the running one.
const PROGRAM_ENV: &str = "AQUIFER_CLUSTER";
const PROGRAM: &str = "aquifer-cluster";

/// What to build.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub name: ClusterName,
    pub nodes: u8,
    /// How long `up` waits, once the parts are built.
    pub timeout: Duration,
    /// Archives that every node gets beside the cluster's own images.
    pub images: Vec<PathBuf>,
    pub on_failure: OnFailure,
}

/// What becomes of a cluster that is not ready in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    TakeDown,
    /// For somebody to look at.
    Keep,
}

impl ClusterOptions {
    /// Two nodes.
    pub fn new(name: ClusterName) -> Self {
        Self {
            name,
            nodes: 2,
            timeout: Duration::from_secs(300),
            images: Vec::new(),
            on_failure: OnFailure::TakeDown,
        }
    }
}

/// A running cluster; dropping it takes it down, unless it was attached to or kept.
#[derive(Debug)]
pub struct Cluster {
    layout: Layout,
    record: Record,
    program: PathBuf,
    kubectl: Kubectl,
    at_drop: AtDrop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AtDrop {
    TakeDown,
    Leave,
}

/// What must be known of a cluster to restart its members.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    nodes: u8,
    /// Of this machine's loopback.
    api_port: u16,
    parts: PathBuf,
}

#[derive(Debug, Error)]
pub enum ClusterError {
    #[error("a cluster needs root: it makes namespaces, cgroups and mounts")]
    NotRoot,
    #[error("a cluster has 1 to {MAX_NODES} nodes, not {0}")]
    Nodes(u8),
    #[error(
        "missing: {0}; install them (on Debian: `sudo apt-get install --no-install-recommends {0}`) and run this again"
    )]
    Packages(String),
    #[error("no cluster {0} is up: start it with `cargo xtask cluster up`")]
    NotUp(ClusterName),
    #[error(transparent)]
    Parts(#[from] parts::PartsError),
    #[error(transparent)]
    Cgroup(#[from] cgroup::CgroupError),
    #[error(transparent)]
    Network(#[from] netns::NetworkError),
    #[error(transparent)]
    Pki(#[from] pki::PkiError),
    #[error(transparent)]
    File(#[from] files::FileError),
    #[error(transparent)]
    Member(#[from] member::MemberError),
    #[error(transparent)]
    Kubectl(#[from] KubectlError),
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("not ready: {source}\n{status}")]
    NotReady { status: String, source: Box<Self> },
    #[error("{member} did not start: {message}")]
    Launch { member: Member, message: String },
    #[error("{member}: {message}")]
    Refused { member: Member, message: String },
    #[error("cannot load {} into {member}: {message}", image.display())]
    Load {
        member: Member,
        image: PathBuf,
        message: String,
    },
    #[error(
        "program {PROGRAM} is neither beside this program nor named by {PROGRAM_ENV}: build it with `cargo build -p aquifer-tests`"
    )]
    NoProgram,
}

/// Files that stand for the Debian packages that a cluster runs on.
const PACKAGES: [(&[&str], &str); 4] = [
    (&["/usr/lib/cni/bridge"], "containernetworking-plugins"),
    (&["/usr/sbin/nft", "/sbin/nft"], "nftables"),
    (&["/usr/sbin/iptables", "/sbin/iptables"], "iptables"),
    (
        &["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"],
        "iproute2",
    ),
];

impl Cluster {
    /// Builds a cluster and waits until its nodes are ready and names resolve. What an earlier one of that name left
    /// is cleared first. `tell` hears of each step.
    pub fn up(options: &ClusterOptions, tell: &dyn Fn(&str)) -> Result<Self, ClusterError> {
        check(options)?;
        let program = find_program()?;
        let parts = Parts::find_or_build(tell)?;
        let kubectl = parts::tool(parts::KUBECTL)?;
        take_down(&options.name)?;
        let layout = Layout::new(&options.name);
        let mut cluster = Self {
            record: Record {
                nodes: options.nodes,
                api_port: free_port()?,
                parts: parts.programs(),
            },
            kubectl: Kubectl::new(kubectl, layout.kubeconfig()),
            layout,
            program,
            at_drop: AtDrop::TakeDown,
        };
        cluster.prepare()?;
        tell("starting the control plane and the nodes");
        Member::all(options.nodes).try_for_each(|member| cluster.start_member(member))?;
        let images: Vec<PathBuf> = parts.images().into_iter().chain(options.images.clone()).collect();
        let ready = cluster.become_ready(&images, options.timeout, tell);
        if ready.is_err() && options.on_failure == OnFailure::Keep {
            cluster.keep();
        }
        ready.map_err(|error| ClusterError::NotReady {
            status: cluster.status().to_string(),
            source: Box::new(error),
        })?;
        Ok(cluster)
    }

    /// The running cluster of that name; dropping the value leaves it as it is.
    pub fn attach(name: &ClusterName) -> Result<Self, ClusterError> {
        let layout = Layout::new(name);
        let not_up = || ClusterError::NotUp(name.clone());
        let record = fs::read_to_string(layout.record()).map_err(|_| not_up())?;
        Ok(Self {
            record: serde_json::from_str(&record).map_err(|_| not_up())?,
            program: find_program()?,
            kubectl: Kubectl::new(parts::tool(parts::KUBECTL)?, layout.kubeconfig()),
            layout,
            at_drop: AtDrop::Leave,
        })
    }

    /// Leaves the cluster running when the value is dropped.
    pub fn keep(&mut self) {
        self.at_drop = AtDrop::Leave;
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig()
    }

    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// The nodes, by number.
    pub fn nodes(&self) -> impl Iterator<Item = Member> + use<> {
        (1..=self.record.nodes).map(Member::Node)
    }

    /// A command inside a member: its namespaces, its files, its cgroup. In the world, its network alone.
    pub fn exec_command<S: AsRef<str>>(&self, member: Member, argv: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--name", self.layout.name().as_str(), "exec"]);
        command.arg(member.to_string()).arg("--");
        command.args(argv.iter().map(AsRef::as_ref));
        command
    }

    /// Loads an image archive (docker or OCI, a tar) into every node.
    pub fn load(&self, image: &Path) -> Result<(), ClusterError> {
        self.on_each_node(|node| self.load_into(node, image))
    }

    /// What a part says of itself, in Prometheus's format. CoreDNS, which is a pod, is the control plane's: the API server
    /// leads there.
    pub fn metrics(&self, member: Member, service: &str) -> Result<String, ClusterError> {
        if (member, service) == (Member::Control, addons::DNS) {
            return Ok(self.kubectl.run(&["get", "--raw", addons::DNS_METRICS])?);
        }
        let refused = |message: String| ClusterError::Refused { member, message };
        let (scheme, port, path) =
            services::metrics(service).ok_or_else(|| refused(format!("no metrics of {service}")))?;
        let kubectl = self.kubectl.command(&[
            "--server",
            &format!("{scheme}://{}:{port}", member.address()),
            "--insecure-skip-tls-verify",
            "get",
            "--raw",
            path,
        ]);
        let words = std::iter::once(kubectl.get_program()).chain(kubectl.get_args());
        let argv: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
        let output = self.exec_command(Member::World, &argv).output();
        let output = output.map_err(|error| io_error("run", &self.program, error))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
    }

    pub fn status(&self) -> Status {
        Status::look(self)
    }

    /// Every part that can be asked for its metrics.
    pub fn parts_with_metrics(&self) -> Vec<(Member, String)> {
        let members = [Member::Control].into_iter().chain(self.nodes());
        members
            .flat_map(|member| {
                services::of(member)
                    .into_iter()
                    .map(move |one| (member, one.name))
            })
            .filter(|(_, name)| services::metrics(name).is_some())
            .chain([(Member::Control, addons::DNS.to_owned())])
            .collect()
    }

    /// Ends everything and removes every trace.
    pub fn down(mut self) -> Result<(), ClusterError> {
        self.at_drop = AtDrop::Leave;
        take_down(self.layout.name())
    }

    /// Everything that is there before the first process.
    fn prepare(&self) -> Result<(), ClusterError> {
        let (layout, nodes) = (&self.layout, self.record.nodes);
        let pki = Pki::new(layout.name(), nodes, self.record.api_port, SystemTime::now())?;
        let cgroups = Cgroups::find()?;
        for member in Member::all(nodes).filter(|member| *member != Member::World) {
            files::write(layout, member, nodes, &pki)?;
            self.spec(member, &cgroups).write(&layout.spec(member))?;
        }
        netns::build_switch(layout)?;
        files::put_secret(&layout.kubeconfig(), pki.kubeconfig())?;
        let record = serde_json::to_string(&self.record)
            .map_err(|error| io_error("write", &layout.record(), error.into()))?;
        Ok(files::put(&layout.record(), &record)?)
    }

    fn spec(&self, member: Member, cgroups: &Cgroups) -> Spec {
        let layout = &self.layout;
        let forward = (member == Member::Control).then(|| Forward {
            listen: SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.record.api_port),
            to: SocketAddrV4::new(member.address(), API_PORT),
        });
        Spec {
            root: Root {
                folder: layout.member_dir(member),
                parts: self.record.parts.clone(),
                hostname: member.to_string(),
                cgroups: cgroups.clone(),
            },
            netns: layout::netns_path(&layout.netns(member)),
            cgroup: layout.member_cgroup(member),
            socket: layout.socket(member),
            pid: layout.pid(member),
            logs: layout.logs(member),
            services: services::of(member),
            forward,
        }
    }

    fn become_ready(
        &self,
        images: &[PathBuf],
        timeout: Duration,
        tell: &dyn Fn(&str),
    ) -> Result<(), ClusterError> {
        let kubectl = &self.kubectl;
        // The API server and the nodes' containerd start side by side: so does waiting for them.
        std::thread::scope(|scope| {
            let loading = scope.spawn(|| self.on_each_node(|node| self.first_images(node, images, timeout)));
            kubectl.until_it_succeeds(&["get", "--raw", "/readyz"], timeout)?;
            tell("the API server is ready");
            kubectl.until("the cluster's own objects are accepted", timeout, || {
                kubectl.apply(&addons::manifests())
            })?;
            self.register_nodes(timeout)?;
            tell("the nodes are ready");
            loading.join().unwrap_or_else(|_| {
                Err(io_error(
                    "load",
                    &self.layout.state_dir(),
                    io::Error::other("the thread panicked"),
                ))
            })
        })?;
        tell("the images are loaded");
        let limit = kubectl::limit(timeout);
        kubectl.run(&[
            "-n",
            "kube-system",
            "rollout",
            "status",
            "deployment/coredns",
            &limit,
        ])?;
        Ok(())
    }

    /// Waits for each node and writes its range into its object, as a controller with an address plan would.
    fn register_nodes(&self, timeout: Duration) -> Result<(), ClusterError> {
        for node in self.nodes() {
            let range = node.pod_range().unwrap_or_default();
            let patch = serde_json::json!({"spec": {"podCIDR": range, "podCIDRs": [range]}}).to_string();
            let name = node.to_string();
            self.kubectl
                .until_it_succeeds(&["patch", "node", &name, "-p", &patch], timeout)?;
        }
        let limit = kubectl::limit(timeout);
        self.kubectl
            .run(&["wait", "--for=condition=Ready", "node", "--all", &limit])?;
        Ok(())
    }

    fn first_images(&self, node: Member, images: &[PathBuf], timeout: Duration) -> Result<(), ClusterError> {
        let up = || {
            let output = self
                .exec_command(node, &["ctr", "version"])
                .stdin(Stdio::null())
                .output();
            match output {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
                Err(error) => Err(error.to_string()),
            }
        };
        let what = format!("containerd of {node} answers");
        self.kubectl.until(&what, timeout, up)?;
        images.iter().try_for_each(|image| self.load_into(node, image))
    }

    fn load_into(&self, node: Member, image: &Path) -> Result<(), ClusterError> {
        let archive = fs::File::open(image).map_err(|error| io_error("read", image, error))?;
        let output = self
            .exec_command(node, &["ctr", "-n", "k8s.io", "images", "import", "-"])
            .stdin(archive)
            .output()
            .map_err(|error| io_error("run", &self.program, error))?;
        if output.status.success() {
            return Ok(());
        }
        Err(ClusterError::Load {
            member: node,
            image: image.to_owned(),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    fn on_each_node(
        &self,
        work: impl Fn(Member) -> Result<(), ClusterError> + Sync,
    ) -> Result<(), ClusterError> {
        let work = &work;
        std::thread::scope(|scope| {
            let threads: Vec<_> = self.nodes().map(|node| scope.spawn(move || work(node))).collect();
            threads.into_iter().try_for_each(|thread| {
                thread.join().unwrap_or_else(|_| {
                    Err(io_error(
                        "work on",
                        Path::new("a node"),
                        io::Error::other("the thread panicked"),
                    ))
                })
            })
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.at_drop == AtDrop::Leave {
            return;
        }
        if let Err(error) = take_down(self.layout.name()) {
            tracing::error!(cluster = %self.layout.name(), %error, "could not take the cluster down");
        }
    }
}

/// Takes down the cluster of that name, running or dead: by names alone, so that nothing needs to be intact.
pub fn take_down(name: &ClusterName) -> Result<(), ClusterError> {
    let layout = Layout::new(name);
    let cgroups = Cgroups::find()?;
    // With a member's first process go its mounts, its pods and their network.
    cgroups.kill(&layout.cgroup())?;
    netns::remove_all(&layout)?;
    cgroups.remove(&layout.cgroup())?;
    let state = layout.state_dir();
    match fs::remove_dir_all(&state) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_error("remove", &state, error));
        }
        _ => {}
    }
    // The parent goes with the last cluster; others may still live in it.
    drop(fs::remove_dir(Layout::clusters_dir()));
    Ok(())
}

/// From now on SIGINT and SIGTERM take the cluster of that name down and end the process; see [`interrupt::on_signal`].
pub fn take_down_on_signal(name: ClusterName) -> io::Result<()> {
    interrupt::on_signal(move || take_down(&name).map_err(|error| error.to_string()))
}

fn check(options: &ClusterOptions) -> Result<(), ClusterError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(ClusterError::NotRoot);
    }
    if !(1..=MAX_NODES).contains(&options.nodes) {
        return Err(ClusterError::Nodes(options.nodes));
    }
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(files, _)| !files.iter().any(|file| Path::new(file).exists()))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(ClusterError::Packages(missing.join(" ")))
    }
}

/// A port that nobody listens at now; the control plane takes it a moment later.
fn free_port() -> Result<u16, ClusterError> {
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let port = TcpListener::bind(address).and_then(|listener| listener.local_addr());
    port.map(|address| address.port())
        .map_err(|error| io_error("find a free port of", Path::new("127.0.0.1"), error))
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> ClusterError {
    ClusterError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Beside the running program, or one folder up (test programs live in `deps/`).
fn find_program() -> Result<PathBuf, ClusterError> {
    if let Some(path) = std::env::var_os(PROGRAM_ENV) {
        return Ok(PathBuf::from(path));
    }
    let current = std::env::current_exe().map_err(|_| ClusterError::NoProgram)?;
    let mut folders = current.ancestors().skip(1).take(2);
    folders
        .find_map(|folder| Some(folder.join(PROGRAM)).filter(|path| path.is_file()))
        .ok_or(ClusterError::NoProgram)
}
