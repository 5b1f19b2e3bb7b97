//! Two agents on one node, as in a rolling update: whose a pod is that starts meanwhile.
//!
//! The later agent follows pods from its start on; the earlier one stops to follow them as soon as it sees that the
//! later runs. Until then both may capture the same new pod, and the one that was last has its connections. When the
//! earlier agent ends it would take them with it, so the later captures such pods anew: when the other is asked to
//! end, and once more when it is gone. What the earlier one serves, the later takes only when it can serve it too: it
//! may have to wait for the control plane, which is perhaps replaced at the same time.
//!
//! What goes wrong meanwhile: a later agent that ends or starts again had perhaps taken pods, which the earlier one takes
//! back. An earlier one that starts again takes all pods, and with its end the later takes them back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::observed::Observed;

pub(super) struct Handover {
    namespace: Arc<str>,
    name: Arc<str>,
    seen: BTreeSet<Arc<str>>,
    /// How often each pod that appeared beside an earlier agent is to be captured anew.
    turns: BTreeMap<Arc<str>, u32>,
    /// How often all pods are to be captured anew, and how often they were listed so.
    all: u32,
    listed: u32,
    earlier: Earlier,
    /// How often each earlier agent had been started again when it was first seen.
    restarts: BTreeMap<Arc<str>, i32>,
    /// An earlier agent was started again since.
    is_robbed: bool,
    later: BTreeSet<Later>,
}

/// A later agent that runs: its uid, its restarts, and whether it is asked to end.
type Later = (Arc<str>, i32, bool);

/// What is known of the agents before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Earlier {
    Live,
    Ending,
    Gone,
}

impl Handover {
    pub(super) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            seen: BTreeSet::new(),
            turns: BTreeMap::new(),
            all: 0,
            listed: 0,
            earlier: Earlier::Gone,
            restarts: BTreeMap::new(),
            is_robbed: false,
            later: BTreeSet::new(),
        }
    }

    /// Of the agents.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether a later agent runs on this node.
    pub(super) fn is_succeeded<'a>(&self, pods: impl Iterator<Item = &'a Observed> + Clone) -> bool {
        let Some(own) = self.own(pods.clone()) else {
            return false;
        };
        others(own, pods).any(|other| other.runs && !other.is_ending && age(other) > age(own))
    }

    /// Whether a list would have every pod captured anew.
    pub(super) fn has_turned(&self) -> bool {
        self.all != self.listed
    }

    /// Takes in what was heard of agents, also while this one makes no lists.
    pub(super) fn hear<'a>(&mut self, pods: impl Iterator<Item = &'a Observed> + Clone) {
        let Some(own) = self.own(pods.clone()) else {
            return;
        };
        let running = others(own, pods.clone()).filter(|other| other.runs && age(other) > age(own));
        let running = running.map(|other| (other.uid.clone(), other.restarts, other.is_ending));
        let later: BTreeSet<Later> = running.collect();
        if self.later.iter().any(|known| !later.contains(known)) {
            self.all += 1;
        }
        for other in others(own, pods).filter(|other| age(other) < age(own)) {
            let first = self.restarts.entry(other.uid.clone()).or_insert(other.restarts);
            self.is_robbed |= other.restarts > *first;
        }
        self.later = later;
    }

    /// Takes in what is there now; to be called before each list.
    pub(super) fn look<'a>(&mut self, pods: impl Iterator<Item = &'a Observed> + Clone) {
        let earlier = self.earlier_in(pods.clone());
        if earlier > self.earlier {
            self.turns.values_mut().for_each(|turn| *turn += 1);
            self.all += u32::from(self.is_robbed);
        }
        self.listed = self.all;
        self.earlier = earlier;
        let there: BTreeSet<&Arc<str>> = pods.clone().map(|pod| &pod.uid).collect();
        self.turns.retain(|uid, _| there.contains(uid));
        self.seen.retain(|uid| there.contains(uid));
        self.restarts.retain(|uid, _| there.contains(uid));
        for pod in pods {
            let is_new = self.seen.insert(pod.uid.clone());
            // One that is advertised was captured by the other long ago.
            if is_new && earlier != Earlier::Gone && !pod.advertised {
                self.turns.insert(pod.uid.clone(), 0);
            }
        }
    }

    /// Whether an earlier agent runs that is not asked to end, as of the last look.
    pub(super) fn is_preceded(&self) -> bool {
        self.earlier == Earlier::Live
    }

    pub(super) fn turn(&self, uid: &str) -> u32 {
        self.all + self.turns.get(uid).copied().unwrap_or_default()
    }

    fn own<'a>(&self, mut pods: impl Iterator<Item = &'a Observed>) -> Option<&'a Observed> {
        pods.find(|pod| pod.namespace == self.namespace && pod.name == self.name)
    }

    fn earlier_in<'a>(&self, pods: impl Iterator<Item = &'a Observed> + Clone) -> Earlier {
        let Some(own) = self.own(pods.clone()) else {
            return Earlier::Gone;
        };
        let before = others(own, pods).filter(|other| age(other) < age(own));
        let state = |other: &Observed| {
            if other.is_ending {
                Earlier::Ending
            } else {
                Earlier::Live
            }
        };
        before.map(state).min().unwrap_or(Earlier::Gone)
    }
}

fn others<'a>(
    own: &'a Observed,
    pods: impl Iterator<Item = &'a Observed>,
) -> impl Iterator<Item = &'a Observed> {
    pods.filter(move |pod| {
        own.owner.is_some() && pod.owner == own.owner && pod.uid != own.uid && !pod.is_over
    })
}

