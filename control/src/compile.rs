//! From objects to everything that proxies, users and the cluster are told: one pure function.
//!
//! [`compile`] takes the objects, what has to outlast a change ([`Carry`]) and the time, and gives a [`Compiled`]:
//! resources for node agents, the model from which each waypoint's and gateway's resources are made, the status of
//! every object, and the objects to apply. It performs no I/O and reads no clock.

pub mod discovery;
pub mod gateway_api;
pub mod inputs;
pub mod parameters;
pub mod policies;
pub mod protocol;
pub mod references;
pub mod render;
pub mod report;
pub mod routes;
pub mod rules;
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
use aquifer_core::workload::Workload;

use crate::mesh_config::MeshConfig;
use crate::objects::ObjectKey;
use crate::store::Store;
use discovery::Discovery;
use gateway_api::{GatewayApi, Name};
use inputs::Inputs;
use parameters::{Overlays, Parameters};
use report::ObjectReport;
use waypoints::{Place, WaypointKey, Waypoints};

/// What does not change while the process runs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub cluster_id: Arc<str>,
    pub network: Arc<str>,
    pub trust_domain: TrustDomain,
    pub root_namespace: Arc<str>,
    /// Image of the waypoints that are rendered.
    pub waypoint_image: Arc<str>,
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
#[derive(Clone, Debug, Default)]
pub struct Carry {
    /// Services that have been behind a waypoint: they stay there, also when it is down (fail closed).
    pub bound: BTreeMap<NamespacedHostname, WaypointKey>,
    /// Since which generation a waypoint is given a service's resources.
    pub offered: BTreeMap<Place, u64>,
    /// Services that left a waypoint, and since when.
    pub leaving: BTreeMap<Place, Instant>,
    /// Rendered waypoints that nothing needs any more, and since when.
    pub lingering: BTreeMap<WaypointKey, Instant>,
    /// Waypoints whose objects go with their Gateway, and which therefore cannot outlive it.
    pub owned: BTreeSet<WaypointKey>,
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

/// The result of one compilation; immutable.
#[derive(Debug)]
pub struct Compiled {
    pub settings: Arc<Settings>,
    pub mesh_config: MeshConfig,
    pub inputs: Inputs,
    pub discovery: Discovery,
    pub gateway_api: GatewayApi,
    pub parameters: BTreeMap<Name, Parameters>,
    pub waypoints: Waypoints,
    /// Workloads with their policies and waypoints.
    pub workloads: Vec<Arc<Workload>>,
    /// Services with their waypoints.
    pub services: Vec<Arc<Service>>,
    pub policies: Vec<Authorization>,
    pub reports: BTreeMap<ObjectKey, ObjectReport>,
    /// Objects to apply.
    pub rendered: BTreeMap<ObjectKey, serde_json::Value>,
    pub carry: Carry,
    /// When to compile again although nothing changed.
    pub again_at: Option<Instant>,
}

pub fn compile(store: &Store, settings: &Arc<Settings>, carry: &Carry, moment: &Moment) -> Compiled {
    let inputs = Inputs::of(store);
    let mesh_config = MeshConfig::of(&inputs, &settings.root_namespace);
    let discovery = Discovery::of(&inputs, settings);
    let gateway_api = GatewayApi::of(&inputs, &discovery);
    let waypoints = Waypoints::of(&inputs, &discovery, &gateway_api, carry, settings, moment);
    let parameters = parameters::all(&inputs, &carry.overlays);
    let policies = policies::compile(&inputs, &discovery, settings);
    let workloads = discovery
        .workloads
        .values()
        .map(|w| policies.attach(waypoints.attach_workload(w)))
        .collect();
    let services = discovery
        .services
        .values()
        .map(|s| Arc::new(waypoints.attach_service(&s.service)))
        .collect();
    let mut compiled = Compiled {
        settings: settings.clone(),
        mesh_config,
        rendered: rendered(&inputs, &gateway_api, &waypoints, &parameters, settings),
        carry: Carry {
            overlays: parameters
                .iter()
                .map(|(name, p)| (name.clone(), p.overlays.clone()))
                .collect(),
            ..waypoints.carry()
        },
        again_at: waypoints.again_at,
        inputs,
        discovery,
        gateway_api,
        parameters,
        waypoints,
        workloads,
        services,
        policies: policies.resources,
        reports: BTreeMap::new(),
    };
    compiled.reports = report::all(store, &compiled);
    compiled
}

/// Everything that is to be deployed.
fn rendered(
    inputs: &Inputs,
    gateway_api: &GatewayApi,
    waypoints: &Waypoints,
    parameters: &BTreeMap<Name, Parameters>,
    settings: &Settings,
) -> BTreeMap<ObjectKey, serde_json::Value> {
    let mut objects = waypoints.render(parameters, settings);
    let none = Overlays::default();
    for (name, gateway) in &gateway_api.gateways {
        let overlays = parameters.get(name).map_or(&none, |p| &p.overlays);
        let proxy = render::Proxy::gateway(gateway, overlays);
        objects.extend(proxy.into_iter().flat_map(|p| p.objects(settings)));
    }
    if settings.deployment.owned {
        objects.extend(gateway_api::classes::missing(inputs));
    }
    objects
}
