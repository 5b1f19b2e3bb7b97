//! The connected proxies, sorted for many questions: an answer costs the pods that an object is for and the proxies of
//! other replicas that are said to lack it, and not all that are connected.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::refusal::Refusal;
use super::{Reach, Since};
use crate::compile::report::{Audience, PodName};
use crate::objects::ObjectKey;
use crate::peers::{Elsewhere, PeerProxy, Replica};
use crate::serve::ProxyType;
use crate::serve::registry::ProxyStatus;

pub(super) struct Census<'a> {
    here: Here<'a>,
    there: Vec<There<'a>>,
}

/// Namespace and name.
type Pod<'a> = (&'a str, &'a str);

/// What a proxy said when it refused something; the first by name is quoted, so that a status does not change with the
/// order in which proxies connect.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Words<'a> {
    namespace: &'a Arc<str>,
    pod: &'a Arc<str>,
    said: &'a Arc<str>,
}

/// A proxy that refuses something, and what it has in effect.
type Refusing<'a> = (Option<u64>, Words<'a>);

/// This replica's own.
struct Here<'a> {
    /// Generations in effect, lowest first.
    agents: Vec<Option<u64>>,
    others: Vec<Option<u64>>,
    /// The newest in effect at a waypoint or gateway: one that reconnects has two streams for a moment.
    by_pod: HashMap<Pod<'a>, Option<u64>>,
    /// By generation, lowest first; the words are the first by name of it and of those before.
    refusing_agents: Vec<Refusing<'a>>,
    refusing_pods: HashMap<Pod<'a>, Vec<Refusing<'a>>>,
}

/// Those of another replica.
struct There<'a> {
    replica: &'a Replica,
    agents: usize,
    by_pod: HashMap<Pod<'a>, Vec<usize>>,
    refusing_agent: Option<Words<'a>>,
}

impl<'a> Census<'a> {
    pub(super) fn of(proxies: &'a [ProxyStatus], elsewhere: &'a Elsewhere) -> Self {
        Self {
            here: Here::of(proxies),
            there: elsewhere.replicas().map(There::of).collect(),
        }
    }

    /// Where an object is in effect; none where no proxy has to have it.
    pub(super) fn reach(&self, key: &ObjectKey, since: &Since) -> Option<Reach> {
        let generation = since.generation;
        let there: Vec<Lacking<'_, 'a>> = self
            .there
            .iter()
            .map(|there| Lacking {
                there,
                indices: there.replica.lacking(key, &since.object.meta),
            })
            .collect();
        let audience = &since.report.audience;
        let reach = match audience {
            Audience::Nobody => return None,
            Audience::Agents => connected(&self.here.agents, generation, &there, true),
            Audience::WaypointsAndGateways => connected(&self.here.others, generation, &there, false),
            Audience::Pods(pods) => self.at_pods(pods, generation, &there),
        };
        if reach.is_everywhere() {
            return Some(reach);
        }
        let refusal = self.refusal(audience, generation, &there).map(Words::owned);
        Some(Reach { refusal, ..reach })
    }

    fn at_pods(&self, pods: &BTreeSet<PodName>, generation: u64, there: &[Lacking<'_, 'a>]) -> Reach {
        let has = |name: &&PodName| {
            let pod = (&*name.0, &*name.1);
            let here = self.here.by_pod.get(&pod);
            here.is_some_and(|has| *has >= Some(generation)) || there.iter().any(|t| t.has(&pod))
        };
        Reach {
            in_effect: pods.iter().filter(has).count(),
            of: pods.len(),
            refusal: None,
        }
    }

    /// Of the proxies that have to hold the object and do not, the first that says that it refuses something. Where an
    /// object is for waypoints and gateways of all namespaces, nobody's words are quoted: any pod may come as one.
    fn refusal(&self, audience: &Audience, generation: u64, there: &[Lacking<'_, 'a>]) -> Option<Words<'a>> {
        match audience {
            Audience::Nobody | Audience::WaypointsAndGateways => None,
            Audience::Agents => {
                let here = self.here.refusing_agent(generation);
                here.into_iter()
                    .chain(there.iter().filter_map(Lacking::refusing_agent))
                    .min()
            }
            Audience::Pods(pods) => {
                let of_pod = |name: &PodName| {
                    let pod = (&*name.0, &*name.1);
                    let here = self.here.refusing_pod(&pod, generation);
                    here.into_iter()
                        .chain(there.iter().filter_map(|t| t.refusing_pod(&pod)))
                        .min()
                };
                pods.iter().filter_map(of_pod).min()
            }
        }
    }
}

/// Of all agents, or of all waypoints and gateways.
fn connected(here: &[Option<u64>], generation: u64, there: &[Lacking<'_, '_>], agents: bool) -> Reach {
    let lacking = here.partition_point(|has| *has < Some(generation));
    let (mut in_effect, mut of) = (here.len() - lacking, here.len());
    for replica in there {
        let all = replica.there.count(agents);
        in_effect += all - replica.count(agents).min(all);
        of += all;
    }
    Reach {
        in_effect,
        of,
        refusal: None,
    }
}

impl<'a> Words<'a> {
    fn of(proxy: &'a ProxyStatus) -> Option<Self> {
        Some(Self {
            namespace: &proxy.namespace,
            pod: &proxy.pod,
            said: proxy.refusal.as_ref()?,
        })
    }

