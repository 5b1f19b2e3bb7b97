//! Which services are behind which waypoint, which waypoints are ready, and which ones to render.
//!
//! A service follows its own or its namespace's `istio.io/use-waypoint`. One without either gets an implicit waypoint
//! where a rule needs one: the user of a VirtualService should not have to know what a waypoint is.

mod explicit;
mod implicit;
mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use aquifer_core::names::NamespacedHostname;
use aquifer_core::service::Service;
use aquifer_core::workload::{GatewayAddress, GatewayDestination, Health, Workload};

use crate::compile::discovery::{Discovery, hostname};
use crate::compile::inputs::Inputs;
use crate::compile::{Carry, Settings};
use crate::objects::ObjectKey;

pub const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";
pub const MANAGED_LABEL: &str = "gateway.istio.io/managed";
pub const MANAGED_BY: &str = "istio.io-mesh-controller";
/// Name of the waypoint that a namespace gets when its rules need one.
pub const IMPLICIT_NAME: &str = "waypoint";
pub const HBONE_PORT: u16 = 15008;

/// A waypoint: its namespace and name. Its Service has the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaypointKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for WaypointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl WaypointKey {
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        (!namespace.is_empty() && !name.is_empty()).then(|| Self::new(namespace, name))
    }

    pub fn service(&self) -> NamespacedHostname {
        NamespacedHostname::new(&self.namespace, &hostname(&self.name, &self.namespace))
    }

    fn address(&self) -> GatewayAddress {
        GatewayAddress {
            destination: GatewayDestination::Hostname(self.service()),
            hbone_port: HBONE_PORT,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waypoint {
    pub key: WaypointKey,
    /// From a Gateway object; otherwise made because rules need it.
    pub explicit: bool,
    /// A pod of it is ready and its Service is there.
    pub ready: bool,
    pub serves: Serves,
}

/// `istio.io/waypoint-for`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    Services,
    Workloads,
    All,
    None,
}

impl Serves {
    pub fn services(self) -> bool {
        matches!(self, Self::Services | Self::All)
    }

    pub fn workloads(self) -> bool {
        matches!(self, Self::Workloads | Self::All)
    }
}

/// What became of a service's wish for a waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Advertised: traffic goes through the waypoint and nowhere else.
    Bound(WaypointKey),
    /// Traffic stays at layer 4 until the waypoint is ready for the first time.
    Waiting(WaypointKey),
    /// The waypoint that the labels name does not exist or does not accept the service.
    Refused { waypoint: WaypointKey, reason: String },
}

impl Binding {
    /// The waypoint that carries the service's rules, ready or not.
    pub fn waypoint(&self) -> Option<&WaypointKey> {
        match self {
            Self::Bound(key) | Self::Waiting(key) => Some(key),
            Self::Refused { .. } => None,
        }
    }
}

#[derive(Debug, Default)]
pub struct Waypoints {
    pub all: BTreeMap<WaypointKey, Waypoint>,
    pub bindings: BTreeMap<NamespacedHostname, Binding>,
    /// Waypoint of a workload's own address, by namespace and pod name.
    pod_waypoints: BTreeMap<(Arc<str>, Arc<str>), WaypointKey>,
    lingering: BTreeMap<WaypointKey, Instant>,
    pub again_at: Option<Instant>,
}

impl Waypoints {
    pub fn of(
        inputs: &Inputs,
        discovery: &Discovery,
        carry: &Carry,
        settings: &Settings,
        now: Instant,
    ) -> Self {
        let mut waypoints = Self {
            all: explicit::waypoints(inputs),
            ..Self::default()
        };
        let mut wanted = BTreeMap::new();
        let implicit = implicit::needed(inputs, discovery);
        for (key, entry) in &discovery.services {
            match explicit::choice(inputs, &entry.meta) {
                explicit::Choice::None => {}
                explicit::Choice::Named(waypoint) => drop(wanted.insert(key.clone(), waypoint)),
                explicit::Choice::Unsaid if implicit.contains(key) => {
                    let waypoint = WaypointKey::new(&key.namespace, IMPLICIT_NAME);
                    waypoints.add_implicit(&waypoint);
                    wanted.insert(key.clone(), waypoint);
                }
                explicit::Choice::Unsaid => {}
            }
        }
        waypoints.linger(carry, settings, now);
        waypoints.judge_readiness(discovery);
        waypoints.bind(wanted, carry, inputs);
        waypoints.pod_waypoints = explicit::pods(inputs, &waypoints);
        waypoints
    }

