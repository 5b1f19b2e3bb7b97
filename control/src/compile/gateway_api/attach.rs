//! A route and one of its parents.

use aquifer_core::service::PortMapping;

use crate::compile::discovery::{Discovery, Registered, hostname};
use crate::compile::gateway_api::classes::{self, Class};
use crate::compile::gateway_api::listeners::{Attached, OpenGateway, OpenListener};
use crate::compile::gateway_api::route::Route;
use crate::compile::gateway_api::{GatewayApi, ParentState, ServiceRoute};
use crate::compile::inputs::{Entry, Inputs};
use crate::compile::report::Condition;
use crate::compile::routes::is_narrower;
use crate::compile::rules::mesh_owner;
use crate::model::host::HostPattern;
use crate::model::http_route::{ParentKind, ParentRef};
use crate::model::stream_route::{RouteKind, StreamRoute};
use crate::objects::Meta;
use crate::objects::gateway_api::Gateway;

/// Why a parent does not take a route.
#[derive(Debug)]
struct Refusal {
    step: Step,
    message: String,
}

/// How far a route came; of several refusals the nearest to success is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    NoMatchingParent,
    NotAllowedByListeners,
    NoMatchingListenerHostname,
    Taken,
}

impl Refusal {
    fn at(step: Step, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { step, message }
    }

    fn condition(self) -> Condition {
        let reason = match self.step {
            Step::NoMatchingParent => "NoMatchingParent",
            Step::NotAllowedByListeners => "NotAllowedByListeners",
            Step::NoMatchingListenerHostname => "NoMatchingListenerHostname",
            Step::Taken => "ParentRefConflict",
        };
        Condition::new("Accepted", false, reason, self.message)
    }
}

/// Whether it is for us to say something about the parent; `None` where a Gateway that is not there yet will tell.
pub fn ownership(inputs: &Inputs, parent: &ParentRef) -> Option<bool> {
    match parent.kind {
        ParentKind::Service => Some(true),
        ParentKind::Other => Some(false),
        ParentKind::Gateway => class_of(inputs, parent).map(|class| class != Class::Foreign),
    }
}

pub fn is_ours(inputs: &Inputs, parent: &ParentRef) -> bool {
    ownership(inputs, parent) == Some(true)
}

/// The class of a parent that is there.
fn class_of(inputs: &Inputs, parent: &ParentRef) -> Option<Class> {
    let gateway = inputs.kube_gateways.get(&parent.namespace, &parent.name)?;
    Some(classes::of(inputs, &gateway.spec.gateway_class_name))
}

impl GatewayApi {
    /// Attaches a route to one parent; `None` where that is not ours.
    pub(super) fn attach(
        &mut self,
        inputs: &Inputs,
        discovery: &Discovery,
        route: Route<'_>,
        parent: &ParentRef,
    ) -> Option<ParentState> {
        let accepted = match parent.kind {
            ParentKind::Other => return None,
            ParentKind::Service => self.attach_to_service(inputs, discovery, route, parent),
            ParentKind::Gateway => match class_of(inputs, parent)? {
                Class::Foreign => return None,
                Class::Unsupported => {
                    let message = "the class of this Gateway is not supported by this version";
                    Err(Refusal::at(Step::NoMatchingParent, message).condition())
                }
                Class::Waypoint => {
                    let message = "a waypoint takes no routes itself; name the Service behind it as parent";
                    Err(Refusal::at(Step::NoMatchingParent, message).condition())
                }
                Class::Gateway => self.attach_to_gateway(inputs, route, parent),
            },
        };
        let accepted =
            accepted.map(|()| Condition::new("Accepted", true, "Accepted", "the route is attached"));
        Some(ParentState {
            parent: parent.clone(),
            accepted: accepted.unwrap_or_else(|refusal| refusal),
        })
    }

