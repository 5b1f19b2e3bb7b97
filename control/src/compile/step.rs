//! From one model to the next: which parts a change touches, and those parts made anew.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;
use aquifer_core::workload::{Workload, WorkloadUid};

use crate::compile::discovery::Touched;
use crate::compile::gateway_api::GatewayApi;
use crate::compile::reach::{Concerned, Reach, destination_rule, service_entry};
use crate::compile::report::{self, PodName};
use crate::compile::waypoints::{WaypointKey, Waypoints, World};
use crate::compile::{Carry, Compiled, Moment, parameters, render};
use crate::mesh_config::MeshConfig;
use crate::objects::{GATEWAY_API, NETWORKING, ObjectKey, SECURITY};
use crate::store::{Changes, Store};

/// What is different from the model before.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    /// Objects that changed.
    pub objects: Vec<ObjectKey>,
    /// Pods that changed.
    pub pods: BTreeSet<PodName>,
    /// Services that are different, or whose endpoints are.
    pub services: BTreeSet<NamespacedHostname>,
    /// Which routes, listeners or clusters may be different, and not only endpoints.
    pub routing: Reach,
    /// What is said about some object is different.
    pub reports: bool,
    pub work: Work,
}

/// How much was made anew: what a change costs, in units that do not depend on the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub workloads: usize,
    /// Workloads whose policies and waypoint were looked at.
    pub attached: usize,
    pub reports: usize,
}

impl Delta {
    /// Whether no proxy and no status is concerned.
    pub fn is_nothing(&self) -> bool {
        // Of pods and endpoints it is known what they touch; any other object may be all that matters to somebody.
        let only_endpoints = self.objects.iter().all(is_endpoint);
        only_endpoints
            && self.routing.is_nothing()
            && !self.reports
            && self.pods.is_empty()
            && self.services.is_empty()
    }
}

/// What a kind of object is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Pods and endpoints: many, and changing all the time.
    Endpoint,
    Policy,
    /// For hosts: many, and of each it is known whom it concerns.
    Rule,
    /// Everything else, which other objects' meaning may depend on.
    Frame,
}

/// Whether the object is a pod or endpoints: one by one they mean something, and there are many.
pub fn is_endpoint(key: &ObjectKey) -> bool {
    role(key) == Role::Endpoint
}

fn role(key: &ObjectKey) -> Role {
    match (&*key.group, &*key.kind) {
        ("", "Pod") | ("discovery.k8s.io", "EndpointSlice") => Role::Endpoint,
        (SECURITY, "AuthorizationPolicy" | "PeerAuthentication") => Role::Policy,
        ("", "Service") | (NETWORKING, "VirtualService" | "DestinationRule") => Role::Rule,
        _ => Role::Frame,
    }
}

pub(super) struct Step<'a> {
    before: &'a Compiled,
    store: &'a Store,
    changes: Cow<'a, Changes>,
    next: Compiled,
    touched: Touched,
    reach: Reach,
}

/// The changes with those that a change of the scope comes to.
fn with_crossing<'a>(
    before: &Compiled,
    store: &Store,
    changes: &'a Changes,
    config: &MeshConfig,
) -> Cow<'a, Changes> {
    let crossing = before.inputs.crossing(store, changes, &config.scope);
    if crossing.is_empty() {
        return Cow::Borrowed(changes);
    }
    let mut all = changes.clone();
    all.extend(crossing);
    Cow::Owned(all)
}

impl<'a> Step<'a> {
    pub(super) fn new(before: &'a Compiled, store: &'a Store, changes: &'a Changes) -> Self {
        let mut next = before.clone();
        let reach = match changes.keys().any(|key| role(key) == Role::Frame) {
            true => Reach::Everything,
            false => Reach::Nothing,
        };
        if reach.is_everything() {
            next.mesh_config = MeshConfig::of(store, &next.settings);
        }
        let changes = with_crossing(before, store, changes, &next.mesh_config);
        next.inputs.apply(store, &changes, &next.mesh_config.scope);
        next.delta = Delta::default();
        Self {
            before,
            store,
            changes,
            next,
            touched: Touched::default(),
            reach,
        }
    }

    /// From nothing, with nothing left out.
    pub(super) fn first(before: &'a Compiled, store: &'a Store, changes: &'a Changes) -> Self {
        Self {
            reach: Reach::Everything,
            ..Self::new(before, store, changes)
        }
    }

    pub(super) fn run(mut self, carry: &Carry, moment: &Moment) -> Compiled {
        let (before, next) = (self.before, &mut self.next);
        self.touched = next
            .discovery
            .update(&before.inputs, &next.inputs, &next.settings);
        let selected = next.selected.update(&before.inputs, &next.inputs);
        self.look_at_rules();
        self.gateway_api(carry);
        self.waypoints(carry, moment);
        if let Reach::Some(concerned) = &mut self.reach {
            concerned.spread(before, &self.next);
        }
        self.attach_workloads();
        self.attach_services();
        let all = self.reach.is_everything() || selected || self.gateways_touched() || self.touched.proxies;
        self.report(all);
        self.finish()
    }

