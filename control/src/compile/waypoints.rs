//! Which services are behind which waypoint, which waypoints are ready, and which ones to render.
//!
//! A service follows its own or its namespace's `istio.io/use-waypoint`. One without either gets an implicit waypoint
//! where a rule needs one: the user of a VirtualService should not have to know what a waypoint is.
//!
//! Clients are told of a waypoint once it acknowledged the service's resources, and it goes on serving for a while after
//! the service left it, so that neither change fails a request. A service that has been behind a waypoint is never told
//! without one while it wants one: with the waypoint down its clients fail. Connections that are open when a service
//! moves stay where they are until they end; requests on them follow the old path.
//!
//! Pods' own addresses are another matter, see [`pods`].

mod explicit;
mod implicit;
mod pods;
mod wish;

pub use explicit::Refusal;
pub use implicit::opted_in;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use aquifer_core::names::NamespacedHostname;
use aquifer_core::service::Service;
use aquifer_core::workload::{GatewayAddress, GatewayDestination, Health, WorkloadUid};

use crate::compile::discovery::{Discovery, hostname};
use crate::compile::gateway_api::{GatewayApi, Name};
use crate::compile::inputs::Inputs;
use crate::compile::parameters::Parameters;
use crate::compile::render::Proxy;
use crate::compile::report::PodName;
use crate::compile::{Carry, Moment, Settings};
use crate::objects::ObjectKey;
use crate::objects::gateway_api::Infrastructure;
use wish::Wish;

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

    pub(super) fn address(&self) -> GatewayAddress {
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
    /// Its status says that pods' own addresses are behind it: what this or another replica decided.
    pub bound: bool,
}

impl Waypoint {
    fn implicit(key: &WaypointKey) -> Self {
        Self {
            key: key.clone(),
            explicit: false,
            owner: "".into(),
            infrastructure: Infrastructure::default(),
            pods: Vec::new(),
            serves: Serves::Services,
            bound: false,
        }
    }

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
    Refused { waypoint: WaypointKey, refusal: Refusal },
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

/// Clones share everything, so that a change of a few services costs what these do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waypoints {
    pub all: Arc<BTreeMap<WaypointKey, Waypoint>>,
    pub bindings: imbl::OrdMap<NamespacedHostname, Binding>,
    /// Services behind a waypoint: what [`Carry::bound`] will be.
    bound: imbl::OrdMap<NamespacedHostname, WaypointKey>,
    /// Services that are behind a waypoint because of a rule.
    implicit: imbl::OrdSet<NamespacedHostname>,
    /// Services whose binding may be decided otherwise when waypoints have more in effect.
    unsettled: imbl::OrdSet<NamespacedHostname>,
    /// Since which generation a waypoint is given a service's resources.
    offered: imbl::OrdMap<Place, u64>,
    /// Services that a waypoint goes on serving for a while: some clients do not know yet that they left.
    leaving: imbl::OrdMap<Place, Instant>,
    lingering: BTreeMap<WaypointKey, Instant>,
    owned: BTreeSet<WaypointKey>,
    /// Waypoints for pods that have been ready, or that pods want which were behind another: the pods that name one are
    /// behind it, ready or not.
    awake: BTreeSet<WaypointKey>,
    /// Pods whose own address is behind a waypoint.
    pods: imbl::OrdMap<WorkloadUid, WaypointKey>,
    pub again_at: Option<Instant>,
}

/// What is decided from.
#[derive(Clone, Copy)]
pub struct World<'a> {
    pub inputs: &'a Inputs,
    pub discovery: &'a Discovery,
    pub gateway_api: &'a GatewayApi,
    pub carry: &'a Carry,
    pub settings: &'a Settings,
    pub moment: &'a Moment,
}

impl World<'_> {
    /// When something ends that goes on for a while since then.
    fn end(&self, since: Instant) -> Instant {
        since + self.settings.waypoint_linger
    }
}

impl Waypoints {
    pub fn of(world: &World<'_>) -> Self {
        let mut waypoints = Self::default();
        let mut all = explicit::waypoints(world.inputs);
        if world.settings.deployment.owned {
            let owned = all.values().filter(|w| !w.owner.is_empty());
            waypoints.owned = owned.map(|w| w.key.clone()).collect();
        }
        let wishes = wish::all(world, &mut all);
        for waypoint in all.values_mut() {
            waypoint.pods = ready_pods(world.discovery, waypoint);
        }
        waypoints.all = Arc::new(all);
        waypoints.recall_pods(world);
        waypoints.linger(world);
        for (service, wish) in wishes {
            waypoints.bind(service, wish, world);
        }
        let before = world.carry.bound.iter();
        waypoints.leave(before.map(|(s, w)| (s.clone(), w.clone())), world);
        waypoints
    }

