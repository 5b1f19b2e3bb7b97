//! The Gateway API: which Gateways are ours, which routes are attached where, and why others are not.

pub mod attach;
pub mod backends;
pub mod classes;
pub mod grants;
pub mod listeners;
pub mod ownership;
pub mod route;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;
use aquifer_core::workload::{Health, Workload};

use crate::compile::discovery::{Discovery, hostname};
use crate::compile::inputs::{Entry, Inputs};
use crate::compile::report::Condition;
use crate::model::http_route::{BackendTarget, HttpRoute, ParentKind, ParentRef};
use crate::model::stream_route::{RouteKind, StreamRoute};
use listeners::OpenGateway;
use route::Route;

/// Who answers for gateways and routes, as Istio calls itself: classes that people have name it.
pub const CONTROLLER: &str = "istio.io/gateway-controller";
/// The same for waypoints.
pub const WAYPOINT_CONTROLLER: &str = "istio.io/mesh-controller";

/// Namespace and name.
pub type Name = (Arc<str>, Arc<str>);

#[derive(Debug, Default)]
pub struct GatewayApi {
    /// Gateways of our classes that open ports; waypoints are not among them.
    pub gateways: BTreeMap<Name, OpenGateway>,
    /// What becomes of each route that is in effect.
    pub routes: BTreeMap<(RouteKind, Name), RouteState>,
    /// Routes of the requests to a Service.
    pub services: BTreeMap<NamespacedHostname, Vec<ServiceRoute<HttpRoute>>>,
    /// Routes of the other connections to a Service, the oldest first.
    pub streams: BTreeMap<NamespacedHostname, Vec<ServiceRoute<StreamRoute>>>,
    /// Hosts of the Services that routes name, as parents or as backends, and of those in front of Gateways' pods.
    named: BTreeSet<Arc<str>>,
}

/// What becomes of a route.
#[derive(Debug)]
pub struct RouteState {
    /// Only those that are ours to answer for.
    pub parents: Vec<ParentState>,
    /// Backends that lead nowhere.
    pub problems: Vec<backends::Problem>,
}

#[derive(Clone, Debug)]
pub struct ParentState {
    pub parent: ParentRef,
    /// The condition `Accepted`.
    pub accepted: Condition,
}

/// A route at a Service.
#[derive(Debug)]
pub struct ServiceRoute<R> {
    pub route: Entry<R>,
    /// The one port of the Service that it is for; all where there is none.
    pub port: Option<u16>,
}

impl GatewayApi {
    pub fn of(inputs: &Inputs, discovery: &Discovery) -> Self {
        let mut api = Self {
            gateways: listeners::gateways(inputs),
            ..Self::default()
        };
        for route in route::all(inputs) {
            let parents = route.parents().iter();
            let parents = parents.filter_map(|parent| api.attach(inputs, discovery, route, parent));
            let state = RouteState {
                parents: parents.collect(),
                problems: backends::problems(inputs, discovery, route),
            };
            api.named.extend(named(route));
            api.routes.insert((route.kind(), route.name()), state);
        }
        // Where their ports lead decides which listeners meet.
        let in_front = api.gateways.values().map(|g| g.service.hostname.clone());
        api.named.extend(in_front);
        api
    }

    /// Services that routes are attached to.
    pub fn routed_services(&self) -> impl Iterator<Item = &NamespacedHostname> {
        self.services.keys().chain(self.streams.keys())
    }

    /// Whether one is attached to it.
    pub fn has_route(&self, service: &NamespacedHostname) -> bool {
        self.services.contains_key(service) || self.streams.contains_key(service)
    }

    /// The route of connections to a port of a service that are not requests.
    pub fn stream_of(&self, service: &NamespacedHostname, port: u16) -> Option<&Entry<StreamRoute>> {
        let mut all = self.streams.get(service)?.iter();
        let found = all.find(|r| r.port.is_none_or(|p| p == port))?;
        Some(&found.route)
    }

    /// Whether a route names a Service with one of these hosts, or a Gateway has it in front.
    pub fn names_any(&self, hosts: &BTreeSet<Arc<str>>) -> bool {
        hosts.iter().any(|host| self.named.contains(host))
    }

    /// Routes to a port of a service for clients of a namespace: those of that namespace, else of the service's own.
    pub fn for_clients(
        &self,
        service: &NamespacedHostname,
        port: u16,
        client: Option<&str>,
    ) -> Vec<&Entry<HttpRoute>> {
        let all = self.services.get(service).map_or(&[][..], Vec::as_slice);
        let of = |namespace: &str| -> Vec<&Entry<HttpRoute>> {
            let fits = |r: &&ServiceRoute<HttpRoute>| {
                *r.route.meta.namespace == *namespace && r.port.is_none_or(|p| p == port)
            };
            all.iter().filter(fits).map(|r| &r.route).collect()
        };
        let consumers = client
            .filter(|c| **c != *service.namespace)
            .map(of)
            .unwrap_or_default();
        if consumers.is_empty() {
            of(&service.namespace)
        } else {
            consumers
        }
    }

    /// Namespaces other than the service's own whose routes are for their own clients alone.
    pub fn consumer_namespaces(&self, service: &NamespacedHostname) -> impl Iterator<Item = &Arc<str>> {
        let all = self.services.get(service).into_iter().flatten();
        let namespaces = all.map(|r| &r.route.meta.namespace);
        namespaces.filter(|namespace| **namespace != service.namespace)
    }

    /// The Gateways that a pod serves.
    pub fn served_by<'a>(
        &'a self,
        discovery: &'a Discovery,
        namespace: &'a str,
        pod: &'a str,
    ) -> impl Iterator<Item = (&'a OpenGateway, &'a Workload)> {
        let is_it = move |w: &&Arc<Workload>| *w.namespace == *namespace && *w.name == *pod;
        self.gateways.values().filter_map(move |gateway| {
            let workload = discovery.endpoints(&gateway.service).find(is_it)?;
            Some((gateway, &**workload))
        })
    }
}

/// Pods behind a Gateway that are ready.
pub fn ready_pods(discovery: &Discovery, gateway: &OpenGateway) -> usize {
    let pods = discovery.endpoints(&gateway.service);
    pods.filter(|w| w.health == Health::Healthy).count()
}

fn named(route: Route<'_>) -> impl Iterator<Item = Arc<str>> {
    let parents = route.parents().iter().filter(|p| p.kind == ParentKind::Service);
    let services = route
        .backends()
        .into_iter()
        .filter_map(|backend| match &backend.target {
            BackendTarget::Service { namespace, name, .. } => Some((name, namespace)),
            BackendTarget::Other(_) => None,
        });
    let all = parents.map(|p| (&p.name, &p.namespace)).chain(services);
    all.map(|(name, namespace)| hostname(name, namespace).into())
}

pub fn name<T>(entry: &Entry<T>) -> Name {
    (entry.meta.namespace.clone(), entry.meta.name.clone())
}