    fn add_implicit(&mut self, key: &WaypointKey) {
        self.all.entry(key.clone()).or_insert_with(|| Waypoint {
            key: key.clone(),
            explicit: false,
            ready: false,
            serves: Serves::Services,
        });
    }

    /// Keeps what was rendered before for a while after its last need.
    fn linger(&mut self, carry: &Carry, settings: &Settings, now: Instant) {
        for key in &carry.rendered {
            if self.all.contains_key(key) {
                continue;
            }
            let since = carry.lingering.get(key).copied().unwrap_or(now);
            let end = since + settings.waypoint_linger;
            if end > now {
                self.lingering.insert(key.clone(), since);
                self.again_at = Some(self.again_at.map_or(end, |at| at.min(end)));
            }
        }
    }

    fn judge_readiness(&mut self, discovery: &Discovery) {
        for waypoint in self.all.values_mut() {
            let service = waypoint.key.service();
            let pods = discovery.endpoints.get(&service).map_or(&[][..], Vec::as_slice);
            let serving = |w: &Arc<Workload>| w.native_tunnel && w.health == Health::Healthy;
            waypoint.ready = discovery.services.contains_key(&service) && pods.iter().any(serving);
        }
    }

    fn bind(&mut self, wanted: BTreeMap<NamespacedHostname, WaypointKey>, carry: &Carry, inputs: &Inputs) {
        for (service, waypoint) in wanted {
            let binding = match explicit::admits(inputs, &self.all, &waypoint, &service.namespace) {
                Err(reason) => Binding::Refused { waypoint, reason },
                Ok(ready) if ready || carry.bound.get(&service) == Some(&waypoint) => {
                    Binding::Bound(waypoint)
                }
                Ok(_) => Binding::Waiting(waypoint),
            };
            self.bindings.insert(service, binding);
        }
    }

    pub fn attach_service(&self, service: &Service) -> Service {
        let mut service = service.clone();
        if let Some(Binding::Bound(waypoint)) = self.bindings.get(&service.key()) {
            service.waypoint = Some(waypoint.address());
        }
        service
    }

    pub fn attach_workload(&self, workload: &Arc<Workload>) -> Arc<Workload> {
        let key = (workload.namespace.clone(), workload.name.clone());
        match self.pod_waypoints.get(&key) {
            Some(waypoint) if !workload.native_tunnel => {
                let mut workload = Workload::clone(workload);
                workload.waypoint = Some(waypoint.address());
                Arc::new(workload)
            }
            _ => workload.clone(),
        }
    }

    /// Services whose rules this waypoint runs, also while it is not ready.
    pub fn services_of<'a>(&'a self, key: &'a WaypointKey) -> impl Iterator<Item = &'a NamespacedHostname> {
        self.bindings
            .iter()
            .filter(move |(_, b)| b.waypoint() == Some(key))
            .map(|(service, _)| service)
    }

    pub fn carry(&self) -> Carry {
        let bound = self
            .bindings
            .iter()
            .filter_map(|(service, binding)| match binding {
                Binding::Bound(waypoint) => Some((service.clone(), waypoint.clone())),
                _ => None,
            });
        Carry {
            bound: bound.collect(),
            lingering: self.lingering.clone(),
            rendered: self.to_render().into_iter().collect(),
        }
    }

    fn to_render(&self) -> BTreeSet<WaypointKey> {
        self.all.keys().chain(self.lingering.keys()).cloned().collect()
    }

    /// Objects to apply, by key.
    pub fn render(&self, settings: &Settings) -> BTreeMap<ObjectKey, serde_json::Value> {
        let mut objects = BTreeMap::new();
        for key in self.to_render() {
            objects.extend(render::waypoint(&key, settings));
        }
        objects
    }
}
