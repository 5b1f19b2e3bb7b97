//! Gateways of our classes and their listeners: which of them are served, and which not and why.

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;

use crate::compile::discovery::hostname;
use crate::compile::gateway_api::classes::{self, Class};
use crate::compile::gateway_api::{Name, name};
use crate::compile::inputs::{Entry, Inputs};
use crate::compile::report::Condition;
use crate::model::host::HostPattern;
use crate::model::http_route::HttpRoute;
use crate::objects::gateway_api::{Gateway, Listener, RouteKind};
use crate::objects::{GATEWAY_API, Meta};

/// In place of the name that is made of the Gateway's and its class's.
const NAME_OVERRIDE: &str = "gateway.istio.io/name-override";
/// The longest name of a Service.
const MAX_NAME: usize = 63;

/// A Gateway that opens ports.
#[derive(Debug)]
pub struct OpenGateway {
    pub entry: Entry<Gateway>,
    /// The Service in front of its pods.
    pub service: NamespacedHostname,
    /// The name of the objects that are made for it; none where it names a Service that is there.
    pub deployed: Option<Arc<str>>,
    pub listeners: Vec<OpenListener>,
    /// Why nothing of it is done.
    pub refused: Option<String>,
}

#[derive(Debug)]
pub struct OpenListener {
    pub name: Arc<str>,
    pub port: u16,
    pub hostname: HostPattern,
    pub accepted: Condition,
    pub resolved: Condition,
    pub conflicted: Condition,
    pub kinds: Vec<&'static str>,
    pub routes: Vec<AttachedRoute>,
}

/// A route at a listener, for these hosts.
#[derive(Debug)]
pub struct AttachedRoute {
    pub route: Entry<HttpRoute>,
    pub hostnames: Vec<HostPattern>,
}

impl OpenListener {
    pub fn is_served(&self) -> bool {
        self.accepted.status == "True" && self.conflicted.status == "False"
    }
}

pub(super) fn gateways(inputs: &Inputs) -> BTreeMap<Name, OpenGateway> {
    let ours = inputs
        .kube_gateways
        .iter()
        .filter(|g| classes::of(inputs, &g.spec.gateway_class_name) == Class::Gateway);
    ours.map(|gateway| (name(gateway), open(gateway))).collect()
}

fn open(entry: &Entry<Gateway>) -> OpenGateway {
    let meta = &entry.meta;
    let named = named_service(&entry.spec, &meta.namespace);
    let deployed = named
        .is_none()
        .then(|| object_name(meta, &entry.spec.gateway_class_name));
    let own = |name: &Arc<str>| NamespacedHostname::new(&meta.namespace, &hostname(name, &meta.namespace));
    let too_long = deployed.as_ref().filter(|name| name.len() > MAX_NAME);
    let refused = too_long.map(|name| {
        format!(
            "its Service would be called {name}, which has more than {MAX_NAME} letters; set {NAME_OVERRIDE}"
        )
    });
    OpenGateway {
        service: named
            .or_else(|| deployed.as_ref().map(own))
            .unwrap_or_else(|| own(&meta.name)),
        deployed: deployed.filter(|_| refused.is_none()),
        listeners: listeners(&entry.spec),
        entry: entry.clone(),
        refused,
    }
}

fn object_name(meta: &Meta, class: &str) -> Arc<str> {
    let given = meta.annotations.get(NAME_OVERRIDE).filter(|n| !n.is_empty());
    given
        .cloned()
        .unwrap_or_else(|| format!("{}-{class}", meta.name).into())
}

/// A Gateway whose address is the name of a Service is served by the pods behind that.
fn named_service(gateway: &Gateway, namespace: &str) -> Option<NamespacedHostname> {
    let address = gateway
        .addresses
        .iter()
        .find(|a| a.kind.as_deref() == Some("Hostname"))?;
    let mut parts = address.value.split('.');
    let name = parts.next().filter(|name| !name.is_empty())?;
    let namespace = parts.next().unwrap_or(namespace);
    Some(NamespacedHostname::new(namespace, &hostname(name, namespace)))
}

