//! Gateways of our classes and their listeners: which of them are served, and which not and why.

pub mod conflicts;
mod protocol;

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_core::names::NamespacedHostname;

use crate::compile::discovery::hostname;
use crate::compile::gateway_api::classes::{self, Class};
use crate::compile::gateway_api::grants::{self, Referent, Referrer};
use crate::compile::gateway_api::{Name, name};
use crate::compile::inputs::{Entry, Inputs};
use crate::compile::report::Condition;
use crate::model::gateway::ServerKind;
use crate::model::host::HostPattern;
use crate::model::http_route::HttpRoute;
use crate::model::stream_route::{RouteKind, StreamRoute};
use crate::model::termination::Termination;
use crate::objects::gateway_api::{Gateway, Listener, RouteKind as WrittenKind};
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
    /// Why nothing of it is done, and no listener of it is served: its condition `Accepted`.
    pub refused: Option<Condition>,
}

#[derive(Debug)]
pub struct OpenListener {
    pub name: Arc<str>,
    pub port: u16,
    pub hostname: HostPattern,
    /// What it does with its connections; none where it is not accepted.
    pub kind: Option<ServerKind>,
    /// References to certificates that can never be good.
    pub bad_references: Vec<BadReference>,
    pub accepted: Condition,
    /// Whether the kinds of routes that it names exist.
    pub resolved: Condition,
    pub conflicted: Condition,
    pub kinds: Vec<RouteKind>,
    pub routes: Vec<Attached<HttpRoute>>,
    /// The oldest first.
    pub streams: Vec<Attached<StreamRoute>>,
}

/// A reference to something that is no Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadReference {
    pub field: String,
    pub message: String,
}

/// A route at a listener, for these hosts.
#[derive(Debug)]
pub struct Attached<R> {
    pub route: Entry<R>,
    pub hostnames: Vec<HostPattern>,
}

impl OpenListener {
    pub fn is_served(&self) -> bool {
        self.served().is_some()
    }

    /// What it does with its connections, where it does anything.
    pub fn served(&self) -> Option<&ServerKind> {
        self.kind.as_ref().filter(|_| self.conflicted.status == "False")
    }

    /// How TLS ends here.
    pub fn termination(&self) -> Option<&Termination> {
        self.served()?.termination()
    }

    /// Why it is not served.
    pub fn refusal(&self) -> &Condition {
        if self.accepted.status == "True" {
            &self.conflicted
        } else {
            &self.accepted
        }
    }
}

impl OpenGateway {
    /// What orders Gateways that want the same: the oldest is the first.
    pub fn age(&self) -> (&str, &str, &str) {
        let meta = &self.entry.meta;
        (&meta.creation_timestamp, &meta.namespace, &meta.name)
    }

    /// Its listeners that end TLS, with how.
    pub fn terminations(&self) -> impl Iterator<Item = (&OpenListener, &Termination)> {
        self.listeners.iter().filter_map(|l| Some((l, l.termination()?)))
    }
}

pub fn gateways(inputs: &Inputs) -> BTreeMap<Name, OpenGateway> {
    let ours = inputs
        .kube_gateways
        .iter()
        .filter(|g| classes::of(inputs, &g.spec.gateway_class_name) == Class::Gateway);
    let mut gateways = ours
        .map(|gateway| (name(gateway), open(inputs, gateway)))
        .collect();
    conflicts::settle(inputs, &mut gateways);
    gateways
}

fn open(inputs: &Inputs, entry: &Entry<Gateway>) -> OpenGateway {
    let meta = &entry.meta;
    let named = named_service(&entry.spec, &meta.namespace);
    let deployed = named
        .is_none()
        .then(|| object_name(meta, &entry.spec.gateway_class_name));
    let too_long = deployed.as_ref().filter(|name| name.len() > MAX_NAME);
    let too_long = too_long.map(|name| {
        let message = format!(
            "its Service would be called {name}, which has more than {MAX_NAME} letters; set {NAME_OVERRIDE}"
        );
        protocol::refused("Invalid", message)
    });
    let refused = too_long.or_else(|| not_granted(inputs, &meta.namespace, named.as_ref()?));
    let own = || {
        (
            meta.namespace.clone(),
            deployed.clone().unwrap_or_else(|| meta.name.clone()),
        )
    };
    let (namespace, name) = named.unwrap_or_else(own);
    OpenGateway {
        service: NamespacedHostname::new(&namespace, &hostname(&name, &namespace)),
        deployed: deployed.filter(|_| refused.is_none()),
        listeners: listeners(entry, refused.as_ref()),
        entry: entry.clone(),
        refused,
    }
}

