//! Which services are behind which waypoint, which waypoints are ready, and which ones to render.
//!
//! A service follows its own or its namespace's `istio.io/use-waypoint`. One without either gets an implicit waypoint
//! where a rule needs one: the user of a VirtualService should not have to know what a waypoint is.
//!
//! Clients are told of a waypoint once it acknowledged the service's resources, and it goes on serving for a while after
//! the service left it, so that neither change fails a request. A service that has been behind a waypoint is never told
//! without one while it wants one: with the waypoint down its clients fail. Connections that are open when a service
//! moves stay where they are until they end; requests on them follow the old path.

mod explicit;
mod implicit;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use aquifer_core::names::NamespacedHostname;
use aquifer_core::service::Service;
use aquifer_core::workload::{GatewayAddress, GatewayDestination, Health, Workload};

use crate::compile::discovery::{Discovery, hostname};
use crate::compile::gateway_api::{GatewayApi, Name};
use crate::compile::inputs::Inputs;
use crate::compile::parameters::Parameters;
use crate::compile::render::Proxy;
use crate::compile::report::PodName;
use crate::compile::{Carry, Moment, Settings};
use crate::objects::ObjectKey;
use crate::objects::gateway_api::Infrastructure;

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
    /// UID of its Gateway object; empty without one.
    pub owner: Arc<str>,
    /// What its objects carry beside their own.
    pub infrastructure: Infrastructure,
    /// Namespace and name of its ready pods; none while its Service is not there.
    pub pods: Vec<(Arc<str>, Arc<str>)>,
    pub serves: Serves,
}

impl Waypoint {
    pub fn is_ready(&self) -> bool {
        !self.pods.is_empty()
    }

    /// Whether it is ready and each of its pods has the resources of that generation.
    fn has_in_effect(&self, generation: u64, moment: &Moment) -> bool {
        let has = |pod: &(Arc<str>, Arc<str>)| moment.in_effect.get(pod).is_some_and(|g| *g >= generation);
        self.is_ready() && self.pods.iter().all(has)
    }
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
    /// Still advertised behind the old waypoint, until the new one serves the service.
    Moving { from: WaypointKey, to: WaypointKey },
    /// Traffic stays at layer 4 until the waypoint serves the service for the first time.
    Waiting(WaypointKey),
    /// The waypoint that the labels name does not exist or does not accept the service.
    Refused { waypoint: WaypointKey, reason: String },
}

impl Binding {
    /// The waypoint that is to carry the service's rules, ready or not.
    pub fn waypoint(&self) -> Option<&WaypointKey> {
        match self {
            Self::Bound(key) | Self::Waiting(key) | Self::Moving { to: key, .. } => Some(key),
            Self::Refused { .. } => None,
        }
    }

    /// The waypoint that clients are told of.
    pub fn advertised(&self) -> Option<&WaypointKey> {
        match self {
            Self::Bound(key) | Self::Moving { from: key, .. } => Some(key),
            Self::Waiting(_) | Self::Refused { .. } => None,
        }
    }
}

/// A service at a waypoint.
pub type Place = (NamespacedHostname, WaypointKey);

#[derive(Debug, Default, PartialEq)]
pub struct Waypoints {
    pub all: BTreeMap<WaypointKey, Waypoint>,
    pub bindings: BTreeMap<NamespacedHostname, Binding>,
    /// Since which generation a waypoint is given a service's resources.
    offered: BTreeMap<Place, u64>,
    /// Services that a waypoint goes on serving for a while: some clients do not know yet that they left.
    leaving: BTreeMap<Place, Instant>,
    lingering: BTreeMap<WaypointKey, Instant>,
    owned: BTreeSet<WaypointKey>,
    pub again_at: Option<Instant>,
}

impl Waypoints {
    pub fn of(
        inputs: &Inputs,
        discovery: &Discovery,
        gateway_api: &GatewayApi,
        carry: &Carry,
        settings: &Settings,
        moment: &Moment,
    ) -> Self {
        let mut waypoints = Self {
            all: explicit::waypoints(inputs),
            ..Self::default()
        };
        let needed = match settings.automatic_waypoints {
            true => implicit::needed(inputs, discovery, gateway_api),
            false => BTreeSet::new(),
        };
        let wanted = waypoints.wanted(inputs, discovery, &needed);
        let end = |since: Instant| since + settings.waypoint_linger;
        waypoints.linger(carry, moment.now, end);
        if settings.deployment.owned {
            let owned = waypoints.all.values().filter(|w| !w.owner.is_empty());
            waypoints.owned = owned.map(|w| w.key.clone()).collect();
        }
        waypoints.judge_readiness(discovery);
        waypoints.bind(wanted, carry, inputs, discovery, moment);
        waypoints.leave(carry, discovery, moment.now, end);
        waypoints
    }

