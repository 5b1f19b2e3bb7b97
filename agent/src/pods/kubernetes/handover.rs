//! Two agents on one node, as in a rolling update: whose a pod is that starts meanwhile.
//!
//! The later agent follows pods from its start on; the earlier one stops to follow them as soon as it sees that the
//! later runs. Until then both may capture the same new pod, and the one that was last has its connections. When the
//! earlier agent ends it would take them with it, so the later captures such pods anew: when the other is asked to
//! end, and once more when it is gone. What the earlier one serves, the later takes only when it can serve it too: it
//! may have to wait for the control plane, which is perhaps replaced at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::observed::Observed;

pub(super) struct Handover {
    namespace: Arc<str>,
    name: Arc<str>,
    seen: BTreeSet<Arc<str>>,
    /// How often each pod that appeared beside an earlier agent is to be captured anew.
    turns: BTreeMap<Arc<str>, u32>,
    earlier: Earlier,
}

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
            earlier: Earlier::Gone,
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

    /// Takes in what is there now; to be called before each list.
    pub(super) fn look<'a>(&mut self, pods: impl Iterator<Item = &'a Observed> + Clone) {
        let earlier = self.earlier_in(pods.clone());
        if earlier > self.earlier {
            self.turns.values_mut().for_each(|turn| *turn += 1);
        }
        self.earlier = earlier;
        let there: BTreeSet<&Arc<str>> = pods.clone().map(|pod| &pod.uid).collect();
        self.turns.retain(|uid, _| there.contains(uid));
        self.seen.retain(|uid| there.contains(uid));
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
        self.turns.get(uid).copied().unwrap_or_default()
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
}