fn listeners(gateway: &Gateway) -> Vec<OpenListener> {
    let mut open: Vec<OpenListener> = Vec::with_capacity(gateway.listeners.len());
    for listener in &gateway.listeners {
        let mut next = OpenListener::of(listener);
        if next.accepted.status == "True" {
            next.conflicted = conflict(&open, &next);
        }
        open.push(next);
    }
    open
}

/// The earlier of two listeners that want the same is served.
fn conflict(earlier: &[OpenListener], listener: &OpenListener) -> Condition {
    let same =
        |l: &&OpenListener| l.is_served() && l.port == listener.port && l.hostname == listener.hostname;
    match earlier.iter().find(same) {
        Some(other) => {
            let message = format!(
                "listener {} has the same port and hostname, and comes first",
                other.name
            );
            Condition::new("Conflicted", true, "HostnameConflict", message)
        }
        None => Condition::new(
            "Conflicted",
            false,
            "NoConflicts",
            "no other listener wants the same",
        ),
    }
}

impl OpenListener {
    fn of(listener: &Listener) -> Self {
        let hostname = match &*listener.hostname {
            "" => Ok(HostPattern::Any),
            text => HostPattern::parse(text, "hostname"),
        };
        let (accepted, hostname) = match hostname {
            Err(rejection) => (refused("Invalid", rejection.to_string()), HostPattern::Any),
            Ok(hostname) => (protocol(listener), hostname),
        };
        let (kinds, resolved) = kinds(listener, accepted.status == "True");
        Self {
            name: listener.name.clone(),
            port: listener.port,
            hostname,
            accepted,
            resolved,
            conflicted: Condition::new(
                "Conflicted",
                false,
                "NoConflicts",
                "no other listener wants the same",
            ),
            kinds,
            routes: Vec::new(),
        }
    }
}

fn refused(reason: &'static str, message: impl Into<String>) -> Condition {
    Condition::new("Accepted", false, reason, message)
}

fn protocol(listener: &Listener) -> Condition {
    if listener.port == 0 {
        return refused("PortUnavailable", "port 0 cannot be opened");
    }
    if RESERVED.contains(&listener.port) {
        let message = format!(
            "port {} is the gateway's own; its Service may map another port to it",
            listener.port
        );
        return refused("PortUnavailable", message);
    }
    match &*listener.protocol {
        "HTTP" if listener.tls.is_some() => refused("Invalid", "a listener of protocol HTTP has no tls"),
        "HTTP" => Condition::new("Accepted", true, "Accepted", "the listener is valid"),
        other => {
            let message =
                format!("protocol {other} is not supported for this class by this version, only HTTP");
            refused("UnsupportedProtocol", message)
        }
    }
}

/// Ports of the program itself: tunnels, metrics, health, administration.
const RESERVED: [u16; 4] = [15000, 15008, 15020, 15021];

/// Kinds of routes that may attach, and whether all that are named exist.
fn kinds(listener: &Listener, accepted: bool) -> (Vec<&'static str>, Condition) {
    let known =
        |k: &RouteKind| k.group.as_deref().unwrap_or(GATEWAY_API) == GATEWAY_API && &*k.kind == "HTTPRoute";
    let named = &listener.allowed_routes.kinds;
    let any = accepted && (named.is_empty() || named.iter().any(known));
    let kinds = if any { vec!["HTTPRoute"] } else { Vec::new() };
    let resolved = match named.iter().find(|k| !known(k)) {
        None => Condition::new(
            "ResolvedRefs",
            true,
            "ResolvedRefs",
            "everything that the listener names exists",
        ),
        Some(kind) => {
            let message = format!(
                "routes of kind {} cannot attach; this version has HTTPRoute",
                kind.kind
            );
            Condition::new("ResolvedRefs", false, "InvalidRouteKinds", message)
        }
    };
    (kinds, resolved)
}