    /// The waypoint of each service that is to have one.
    fn wanted(
        &mut self,
        inputs: &Inputs,
        discovery: &Discovery,
        implicit: &BTreeSet<NamespacedHostname>,
    ) -> BTreeMap<NamespacedHostname, WaypointKey> {
        let mut wanted = BTreeMap::new();
        let of_waypoints: BTreeSet<_> = self.all.keys().map(WaypointKey::service).collect();
        for (key, entry) in &discovery.services {
            // A waypoint's own Service: behind a waypoint nothing would reach it.
            if implicit::is_proxy_service(&entry.meta.labels) || of_waypoints.contains(key) {
                continue;
            }
            match explicit::choice(inputs, &entry.meta) {
                explicit::Choice::None => {}
                explicit::Choice::Named(waypoint) => drop(wanted.insert(key.clone(), waypoint)),
                explicit::Choice::Unsaid if implicit.contains(key) => {
                    let waypoint = WaypointKey::new(&key.namespace, IMPLICIT_NAME);
                    self.add_implicit(&waypoint);
                    wanted.insert(key.clone(), waypoint);
                }
                explicit::Choice::Unsaid => {}
            }
        }
        wanted
    }

    fn add_implicit(&mut self, key: &WaypointKey) {
        self.all.entry(key.clone()).or_insert_with(|| Waypoint {
            key: key.clone(),
            explicit: false,
            owner: "".into(),
            infrastructure: Infrastructure::default(),
            pods: Vec::new(),
            serves: Serves::Services,
        });
    }

    /// Keeps what was rendered before for a while after its last need.
    fn linger(&mut self, carry: &Carry, now: Instant, end: impl Fn(Instant) -> Instant) {
        for key in carry
            .rendered
            .iter()
            .filter(|key| !self.all.contains_key(*key) && !carry.owned.contains(*key))
            .cloned()
            .collect::<Vec<_>>()
        {
            let since = carry.lingering.get(&key).copied().unwrap_or(now);
            if end(since) > now {
                self.lingering.insert(key, since);
                self.look_again_at(end(since));
            }
        }
    }

    fn look_again_at(&mut self, at: Instant) {
        self.again_at = Some(self.again_at.map_or(at, |old| old.min(at)));
    }

    fn judge_readiness(&mut self, discovery: &Discovery) {
        for waypoint in self.all.values_mut() {
            let service = waypoint.key.service();
            if !discovery.services.contains_key(&service) {
                continue;
            }
            let serving = discovery
                .endpoints(&service)
                .filter(|w| w.native_tunnel && w.health == Health::Healthy);
            waypoint.pods = serving.map(|w| (w.namespace.clone(), w.name.clone())).collect();
        }
    }

    fn bind(
        &mut self,
        wanted: BTreeMap<NamespacedHostname, WaypointKey>,
        carry: &Carry,
        inputs: &Inputs,
        discovery: &Discovery,
        moment: &Moment,
    ) {
        for (service, waypoint) in wanted {
            // Another replica may have seen the waypoint serve it; then all hold to that.
            let elsewhere = discovery
                .services
                .get(&service)
                .and_then(|s| s.spec.bound.as_ref());
            let bound = carry.bound.get(&service).or(elsewhere);
            let binding = match explicit::admits(inputs, &self.all, &waypoint, &service.namespace) {
                Err(reason) => Binding::Refused { waypoint, reason },
                Ok(()) => {
                    let place = (service.clone(), waypoint.clone());
                    let since = carry.offered.get(&place).copied().unwrap_or(moment.generation);
                    self.offered.insert(place, since);
                    self.decide(waypoint, bound, since, moment)
                }
            };
            self.bindings.insert(service, binding);
        }
    }

    /// A service that is behind a waypoint never falls back to layer 4 while it wants one.
    fn decide(
        &self,
        wanted: WaypointKey,
        bound: Option<&WaypointKey>,
        since: u64,
        moment: &Moment,
    ) -> Binding {
        let serves = self
            .all
            .get(&wanted)
            .is_some_and(|w| w.has_in_effect(since, moment));
        match bound {
            Some(bound) if *bound == wanted => Binding::Bound(wanted),
            _ if serves => Binding::Bound(wanted),
            Some(old) if self.all.get(old).is_some_and(Waypoint::is_ready) => Binding::Moving {
                from: old.clone(),
                to: wanted,
            },
            Some(_) => Binding::Bound(wanted),
            None => Binding::Waiting(wanted),
        }
    }

