//! The watches behind the list: pods of the node, labels of namespaces, the agents' own DaemonSet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aquifer_core::enrolment::{PodFacts, decide};
use futures_util::stream::{self, BoxStream, StreamExt};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use rand::Rng;

use super::connect::explain;
use super::listed::Listed;
use super::observed::Observed;
use super::{Fate, KubernetesConfig};

/// Objects per answer of a list.
const PAGE: u32 = 500;
/// Seconds after which a watch is begun anew, so that a connection that died in silence is noticed.
const WATCH_SECONDS: u32 = 240;
/// Set to `true` on the DaemonSet: the agents give their pods back and take everything off the nodes.
const LEAVE: &str = "aquifer.io/leave";

pub(super) enum Change {
    Pods(Box<Event<Pod>>),
    Namespaces(Event<PartialObjectMeta<Namespace>>),
    Agents(Event<PartialObjectMeta<DaemonSet>>),
    Failed {
        what: &'static str,
        error: watcher::Error,
    },
}

/// Never ends: a watch that fails is begun anew.
pub(super) type Changes = BoxStream<'static, Change>;

pub(super) fn follow(client: &Client, config: &KubernetesConfig) -> Changes {
    let all = watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS);
    let own = all.clone().fields(&format!("spec.nodeName={}", config.node));
    let pods = watcher::watcher(Api::<Pod>::all(client.clone()), own)
        .backoff(Pauses::default())
        .map(|event| told("pods", event, |event| Change::Pods(Box::new(event))));
    let namespaces = watcher::watcher(
        Api::<PartialObjectMeta<Namespace>>::all(client.clone()),
        all.clone(),
    )
    .backoff(Pauses::default())
    .map(|event| told("namespaces", event, Change::Namespaces));
    let both = stream::select(pods, namespaces);
    let Some(name) = &config.daemonset else {
        return both.boxed();
    };
    let api = Api::<PartialObjectMeta<DaemonSet>>::namespaced(client.clone(), &config.namespace);
    let named = all.fields(&format!("metadata.name={name}"));
    let agents = watcher::watcher(api, named)
        .backoff(Pauses::default())
        .map(|event| told("the agents' DaemonSet", event, Change::Agents));
    stream::select(both, agents).boxed()
}

fn told<K>(
    what: &'static str,
    event: watcher::Result<Event<K>>,
    change: impl FnOnce(Event<K>) -> Change,
) -> Change {
    match event {
        Ok(event) => change(event),
        Err(error) => Change::Failed { what, error },
    }
}

/// Everything heard so far.
pub(super) struct View {
    pods: Listed<Observed>,
    namespaces: Listed<BTreeMap<String, String>>,
    /// At most one.
    agents: Listed<Fate>,
    follows_agents: bool,
    had_agents: bool,
    no_labels: BTreeMap<String, String>,
}

impl View {
    pub(super) fn new(follows_agents: bool) -> Self {
        Self {
            pods: Listed::default(),
            namespaces: Listed::default(),
            agents: Listed::default(),
            follows_agents,
            had_agents: false,
            no_labels: BTreeMap::new(),
        }
    }

    /// True where something changed.
    pub(super) fn hear(&mut self, change: Change) -> bool {
        match change {
            Change::Pods(event) => self.pods.hear(*event, |pod| {
                let pod = Observed::new(pod)?;
                Some((pod.uid.to_string(), pod))
            }),
            Change::Namespaces(event) => self.namespaces.hear(event, |mut namespace| {
                let labels = namespace.metadata.labels.take().unwrap_or_default();
                Some((namespace.name_any(), labels))
            }),
            Change::Agents(event) => {
                let changed = self
                    .agents
                    .hear(event, |agents| Some((agents.name_any(), fate_of(&agents))));
                self.had_agents |= self.agents.values().next().is_some();
                changed
            }
            Change::Failed { what, error } => {
                tracing::warn!(%what, error = explain(&error), "a watch failed; it is begun anew, what is known stays");
                false
            }
        }
    }

