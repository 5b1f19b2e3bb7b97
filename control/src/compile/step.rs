//! From one model to the next: which parts a change touches, and those parts made anew.

use std::collections::BTreeSet;
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;
use aquifer_core::workload::WorkloadUid;

use crate::compile::discovery::Touched;
use crate::compile::gateway_api::GatewayApi;
use crate::compile::report::{self, PodName};
use crate::compile::waypoints::Waypoints;
use crate::compile::{Carry, Compiled, Moment, parameters, render};
use crate::mesh_config::MeshConfig;
use crate::model::host::HostPattern;
use crate::objects::{NETWORKING, ObjectKey, SECURITY};
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
    /// Routes, listeners or clusters may be different, and not only endpoints.
    pub routing: bool,
    /// What is said about some object is different.
    pub reports: bool,
    pub work: Work,
}

/// How much was made anew: what a change costs, in units that do not depend on the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub workloads: usize,
    pub reports: usize,
}

impl Delta {
    /// Whether no proxy and no status is concerned.
    pub fn is_nothing(&self) -> bool {
        // Of pods and endpoints it is known what they touch; any other object may be all that matters to somebody.
        let only_endpoints = self.objects.iter().all(is_endpoint);
        only_endpoints && !self.routing && !self.reports && self.pods.is_empty() && self.services.is_empty()
    }
}

/// What a kind of object is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Pods and endpoints: many, and changing all the time.
    Endpoint,
    Policy,
    /// Everything else, which other objects' meaning may depend on.
    Routing,
}

/// Whether the object is a pod or endpoints: one by one they mean something, and there are many.
pub fn is_endpoint(key: &ObjectKey) -> bool {
    role(key) == Role::Endpoint
}

fn role(key: &ObjectKey) -> Role {
    match (&*key.group, &*key.kind) {
        ("", "Pod") | ("discovery.k8s.io", "EndpointSlice") => Role::Endpoint,
        (SECURITY, "AuthorizationPolicy" | "PeerAuthentication") => Role::Policy,
        _ => Role::Routing,
    }
}

pub(super) struct Step<'a> {
    before: &'a Compiled,
    store: &'a Store,
    changes: &'a Changes,
    next: Compiled,
    touched: Touched,
    /// An object changed that others' meaning may depend on.
    routing: bool,
}

impl<'a> Step<'a> {
    pub(super) fn new(before: &'a Compiled, store: &'a Store, changes: &'a Changes) -> Self {
        let mut next = before.clone();
        next.inputs.apply(store, changes);
        next.delta = Delta::default();
        Self {
            before,
            store,
            changes,
            next,
            touched: Touched::default(),
            routing: changes.keys().any(|key| role(key) == Role::Routing),
        }
    }

    pub(super) fn run(mut self, carry: &Carry, moment: &Moment) -> Compiled {
        let (before, next) = (self.before, &mut self.next);
        if self.routing {
            next.mesh_config = MeshConfig::of(&next.inputs, &next.settings.root_namespace);
        }
        self.touched = next
            .discovery
            .update(&before.inputs, &next.inputs, &next.settings);
        let selected = next.selected.update(&before.inputs, &next.inputs);
        if self.routing {
            let api = GatewayApi::of(&next.inputs, &next.discovery);
            let parameters = parameters::all(&next.inputs, &carry.overlays);
            next.gateway_api = Arc::new(api);
            next.parameters = Arc::new(parameters);
        }
        let waypoints = self.waypoints(carry, moment);
        let routing = self.routing || waypoints;
        self.attach_workloads(routing);
        self.attach_services(waypoints);
        let gateways = self.gateways_touched();
        self.report(routing || selected || gateways || self.touched.proxies);
        self.finish(routing)
    }

