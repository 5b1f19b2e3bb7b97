//! The Gateway API: which Gateways are ours, which routes are attached where, and why others are not.

pub mod attach;
pub mod backends;
pub mod classes;
pub mod listeners;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;
use aquifer_core::workload::{Health, Workload};

use crate::compile::discovery::{Discovery, hostname};
use crate::compile::inputs::{Entry, Inputs};
use crate::compile::report::Condition;
use crate::model::http_route::{BackendTarget, HttpRoute, ParentKind, ParentRef};
use listeners::OpenGateway;

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
    pub routes: BTreeMap<Name, RouteState>,
    /// Routes of the requests to a Service.
    pub services: BTreeMap<NamespacedHostname, Vec<ServiceRoute>>,
    /// Hosts of the Services that routes name, as parents or as backends.
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

/// A route in the form that VirtualServices have, for one parent.
#[derive(Debug)]
pub struct ServiceRoute {
    pub route: Entry<HttpRoute>,
    /// The one port of the Service that it is for; all where there is none.
    pub port: Option<u16>,
}

impl GatewayApi {
    pub fn of(inputs: &Inputs, discovery: &Discovery) -> Self {
        let mut api = Self {
            gateways: listeners::gateways(inputs),
            ..Self::default()
        };
        for route in &inputs.http_routes {
            let parents = route.spec.parents.iter();
            let parents = parents.filter_map(|parent| api.attach(inputs, discovery, route, parent));
            let state = RouteState {
                parents: parents.collect(),
                problems: backends::problems(inputs, discovery, route),
            };
            api.named.extend(named(route));
            api.routes.insert(name(route), state);
        }
        api
    }

    /// Whether a route names a Service with one of these hosts.
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
            let fits =
                |r: &&ServiceRoute| *r.route.meta.namespace == *namespace && r.port.is_none_or(|p| p == port);
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

fn named(route: &Entry<HttpRoute>) -> impl Iterator<Item = Arc<str>> {
    let spec = &route.spec;
    let parents = spec.parents.iter().filter(|p| p.kind == ParentKind::Service);
    let backends = spec.rules.iter().flat_map(|rule| &rule.backends);
    let services = backends.filter_map(|backend| match &backend.target {
        BackendTarget::Service { namespace, name, .. } => Some((name, namespace)),
        BackendTarget::Other(_) => None,
    });
    let all = parents.map(|p| (&p.name, &p.namespace)).chain(services);
    all.map(|(name, namespace)| hostname(name, namespace).into())
}

pub fn name<T>(entry: &Entry<T>) -> Name {
    (entry.meta.namespace.clone(), entry.meta.name.clone())
}
