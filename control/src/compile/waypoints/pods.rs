//! Which waypoint the own address of a pod is behind.
//!
//! What has to be waited for is decided for each waypoint, not for each pod: a namespace may have thousands. Until one of
//! its pods has been ready, the pods that name it are reached at layer 4; from then on they are behind it, also those that
//! come while it is down. A pod that was behind another one claims it: nothing is reached past both then, and that is true
//! of all pods that name it, since neither a restarted control plane nor another replica knows which pods were where. It
//! needs no resources for them: whether it serves a pod it reads in the pod's own record.

use std::collections::BTreeSet;

use aquifer_core::workload::{TunnelProtocol, Workload, WorkloadUid};

use crate::compile::discovery::Discovery;
use crate::compile::inputs::Inputs;
use crate::compile::waypoints::explicit::{self, Choice, Kind, Refusal};
use crate::compile::waypoints::{Waypoint, WaypointKey, Waypoints, World, implicit};
use crate::objects::Meta;

impl Waypoints {
    /// Whether pods that did not change may be behind others than before, with the same Gateways and namespaces.
    pub fn differ_for_pods(&self, before: &Self) -> bool {
        // Mostly they share everything, and thousands need no comparison.
        let noted = !self.pods.ptr_eq(&before.pods) && self.pods != before.pods;
        noted || self.awake != before.awake || self.for_pods().ne(before.for_pods())
    }

    /// The waypoints for pods, and whether they are ready.
    fn for_pods(&self) -> impl Iterator<Item = (&WaypointKey, bool)> {
        let all = self.all.values().filter(|w| w.serves.workloads());
        all.map(|w| (&w.key, w.is_ready()))
    }

    /// Whether any pod may be behind one, or was.
    pub fn concern_pods(&self) -> bool {
        !self.pods.is_empty() || self.for_pods().next().is_some()
    }

    /// Whether pods that name this waypoint are behind it, ready or not.
    pub fn is_awake(&self, key: &WaypointKey) -> bool {
        self.awake.contains(key)
    }

    /// Notes which waypoints have been ready or are claimed, and which pods were behind any.
    pub(super) fn recall_pods(&mut self, world: &World<'_>) {
        let carry = world.carry;
        // Another replica may have told clients of it; then all hold to that.
        let has_been = |w: &&Waypoint| w.is_ready() || w.bound || carry.awake.contains(&w.key);
        let for_pods = self.all.values().filter(|w| w.serves.workloads());
        self.awake = for_pods.filter(has_been).map(|w| w.key.clone()).collect();
        self.pods = carry.pods.clone();
        let gone = carry.pods.keys();
        let gone = gone.filter(|uid| !world.discovery.workloads.contains_key(*uid));
        for uid in gone.cloned().collect::<Vec<_>>() {
            self.pods.remove(&uid);
        }
        let claimed = self.claimed_by(self.pods.keys(), world.inputs, world.discovery);
        self.awake.extend(claimed);
    }

    /// Waypoints that are not awake yet and that pods want which are behind another one.
    pub fn claimed_by<'a>(
        &self,
        uids: impl Iterator<Item = &'a WorkloadUid>,
        inputs: &Inputs,
        discovery: &Discovery,
    ) -> BTreeSet<WaypointKey> {
        let is_asleep = |w: &Waypoint| w.serves.workloads() && !self.is_awake(&w.key);
        // Mostly there is none, and thousands of pods need no look.
        if !self.all.values().any(is_asleep) {
            return BTreeSet::new();
        }
        let behind = uids.filter(|uid| self.pods.contains_key(*uid));
        let workloads = behind.filter_map(|uid| discovery.workloads.get(uid));
        let wanted = workloads.filter_map(|workload| self.wanted(inputs, workload));
        wanted.filter(|key| !self.is_awake(key)).collect()
    }

    /// The waypoint that clients of a pod's own address are told of.
    pub fn of_pod(&self, inputs: &Inputs, workload: &Workload) -> Option<WaypointKey> {
        let was = self.pods.get(&workload.uid);
        if self.awake.is_empty() && was.is_none() {
            return None;
        }
        let wanted = self.wanted(inputs, workload)?;
        match was {
            // Until the new one is ready.
            Some(old) if *old != wanted && self.takes_pods(old) && !self.takes_pods(&wanted) => {
                Some(old.clone())
            }
            // Without either, nothing is reached past both.
            Some(_) => Some(wanted),
            None => self.is_awake(&wanted).then_some(wanted),
        }
    }

    /// Whether it is for pods, and ready.
    fn takes_pods(&self, key: &WaypointKey) -> bool {
        let waypoint = self.all.get(key);
        waypoint.is_some_and(|w| w.serves.workloads() && w.is_ready())
    }

    /// The waypoint that a pod's labels or its namespace's name, if it is for that pod.
    fn wanted(&self, inputs: &Inputs, workload: &Workload) -> Option<WaypointKey> {
        if !may_have_one(workload) {
            return None;
        }
        let pod = inputs.pods.get(&workload.namespace, &workload.name)?;
        if implicit::is_proxy_service(&pod.meta.labels) {
            return None;
        }
        let Choice::Named(wanted) = explicit::choice(inputs, &pod.meta) else {
            return None;
        };
        let of = (&*pod.meta.namespace, Kind::Pod);
        explicit::admits(inputs, &self.all, &wanted, of).ok()?;
        Some(wanted)
    }

    /// Why a pod does not have the waypoint that its own label names, also in words.
    pub fn refuses_pod(&self, inputs: &Inputs, meta: &Meta) -> Option<(Refusal, String)> {
        let named = match explicit::choice(inputs, meta) {
            Choice::Named(waypoint) if meta.labels.contains_key(explicit::USE_WAYPOINT) => waypoint,
            _ => return None,
        };
        let of = (&*meta.namespace, Kind::Pod);
        let refusal = explicit::admits(inputs, &self.all, &named, of).err()?;
        Some((refusal, refusal.text(&named, &meta.namespace)))
    }

    /// Pods whose own address is behind a waypoint.
    pub fn pods(&self) -> imbl::OrdMap<WorkloadUid, WaypointKey> {
        self.pods.clone()
    }

    pub fn has_pod_at(&self, uid: &WorkloadUid, waypoint: Option<&WaypointKey>) -> bool {
        self.pods.get(uid) == waypoint
    }

    pub fn note_pod(&mut self, uid: &WorkloadUid, waypoint: Option<WaypointKey>) {
        match waypoint {
            Some(waypoint) => drop(self.pods.insert(uid.clone(), waypoint)),
            None => drop(self.pods.remove(uid)),
        }
    }
}

/// A pod of the mesh with an address of its own. What ends tunnels itself would be led back to itself; and a waypoint can
/// demand an identity only of what takes tunnels.
fn may_have_one(workload: &Workload) -> bool {
    // An endpoint without a pod has its Service's name: a pod of that name is somebody else.
    let of_pod = WorkloadUid::pod(&workload.cluster, &workload.namespace, &workload.name);
    workload.uid == of_pod
        && workload.tunnel == TunnelProtocol::Hbone
        && !workload.native_tunnel
        && !workload.host_network
}