    /// The waypoints after a change that concerns these services alone; what waypoints have acknowledged is another matter,
    /// see [`Waypoints::is_outdated`]. None where there may be other waypoints then, or other pods of them: all services
    /// have to be looked at.
    pub fn after(&self, services: &BTreeSet<NamespacedHostname>, world: &World<'_>) -> Option<Self> {
        let mut next = Self {
            again_at: None,
            ..self.clone()
        };
        for service in services {
            next.forget(service);
            next.bind_again(service, world)?;
        }
        if services.iter().any(|service| next.lost_its_last(self, service)) {
            return None;
        }
        next.linger(world);
        let of =
            |service: &NamespacedHostname| Some((service.clone(), world.carry.bound.get(service)?.clone()));
        next.leave(services.iter().filter_map(of), world);
        (next.lingering == self.lingering).then_some(next)
    }

    fn forget(&mut self, service: &NamespacedHostname) {
        if let Some(waypoint) = self.bindings.remove(service).as_ref().and_then(Binding::waypoint) {
            self.offered.remove(&(service.clone(), waypoint.clone()));
        }
        self.bound.remove(service);
        self.implicit.remove(service);
        self.unsettled.remove(service);
    }

    /// None where the service is a waypoint's own, or needs a waypoint that there is not yet.
    fn bind_again(&mut self, service: &NamespacedHostname, world: &World<'_>) -> Option<()> {
        let (name, _) = service.hostname.split_once('.')?;
        let own = WaypointKey::new(&service.namespace, name);
        if self.all.contains_key(&own) || self.lingering.contains_key(&own) {
            return None;
        }
        let Some(entry) = world.discovery.services.get(service) else {
            return Some(());
        };
        if let Some(wish) = wish::of(world, &self.all, service, entry) {
            if wish.implicit && !self.all.contains_key(&wish.waypoint) {
                return None;
            }
            self.bind(service.clone(), wish, world);
        }
        Some(())
    }

    /// Whether the service was the last one in its namespace for which there was an implicit waypoint.
    fn lost_its_last(&self, before: &Self, service: &NamespacedHostname) -> bool {
        let first = NamespacedHostname::new(&service.namespace, "");
        let is_there = || {
            let mut rest = self.implicit.range(first..);
            rest.next().is_some_and(|s| s.namespace == service.namespace)
        };
        before.implicit.contains(service) && !is_there()
    }

    /// Keeps what was rendered before for a while after its last need.
    fn linger(&mut self, world: &World<'_>) {
        let (carry, now) = (world.carry, world.moment.now);
        self.lingering.clear();
        for key in carry
            .rendered
            .iter()
            .filter(|key| !self.all.contains_key(*key) && !carry.owned.contains(*key))
            .cloned()
            .collect::<Vec<_>>()
        {
            let since = carry.lingering.get(&key).copied().unwrap_or(now);
            if world.end(since) > now {
                self.lingering.insert(key, since);
                self.look_again_at(world.end(since));
            }
        }
    }

    fn look_again_at(&mut self, at: Instant) {
        self.again_at = Some(self.again_at.map_or(at, |old| old.min(at)));
    }