    /// Where only rules and Services changed, whom these concern.
    fn look_at_rules(&mut self) {
        if self.reach.is_nothing() && self.changes.keys().any(|key| role(key) == Role::Rule) {
            self.reach = Reach::Some(Concerned::by(&self.before.inputs, &self.next));
        }
    }

    fn gateway_api(&mut self, carry: &Carry) {
        let next = &mut self.next;
        if self.reach.is_everything() {
            next.parameters = Arc::new(parameters::all(&next.inputs, &carry.overlays));
        }
        let named = self.reach.concerned().is_some_and(|c| c.gateway_api);
        if self.reach.is_everything() || named {
            next.gateway_api = Arc::new(GatewayApi::of(&next.inputs, &next.discovery));
        }
    }

    /// Decides about waypoints where that may come out otherwise.
    fn waypoints(&mut self, carry: &Carry, moment: &Moment) {
        let (before, inputs) = (&self.before.waypoints, &self.next.inputs);
        let claimed = before.claimed_by(self.touched.workloads.iter(), inputs, &self.next.discovery);
        let moved = self.touched.proxies || !claimed.is_empty();
        let rules = match &self.reach {
            Reach::Nothing if !moved && !self.changes.is_empty() => return,
            Reach::Some(concerned) => Some(concerned.services(self.before, &self.next)),
            Reach::Nothing | Reach::Everything => None,
        };
        let next = &mut self.next;
        let world = World {
            inputs: &next.inputs,
            discovery: &next.discovery,
            gateway_api: &next.gateway_api,
            carry,
            settings: &next.settings,
            moment,
        };
        // What was handed over may be another replica's word, too.
        let continued = !moved && *carry == *self.before.carry;
        let of_some = rules.filter(|_| continued);
        if let Some(decided) = of_some.and_then(|services| self.before.waypoints.after(&services, &world)) {
            self.take(decided);
            return;
        }
        let decided = Waypoints::of(&world);
        let differs = decided != *self.before.waypoints;
        let classes = next.inputs.has_gateway_classes != self.before.inputs.has_gateway_classes;
        if self.reach.is_nothing() && !differs && !classes {
            return;
        }
        if differs || !self.reach.is_nothing() {
            self.reach = Reach::Everything;
        }
        self.take(decided);
        self.next.rendered = Arc::new(render::all(&self.next));
    }

    fn take(&mut self, decided: Waypoints) {
        let next = &mut self.next;
        let overlays = match self.reach.is_everything() {
            true => parameters::overlays(&next.parameters),
            false => self.before.carry.overlays.clone(),
        };
        next.carry = Arc::new(Carry {
            overlays,
            ..decided.carry()
        });
        next.again_at = decided.again_at;
        next.waypoints = Arc::new(decided);
    }

    /// Whether pods behind a Gateway came, went or changed: it says whether any of them serves.
    fn gateways_touched(&self) -> bool {
        let mut gateways = self.next.gateway_api.gateways.values();
        gateways.any(|gateway| self.touched.services.contains(&gateway.service))
    }

    fn attach_workloads(&mut self) {
        let namespaces = self.namespaces_of_policies();
        if !namespaces.is_empty() {
            self.next
                .attached
                .set_rules(&self.next.inputs, &self.next.settings);
        }
        let anew = self.pods_may_move();
        let root = &self.next.settings.root_namespace;
        let mut uids = std::mem::take(&mut self.touched.workloads);
        if anew || namespaces.contains(root) {
            uids.extend(self.next.discovery.workloads.keys().cloned());
        } else if !namespaces.is_empty() {
            let all = self.next.discovery.workloads.iter();
            let concerned = all.filter(|(_, w)| namespaces.contains(&w.namespace));
            uids.extend(concerned.map(|(uid, _)| uid.clone()));
        }
        self.next.delta.work.attached = uids.len();
        for uid in &uids {
            self.attach_workload(uid);
        }
        self.hand_over_pods();
        self.next.policies = self.next.attached.resources();
    }

    /// Whether pods that did not change may be behind other waypoints than before.
    fn pods_may_move(&self) -> bool {
        // Their labels name and admit; what they lead to is compared.
        let names = |key: &ObjectKey| {
            matches!(
                (&*key.group, &*key.kind),
                ("", "Namespace") | (GATEWAY_API, "Gateway")
            )
        };
        let (before, next) = (&self.before.waypoints, &self.next.waypoints);
        if !before.concern_pods() && !next.concern_pods() {
            return false;
        }
        next.differ_for_pods(before) || self.changes.keys().any(names)
    }

