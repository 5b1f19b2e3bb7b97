//! The state of a lab, and the order of the steps that bring it to what is wanted.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::super::enter::{Bind, Entry, Missing, Mounts};
use super::super::layout::netns_path;
use super::super::network::{NodeNumber, WORLD};
use super::super::protocol::{LogFile, Request, Response, UpConfig};
use super::super::status::Status;
use super::super::store::{Change, Key, Store, update_file};
use super::super::tokens::TokenIssuer;
use super::environment::log_file;
use super::kubelet::{self, PodCommand, Report};
use super::nodes::{NodeLink, helper_log};
use super::pod::{Pod, ProbeKind, ProbeState, Stage};
use super::verdicts::Verdicts;
use super::workloads::NEVER_STARTED;
use super::{Event, Reply, services};

/// A log file that grows beyond this starts again; containers append, so they need not know.
const MAX_LOG: u64 = 32 * 1024 * 1024;
/// Refused objects and the like, shown in the status; the oldest go first.
const MAX_COMPLAINTS: usize = 32;
const COMMANDS: usize = 16;

pub(super) struct Cluster {
    pub(super) config: UpConfig,
    pub(super) cgroup: PathBuf,
    pub(super) nodes: Vec<NodeNumber>,
    pub(super) links: BTreeMap<NodeNumber, NodeLink>,
    pub(super) store: Store,
    pub(super) tokens: TokenIssuer,
    /// Tokens by pod and audience, with the time of their issue.
    pub(super) issued: RefCell<BTreeMap<(String, String), (SystemTime, String)>>,
    /// By namespace and name.
    pub(super) pods: BTreeMap<(String, String), Pod>,
    pub(super) next_node: usize,
    pub(super) next_interface: u32,
    pub(super) last_host: BTreeMap<NodeNumber, u8>,
    pub(super) has_root: bool,
    pub(super) sink_texts: BTreeMap<PathBuf, (String, Vec<Key>)>,
    pub(super) sink_keys: BTreeSet<Key>,
    pub(super) complaints: BTreeSet<String>,
    pub(super) verdicts: Verdicts,
    /// Something below the sink may have changed since it was read.
    files_changed: bool,
    status: watch::Sender<Arc<Status>>,
    events: mpsc::Sender<Event>,
    /// One task per pod.
    tasks: JoinSet<()>,
}

impl Cluster {
    pub(super) fn new(
        config: UpConfig,
        cgroup: PathBuf,
        nodes: Vec<NodeNumber>,
        events: mpsc::Sender<Event>,
        status: watch::Sender<Arc<Status>>,
    ) -> anyhow::Result<Self> {
        let layout = super::Layout::new(&config.name);
        let tokens = TokenIssuer::generate()?;
        tokens.write_key_set(&layout.token_keys())?;
        Ok(Self {
            store: Store::new(&layout.objects())?,
            links: nodes.iter().map(|node| (*node, NodeLink::default())).collect(),
            issued: RefCell::default(),
            pods: BTreeMap::new(),
            next_node: 0,
            next_interface: 0,
            last_host: BTreeMap::new(),
            has_root: false,
            sink_texts: BTreeMap::new(),
            sink_keys: BTreeSet::new(),
            complaints: BTreeSet::new(),
            verdicts: Verdicts::default(),
            files_changed: true,
            tasks: JoinSet::new(),
            config,
            cgroup,
            nodes,
            tokens,
            status,
            events,
        })
    }

    /// The objects that every cluster has, and the mesh.
    pub(super) fn install(&mut self) -> anyhow::Result<()> {
        for namespace in ["default", "kube-system"] {
            let value = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
            self.create_namespace(namespace, value);
        }
        for node in self.nodes.clone() {
            self.put_object(&Key::core("Node", "", &node.name()), self.node_object(node));
            self.write_node_files(&node.name())?;
        }
        self.write_node_files(WORLD)?;
        for object in services::dns_service(self.config.families, &self.nodes) {
            let text = |pointer: &str| {
                object
                    .pointer(pointer)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned()
            };
            let group = text("/apiVersion")
                .split_once('/')
                .map(|(group, _)| group.to_owned())
                .unwrap_or_default();
            let key = Key::new(&text("/kind"), &group, "kube-system", &text("/metadata/name"));
            self.put_object(&key, object);
        }
        if self.config.mesh {
            self.install_mesh().map_err(anyhow::Error::msg)?;
        }
        self.reconcile();
        Ok(())
    }

