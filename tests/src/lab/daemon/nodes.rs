//! What nodes are told: service rules, names, probes; and what they report.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

use super::super::enter::Start;
use super::super::layout::Layout;
use super::super::network::NodeNumber;
use super::super::node::dns::Zone;
use super::super::node::probe::{Action, Pace, ProbeSpec};
use super::super::node::{FromNode, ToNode};
use super::super::proxy;
use super::super::spec::{Port, Probe};
use super::super::store::update_file;
use super::cluster::Cluster;
use super::kubelet::PodCommand;
use super::pod::{Pod, ProbeKind, ProbeState, Stage};

/// A probe may take so long, whatever its manifest says: a machine that stands still for a moment makes no pod unready,
/// and who is not there refuses at once.
const PROBE_PATIENCE: Duration = Duration::from_secs(10);

/// A node's helper as the daemon sees it.
#[derive(Default)]
pub(super) struct NodeLink {
    orders: Option<mpsc::Sender<ToNode>>,
    zone: Option<Zone>,
    script: String,
    rules: Told,
    names: Told,
    /// Running probes by id.
    probes: BTreeMap<String, ProbeSpec>,
    pub(super) trouble: String,
}

/// How often something was told, and which of these tellings is in effect.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    generation: u64,
    in_effect: u64,
}

impl Told {
    /// For a new link: what was in effect in the one before counts no more.
    fn again(self) -> Self {
        Self { in_effect: 0, ..self }
    }

    fn next(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    fn took_effect(&mut self, generation: u64) {
        self.in_effect = self.in_effect.max(generation);
    }

    fn is_in_effect(self) -> bool {
        self.generation > 0 && self.in_effect == self.generation
    }
}

impl NodeLink {
    /// Linked, translating what is wanted now, and serving the names that are.
    pub(super) fn ready(&self) -> bool {
        self.orders.is_some() && self.rules.is_in_effect() && self.names.is_in_effect()
    }

    pub(super) fn linked(&self) -> bool {
        self.orders.is_some()
    }

    fn order(&mut self, order: ToNode) {
        let Some(orders) = &self.orders else { return };
        if orders.try_send(order).is_err() {
            // Too slow or gone: it links again and gets everything anew.
            self.orders = None;
        }
    }
}

pub(super) fn helper_log(layout: &Layout, node: &str) -> PathBuf {
    layout.node_pods(node).join("helper.log")
}

impl Cluster {
    pub(super) fn node_linked(&mut self, node: &str, orders: mpsc::Sender<ToNode>) {
        let Some(number) = self.node_number(node) else {
            return;
        };
        let addresses: Vec<IpAddr> = self
            .config
            .families
            .list()
            .iter()
            .map(|family| number.address(*family))
            .collect();
        let Some(link) = self.links.get_mut(&number) else {
            return;
        };
        *link = NodeLink {
            orders: Some(orders),
            rules: link.rules.again(),
            names: link.names.again(),
            ..NodeLink::default()
        };
        link.order(ToNode::ServeNames { addresses });
    }

    pub(super) fn node_lost(&mut self, node: &str, reason: &str) {
        tracing::error!(node, reason, "lost a node's helper");
        if let Some(link) = self
            .node_number(node)
            .and_then(|number| self.links.get_mut(&number))
        {
            link.orders = None;
            link.trouble = reason.to_owned();
        }
    }

    pub(super) fn node_report(&mut self, node: &str, report: FromNode) {
        let Some(link) = self
            .node_number(node)
            .and_then(|number| self.links.get_mut(&number))
        else {
            return;
        };
        match report {
            FromNode::RulesApplied { generation } => link.rules.took_effect(generation),
            FromNode::NamesServed { generation } => link.names.took_effect(generation),
            FromNode::Failed { reason } => {
                tracing::error!(node, reason, "a node's helper failed");
                link.trouble = reason;
            }
            FromNode::Probed { id, healthy, detail } => self.probed(&id, healthy, detail),
        }
    }

    fn node_number(&self, name: &str) -> Option<NodeNumber> {
        self.nodes.iter().copied().find(|node| node.name() == name)
    }

    fn probed(&mut self, id: &str, healthy: bool, detail: String) {
        let Some(id) = ProbeId::parse(id) else { return };
        let Some(pod) = self.pods.values_mut().find(|pod| pod.uid == id.uid) else {
            return;
        };
        let Some(container) = pod
            .containers
            .get_mut(id.container)
            .filter(|container| container.starts == id.start)
        else {
            return;
        };
        let spec = pod.spec.containers.iter().find(|spec| spec.name == id.container);
        if id.kind == ProbeKind::Readiness && spec.is_some_and(|spec| container.is_taken_for_ready(spec)) {
            return;
        }
        let state = ProbeState {
            healthy: Some(healthy),
            detail,
        };
        container.probes.insert(id.kind, state);
        if healthy || id.kind == ProbeKind::Readiness {
            return;
        }
        tracing::warn!(
            pod = pod.name,
            container = id.container,
            kind = id.kind.word(),
            "probe failed: restarting"
        );
        if let Stage::Started(commands) = &pod.stage {
            let container = id.container.to_owned();
            drop(commands.try_send(PodCommand::Restart { container }));
        }
    }