    fn bind(&mut self, service: NamespacedHostname, wish: Wish, world: &World<'_>) {
        if wish.implicit {
            self.implicit.insert(service.clone());
        }
        let waypoint = wish.waypoint;
        // Another replica may have seen the waypoint serve it; then all hold to that.
        let entry = world.discovery.services.get(&service);
        let elsewhere = entry.and_then(|s| s.spec.bound.as_ref());
        let bound = world.carry.bound.get(&service).or(elsewhere);
        let of = (&*service.namespace, explicit::Kind::Service);
        let binding = match explicit::admits(world.inputs, &self.all, &waypoint, of) {
            Err(refusal) => Binding::Refused { waypoint, refusal },
            Ok(()) => {
                let place = (service.clone(), waypoint.clone());
                let offered = world.carry.offered.get(&place).copied();
                let since = offered.unwrap_or(world.moment.generation);
                self.offered.insert(place, since);
                self.decide(waypoint, bound, since, world.moment)
            }
        };
        if matches!(binding, Binding::Waiting(_) | Binding::Moving { .. }) {
            self.unsettled.insert(service.clone());
        }
        if let Some(advertised) = binding.advertised() {
            self.bound.insert(service.clone(), advertised.clone());
        }
        self.bindings.insert(service, binding);
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
    fn leave(&mut self, bound: impl Iterator<Item = Place>, world: &World<'_>) {
        let (carry, now) = (world.carry, world.moment.now);
        self.leaving.clear();
        for place in bound
            .chain(carry.leaving.keys().cloned())
            .collect::<BTreeSet<_>>()
        {
            let since = carry.leaving.get(&place).copied().unwrap_or(now);
            let exists = world.discovery.services.contains_key(&place.0);
            if !self.is_bound(&place) && exists && world.end(since) > now {
                self.leaving.insert(place, since);
                self.look_again_at(world.end(since));
            }
        }
    }

    /// Whether the waypoint is the service's, now or soon.
    fn is_bound(&self, (service, waypoint): &Place) -> bool {
        let binding = self.bindings.get(service);
        binding.is_some_and(|b| b.waypoint() == Some(waypoint) || b.advertised() == Some(waypoint))
    }

    /// Services whose waypoints are others than before.
    pub fn moved_since(&self, before: &Self) -> BTreeSet<NamespacedHostname> {
        let bindings = before
            .bindings
            .diff(&self.bindings)
            .map(|item| key_of(&item).clone());
        let leaving = before.leaving.diff(&self.leaving);
        bindings
            .chain(leaving.map(|item| key_of(&item).0.clone()))
            .collect()
    }

    /// The bindings that wait for a waypoint, with the waypoint and since when it is given the service's resources.
    fn awaited(&self) -> impl Iterator<Item = (&NamespacedHostname, &WaypointKey, u64)> {
        self.unsettled.iter().filter_map(|service| {
            let to = self.bindings.get(service)?.waypoint()?;
            let since = self.offered.get(&(service.clone(), to.clone()));
            Some((service, to, *since?))
        })
    }

    /// Services that wait for a waypoint whose pods are ready, with those of its pods that are not known to serve it.
    pub fn waiting(&self, moment: &Moment) -> Vec<(Place, Vec<PodName>)> {
        let of = |(service, to, since): (&NamespacedHostname, &WaypointKey, u64)| {
            let waypoint = self.all.get(to).filter(|w| w.is_ready())?;
            let lacks = |pod: &&(Arc<str>, Arc<str>)| moment.in_effect.get(*pod).is_none_or(|g| *g < since);
            let lacking = waypoint.pods.iter().filter(lacks).cloned().collect();
            Some(((service.clone(), to.clone()), lacking))
        };
        self.awaited().filter_map(of).collect()
    }

    /// Whether a binding would be decided otherwise with what is in effect at the waypoints now.
    pub fn is_outdated(&self, moment: &Moment) -> bool {
        self.awaited().any(|(_, to, since)| {
            let waypoint = self.all.get(to);
            waypoint.is_some_and(|w| w.has_in_effect(since, moment))
        })
    }

    pub fn attach_service(&self, service: &Service) -> Service {
        let mut service = service.clone();
        let advertised = self.bindings.get(&service.key()).and_then(Binding::advertised);
        service.waypoint = advertised.map(WaypointKey::address);
        service
    }

    /// Whether this waypoint is to serve the service: it is or will be advertised for it, or the service is leaving it.
    pub fn serves(&self, key: &WaypointKey, service: &NamespacedHostname) -> bool {
        let place = (service.clone(), key.clone());
        self.is_bound(&place) || self.leaving.contains_key(&place)
    }

    /// Services that this waypoint is to serve.
    pub fn services_of(&self, key: &WaypointKey) -> BTreeSet<NamespacedHostname> {
        let leaving = self.leaving.keys().map(|(service, _)| service);
        let all = self.bindings.keys().chain(leaving);
        all.filter(|service| self.serves(key, service)).cloned().collect()
    }

    pub fn carry(&self) -> Carry {
        Carry {
            bound: self.bound.clone(),
            offered: self.offered.clone(),
            leaving: self.leaving.clone(),
            lingering: self.lingering.clone(),
            owned: self.owned.clone(),
            awake: self.awake.clone(),
            pods: self.pods.clone(),
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
        access_log: Option<bool>,
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
            let proxy = Proxy::waypoint(&key, owner, infrastructure, &overlays).logging(access_log);
            objects.extend(proxy.objects(settings));
        }
        objects
    }
}

/// None while its Service is not there.
fn ready_pods(discovery: &Discovery, waypoint: &Waypoint) -> Vec<(Arc<str>, Arc<str>)> {
    let service = waypoint.key.service();
    if !discovery.services.contains_key(&service) {
        return Vec::new();
    }
    let endpoints = discovery.endpoints(&service);
    let serving = endpoints.filter(|w| w.native_tunnel && w.health == Health::Healthy);
    serving.map(|w| (w.namespace.clone(), w.name.clone())).collect()
}

fn key_of<'a, K, V>(item: &imbl::ordmap::DiffItem<'a, 'a, K, V>) -> &'a K {
    use imbl::ordmap::DiffItem;
    match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => key,
    }
}