    fn node_object(&self, node: NodeNumber) -> Value {
        let families = self.config.families.list();
        let addresses = families
            .iter()
            .map(|family| json!({ "type": "InternalIP", "address": node.address(*family) }));
        let ranges: Vec<String> = families.iter().map(|family| node.pod_range(*family)).collect();
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "labels": { "kubernetes.io/hostname": node.name(), "kubernetes.io/os": "linux" } },
            "spec": { "podCIDR": ranges.first(), "podCIDRs": ranges },
            "status": {
                "addresses": addresses.collect::<Vec<_>>(),
                "conditions": [{ "type": "Ready", "status": "True" }],
            },
        })
    }

    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Request { request, reply } => {
                let answer = self.answer(request);
                // The new state first: a client that then asks for the status must see its change.
                self.reconcile();
                drop(reply.send(answer));
            }
            Event::NodeLinked { node, orders } => self.node_linked(&node, orders),
            Event::Node { node, report } => self.node_report(&node, report),
            Event::NodeLost { node, reason } => self.node_lost(&node, &reason),
            Event::Pod { uid, report } => self.pod_report(&uid, report),
            Event::Tick => self.tick(),
            Event::FilesChanged => self.files_changed = true,
            Event::Stop => {}
        }
    }

    /// Each step reads what the ones before wrote; all of them are cheap when nothing changed.
    pub(super) fn reconcile(&mut self) {
        if std::mem::take(&mut self.files_changed) {
            self.reconcile_sink();
            self.verdicts = Verdicts::read(&self.layout().sink_status());
        }
        self.reconcile_root_certificate();
        self.reconcile_workloads();
        self.reconcile_wanted();
        self.start_pods();
        self.reconcile_enrolment();
        self.write_pod_objects();
        self.reconcile_endpoints();
        self.reconcile_nodes();
        self.publish();
    }

    fn publish(&mut self) {
        let old = self.status.borrow().clone();
        let mut new = self.report(old.generation);
        let text = |status: &Status| serde_json::to_string(status).unwrap_or_default();
        if text(&old) != text(&new) {
            new.generation += 1;
            self.status.send_replace(Arc::new(new));
        }
    }

    fn start_pods(&mut self) {
        let waiting = self
            .pods
            .iter()
            .filter(|(_, pod)| matches!(pod.stage, Stage::Waiting(_)));
        let waiting: Vec<_> = waiting.map(|(key, _)| key.clone()).collect();
        for key in waiting {
            let Some(pod) = self.pods.get(&key) else { continue };
            if self.never_starts(pod) {
                self.forget_pod(&key);
                continue;
            }
            let stage = match self.start_pod(&key) {
                Ok(commands) => Stage::Started(commands),
                Err(obstacle) => Stage::Waiting(obstacle),
            };
            if let Some(pod) = self.pods.get_mut(&key) {
                pod.stage = stage;
            }
        }
    }

    pub(super) fn never_starts(&self, pod: &Pod) -> bool {
        matches!(&pod.stage, Stage::Waiting(reason) if reason == NEVER_STARTED)
    }

    fn start_pod(&mut self, key: &(String, String)) -> Result<mpsc::Sender<PodCommand>, String> {
        let pod = self.pods.get(key).ok_or("the pod is gone")?;
        if self.waits_for_root(pod) {
            return Err("waits for the control plane's root certificate".to_owned());
        }
        let run = self.prepare(pod)?;
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let events = self.events.clone();
        self.tasks.spawn(kubelet::run(run, events, receiver));
        Ok(commands)
    }

    fn write_pod_objects(&mut self) {
        let objects: Vec<(Key, Value)> = self.pods.values().map(|pod| (pod.key(), pod.object())).collect();
        for (key, object) in objects {
            self.put_object(&key, object);
        }
    }

    fn pod_report(&mut self, uid: &str, report: Report) {
        let Some((key, pod)) = self.pods.iter_mut().find(|(_, pod)| pod.uid == uid) else {
            return;
        };
        match report {
            Report::Gone => {
                let key = key.clone();
                self.forget_pod(&key);
            }
            Report::SandboxFailed { reason } => {
                let message = format!("pod {}/{}: {reason}", key.0, key.1);
                self.complain(&message);
            }
            Report::Started { container, pid } => {
                let probes = probes_of(pod, &container);
                if let Some(state) = pod.containers.get_mut(&container) {
                    state.starts += 1;
                    state.pid = Some(pid);
                    state.settled = false;
                    state.probes = probes;
                }
            }
            Report::Settled { container, pid } => pod.settled(&container, pid),
            Report::Exited { container, exit } => {
                tracing::info!(pod = pod.name, container, detail = exit.detail, "container ended");
                if let Some(state) = pod.containers.get_mut(&container) {
                    state.pid = None;
                    state.last_exit = Some(exit);
                }
            }
        }
    }

    fn forget_pod(&mut self, key: &(String, String)) {
        if let Some(pod) = self.pods.remove(key) {
            self.issued.borrow_mut().retain(|(uid, _), _| *uid != pod.uid);
            self.remove_object(&pod.key());
        }
    }

    fn tick(&mut self) {
        // Should an event of the file system ever be lost.
        self.files_changed = true;
        while self.tasks.try_join_next().is_some() {}
        for pod in self.pods.values() {
            if !matches!(pod.stage, Stage::Started(_)) {
                continue;
            }
            let refreshed = self.write_pod_files(pod).map_err(|error| error.to_string());
            if let Err(reason) = refreshed.and_then(|()| self.write_volumes(pod)) {
                tracing::warn!(pod = pod.name, reason, "cannot refresh the pod's files");
            }
            for container in pod.containers.keys() {
                bound_log(&log_file(pod, container));
            }
        }
        bound_log(&self.layout().daemon_log());
    }

    /// Kills every container and starts none again: the lab is going down.
    pub(super) fn hold_all(&self) {
        for pod in self.pods.values() {
            if let Stage::Started(commands) = &pod.stage {
                let signal = Signal::SIGKILL;
                // A task that takes no more commands is ending already.
                drop(commands.try_send(PodCommand::Signal { signal, hold: true }));
            }
        }
    }

    pub(super) fn node_cgroups(&self) -> Vec<PathBuf> {
        let names = self
            .nodes
            .iter()
            .map(|node| node.name())
            .chain([WORLD.to_owned()]);
        names.map(|name| self.cgroup.join(name)).collect()
    }

    pub(super) fn runs_anything(&self) -> bool {
        self.links.values().any(NodeLink::linked) || self.pods.values().any(|pod| !pod.pids().is_empty())
    }

    /// Says in the status and the log what went wrong outside any request.
    pub(super) fn complain(&mut self, message: &str) {
        if self.complaints.contains(message) {
            return;
        }
        tracing::error!("{message}");
        if self.complaints.len() >= MAX_COMPLAINTS {
            self.complaints.pop_first();
        }
        self.complaints.insert(message.to_owned());
    }

    pub(super) fn put_object(&mut self, key: &Key, value: Value) -> Change {
        self.store
            .put(key, value, SystemTime::now())
            .unwrap_or_else(|error| {
                self.complain(&format!("cannot write {key}: {error}"));
                Change::Unchanged
            })
    }

    pub(super) fn remove_object(&mut self, key: &Key) {
        if let Err(error) = self.store.remove(key) {
            self.complain(&format!("cannot remove {key}: {error}"));
        }
    }

    fn answer(&mut self, request: Request) -> Reply {
        let result = match request {
            Request::Apply { namespace, documents } => self
                .apply(&namespace, &documents)
                .map(|lines| Response::Done { lines }),
            Request::Delete { namespace, documents } => return self.delete(&namespace, &documents),
            Request::Exec { target } => self.exec_entry(&target),
            Request::Node { node } => self.node_entry(&node),
            Request::Logs { target } => self.log_files(&target),
            Request::Kill { target, signal, hold } => self.kill(&target, signal, hold),
            Request::Release { target } => self.command(&target, || PodCommand::Release),
            Request::Status => Ok(Response::Status {
                status: Box::new(Status::clone(&self.status.borrow())),
            }),
            Request::Watch { .. } | Request::NodeLink { .. } | Request::Shutdown => {
                Err("not for the cluster".to_owned())
            }
        };
        Reply::Now(result.unwrap_or_else(|message| Response::Error { message }))
    }

    /// Pods by NAMESPACE/POD or NAMESPACE/WORKLOAD; without a namespace in `default`. Ready ones first.
    fn targets(&self, target: &str) -> Result<Vec<&Pod>, String> {
        let (namespace, name) = target.split_once('/').unwrap_or(("default", target));
        let named = |pod: &&Pod| pod.namespace == namespace && (pod.name == name || pod.workload() == name);
        let mut pods: Vec<&Pod> = self
            .pods
            .values()
            .filter(named)
            .filter(|pod| !pod.is_stopping())
            .collect();
        pods.sort_by_key(|pod| !pod.ready());
        if pods.is_empty() {
            return Err(format!(
                "no pod or workload {name} in namespace {namespace}: see `status`"
            ));
        }
        Ok(pods)
    }

    fn exec_entry(&self, target: &str) -> Result<Response, String> {
        let pods = self.targets(target)?;
        let pod = pods.iter().find(|pod| matches!(pod.stage, Stage::Started(_)));
        let Some(pod) = pod else {
            return Err(format!("{target} does not run: {}", pods[0].reason()));
        };
        let container = pod.spec.containers.first().ok_or("the pod has no container")?;
        let entry = Box::new(self.entry(pod, container)?);
        Ok(Response::Entry { entry })
    }

    /// A node's own namespace and cgroup; the machine's files, but for the resolver.
    fn node_entry(&self, node: &str) -> Result<Response, String> {
        let known = node == WORLD || self.nodes.iter().any(|number| number.name() == node);
        if !known {
            let names: Vec<String> = self.nodes.iter().map(|node| node.name()).collect();
            return Err(format!(
                "no node {node}: there are {} and {WORLD}",
                names.join(", ")
            ));
        }
        let layout = self.layout();
        let env = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
        let entry = Entry {
            netns: netns_path(&layout.netns(node)),
            cgroup: self.cgroup.join(node).join("system"),
            hostname: node.to_owned(),
            env: env.collect(),
            working_dir: None,
            mounts: Mounts {
                staging: None,
                kept: Vec::new(),
                binds: vec![Bind {
                    source: self.node_resolver(node),
                    target: PathBuf::from("/etc/resolv.conf"),
                    missing: Missing::Refuse,
                }],
            },
        };
        Ok(Response::Entry {
            entry: Box::new(entry),
        })
    }

    fn node_resolver(&self, node: &str) -> PathBuf {
        self.layout().run_dir().join(format!("resolv.{node}.conf"))
    }

    /// A node asks its own DNS server, the world that of the first node.
    fn write_node_files(&self, name: &str) -> std::io::Result<()> {
        let node = self
            .nodes
            .iter()
            .find(|node| node.name() == name)
            .unwrap_or(&self.nodes[0]);
        let families = self.config.families.list().iter();
        let servers: String = families
            .map(|family| format!("nameserver {}\n", node.address(*family)))
            .collect();
        update_file(&self.node_resolver(name), servers.as_bytes())
    }

    fn log_files(&self, target: &str) -> Result<Response, String> {
        let layout = self.layout();
        let file = |title: String, path: PathBuf| LogFile { title, path };
        if target == "daemon" {
            let files = vec![file("daemon".to_owned(), layout.daemon_log())];
            return Ok(Response::Logs { files });
        }
        if self.nodes.iter().any(|node| node.name() == target) {
            let files = vec![file(target.to_owned(), helper_log(&layout, target))];
            return Ok(Response::Logs { files });
        }
        let pods = self.targets(target)?.into_iter();
        let files = pods.flat_map(|pod| {
            pod.spec.containers.iter().map(|container| {
                let title = format!("{}/{} {}", pod.namespace, pod.name, container.name);
                file(title, log_file(pod, &container.name))
            })
        });
        Ok(Response::Logs {
            files: files.collect(),
        })
    }

    fn kill(&self, target: &str, number: i32, hold: bool) -> Result<Response, String> {
        let signal = Signal::try_from(number).map_err(|_| format!("no signal {number}"))?;
        self.command(target, || PodCommand::Signal { signal, hold })
    }

    fn command(&self, target: &str, command: impl Fn() -> PodCommand) -> Result<Response, String> {
        let mut lines = Vec::new();
        for pod in self.targets(target)? {
            if let Stage::Started(commands) = &pod.stage {
                commands
                    .try_send(command())
                    .map_err(|_| format!("pod {} takes no commands now", pod.name))?;
                lines.push(format!("{}/{}", pod.namespace, pod.name));
            }
        }
        Ok(Response::Done { lines })
    }
}

fn probes_of(pod: &Pod, name: &str) -> BTreeMap<ProbeKind, ProbeState> {
    let container = pod
        .spec
        .containers
        .iter()
        .find(|container| container.name == name);
    let kinds = container.into_iter().flat_map(|container| {
        [
            container.startup_probe.as_ref().map(|_| ProbeKind::Startup),
            container.readiness().map(|_| ProbeKind::Readiness),
            container.liveness_probe.as_ref().map(|_| ProbeKind::Liveness),
        ]
    });
    kinds
        .flatten()
        .map(|kind| (kind, ProbeState::default()))
        .collect()
}

fn bound_log(path: &Path) {
    let too_long = fs::metadata(path).is_ok_and(|data| data.len() > MAX_LOG);
    if too_long && let Ok(file) = fs::File::options().write(true).open(path) {
        // Its writers append: they go on at the new end.
        drop(file.set_len(0));
    }
}