    /// Sends every node what has changed for it.
    pub(super) fn reconcile_nodes(&mut self) {
        let services = self.services();
        let zone = self.zone(&services);
        for node in self.nodes.clone() {
            let mut script = String::new();
            for family in self.config.families.list() {
                let ports: Vec<_> = services
                    .iter()
                    .flat_map(|service| service.virtual_ports(*family, node))
                    .collect();
                script += &proxy::script(*family, &ports);
            }
            let probes = self.wanted_probes(node);
            let Some(link) = self.links.get_mut(&node) else {
                continue;
            };
            if link.script != script {
                link.script.clone_from(&script);
                let generation = link.rules.next();
                link.order(ToNode::Rules { generation, script });
            }
            if link.zone.as_ref() != Some(&zone) {
                link.zone = Some(zone.clone());
                let (generation, zone) = (link.names.next(), zone.clone());
                link.order(ToNode::Names { generation, zone });
            }
            sync_probes(link, probes);
        }
    }

    fn wanted_probes(&self, node: NodeNumber) -> BTreeMap<String, ProbeSpec> {
        let pods = self
            .pods
            .values()
            .filter(|pod| pod.node == node && matches!(pod.stage, Stage::Started(_)));
        let probes = pods.flat_map(|pod| self.pod_probes(pod));
        probes.map(|spec| (spec.id.clone(), spec)).collect()
    }

    /// The startup probe alone until it succeeds, then the others.
    fn pod_probes(&self, pod: &Pod) -> Vec<ProbeSpec> {
        let mut specs = Vec::new();
        for container in &pod.spec.containers {
            let Some(state) = pod
                .containers
                .get(&container.name)
                .filter(|state| state.pid.is_some())
            else {
                continue;
            };
            let readiness = container
                .readiness()
                .filter(|_| !state.is_taken_for_ready(container));
            let probes = if state.started() {
                vec![
                    (ProbeKind::Readiness, readiness),
                    (ProbeKind::Liveness, container.liveness_probe.clone()),
                ]
            } else {
                vec![(ProbeKind::Startup, container.startup_probe.clone())]
            };
            for (kind, probe) in probes
                .into_iter()
                .filter_map(|(kind, probe)| Some((kind, probe?)))
            {
                let id = ProbeId {
                    uid: &pod.uid,
                    container: &container.name,
                    start: state.starts,
                    kind,
                };
                specs.extend(self.probe_spec(pod, &id, &probe));
            }
        }
        specs
    }

    fn probe_spec(&self, pod: &Pod, id: &ProbeId<'_>, probe: &Probe) -> Option<ProbeSpec> {
        let seconds = |count: u32| Duration::from_secs(count.max(1).into());
        Some(ProbeSpec {
            id: id.text(),
            action: self.probe_action(pod, id, probe)?,
            pace: if id.kind == ProbeKind::Liveness {
                Pace::Steady
            } else {
                Pace::Eager
            },
            initial_delay: Duration::from_secs(probe.initial_delay_seconds.into()),
            period: seconds(probe.period_seconds),
            timeout: seconds(probe.timeout_seconds).max(PROBE_PATIENCE),
            failure_threshold: match id.kind {
                // Before the first success only the reason matters, and that at once.
                ProbeKind::Readiness => 1.max(probe.failure_threshold.min(3)),
                _ => probe.failure_threshold.max(1),
            },
            success_threshold: probe.success_threshold.max(1),
        })
    }

    fn probe_action(&self, pod: &Pod, id: &ProbeId<'_>, probe: &Probe) -> Option<Action> {
        let number = |port: &Port| pod.spec.port_number(port);
        let host = *pod.addresses.first()?;
        if let Some(http) = &probe.http_get {
            let named = http.host.as_ref().and_then(|host| host.parse().ok());
            let headers = http
                .http_headers
                .iter()
                .map(|header| (header.name.clone(), header.value.clone()));
            return Some(Action::Http {
                host: named.unwrap_or(host),
                port: number(&http.port)?,
                path: http.path.clone(),
                headers: headers.collect(),
            });
        }
        if let Some(tcp) = &probe.tcp_socket {
            let port = number(&tcp.port)?;
            return Some(Action::Tcp { host, port });
        }
        let exec = probe.exec.as_ref()?;
        let container = pod
            .spec
            .containers
            .iter()
            .find(|container| container.name == id.container)?;
        let start = Start {
            entry: self.entry(pod, container).ok()?,
            argv: exec.command.clone(),
        };
        let path = pod
            .sandbox
            .folder
            .join(format!("{}-{}-probe.json", id.container, id.kind.word()));
        update_file(&path, &serde_json::to_vec(&start).ok()?).ok()?;
        Some(Action::Exec { start: path })
    }
}

fn sync_probes(link: &mut NodeLink, wanted: BTreeMap<String, ProbeSpec>) {
    let gone: Vec<String> = link
        .probes
        .keys()
        .filter(|id| !wanted.contains_key(*id))
        .cloned()
        .collect();
    for id in gone {
        link.probes.remove(&id);
        link.order(ToNode::Unprobe { id });
    }
    for (id, spec) in wanted {
        if link.probes.get(&id) != Some(&spec) {
            link.probes.insert(id, spec.clone());
            link.order(ToNode::Probe { spec });
        }
    }
}

/// Which start of which container a probe is for: results of an earlier start do not count.
struct ProbeId<'a> {
    uid: &'a str,
    container: &'a str,
    start: u32,
    kind: ProbeKind,
}

impl<'a> ProbeId<'a> {
    fn text(&self) -> String {
        format!(
            "{}/{}/{}/{}",
            self.uid,
            self.container,
            self.start,
            self.kind.word()
        )
    }

    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split('/');
        let (uid, container) = (parts.next()?, parts.next()?);
        let (start, kind) = (parts.next()?.parse().ok()?, ProbeKind::parse(parts.next()?)?);
        Some(Self {
            uid,
            container,
            start,
            kind,
        })
    }
}
