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

use super::super::network::{NodeNumber, WORLD};
use super::super::protocol::{Request, UpConfig};
use super::super::status::Status;
use super::super::store::{Change, Key, Store};
use super::super::tokens::TokenIssuer;
use super::complaints::{Complaints, Subject};
use super::environment::log_file;
use super::kubelet::{self, PodCommand, Report};
use super::nodes::NodeLink;
use super::pod::{Pod, ProbeKind, ProbeState, Progress, Stage};
use super::verdicts::Verdicts;
use super::workloads::NEVER_STARTED;
use super::{Event, services};

/// A log file that grows beyond this starts again; containers append, so they need not know.
const MAX_LOG: u64 = 32 * 1024 * 1024;
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
    pub(super) complaints: Complaints,
    pub(super) verdicts: Verdicts,
    /// Something below the sink may have changed since it was read.
    files_changed: bool,
    pub(super) status: watch::Sender<Arc<Status>>,
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
            complaints: Complaints::default(),
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
                self.files_changed |= matches!(request, Request::Apply { .. } | Request::Delete { .. });
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
        self.begin_pods();
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

    /// Lets the containers of pods start that wait for nothing any more.
    fn begin_pods(&mut self) {
        let placed = |pod: &&mut Pod| pod.progress == Progress::Placed && !pod.waits_for_agent();
        for pod in self.pods.values_mut().filter(placed) {
            if let Stage::Started(commands) = &pod.stage
                && commands.try_send(PodCommand::Begin).is_ok()
            {
                pod.progress = Progress::Begun;
            }
        }
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
                let subject = Subject::Pod(uid.to_owned());
                self.complaints.raise(subject, message);
            }
            Report::Placed => {
                self.complaints.settle(&Subject::Pod(uid.to_owned()));
                pod.progress = Progress::Placed;
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
            Report::Awaited { container, pid } => pod.awaited(&container, pid),
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
            self.complaints.settle(&Subject::Pod(pod.uid.clone()));
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

    pub(super) fn put_object(&mut self, key: &Key, value: Value) -> Change {
        let written = self.store.put(key, value, SystemTime::now());
        self.note(key, written).unwrap_or(Change::Unchanged)
    }

    pub(super) fn remove_object(&mut self, key: &Key) {
        let removed = self.store.remove(key);
        self.note(key, removed);
    }

    fn note<T>(&mut self, key: &Key, result: std::io::Result<T>) -> Option<T> {
        let subject = Subject::Object(key.clone());
        match result {
            Ok(value) => {
                self.complaints.settle(&subject);
                Some(value)
            }
            Err(error) => {
                let message = format!("cannot write the file of {key}: {error}");
                self.complaints.raise(subject, message);
                None
            }
        }
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
