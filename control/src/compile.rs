//! From objects to everything that proxies, users and the cluster are told: one pure function.
//!
//! [`compile`] takes the objects, what has to outlast a change ([`Carry`]) and the time, and gives a [`Compiled`]:
//! resources for node agents, the model from which each waypoint's and gateway's resources are made, the status of
//! every object, and the objects to apply. It performs no I/O and reads no clock.
//!
//! [`Compiled::next`] makes the model after a change from the one before, and [`compile`] is that from nothing: there is
//! one way to make each part. Pods, endpoints, Services, VirtualServices and DestinationRules, of which there are many,
//! cost what they touch. A change of another kind is rare, and costs the rules and services that there are.

pub mod credentials;
pub mod discovery;
pub mod gateway_api;
pub mod inputs;
pub mod parameters;
pub mod policies;
pub mod protocol;
pub mod reach;
pub mod references;
pub mod render;
pub mod report;
pub mod routes;
pub mod rules;
pub mod selected;
pub mod servers;
mod step;
pub mod waypoints;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_core::identity::TrustDomain;
use aquifer_core::names::NamespacedHostname;
use aquifer_core::policy::Authorization;
use aquifer_core::service::Service;
use aquifer_core::workload::{Workload, WorkloadUid};

use crate::mesh_config::MeshConfig;
use crate::objects::{ObjectKey, ParsedObject};
use crate::store::{Changes, Store};
use discovery::Discovery;
use gateway_api::{GatewayApi, Name};
use inputs::Inputs;
use parameters::{Overlays, Parameters};
use policies::Policies;
use report::Reports;
use selected::Selected;
use step::Step;
use waypoints::{Place, WaypointKey, Waypoints};

pub use step::{Delta, Work, is_endpoint};

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub cluster_id: Arc<str>,
    pub network: Arc<str>,
    pub trust_domain: TrustDomain,
    /// The control plane's own, where the chart keeps the mesh's settings.
    pub namespace: Arc<str>,
    pub root_namespace: Arc<str>,
    /// Image of the waypoints that are rendered.
    pub waypoint_image: Arc<str>,
    /// Whether rules get a waypoint where there is none.
    pub automatic_waypoints: bool,
    /// How long a rendered waypoint outlives its last need, so that no connection is cut by a change of rules.
    pub waypoint_linger: Duration,
    pub deployment: Deployment,
}

/// How waypoints are deployed; the default is for the lab.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Where waypoints find the control plane.
    pub xds_address: Arc<str>,
    pub pull_policy: Arc<str>,
    /// Names of Secrets for the registry, in the waypoints' namespaces.
    pub pull_secrets: Vec<Arc<str>>,
    /// Whether a waypoint's Gateway owns its objects: the cluster deletes them with it.
    pub owned: bool,
}

impl Default for Deployment {
    fn default() -> Self {
        Self {
            xds_address: "istiod.istio-system.svc:15012".into(),
            pull_policy: "IfNotPresent".into(),
            pull_secrets: Vec::new(),
            owned: false,
        }
    }
}

/// What one compilation hands to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Carry {
    /// Services that have been behind a waypoint: they stay there, also when it is down (fail closed).
    pub bound: imbl::OrdMap<NamespacedHostname, WaypointKey>,
    /// Since which generation a waypoint is given a service's resources.
    pub offered: imbl::OrdMap<Place, u64>,
    /// Services that left a waypoint, and since when.
    pub leaving: imbl::OrdMap<Place, Instant>,
    /// Rendered waypoints that nothing needs any more, and since when.
    pub lingering: BTreeMap<WaypointKey, Instant>,
    /// Waypoints whose objects go with their Gateway, and which therefore cannot outlive it.
    pub owned: BTreeSet<WaypointKey>,
    /// Waypoints for pods that have been ready, or that pods want which were behind another: the pods that name one are
    /// behind it, also when it is down.
    pub awake: BTreeSet<WaypointKey>,
    /// Pods whose own address has been behind a waypoint: they are reached past none on the way to another.
    pub pods: imbl::OrdMap<WorkloadUid, WaypointKey>,
    /// What was last laid over the objects of a Gateway: an edit that goes wrong takes nothing away.
    pub overlays: BTreeMap<Name, Overlays>,
    /// Waypoints that were rendered last time.
    pub rendered: Vec<WaypointKey>,
}

/// When a compilation happens, seen from outside.
#[derive(Clone, Debug)]
pub struct Moment {
    pub now: Instant,
    /// The number that the result will be published under.
    pub generation: u64,
    /// The generation in effect at each connected waypoint, by the namespace and name of its pod.
    pub in_effect: BTreeMap<(Arc<str>, Arc<str>), u64>,
}

/// The result of one compilation; immutable. The next one shares with it whatever stays the same.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub settings: Arc<Settings>,
    pub mesh_config: MeshConfig,
    pub inputs: Inputs,
    pub discovery: Discovery,
    pub gateway_api: Arc<GatewayApi>,
    pub parameters: Arc<BTreeMap<Name, Parameters>>,
    pub waypoints: Arc<Waypoints>,
    /// Pods of the Gateways.
    pub selected: Selected,
    /// Workloads with their policies and waypoints.
    pub workloads: imbl::OrdMap<WorkloadUid, Arc<Workload>>,
    /// Services with their waypoints.
    pub services: imbl::OrdMap<NamespacedHostname, Arc<Service>>,
    attached: Policies,
    pub policies: imbl::OrdMap<Arc<str>, Arc<Authorization>>,
    pub reports: Reports,
    /// Objects that are not accepted.
    pub rejected: usize,
    /// Objects to apply.
    pub rendered: Arc<BTreeMap<ObjectKey, serde_json::Value>>,
    pub carry: Arc<Carry>,
    /// When to compile again although nothing changed.
    pub again_at: Option<Instant>,
    /// What is different from the model that this one was made from.
    pub delta: Delta,
}

/// Compiles everything that the store has: the first time, and as what every later time must come to.
pub fn compile(store: &Store, settings: &Arc<Settings>, carry: &Carry, moment: &Moment) -> Compiled {
    let changes = store.as_changes();
    Step::first(&Compiled::empty(settings), store, &changes).run(carry, moment)
}

impl Compiled {
    /// The model of a mesh without any object.
    fn empty(settings: &Arc<Settings>) -> Self {
        Self {
            settings: settings.clone(),
            mesh_config: MeshConfig::default(),
            inputs: Inputs::default(),
            discovery: Discovery::default(),
            gateway_api: Arc::default(),
            parameters: Arc::default(),
            waypoints: Arc::default(),
            selected: Selected::default(),
            workloads: imbl::OrdMap::new(),
            services: imbl::OrdMap::new(),
            attached: Policies::default(),
            policies: imbl::OrdMap::new(),
            reports: Reports::new(),
            rejected: 0,
            rendered: Arc::default(),
            carry: Arc::default(),
            again_at: None,
            delta: Delta::default(),
        }
    }

    /// The model as far as an object of the Gateway API decides, if that were stored.
    #[must_use]
    pub fn supposing(&self, object: &ParsedObject) -> Self {
        let inputs = self.inputs.with(object);
        let gateway_api = GatewayApi::of(&inputs, &self.discovery);
        Self {
            inputs,
            gateway_api: Arc::new(gateway_api),
            ..self.clone()
        }
    }

    /// The model after changes of the store, at the cost of what they touch. Without changes, what waypoints have in
    /// effect or the time is different.
    #[must_use]
    pub fn next(&self, store: &Store, changes: &Changes, carry: &Carry, moment: &Moment) -> Self {
        Step::new(self, store, changes).run(carry, moment)
    }
}
