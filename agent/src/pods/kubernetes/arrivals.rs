//! Pods whose start waits for this agent, and the addresses that only the container runtime has told of yet.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use super::observed::Observed;
use crate::cni::{AGENT_PATIENCE, Arrival, Arriving, Verdict};
use crate::pods::same_addresses;

/// A node has a few hundred pods; what comes beyond is held at once.
const MOST: usize = 4096;

type Name = (String, String);

#[derive(Default)]
pub(super) struct Arrivals {
    waiting: Vec<Waiting>,
    /// The last arrival of each pod, until its object has the same addresses.
    told: BTreeMap<Name, Told>,
}

struct Waiting {
    arriving: Arriving,
    until: Instant,
}

struct Told {
    arrival: Arrival,
    at: Instant,
}

impl Arrivals {
    pub(super) fn add(&mut self, now: Instant, arriving: Arriving) {
        if self.told.len() >= MOST || self.waiting.len() >= MOST {
            let because = format!("more than {MOST} pods wait for it");
            drop(arriving.verdict.send(Verdict::Hold { because }));
            return;
        }
        let arrival = arriving.arrival.clone();
        let name = (arrival.namespace.clone(), arrival.name.clone());
        self.told.insert(name, Told { arrival, at: now });
        let until = now + AGENT_PATIENCE;
        self.waiting.push(Waiting { arriving, until });
    }

    /// The pod's addresses: the runtime's, as long as the pod's object has others or none.
    pub(super) fn addresses<'a>(&'a self, pod: &'a Observed) -> &'a [IpAddr] {
        let told = self.told.get(&(pod.namespace.to_string(), pod.name.to_string()));
        let told = told.filter(|told| pod.is_named(told.arrival.uid.as_deref()));
        told.map_or(&pod.ips, |told| &told.arrival.ips)
    }

    /// Drops what the pods' objects have by now, and what belongs to no pod any more.
    pub(super) fn forget<'a>(&mut self, now: Instant, pods: impl Iterator<Item = &'a Observed>) {
        if self.told.is_empty() {
            return;
        }
        let pods: BTreeMap<(&str, &str), &Observed> =
            pods.map(|pod| ((&*pod.namespace, &*pod.name), pod)).collect();
        self.told.retain(|(namespace, name), told| {
            match pods.get(&(namespace.as_str(), name.as_str())) {
                Some(pod) if pod.is_named(told.arrival.uid.as_deref()) => {
                    !same_addresses(&pod.ips, &told.arrival.ips)
                }
                // Its object may be on its way.
                _ => now < told.at + AGENT_PATIENCE,
            }
        });
    }

    /// Gives those that wait the verdict of `judge`, which is asked whether their time is over.
    pub(super) fn settle(&mut self, now: Instant, judge: impl Fn(&Arrival, bool) -> Option<Verdict>) {
        for waiting in std::mem::take(&mut self.waiting) {
            match judge(&waiting.arriving.arrival, waiting.until <= now) {
                // A runtime that has given up is not there to hear it.
                Some(verdict) => drop(waiting.arriving.verdict.send(verdict)),
                None => self.waiting.push(waiting),
            }
        }
        self.waiting
            .retain(|waiting| !waiting.arriving.verdict.is_closed());
    }

    /// When the first that waits has waited long enough.
    pub(super) fn until(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::NetnsFile;
    use tokio::sync::oneshot;

    fn pod(uid: &str, ips: &[&str]) -> Observed {
        let ips: Vec<_> = ips.iter().map(|ip| serde_json::json!({ "ip": ip })).collect();
        let pod = serde_json::json!({
            "metadata": {"uid": uid, "namespace": "shop", "name": "web-0"},
            "spec": {"containers": []},
            "status": {"podIPs": ips},
        });
        Observed::new(serde_json::from_value(pod).unwrap()).unwrap()
    }

    fn arriving(uid: &str, ips: &[&str]) -> (Arriving, oneshot::Receiver<Verdict>) {
        let (verdict, receiver) = oneshot::channel();
        let arrival = Arrival {
            namespace: "shop".to_owned(),
            name: "web-0".to_owned(),
            uid: Some(uid.to_owned()),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            netns: NetnsFile::of("/proc/self/ns/net".as_ref()).unwrap(),
        };
        (Arriving { arrival, verdict }, receiver)
    }

    #[test]
    fn the_runtimes_addresses_count_until_the_object_has_them() {
        let now = Instant::now();
        let mut arrivals = Arrivals::default();
        let (one, _receiver) = arriving("u1", &["10.0.0.1", "fd00::1"]);
        arrivals.add(now, one);
        let (new, old, other) = (pod("u1", &[]), pod("u1", &["10.0.0.9"]), pod("u0", &["10.0.0.7"]));
        assert_eq!(arrivals.addresses(&new).len(), 2);
        assert_eq!(arrivals.addresses(&old)[0].to_string(), "10.0.0.1");
        // Of the same name, not yet gone.
        assert_eq!(arrivals.addresses(&other), other.ips);
        arrivals.forget(now, [&old].into_iter());
        assert_eq!(arrivals.addresses(&old).len(), 2);
        let told = pod("u1", &["fd00::1", "10.0.0.1"]);
        arrivals.forget(now, [&told].into_iter());
        assert_eq!(arrivals.addresses(&old), old.ips);
    }

    #[test]
    fn an_arrival_without_a_pod_is_forgotten_after_a_while() {
        let now = Instant::now();
        let mut arrivals = Arrivals::default();
        arrivals.add(now, arriving("u1", &["10.0.0.1"]).0);
        arrivals.forget(now, std::iter::empty());
        assert_eq!(arrivals.addresses(&pod("u1", &[])).len(), 1);
        arrivals.forget(now + AGENT_PATIENCE, std::iter::empty());
        assert!(arrivals.addresses(&pod("u1", &[])).is_empty());
    }

    #[test]
    fn who_waits_gets_the_verdict_once_there_is_one() {
        let now = Instant::now();
        let mut arrivals = Arrivals::default();
        let (one, mut receiver) = arriving("u1", &["10.0.0.1"]);
        arrivals.add(now, one);
        arrivals.settle(now, |_, late| late.then_some(Verdict::Start));
        assert!(receiver.try_recv().is_err());
        let until = arrivals.until().unwrap();
        assert_eq!(until, now + AGENT_PATIENCE);
        arrivals.settle(until, |_, late| late.then_some(Verdict::Start));
        assert_eq!(receiver.try_recv().unwrap(), Verdict::Start);
        assert_eq!(arrivals.until(), None);
    }

    #[test]
    fn a_flood_is_held() {
        let now = Instant::now();
        let mut arrivals = Arrivals::default();
        let mut kept = Vec::new();
        for _ in 0..MOST {
            let (one, receiver) = arriving("u1", &["10.0.0.1"]);
            arrivals.add(now, one);
            kept.push(receiver);
        }
        let (one, mut receiver) = arriving("u2", &["10.0.0.1"]);
        arrivals.add(now, one);
        assert!(matches!(receiver.try_recv().unwrap(), Verdict::Hold { .. }));
    }
}
