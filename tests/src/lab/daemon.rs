//! The daemon of a lab: API server, scheduler, kubelet and endpoints controller in one event loop.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use tokio::net::UnixListener;
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

mod answer;
mod apply;
mod cluster;
mod complaints;
mod environment;
mod files;
mod host_access;
mod kubelet;
mod mesh;
mod nodes;
mod pod;
mod pod_files;
mod report;
mod server;
mod service_addresses;
mod services;
mod verdicts;
mod workloads;

use super::cgroup;
use super::layout::Layout;
use super::network::{self, NodeNumber};
use super::node::{FromNode, ToNode};
use super::protocol::{Request, Response, UpConfig};
use super::status::Status;
use cluster::Cluster;

/// What may happen to a lab.
enum Event {
    Request {
        request: Request,
        reply: oneshot::Sender<Reply>,
    },
    NodeLinked {
        node: String,
        orders: mpsc::Sender<ToNode>,
    },
    Node {
        node: String,
        report: FromNode,
    },
    NodeLost {
        node: String,
        reason: String,
    },
    Pod {
        uid: String,
        report: kubelet::Report,
    },
    /// Something in the sink or in a NodePods folder.
    FilesChanged,
    Tick,
    Stop,
}

/// What a client gets, at once or when something has come about.
enum Reply {
    Now(Response),
    /// The lines, once none of these pods is left.
    WhenGone {
        lines: Vec<String>,
        uids: Vec<String>,
    },
}

/// Events wait here; senders wait when it is full.
const QUEUE: usize = 1024;
/// How long the last processes may take to be reaped.
const REAP_DEADLINE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(5);

/// Builds the lab and serves it until it is told to stop. The first line of standard output says
/// whether it worked.
pub(super) fn serve(config: UpConfig) -> anyhow::Result<()> {
    nix::unistd::setsid().context("cannot leave the terminal's session")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        match Daemon::start(config).await {
            Ok(daemon) => {
                announce("ready")?;
                daemon.run().await
            }
            Err(error) => {
                announce(&format!("{error:#}").replace('\n', " "))?;
                Err(error)
            }
        }
    })
}

fn announce(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

struct Daemon {
    cluster: Cluster,
    events: mpsc::Receiver<Event>,
    /// Sockets, watches, node helpers; they end with the daemon.
    tasks: JoinSet<()>,
}

impl Daemon {
    async fn start(config: UpConfig) -> anyhow::Result<Self> {
        let layout = Layout::new(&config.name);
        let nodes: Vec<NodeNumber> = (1..=config.nodes).map(NodeNumber).collect();
        let cgroup = layout.cgroup(&cgroup::cgroup2_mount()?);
        make_cgroups(&cgroup, &nodes)?;
        make_folders(&layout, &nodes)?;
        network::build(&layout, config.families, &nodes)?;
        let (sender, events) = mpsc::channel(QUEUE);
        let status = watch::Sender::new(std::sync::Arc::new(Status::default()));
        let socket = layout.socket();
        let listener =
            UnixListener::bind(&socket).with_context(|| format!("cannot listen at {}", socket.display()))?;
        let mut tasks = JoinSet::new();
        tasks.spawn(server::run(listener, sender.clone(), status.subscribe()));
        tasks.spawn(files::watch(&watched(&layout, &nodes), sender.clone())?);
        tasks.spawn(tick(sender.clone()));
        for node in &nodes {
            tasks.spawn(keep_helper(config.clone(), node.name(), sender.clone()));
        }
        let mut cluster = Cluster::new(config, cgroup, nodes, sender, status)?;
        cluster.install()?;
        Ok(Self {
            cluster,
            events,
            tasks,
        })
    }

    async fn run(mut self) -> anyhow::Result<()> {
        while let Some(event) = self.events.recv().await {
            if matches!(event, Event::Stop) {
                break;
            }
            self.cluster.handle(event);
            // What is queued already belongs to the same step: one reconciliation for all of it.
            let mut stop = false;
            while let Ok(event) = self.events.try_recv() {
                stop |= matches!(event, Event::Stop);
                self.cluster.handle(event);
            }
            if stop {
                break;
            }
            self.cluster.reconcile();
        }
        self.stop().await
    }

    /// Kills what runs on the nodes and waits for it: orphans would be left to the machine's init.
    async fn stop(mut self) -> anyhow::Result<()> {
        self.cluster.hold_all();
        for folder in self.cluster.node_cgroups() {
            tokio::task::spawn_blocking(move || cgroup::kill(&folder)).await??;
        }
        let deadline = tokio::time::Instant::now() + REAP_DEADLINE;
        while self.cluster.runs_anything() {
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some(event)) => self.cluster.handle(event),
                Ok(None) | Err(_) => break,
            }
        }
        self.tasks.shutdown().await;
        Ok(())
    }
}