/// Pods of another namespace serve a Gateway only where that namespace says so: whoever may write a Gateway would
/// otherwise open ports at anybody's pods.
fn not_granted(inputs: &Inputs, namespace: &str, (in_namespace, name): &Name) -> Option<Condition> {
    let from = Referrer {
        kind: "Gateway",
        namespace,
    };
    let to = Referent {
        kind: "Service",
        namespace: in_namespace,
        name,
    };
    if grants::allow(inputs, from, to) {
        return None;
    }
    let message = format!(
        "spec.addresses: {}; create one there (from kind Gateway of namespace {namespace}, to kind Service)",
        grants::missing(from, to)
    );
    Some(protocol::refused("RefNotPermitted", message))
}

fn object_name(meta: &Meta, class: &str) -> Arc<str> {
    let given = meta.annotations.get(NAME_OVERRIDE).filter(|n| !n.is_empty());
    given
        .cloned()
        .unwrap_or_else(|| format!("{}-{class}", meta.name).into())
}

/// Namespace and name of the Service whose pods serve a Gateway: of the one that an address names.
fn named_service(gateway: &Gateway, namespace: &Arc<str>) -> Option<Name> {
    let address = gateway
        .addresses
        .iter()
        .find(|a| a.kind.as_deref() == Some("Hostname"))?;
    let host = address.value.to_ascii_lowercase();
    let mut parts = host.split('.');
    let name = parts.next().filter(|name| !name.is_empty())?;
    let namespace = parts.next().map_or_else(|| namespace.clone(), Arc::from);
    Some((namespace, name.into()))
}

/// None of a Gateway that is refused is served.
fn listeners(gateway: &Entry<Gateway>, refused: Option<&Condition>) -> Vec<OpenListener> {
    let written = gateway.spec.listeners.iter().enumerate();
    let mut all: Vec<OpenListener> = written
        .map(|(index, listener)| OpenListener::of(gateway, index, listener))
        .collect();
    if let Some(refused) = refused {
        for listener in &mut all {
            listener.kind = None;
            listener.accepted = protocol::refused("Invalid", refused.message.as_str());
        }
    }
    all
}

impl OpenListener {
    fn of(gateway: &Entry<Gateway>, index: usize, listener: &Listener) -> Self {
        let hostname = match &*listener.hostname {
            "" => Ok(HostPattern::Any),
            text => HostPattern::parse(text, "hostname"),
        };
        let parsed = match hostname {
            Err(rejection) => Err(protocol::refused("Invalid", rejection.to_string())),
            Ok(hostname) => protocol::of(gateway, index, listener).map(|served| (served, hostname)),
        };
        let (accepted, served, hostname) = match parsed {
            Err(refusal) => (refusal, None, HostPattern::Any),
            Ok((served, hostname)) => (
                Condition::new("Accepted", true, "Accepted", "the listener is valid"),
                Some(served),
                hostname,
            ),
        };
        let (kind, bad_references) = served.unzip();
        let (kinds, resolved) = kinds(listener, kind.as_ref());
        Self {
            name: listener.name.clone(),
            port: listener.port,
            hostname,
            kind,
            bad_references: bad_references.unwrap_or_default(),
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
            streams: Vec::new(),
        }
    }
}

/// Kinds of routes that a listener can have.
fn supported(kind: &ServerKind) -> &'static [RouteKind] {
    match kind {
        ServerKind::Http { .. } | ServerKind::Https(_) => &[RouteKind::Http],
        ServerKind::Passthrough => &[RouteKind::Tls],
        ServerKind::Tls(_) => &[RouteKind::Tls, RouteKind::Tcp],
        ServerKind::Tcp => &[RouteKind::Tcp],
    }
}

/// Kinds of routes that may attach, and whether all that are named exist.
fn kinds(listener: &Listener, kind: Option<&ServerKind>) -> (Vec<RouteKind>, Condition) {
    let supported = kind.map_or(&[][..], supported);
    let is = |written: &WrittenKind, kind: RouteKind| {
        written.group.as_deref().unwrap_or(GATEWAY_API) == GATEWAY_API && &*written.kind == kind.as_str()
    };
    let named = &listener.allowed_routes.kinds;
    let may = |kind: &RouteKind| named.is_empty() || named.iter().any(|written| is(written, *kind));
    let kinds = supported.iter().copied().filter(may).collect();
    let unknown = named
        .iter()
        .find(|written| !supported.iter().any(|kind| is(written, *kind)));
    let resolved = match unknown.filter(|_| kind.is_some()) {
        None => Condition::new(
            "ResolvedRefs",
            true,
            "ResolvedRefs",
            "everything that the listener names exists",
        ),
        Some(unknown) => {
            let has: Vec<&str> = supported.iter().map(|kind| kind.as_str()).collect();
            let message = format!(
                "routes of kind {} cannot attach to a listener of protocol {}; {} can",
                unknown.kind,
                listener.protocol,
                has.join(" and ")
            );
            Condition::new("ResolvedRefs", false, "InvalidRouteKinds", message)
        }
    };
    (kinds, resolved)
}