/// Two that were made within one second are told apart by their uids; either order serves, if both see the same.
fn age(pod: &Observed) -> (i64, &str) {
    (pod.created, &pod.uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, changes: &serde_json::Value) -> Observed {
        let mut pod = serde_json::json!({
            "metadata": {"uid": name, "namespace": "system", "name": name},
            "spec": {"containers": []},
            "status": {"phase": "Running"},
        });
        for part in ["metadata", "status"] {
            if let (Some(into), Some(from)) = (pod[part].as_object_mut(), changes[part].as_object()) {
                into.extend(from.clone());
            }
        }
        Observed::new(serde_json::from_value(pod).unwrap()).unwrap()
    }

    fn agent(name: &str, created: &str, ending: bool) -> Observed {
        let end = ending.then_some("2026-01-01T01:00:00Z");
        let owner = serde_json::json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "uid": "ds", "controller": true}]);
        let running = serde_json::json!([{
            "name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"running": {}},
        }]);
        let metadata = serde_json::json!({
            "creationTimestamp": created, "deletionTimestamp": end, "ownerReferences": owner,
        });
        pod(
            name,
            &serde_json::json!({"metadata": metadata, "status": {"containerStatuses": running}}),
        )
    }

    const EARLY: &str = "2026-01-01T00:00:00Z";
    const LATE: &str = "2026-01-01T00:00:09Z";

    #[test]
    fn the_earlier_agent_leaves_new_pods_to_the_later() {
        let pods = [agent("old", EARLY, false), agent("new", LATE, false)];
        assert!(Handover::new("system", "old").is_succeeded(pods.iter()));
        assert!(!Handover::new("system", "new").is_succeeded(pods.iter()));
        let withdrawn = [agent("old", EARLY, false), agent("new", LATE, true)];
        assert!(!Handover::new("system", "old").is_succeeded(withdrawn.iter()));
        assert!(!Handover::new("system", "alone").is_succeeded(pods.iter()));
    }

    #[test]
    fn a_pod_that_came_meanwhile_is_captured_anew_twice() {
        let mut handover = Handover::new("system", "new");
        let (own, web) = (agent("new", LATE, false), pod("web", &serde_json::Value::Null));
        let turn_beside = |handover: &mut Handover, other: Option<Observed>| {
            let pods: Vec<Observed> = [own.clone(), web.clone()].into_iter().chain(other).collect();
            handover.look(pods.iter());
            handover.turn("web")
        };
        assert_eq!(turn_beside(&mut handover, Some(agent("old", EARLY, false))), 0);
        assert!(handover.is_preceded());
        assert_eq!(turn_beside(&mut handover, Some(agent("old", EARLY, true))), 1);
        assert!(!handover.is_preceded());
        assert_eq!(turn_beside(&mut handover, Some(agent("old", EARLY, true))), 1);
        assert_eq!(turn_beside(&mut handover, None), 2);
        assert_eq!(turn_beside(&mut handover, None), 2);
        // One that comes later is nobody else's.
        let mut alone = Handover::new("system", "new");
        assert_eq!(turn_beside(&mut alone, None), 0);
        assert_eq!(
            turn_beside(&mut alone, Some(agent("newer", "2026-01-01T00:00:20Z", false))),
            0
        );
    }

    /// The turn of a pod that was there from the start, beside that other agent.
    fn turn(handover: &mut Handover, own: &Observed, other: Option<Observed>) -> u32 {
        let mut web = pod("web", &serde_json::Value::Null);
        web.advertised = true;
        let pods: Vec<Observed> = [own.clone(), web].into_iter().chain(other).collect();
        handover.hear(pods.iter());
        if !handover.has_turned() && handover.is_succeeded(pods.iter()) {
            return handover.turn("web");
        }
        handover.look(pods.iter());
        handover.turn("web")
    }

    fn restarted(mut agent: Observed) -> Observed {
        agent.restarts += 1;
        agent
    }

    #[test]
    fn what_a_later_agent_took_is_taken_back_when_it_goes_or_starts_again() {
        let old = agent("old", EARLY, false);
        let mut handover = Handover::new("system", "old");
        let mut beside = |other| turn(&mut handover, &old, other);
        let new = || agent("new", LATE, false);
        assert_eq!(beside(None), 0);
        assert_eq!(beside(Some(new())), 0);
        assert_eq!(beside(Some(restarted(new()))), 1);
        assert_eq!(beside(Some(restarted(new()))), 1);
        assert_eq!(beside(Some(restarted(agent("new", LATE, true)))), 2);
        assert_eq!(beside(None), 3);
        assert_eq!(beside(None), 3);
    }

    #[test]
    fn what_an_earlier_agent_took_as_it_started_again_is_taken_back_when_it_ends() {
        let new = agent("new", LATE, false);
        let old = || agent("old", EARLY, false);
        let mut handover = Handover::new("system", "new");
        let mut beside = |other| turn(&mut handover, &new, other);
        assert_eq!(beside(Some(old())), 0);
        assert_eq!(beside(Some(restarted(old()))), 0);
        assert_eq!(beside(Some(restarted(agent("old", EARLY, true)))), 1);
        assert_eq!(beside(None), 2);
        // As it mostly is, nothing is captured twice.
        let mut handover = Handover::new("system", "new");
        let mut beside = |other| turn(&mut handover, &new, other);
        for other in [Some(old()), Some(agent("old", EARLY, true)), None] {
            assert_eq!(beside(other), 0);
        }
    }
}
