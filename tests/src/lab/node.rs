//! The helper process of a node: kube-proxy, kube-dns and the prober in one.
//!
//! It lives in the node's network namespace and in the node's own cgroup, as a kubelet does: probes
//! must come from sockets that the node itself opened.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::cgroup;
use super::layout::{LabName, Layout};
use super::netns;
use super::protocol::Request;

pub(super) mod dns;
pub(super) mod probe;

use dns::Zone;
use probe::ProbeSpec;

/// What the daemon tells a node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(super) enum ToNode {
    /// Where the DNS server listens.
    ServeNames {
        addresses: Vec<IpAddr>,
    },
    Names {
        generation: u64,
        zone: Zone,
    },
    Rules {
        generation: u64,
        script: String,
    },
    Probe {
        spec: ProbeSpec,
    },
    Unprobe {
        id: String,
    },
}

/// What a node tells the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "node", rename_all = "kebab-case")]
pub(super) enum FromNode {
    RulesApplied {
        generation: u64,
    },
    NamesServed {
        generation: u64,
    },
    Failed {
        reason: String,
    },
    Probed {
        id: String,
        healthy: bool,
        detail: String,
    },
}

/// Enters the node and serves it until the daemon is gone.
pub(super) fn run(name: &LabName, node: &str) -> anyhow::Result<()> {
    let layout = Layout::new(name);
    let cgroup2 = cgroup::cgroup2_mount()?;
    cgroup::join(&layout.cgroup(&cgroup2).join(node).join("system"))?;
    netns::enter(&layout.netns(node))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(&layout, node))
}

async fn serve(layout: &Layout, node: &str) -> anyhow::Result<()> {
    let stream = UnixStream::connect(layout.socket()).await?;
    let (read, mut write) = stream.into_split();
    let hello = Request::NodeLink {
        node: node.to_owned(),
    };
    write.write_all(&line(&hello)?).await?;
    let (reports, mut outgoing) = mpsc::channel::<FromNode>(256);
    let mut helper = Helper::new(reports);
    let mut lines = BufReader::new(read).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) => helper.obey(serde_json::from_str(&line)?).await,
                None => return Ok(()),
            },
            Some(report) = outgoing.recv() => write.write_all(&line(&report)?).await?,
        }
    }
}

pub(super) fn line<T: Serialize>(message: &T) -> serde_json::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(message)?;
    bytes.push(b'\n');
    Ok(bytes)
}

struct Helper {
    reports: mpsc::Sender<FromNode>,
    zone: watch::Sender<Zone>,
    /// DNS listeners and probes; aborted when dropped.
    servers: Vec<Task>,
    probes: BTreeMap<String, Task>,
}

/// A task that ends with its owner.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Helper {
    fn new(reports: mpsc::Sender<FromNode>) -> Self {
        Self {
            reports,
            zone: watch::Sender::new(Zone::default()),
            servers: Vec::new(),
            probes: BTreeMap::new(),
        }
    }

    async fn obey(&mut self, order: ToNode) {
        match order {
            ToNode::ServeNames { addresses } => self.serve_names(addresses).await,
            ToNode::Names { generation, zone } => {
                self.zone.send_replace(zone);
                self.report(FromNode::NamesServed { generation });
            }
            ToNode::Rules { generation, script } => self.report(apply_rules(generation, &script).await),
            ToNode::Probe { spec } => {
                let id = spec.id.clone();
                let task = Task(tokio::spawn(probe::run(spec, self.reports.clone())));
                self.probes.insert(id, task);
            }
            ToNode::Unprobe { id } => drop(self.probes.remove(&id)),
        }
    }

    async fn serve_names(&mut self, addresses: Vec<IpAddr>) {
        for address in addresses {
            match dns::Server::bind(address).await {
                Ok(server) => {
                    let task = tokio::spawn(server.run(self.zone.subscribe()));
                    self.servers.push(Task(task));
                }
                Err(error) => self.report(FromNode::Failed {
                    reason: format!("cannot serve DNS at {address}: {error}"),
                }),
            }
        }
    }

    fn report(&self, report: FromNode) {
        // The queue holds more than there are orders; when it is full the daemon no longer listens.
        drop(self.reports.try_send(report));
    }
}

async fn apply_rules(generation: u64, script: &str) -> FromNode {
    match run_nft(script).await {
        Ok(()) => FromNode::RulesApplied { generation },
        Err(reason) => FromNode::Failed {
            reason: format!("service rules: {reason}"),
        },
    }
}

/// One transaction: packets meet the old rules or the new ones.
async fn run_nft(script: &str) -> Result<(), String> {
    let mut command = Command::new("nft");
    command.args(["-f", "-"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| format!("cannot run nft: {error} (install nftables)"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // When nft gives up early, its message says more than the broken pipe.
        drop(stdin.write_all(script.as_bytes()).await);
    }
    let output = child
        .wait_with_output()
        .await
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