    /// Keeps for the next time which pods' own addresses are behind a waypoint.
    fn hand_over_pods(&mut self) {
        let next = &mut self.next;
        let pods = next.waypoints.pods();
        if !next.carry.pods.ptr_eq(&pods) {
            Arc::make_mut(&mut next.carry).pods = pods;
        }
    }

    /// Namespaces whose policies changed.
    fn namespaces_of_policies(&self) -> BTreeSet<Arc<str>> {
        let policies = self.changes.keys().filter(|key| role(key) == Role::Policy);
        policies.map(|key| key.namespace.clone()).collect()
    }

    fn attach_workload(&mut self, uid: &WorkloadUid) {
        let next = &mut self.next;
        let Some(workload) = next.discovery.workloads.get(uid).cloned() else {
            next.attached.detach(uid);
            next.workloads.remove(uid);
            note_pod(next, uid, None);
            return;
        };
        let waypoint = next.waypoints.of_pod(&next.inputs, &workload);
        note_pod(next, uid, waypoint.as_ref());
        let workload = match waypoint {
            Some(waypoint) => Arc::new(Workload {
                waypoint: Some(waypoint.address()),
                ..Workload::clone(&workload)
            }),
            None => workload,
        };
        let workload = next.attached.attach(workload);
        if next.workloads.get(uid) != Some(&workload) {
            next.workloads.insert(uid.clone(), workload);
        }
    }

    fn attach_services(&mut self) {
        let next = &mut self.next;
        let mut keys = self.touched.services.clone();
        match &self.reach {
            Reach::Nothing => {}
            Reach::Some(concerned) => keys.extend(concerned.moved.iter().cloned()),
            Reach::Everything => keys.extend(next.discovery.services.keys().cloned()),
        }
        for key in keys {
            let Some(entry) = next.discovery.services.get(&key) else {
                next.services.remove(&key);
                continue;
            };
            let service = next.waypoints.attach_service(&entry.service);
            if next.services.get(&key).is_none_or(|old| **old != service) {
                next.services.insert(key, Arc::new(service));
            }
        }
    }

    fn report(&mut self, all: bool) {
        let mut keys: BTreeSet<ObjectKey> = self.changes.keys().cloned().collect();
        if all {
            let others = self.store.keys().filter(|key| !is_endpoint(key));
            keys.extend(others.cloned());
        } else {
            keys.extend(self.rules_of_touched_services());
            keys.extend(self.entries_at_touched_addresses());
            let concerned = self.reach.concerned();
            keys.extend(
                concerned
                    .into_iter()
                    .flat_map(|c| c.reports(&self.before.inputs, &self.next)),
            );
        }
        self.next.delta.work.reports = keys.len();
        let mut reports = std::mem::take(&mut self.next.reports);
        self.next.rejected = report::update(&mut reports, self.store, &self.next, keys.iter());
        self.next.reports = reports;
    }

    /// DestinationRules and ServiceEntries, whose labels may have lost or got their first pod.
    fn rules_of_touched_services(&self) -> Vec<ObjectKey> {
        let inputs = &self.next.inputs;
        let of_host = |service: &NamespacedHostname| {
            let rules = inputs.destination_rules.for_host(&service.hostname);
            let entries = inputs.service_entries.for_host(&service.hostname);
            let rules = rules.into_iter().map(destination_rule);
            rules
                .chain(entries.into_iter().map(service_entry))
                .collect::<Vec<_>>()
        };
        self.touched.services.iter().flat_map(of_host).collect()
    }

    /// ServiceEntries that name an address of a pod or a node that came or went.
    fn entries_at_touched_addresses(&self) -> Vec<ObjectKey> {
        let entries = &self.next.inputs.service_entries;
        let naming = self
            .touched
            .addresses
            .iter()
            .flat_map(|ip| entries.with_address(*ip));
        naming.map(service_entry).collect()
    }

    fn finish(self) -> Compiled {
        let mut next = self.next;
        let pods = self
            .changes
            .keys()
            .filter(|key| key.group.is_empty() && &*key.kind == "Pod");
        next.delta.pods = pods
            .map(|key| (key.namespace.clone(), key.name.clone()))
            .collect();
        next.delta.objects = self.changes.keys().cloned().collect();
        next.delta.services = self.touched.services;
        next.delta.routing = self.reach;
        next.delta.reports = !next.reports.ptr_eq(&self.before.reports);
        next.delta.work.workloads = self.touched.made;
        next
    }
}

/// Notes which waypoint a pod's own address is behind.
fn note_pod(next: &mut Compiled, uid: &WorkloadUid, waypoint: Option<&WaypointKey>) {
    if next.waypoints.has_pod_at(uid, waypoint) {
        return;
    }
    Arc::make_mut(&mut next.waypoints).note_pod(uid, waypoint.cloned());
}