    fn of_peer(proxy: &'a PeerProxy) -> Option<Self> {
        Some(Self {
            namespace: &proxy.namespace,
            pod: &proxy.pod,
            said: proxy.refusal.as_ref()?,
        })
    }

    fn owned(self) -> Refusal {
        Refusal::new(self.namespace, self.pod, self.said)
    }
}

impl<'a> Here<'a> {
    fn of(proxies: &'a [ProxyStatus]) -> Self {
        let (agents, others): (Vec<_>, Vec<_>) =
            proxies.iter().partition(|p| p.proxy_type == ProxyType::Agent);
        let mut by_pod: HashMap<Pod<'a>, Option<u64>> = HashMap::new();
        let mut refusing_pods: HashMap<Pod<'a>, Vec<Refusing<'a>>> = HashMap::new();
        for proxy in &others {
            let pod = (&*proxy.namespace, &*proxy.pod);
            let newest = by_pod.entry(pod).or_default();
            *newest = proxy.generation_in_effect.max(*newest);
            if let Some(words) = Words::of(proxy) {
                let refusing = refusing_pods.entry(pod).or_default();
                refusing.push((proxy.generation_in_effect, words));
            }
        }
        Self {
            refusing_agents: refusing(&agents),
            agents: generations(&agents),
            others: generations(&others),
            by_pod,
            refusing_pods,
        }
    }

    fn refusing_agent(&self, generation: u64) -> Option<Words<'a>> {
        let lacking = self
            .refusing_agents
            .partition_point(|(has, _)| *has < Some(generation));
        Some(self.refusing_agents[..lacking].last()?.1)
    }

    fn refusing_pod(&self, pod: &Pod<'_>, generation: u64) -> Option<Words<'a>> {
        let all = self.refusing_pods.get(pod)?.iter();
        all.filter(|(has, _)| *has < Some(generation))
            .map(|(_, words)| *words)
            .min()
    }
}

fn generations(proxies: &[&ProxyStatus]) -> Vec<Option<u64>> {
    let mut generations: Vec<_> = proxies.iter().map(|p| p.generation_in_effect).collect();
    generations.sort_unstable();
    generations
}

fn refusing<'a>(agents: &[&'a ProxyStatus]) -> Vec<Refusing<'a>> {
    let said = agents
        .iter()
        .filter_map(|p| Some((p.generation_in_effect, Words::of(p)?)));
    let mut refusing: Vec<Refusing<'a>> = said.collect();
    refusing.sort_unstable();
    let mut first: Option<Words<'a>> = None;
    for (_, words) in &mut refusing {
        *words = first.map_or(*words, |first| first.min(*words));
        first = Some(*words);
    }
    refusing
}

impl<'a> There<'a> {
    fn of(replica: &'a Replica) -> Self {
        let mut by_pod: HashMap<Pod<'a>, Vec<usize>> = HashMap::new();
        for (index, proxy) in replica.proxies().iter().enumerate() {
            by_pod
                .entry((&proxy.namespace, &proxy.pod))
                .or_default()
                .push(index);
        }
        let agents = || {
            replica
                .proxies()
                .iter()
                .filter(|p| p.proxy_type == ProxyType::Agent)
        };
        Self {
            replica,
            agents: agents().count(),
            by_pod,
            refusing_agent: agents().filter_map(Words::of_peer).min(),
        }
    }

    /// Its agents, or its others.
    fn count(&self, agents: bool) -> usize {
        match agents {
            true => self.agents,
            false => self.replica.proxies().len() - self.agents,
        }
    }
}

/// The proxies of another replica that lack an object; none are told where all do.
struct Lacking<'t, 'a> {
    there: &'t There<'a>,
    indices: Option<&'a BTreeSet<usize>>,
}

impl<'a> Lacking<'_, 'a> {
    fn is_lacking(&self, index: usize) -> bool {
        self.indices.is_none_or(|indices| indices.contains(&index))
    }

    fn told(indices: &'a BTreeSet<usize>, replica: &'a Replica) -> impl Iterator<Item = &'a PeerProxy> {
        indices.iter().filter_map(|index| replica.proxies().get(*index))
    }

    /// How many of the agents, or of the others.
    fn count(&self, agents: bool) -> usize {
        let Some(indices) = self.indices else {
            return self.there.count(agents);
        };
        let told = Self::told(indices, self.there.replica);
        told.filter(|p| (p.proxy_type == ProxyType::Agent) == agents)
            .count()
    }

    fn has(&self, pod: &Pod<'_>) -> bool {
        let streams = self.there.by_pod.get(pod).into_iter().flatten();
        streams.into_iter().any(|index| !self.is_lacking(*index))
    }

    fn refusing_agent(&self) -> Option<Words<'a>> {
        let Some(indices) = self.indices else {
            return self.there.refusing_agent;
        };
        let told = Self::told(indices, self.there.replica);
        let agents = told.filter(|p| p.proxy_type == ProxyType::Agent);
        agents.filter_map(Words::of_peer).min()
    }

    fn refusing_pod(&self, pod: &Pod<'_>) -> Option<Words<'a>> {
        let streams = self.there.by_pod.get(pod)?.iter();
        let lacking = streams.filter(|index| self.is_lacking(**index));
        let proxies = lacking.filter_map(|index| self.there.replica.proxies().get(*index));
        let others = proxies.filter(|p| p.proxy_type != ProxyType::Agent);
        others.filter_map(Words::of_peer).min()
    }
}

#[cfg(test)]
mod tests;