fn make_cgroups(cgroup: &Path, nodes: &[NodeNumber]) -> Result<(), cgroup::CgroupError> {
    for node in nodes {
        cgroup::create(&cgroup.join(node.name()).join("kubepods"))?;
        cgroup::create(&cgroup.join(node.name()).join("system"))?;
    }
    cgroup::create(&cgroup.join(network::WORLD).join("system"))?;
    let own = cgroup.join("lab");
    cgroup::create(&own)?;
    cgroup::join(&own)
}

/// The run folder as a shared mount of its own, with the lab's bpffs below it.
fn make_folders(layout: &Layout, nodes: &[NodeNumber]) -> anyhow::Result<()> {
    let run = layout.run_dir();
    fs::create_dir_all(&run).with_context(|| format!("cannot make {}", run.display()))?;
    let none = None::<&str>;
    mount(Some(&run), &run, none, MsFlags::MS_BIND, none)
        .context("cannot bind the run folder onto itself")?;
    // First private: a shared parent would otherwise get copies of everything below.
    for flag in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
        mount(none, &run, none, flag, none).context("cannot make the run folder a shared mount")?;
    }
    let bpffs = layout.bpffs();
    let mut folders = vec![
        layout.objects(),
        layout.sink_objects(),
        layout.sink_status(),
        layout.state(),
        bpffs.clone(),
    ];
    folders.extend(nodes.iter().map(|node| layout.node_pods(&node.name())));
    for folder in folders {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), none)
        .with_context(|| format!("cannot mount a bpf file system at {}", bpffs.display()))?;
    for node in nodes {
        let folder = layout.node_bpffs(&node.name());
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    Ok(())
}

fn watched(layout: &Layout, nodes: &[NodeNumber]) -> Vec<std::path::PathBuf> {
    let mut folders = vec![layout.sink(), layout.sink_objects(), layout.sink_status()];
    folders.extend(nodes.iter().map(|node| layout.node_pods(&node.name())));
    folders
}

async fn tick(events: mpsc::Sender<Event>) {
    let mut timer = tokio::time::interval(TICK);
    loop {
        timer.tick().await;
        if events.send(Event::Tick).await.is_err() {
            return;
        }
    }
}

/// Runs a node's helper, again when it ends.
async fn keep_helper(config: UpConfig, node: String, events: mpsc::Sender<Event>) {
    let layout = Layout::new(&config.name);
    loop {
        let reason = match run_helper(&config, &node, &layout).await {
            Ok(status) => format!("helper of {node} ended: {status}"),
            Err(error) => format!("cannot run the helper of {node}: {error}"),
        };
        let lost = Event::NodeLost {
            node: node.clone(),
            reason,
        };
        if events.send(lost).await.is_err() {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn run_helper(
    config: &UpConfig,
    node: &str,
    layout: &Layout,
) -> std::io::Result<std::process::ExitStatus> {
    let log = open_log(&nodes::helper_log(layout, node))?;
    let mut command = Command::new(&config.program);
    command.args(["--name", config.name.as_str(), "node-agent", node]);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true);
    command.status().await
}

fn open_log(path: &Path) -> std::io::Result<fs::File> {
    fs::File::options().create(true).append(true).open(path)
}