    fn attach_to_gateway(
        &mut self,
        inputs: &Inputs,
        route: Route<'_>,
        parent: &ParentRef,
    ) -> Result<(), Condition> {
        let key = (parent.namespace.clone(), parent.name.clone());
        let Some(gateway) = self.gateways.get_mut(&key) else {
            return Ok(());
        };
        let OpenGateway { listeners, entry, .. } = gateway;
        let served = listeners.iter().filter(|l| l.is_served());
        let served: Vec<(u16, HostPattern)> = served.map(|l| (l.port, l.hostname.clone())).collect();
        let mut nearest: Option<Refusal> = None;
        let mut attached = false;
        let meant = listeners
            .iter_mut()
            .enumerate()
            .filter(|(_, l)| is_meant(l, parent));
        for (i, listener) in meant {
            let hosts = hosts(inputs, listener, entry, i, route);
            let hosts = hosts.and_then(|hosts| own_hosts(&served, listener, route, hosts));
            match hosts.and_then(|hostnames| listener.take(route, hostnames)) {
                Ok(()) => attached = true,
                Err(next) if nearest.as_ref().is_none_or(|r| r.step < next.step) => nearest = Some(next),
                Err(_) => {}
            }
        }
        let none = || {
            Refusal::at(
                Step::NoMatchingParent,
                "the Gateway has no listener of this name and port",
            )
        };
        match attached {
            true => Ok(()),
            false => Err(nearest.unwrap_or_else(none).condition()),
        }
    }

    fn attach_to_service(
        &mut self,
        inputs: &Inputs,
        discovery: &Discovery,
        route: Route<'_>,
        parent: &ParentRef,
    ) -> Result<(), Condition> {
        let refuse = |message| Refusal::at(Step::NoMatchingParent, message).condition();
        let entry = service(discovery, route, parent).map_err(refuse)?;
        let (key, port) = (entry.service.key(), parent.port);
        match route {
            Route::Http(route) => {
                let route = route.clone();
                self.services
                    .entry(key)
                    .or_default()
                    .push(ServiceRoute { route, port });
            }
            Route::Stream(route) => {
                let all = self.streams.entry(key).or_default();
                let overlaps = |r: &&ServiceRoute<StreamRoute>| {
                    let one_port = r.port.is_none() || port.is_none() || r.port == port;
                    one_port && !is_same(&r.route.meta, &route.meta)
                };
                if let Some(older) = all.iter().find(overlaps) {
                    let host = &entry.service.hostname;
                    return Err(older_stream(&older.route, host).condition());
                }
                let route = route.clone();
                all.push(ServiceRoute { route, port });
            }
        }
        match mesh_owner(inputs, &entry.service.hostname) {
            Some(rules) => Err(conflict(&rules.meta, &entry.service.hostname)),
            None => Ok(()),
        }
    }
}

fn older_stream(older: &Entry<StreamRoute>, place: &str) -> Refusal {
    let (kind, meta) = (older.spec.kind.as_str(), &older.meta);
    let message = format!(
        "{kind} {}/{} is older and has all connections of {place}; delete one of them, or give them different ports or hostnames",
        meta.namespace, meta.name
    );
    Refusal::at(Step::Taken, message)
}

/// The Service that is named, where its ports speak what the route is for; why not.
fn service<'d>(
    discovery: &'d Discovery,
    route: Route<'_>,
    parent: &ParentRef,
) -> Result<&'d Registered, String> {
    let host = hostname(&parent.name, &parent.namespace);
    if route.kind() == RouteKind::Tls {
        return Err("a TLSRoute is for Gateways in this version; a TCPRoute can be for a Service".to_owned());
    }
    if route.kind() == RouteKind::Tcp && route.meta().namespace != parent.namespace {
        return Err("a TCPRoute is for Services of its own namespace in this version".to_owned());
    }
    let Some(entry) = discovery.services_by_host(&host).next() else {
        return Err(format!("no Service {}/{}", parent.namespace, parent.name));
    };
    let is_meant = |p: &&PortMapping| parent.port.is_none_or(|n| n == p.service_port);
    let mut ports = entry.service.ports.iter().filter(is_meant).peekable();
    if ports.peek().is_none() {
        let port = parent.port.unwrap_or_default();
        return Err(format!("Service {host} has no port {port}"));
    }
    let requests = route.kind() == RouteKind::Http;
    if !ports.any(|p| p.protocol.is_http() == requests) {
        return Err(match requests {
            true => {
                format!("no port of {host} that is meant is HTTP by name or appProtocol; rename it (http-…)")
            }
            false => format!(
                "every port of {host} that is meant is HTTP by name or appProtocol; an HTTPRoute is for those"
            ),
        });
    }
    Ok(entry)
}

fn conflict(rules: &Meta, host: &str) -> Condition {
    let message = format!(
        "VirtualService {}/{} has rules for {host}, which win; delete it for this route to take effect",
        rules.namespace, rules.name
    );
    Condition::new("Accepted", false, "ParentRefConflict", message)
}