    /// What a waypoint had to serve and no longer has to, it serves for a while longer.
    fn leave(
        &mut self,
        carry: &Carry,
        discovery: &Discovery,
        now: Instant,
        end: impl Fn(Instant) -> Instant,
    ) {
        let before = carry
            .bound
            .iter()
            .map(|(s, w)| (s.clone(), w.clone()))
            .chain(carry.leaving.keys().cloned());
        for place in before.collect::<BTreeSet<_>>() {
            let stays = self
                .bindings
                .get(&place.0)
                .is_some_and(|b| b.waypoint() == Some(&place.1) || b.advertised() == Some(&place.1));
            let since = carry.leaving.get(&place).copied().unwrap_or(now);
            if !stays && discovery.services.contains_key(&place.0) && end(since) > now {
                self.leaving.insert(place, since);
                self.look_again_at(end(since));
            }
        }
    }

    /// Services that wait for a waypoint whose pods are ready, with those of its pods that are not known to serve it.
    pub fn waiting(&self, moment: &Moment) -> Vec<(Place, Vec<PodName>)> {
        let of = |(service, binding): (&NamespacedHostname, &Binding)| {
            let (Binding::Waiting(to) | Binding::Moving { to, .. }) = binding else {
                return None;
            };
            let place = (service.clone(), to.clone());
            let since = *self.offered.get(&place)?;
            let waypoint = self.all.get(to).filter(|w| w.is_ready())?;
            let lacks = |pod: &&(Arc<str>, Arc<str>)| moment.in_effect.get(*pod).is_none_or(|g| *g < since);
            Some((place, waypoint.pods.iter().filter(lacks).cloned().collect()))
        };
        self.bindings.iter().filter_map(of).collect()
    }

    /// Whether a binding would be decided otherwise with what is in effect at the waypoints now.
    pub fn is_outdated(&self, moment: &Moment) -> bool {
        self.bindings.iter().any(|(service, binding)| {
            let (Binding::Waiting(to) | Binding::Moving { to, .. }) = binding else {
                return false;
            };
            let since = self
                .offered
                .get(&(service.clone(), to.clone()))
                .copied()
                .unwrap_or(u64::MAX);
            self.all.get(to).is_some_and(|w| w.has_in_effect(since, moment))
        })
    }

    pub fn attach_service(&self, service: &Service) -> Service {
        let mut service = service.clone();
        let advertised = self.bindings.get(&service.key()).and_then(Binding::advertised);
        service.waypoint = advertised.map(WaypointKey::address);
        service
    }

    /// Whether any waypoint is for the addresses of pods.
    pub fn serve_workloads(&self) -> bool {
        self.all.values().any(|w| w.serves.workloads())
    }

    /// The workload with the waypoint of its own address, where it has one.
    pub fn attach_workload(&self, inputs: &Inputs, workload: &Arc<Workload>) -> Arc<Workload> {
        let waypoint = (!workload.native_tunnel).then(|| explicit::of_workload(inputs, self, workload));
        match waypoint.flatten() {
            Some(waypoint) => {
                let mut workload = Workload::clone(workload);
                workload.waypoint = Some(waypoint.address());
                Arc::new(workload)
            }
            None => workload.clone(),
        }
    }

    /// Services that this waypoint is to serve: those it is or will be advertised for, and those that are leaving it.
    pub fn services_of(&self, key: &WaypointKey) -> BTreeSet<NamespacedHostname> {
        let current = self
            .bindings
            .iter()
            .filter(|(_, b)| b.waypoint() == Some(key) || b.advertised() == Some(key));
        let leaving = self
            .leaving
            .keys()
            .filter(|(_, waypoint)| waypoint == key)
            .map(|(service, _)| service);
        current
            .map(|(service, _)| service)
            .chain(leaving)
            .cloned()
            .collect()
    }

    pub fn carry(&self) -> Carry {
        let bound = self
            .bindings
            .iter()
            .filter_map(|(s, b)| Some((s.clone(), b.advertised()?.clone())));
        Carry {
            bound: bound.collect(),
            offered: self.offered.clone(),
            leaving: self.leaving.clone(),
            lingering: self.lingering.clone(),
            owned: self.owned.clone(),
            rendered: self.to_render().into_iter().collect(),
            ..Carry::default()
        }
    }

    fn to_render(&self) -> BTreeSet<WaypointKey> {
        self.all.keys().chain(self.lingering.keys()).cloned().collect()
    }

    /// Objects to apply, by key.
    pub fn render(
        &self,
        parameters: &BTreeMap<Name, Parameters>,
        settings: &Settings,
    ) -> BTreeMap<ObjectKey, serde_json::Value> {
        let mut objects = BTreeMap::new();
        for key in self.to_render() {
            let waypoint = self.all.get(&key);
            let owner = waypoint.map(|w| &*w.owner).unwrap_or_default();
            let infrastructure = waypoint.map(|w| w.infrastructure.clone()).unwrap_or_default();
            let name = (key.namespace.clone(), key.name.clone());
            let overlays = parameters
                .get(&name)
                .map(|p| p.overlays.clone())
                .unwrap_or_default();
            objects.extend(Proxy::waypoint(&key, owner, infrastructure, &overlays).objects(settings));
        }
        objects
    }
}