    /// Decides about waypoints where that may come out otherwise; whether it did.
    fn waypoints(&mut self, carry: &Carry, moment: &Moment) -> bool {
        if !(self.routing || self.touched.proxies || self.changes.is_empty()) {
            return false;
        }
        let next = &mut self.next;
        let decided = Waypoints::of(
            &next.inputs,
            &next.discovery,
            &next.gateway_api,
            carry,
            &next.settings,
            moment,
        );
        let differs = decided != *self.before.waypoints;
        let classes = next.inputs.has_gateway_classes != self.before.inputs.has_gateway_classes;
        if !(differs || classes || self.routing) {
            return false;
        }
        next.carry = Arc::new(Carry {
            overlays: parameters::overlays(&next.parameters),
            ..decided.carry()
        });
        next.again_at = decided.again_at;
        next.waypoints = Arc::new(decided);
        next.rendered = Arc::new(render::all(next));
        differs
    }

    /// Whether pods behind a Gateway came, went or changed: it says whether any of them serves.
    fn gateways_touched(&self) -> bool {
        let mut gateways = self.next.gateway_api.gateways.values();
        gateways.any(|gateway| self.touched.services.contains(&gateway.service))
    }

    fn attach_workloads(&mut self, routing: bool) {
        let namespaces = self.namespaces_of_policies();
        if !namespaces.is_empty() {
            self.next
                .attached
                .set_rules(&self.next.inputs, &self.next.settings);
        }
        let of_workloads = self.before.waypoints.serve_workloads() || self.next.waypoints.serve_workloads();
        let root = &self.next.settings.root_namespace;
        let mut uids = std::mem::take(&mut self.touched.workloads);
        if (routing && of_workloads) || namespaces.contains(root) {
            uids.extend(self.next.discovery.workloads.keys().cloned());
        } else if !namespaces.is_empty() {
            let all = self.next.discovery.workloads.iter();
            let concerned = all.filter(|(_, w)| namespaces.contains(&w.namespace));
            uids.extend(concerned.map(|(uid, _)| uid.clone()));
        }
        for uid in &uids {
            self.attach_workload(uid);
        }
        self.next.policies = self.next.attached.resources();
    }

    /// Namespaces whose policies changed.
    fn namespaces_of_policies(&self) -> BTreeSet<Arc<str>> {
        let policies = self.changes.keys().filter(|key| role(key) == Role::Policy);
        policies.map(|key| key.namespace.clone()).collect()
    }

    fn attach_workload(&mut self, uid: &WorkloadUid) {
        let next = &mut self.next;
        let Some(workload) = next.discovery.workloads.get(uid) else {
            next.attached.detach(uid);
            next.workloads.remove(uid);
            return;
        };
        let workload = next.waypoints.attach_workload(&next.inputs, workload);
        let workload = next.attached.attach(workload);
        if next.workloads.get(uid) != Some(&workload) {
            next.workloads.insert(uid.clone(), workload);
        }
    }

    fn attach_services(&mut self, all: bool) {
        let next = &mut self.next;
        let mut keys = self.touched.services.clone();
        if all {
            keys.extend(next.discovery.services.keys().cloned());
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
        }
        self.next.delta.work.reports = keys.len();
        let mut reports = std::mem::take(&mut self.next.reports);
        report::update(&mut reports, self.store, &self.next, keys.iter());
        self.next.reports = reports;
    }

    /// DestinationRules, whose subsets may have lost or got their first pod.
    fn rules_of_touched_services(&self) -> Vec<ObjectKey> {
        let is_touched = |host: &HostPattern| match host {
            HostPattern::Exact(host) => {
                let service = self.next.discovery.by_host.get(host);
                service.is_some_and(|service| self.touched.services.contains(service))
            }
            _ => false,
        };
        let rules = self.next.inputs.destination_rules.iter();
        let touched = rules.filter(|rule| is_touched(&rule.spec.host));
        touched
            .map(|rule| {
                ObjectKey::new(
                    NETWORKING,
                    "DestinationRule",
                    &rule.meta.namespace,
                    &rule.meta.name,
                )
            })
            .collect()
    }

    fn finish(self, routing: bool) -> Compiled {
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
        next.delta.routing = routing;
        next.delta.reports = !next.reports.ptr_eq(&self.before.reports);
        next.delta.work.workloads = self.touched.made;
        next
    }
}