    /// Whether each set has been told once.
    pub(super) fn is_complete(&self) -> bool {
        let agents = !self.follows_agents || self.agents.is_complete();
        self.pods.is_complete() && self.namespaces.is_complete() && agents
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = &Observed> + Clone {
        self.pods.values()
    }

    pub(super) fn labels_of(&self, namespace: &str) -> &BTreeMap<String, String> {
        self.namespaces.get(namespace).unwrap_or(&self.no_labels)
    }

    /// Namespaces whose pods are in the mesh unless they say otherwise, but for one.
    pub(super) fn in_mesh(&self, but: &str) -> BTreeSet<String> {
        let facts = PodFacts {
            host_network: false,
            has_sidecar: false,
        };
        let is_in = |(name, labels): &(&String, &BTreeMap<String, String>)| {
            *name != but && decide(*labels, &self.no_labels, facts).is_wanted()
        };
        let namespaces = self.namespaces.iter().filter(is_in);
        namespaces.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn fate(&self) -> Fate {
        match self.agents.values().next() {
            Some(fate) => *fate,
            None if self.had_agents => Fate::Gone,
            None => Fate::Stays,
        }
    }
}

fn fate_of(agents: &PartialObjectMeta<DaemonSet>) -> Fate {
    let leaves = agents
        .annotations()
        .get(LEAVE)
        .is_some_and(|value| value == "true");
    match (&agents.metadata.deletion_timestamp, leaves) {
        // Deleted in the foreground it is there until its pods are gone.
        (Some(_), _) => Fate::Gone,
        (None, true) => Fate::Leaves,
        (None, false) => Fate::Stays,
    }
}

/// Growing pauses, never two nodes in step.
#[derive(Debug)]
struct Pauses(Duration);

impl Pauses {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(10);
}

impl Default for Pauses {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LONGEST);
        Some(pause.mul_f64(rand::rng().random_range(0.5..=1.0)))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.0 = Self::FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents(leave: Option<&str>) -> PartialObjectMeta<DaemonSet> {
        let mut agents = PartialObjectMeta::<DaemonSet>::default();
        agents.metadata.name = Some("aquifer-agent".to_owned());
        let annotations = leave.map(|value| BTreeMap::from([(LEAVE.to_owned(), value.to_owned())]));
        agents.metadata.annotations = annotations;
        agents
    }

    #[test]
    fn the_daemonset_decides_what_becomes_of_the_agents() {
        let mut view = View::new(true);
        view.hear(Change::Agents(Event::Init));
        assert!(view.hear(Change::Agents(Event::InitDone)));
        // Never seen: an agent that somebody runs without one.
        assert_eq!(view.fate(), Fate::Stays);
        view.hear(Change::Agents(Event::Apply(agents(None))));
        assert_eq!(view.fate(), Fate::Stays);
        view.hear(Change::Agents(Event::Apply(agents(Some("true")))));
        assert_eq!(view.fate(), Fate::Leaves);
        view.hear(Change::Agents(Event::Apply(agents(Some("false")))));
        assert_eq!(view.fate(), Fate::Stays);
        let mut ending = agents(None);
        ending.metadata.deletion_timestamp = serde_json::from_value("2026-01-01T00:00:00Z".into()).unwrap();
        view.hear(Change::Agents(Event::Apply(ending)));
        assert_eq!(view.fate(), Fate::Gone);
        view.hear(Change::Agents(Event::Apply(agents(None))));
        view.hear(Change::Agents(Event::Delete(agents(None))));
        assert_eq!(view.fate(), Fate::Gone);
    }

    #[test]
    fn a_view_is_complete_once_each_set_was_told() {
        let mut view = View::new(false);
        for event in [Event::Init, Event::InitDone] {
            view.hear(Change::Pods(Box::new(event)));
        }
        assert!(!view.is_complete());
        for event in [Event::Init, Event::InitDone] {
            view.hear(Change::Namespaces(event));
        }
        assert!(view.is_complete());
        assert!(!View::new(true).is_complete());
    }
}