impl OpenListener {
    /// A route that names one listener by two parents is there once.
    fn take(&mut self, route: Route<'_>, hostnames: Vec<HostPattern>) -> Result<(), Refusal> {
        match route {
            Route::Http(route) => {
                if !self.routes.iter().any(|a| is_same(&a.route.meta, &route.meta)) {
                    let route = route.clone();
                    self.routes.push(Attached { route, hostnames });
                }
                Ok(())
            }
            Route::Stream(route) => self.take_stream(route, hostnames),
        }
    }

    /// Connections cannot be merged as rules are: a name belongs to the oldest route that has it.
    fn take_stream(
        &mut self,
        route: &Entry<StreamRoute>,
        mut hostnames: Vec<HostPattern>,
    ) -> Result<(), Refusal> {
        let is_it = |a: &&Attached<StreamRoute>| {
            a.route.spec.kind == route.spec.kind && is_same(&a.route.meta, &route.meta)
        };
        if self.streams.iter().any(|a| is_it(&a)) {
            return Ok(());
        }
        let owner = |host: &HostPattern| self.streams.iter().find(|a| a.hostnames.contains(host));
        let older = hostnames.iter().find_map(owner).map(|a| a.route.clone());
        hostnames.retain(|host| owner(host).is_none());
        match older.filter(|_| hostnames.is_empty()) {
            Some(older) => Err(older_stream(&older, &format!("listener {}", self.name))),
            None => {
                let route = route.clone();
                self.streams.push(Attached { route, hostnames });
                Ok(())
            }
        }
    }
}

fn is_same(a: &Meta, b: &Meta) -> bool {
    a.namespace == b.namespace && a.name == b.name
}

fn is_meant(listener: &OpenListener, parent: &ParentRef) -> bool {
    parent.section.as_ref().is_none_or(|name| *name == listener.name)
        && parent.port.is_none_or(|port| port == listener.port)
}

/// The hosts for which a listener takes a route.
fn hosts(
    inputs: &Inputs,
    listener: &OpenListener,
    gateway: &Entry<Gateway>,
    index: usize,
    route: Route<'_>,
) -> Result<Vec<HostPattern>, Refusal> {
    if !listener.is_served() {
        let why = listener.refusal();
        let message = format!("listener {} is not served: {}", listener.name, why.message);
        return Err(Refusal::at(Step::NoMatchingParent, message));
    }
    let allowed = gateway
        .spec
        .listeners
        .get(index)
        .map(|l| &l.allowed_routes.namespaces);
    let (own, other) = (&gateway.meta.namespace, &route.meta().namespace);
    if !allowed.is_some_and(|a| a.admit(own, other, inputs.namespace_labels(other))) {
        let message = format!(
            "listener {} does not allow routes of namespace {other} (allowedRoutes.namespaces)",
            listener.name
        );
        return Err(Refusal::at(Step::NotAllowedByListeners, message));
    }
    if !listener.kinds.contains(&route.kind()) {
        let message = format!(
            "listener {} does not allow routes of kind {} (its protocol and allowedRoutes.kinds say which)",
            listener.name,
            route.kind().as_str()
        );
        return Err(Refusal::at(Step::NotAllowedByListeners, message));
    }
    let wanted = route.hostnames();
    if wanted.is_empty() {
        return Ok(vec![listener.hostname.clone()]);
    }
    let both: Vec<HostPattern> = wanted
        .iter()
        .filter_map(|h| listener.hostname.intersect(h))
        .collect();
    if both.is_empty() {
        let message = format!(
            "none of the route's hostnames is one of listener {} ({})",
            listener.name, listener.hostname
        );
        return Err(Refusal::at(Step::NoMatchingListenerHostname, message));
    }
    Ok(both)
}

/// Connections for a name are the narrowest listener's, as its chains are: the rest is left to a route that is no HTTPRoute.
fn own_hosts(
    served: &[(u16, HostPattern)],
    listener: &OpenListener,
    route: Route<'_>,
    mut hosts: Vec<HostPattern>,
) -> Result<Vec<HostPattern>, Refusal> {
    if route.kind() == RouteKind::Http {
        return Ok(hosts);
    }
    let beside = served.iter().filter(|(port, _)| *port == listener.port);
    let others: Vec<&HostPattern> = beside.map(|(_, hostname)| hostname).collect();
    hosts.retain(|host| !is_narrower(others.iter().copied(), &listener.hostname, host));
    if hosts.is_empty() {
        let message = format!(
            "all of the route's hostnames at listener {} ({}) belong to narrower listeners of port {}; name one of these as parent, or choose other hostnames",
            listener.name, listener.hostname, listener.port
        );
        return Err(Refusal::at(Step::NoMatchingListenerHostname, message));
    }
    Ok(hosts)
}
