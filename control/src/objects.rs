//! The objects that the control plane reads, as users and Kubernetes write them.
//!
//! Every object is parsed once, when it changes. What comes out is either a value that nothing checks again, or a
//! [`Rejection`] with the field and the reason; one bad object never touches another. Istio's kinds are read strictly
//! (an unknown field rejects the object, as `kubectl apply` does); Kubernetes' own kinds leniently, since the mesh
//! reads only a part of them.

pub mod gateway_api;
pub mod istio;
pub mod kube;
mod read;

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::compile::report::bound_waypoint;
use crate::mesh_config;
use crate::model::destination_rule::DestinationRule;
use crate::model::gateway::Gateway;
use crate::model::http_route::HttpRoute;
use crate::model::policy::{AuthorizationPolicy, PeerAuthentication};
use crate::model::secret::Secret;
use crate::model::service_entry::ServiceEntry;
use crate::model::stream_route::StreamRoute;
use crate::model::virtual_service::VirtualService;
pub use read::Meta;

/// The identity of an object: its API group (without version), kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub group: Arc<str>,
    pub kind: Arc<str>,
    /// Empty for kinds that have none, such as Namespace.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectKey {
    pub fn new(group: &str, kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            group: group.into(),
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            return write!(f, "{} {}", self.kind, self.name);
        }
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// An object as a source delivered it.
#[derive(Clone, PartialEq)]
pub struct RawObject {
    pub key: ObjectKey,
    pub api_version: Arc<str>,
    pub value: Value,
}

impl fmt::Debug for RawObject {
    /// A Secret shows its name only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("RawObject");
        shown.field("key", &self.key);
        if &*self.key.kind == "Secret" {
            return shown.finish_non_exhaustive();
        }
        shown
            .field("api_version", &self.api_version)
            .field("value", &self.value)
            .finish()
    }
}

/// Why an object is not taken; nothing of it is in effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct Rejection {
    /// The path of the field, such as `spec.http[0].route[1].weight`.
    pub field: String,
    pub reason: String,
    pub kind: RejectionKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionKind {
    /// The object is wrong.
    Invalid,
    /// The object is right, but this version cannot do what it asks for.
    Unsupported,
}

impl Rejection {
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
            kind: RejectionKind::Invalid,
        }
    }

    pub fn unsupported(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
            kind: RejectionKind::Unsupported,
        }
    }
}

/// Something said about a field of an object that is in effect otherwise.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Notice {
    pub kind: NoticeKind,
    pub field: String,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum NoticeKind {
    /// The field is stored and has no effect in this version.
    NotSupported,
    /// A reference that leads nowhere now; it heals when the other object comes.
    Unresolved,
    /// Probably not what was meant.
    Warning,
    /// A Secret is there, but of no use for what it is named for.
    BadSecret,
    /// Another object has a better claim to the same thing.
    Conflict,
    /// As the mesh stands, no proxy acts on it.
    Unserved,
    /// No proxy acts on it, since the waypoint that labels name does not exist.
    NoWaypoint,
    /// No proxy acts on it, since the waypoint that labels name does not take it.
    Refused,
    /// Nothing of this name is known, and nothing is done about it.
    UnknownField,
    /// A reference that the owner of the other namespace has not allowed.
    NotPermitted,
}

impl Notice {
    pub fn not_supported(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: NoticeKind::NotSupported,
            field: field.into(),
            message: message.into(),
        }
    }

    pub fn unresolved(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: NoticeKind::Unresolved,
            field: field.into(),
            message: message.into(),
        }
    }

    pub fn bad_secret(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: NoticeKind::BadSecret,
            field: field.into(),
            message: message.into(),
        }
    }

    pub fn warning(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: NoticeKind::Warning,
            field: field.into(),
            message: message.into(),
        }
    }

    pub fn conflict(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: NoticeKind::Conflict,
            field: field.into(),
            message: message.into(),
        }
    }

    pub fn unserved(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: NoticeKind::Unserved,
            field: field.into(),
            message: message.into(),
        }
    }

    pub fn unknown_field(field: impl Into<String>) -> Self {
        Self {
            kind: NoticeKind::UnknownField,
            field: field.into(),
            message: "unknown field; it has no effect".to_owned(),
        }
    }

    pub fn not_permitted(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind: NoticeKind::NotPermitted,
            field: field.into(),
            message: message.into(),
        }
    }
}

/// The content of an object that was accepted.
#[derive(Clone, Debug)]
pub enum Object {
    Namespace,
    Pod(Arc<kube::Pod>),
    Service(Arc<kube::Service>),
    EndpointSlice(Arc<kube::EndpointSlice>),
    ServiceAccount,
    ConfigMap(Arc<kube::ConfigMap>),
    /// The ConfigMap with the mesh's settings; which one that is, the store knows.
    MeshSettings(Arc<mesh_config::Written>),
    Secret(Arc<Secret>),
    KubeGateway(Arc<gateway_api::Gateway>),
    GatewayClass(Arc<gateway_api::GatewayClass>),
    HttpRoute(Arc<HttpRoute>),
    /// TLSRoute or TCPRoute.
    StreamRoute(Arc<StreamRoute>),
    ReferenceGrant(Arc<gateway_api::ReferenceGrant>),
    VirtualService(Arc<VirtualService>),
    DestinationRule(Arc<DestinationRule>),
    Gateway(Arc<Gateway>),
    ServiceEntry(Arc<ServiceEntry>),
    PeerAuthentication(Arc<PeerAuthentication>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// A kind that the mesh has no interest in, such as Deployment.
    Irrelevant,
}

/// An object, its metadata, and what was found when it was parsed.
#[derive(Clone, Debug)]
pub struct ParsedObject {
    /// Without its value where there are many of the kind: see [`is_numerous`].
    pub raw: Arc<RawObject>,
    pub meta: Arc<Meta>,
    pub outcome: Result<Object, Rejection>,
    pub notices: Vec<Notice>,
}

pub const NETWORKING: &str = "networking.istio.io";
pub const SECURITY: &str = "security.istio.io";
const ISTIO_GROUPS: [&str; 4] = [NETWORKING, SECURITY, "telemetry.istio.io", "extensions.istio.io"];
pub const GATEWAY_API: &str = "gateway.networking.k8s.io";

impl ParsedObject {
    /// Parses an object; never fails as a whole, since the failure is part of the result.
    pub fn parse(raw: Arc<RawObject>) -> Self {
        let mut notices = Vec::new();
        let (meta, outcome) = match Meta::read(&raw) {
            Ok(meta) => {
                let outcome = parse_kind(&raw, &meta, &mut notices);
                (meta, outcome)
            }
            Err(rejection) => (Meta::of_key(&raw.key), Err(rejection)),
        };
        Self {
            raw: if is_numerous(&raw.key) {
                without_value(&raw)
            } else {
                raw
            },
            meta: Arc::new(meta),
            outcome,
            notices,
        }
    }

    /// Whether it says the same as the other.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let outcome = match (&self.outcome, &other.outcome) {
            (Ok(Object::Pod(a)), Ok(Object::Pod(b))) => a == b,
            (Ok(Object::EndpointSlice(a)), Ok(Object::EndpointSlice(b))) => a == b,
            (Err(a), Err(b)) => a == b,
            _ => !is_numerous(&self.raw.key),
        };
        outcome && self.meta == other.meta && self.raw == other.raw
    }

    /// Whether a status is due: for Istio's and the Gateway API's kinds, and for what is wrong.
    pub fn has_status(&self) -> bool {
        is_mesh_kind(&self.raw.key) || self.outcome.is_err()
    }
}

/// Whether the kind belongs to the mesh's own APIs.
pub fn is_mesh_kind(key: &ObjectKey) -> bool {
    ISTIO_GROUPS.contains(&&*key.group) || &*key.group == GATEWAY_API
}

/// Whether there are so many of the kind that only what was parsed of them is kept: as JSON, a pod takes ten times as
/// much.
fn is_numerous(key: &ObjectKey) -> bool {
    matches!(
        (&*key.group, &*key.kind),
        ("", "Pod") | ("discovery.k8s.io", "EndpointSlice")
    )
}

fn without_value(raw: &RawObject) -> Arc<RawObject> {
    Arc::new(RawObject {
        key: raw.key.clone(),
        api_version: raw.api_version.clone(),
        value: Value::Null,
    })
}

fn parse_kind(raw: &RawObject, meta: &Meta, notices: &mut Vec<Notice>) -> Result<Object, Rejection> {
    match (&*raw.key.group, &*raw.key.kind) {
        ("", "Namespace") => Ok(Object::Namespace),
        ("", "ServiceAccount") => Ok(Object::ServiceAccount),
        ("", "Pod") => Ok(Object::Pod(Arc::new(kube::Pod::read(raw)?))),
        ("", "Service") => Ok(Object::Service(Arc::new(kube::Service::read(raw)?))),
        ("", "Secret") => Ok(Object::Secret(Arc::new(Secret::read(raw)))),
        ("", "ConfigMap") => Ok(Object::ConfigMap(Arc::new(kube::ConfigMap::read(raw)?))),
        ("discovery.k8s.io", "EndpointSlice") => {
            Ok(Object::EndpointSlice(Arc::new(kube::EndpointSlice::read(raw)?)))
        }
        (GATEWAY_API, kind) => gateway_api_kind(kind, raw, meta),
        (NETWORKING, "VirtualService") => VirtualService::parse(&read::strict(raw)?, meta, notices)
            .map(|v| Object::VirtualService(Arc::new(v))),
        (NETWORKING, "DestinationRule") => DestinationRule::parse(&read::strict(raw)?, meta, notices)
            .map(|v| Object::DestinationRule(Arc::new(v))),
        (NETWORKING, "Gateway") => {
            Gateway::parse(read::strict(raw)?, meta, notices).map(|v| Object::Gateway(Arc::new(v)))
        }
        (NETWORKING, "ServiceEntry") => {
            let bound = bound_waypoint(&raw.value);
            ServiceEntry::parse(&read::strict(raw)?, meta, bound, notices)
                .map(|v| Object::ServiceEntry(Arc::new(v)))
        }
        (SECURITY, "PeerAuthentication") => PeerAuthentication::parse(read::strict(raw)?, meta, notices)
            .map(|v| Object::PeerAuthentication(Arc::new(v))),
        (SECURITY, "AuthorizationPolicy") => AuthorizationPolicy::parse(read::strict(raw)?, meta, notices)
            .map(|v| Object::AuthorizationPolicy(Arc::new(v))),
        (_, kind) if is_mesh_kind(&raw.key) => Err(unsupported_kind(kind)),
        _ => Ok(Object::Irrelevant),
    }
}

fn gateway_api_kind(kind: &str, raw: &RawObject, meta: &Meta) -> Result<Object, Rejection> {
    match kind {
        "Gateway" => Ok(Object::KubeGateway(Arc::new(gateway_api::Gateway::read(raw)?))),
        "GatewayClass" => Ok(Object::GatewayClass(Arc::new(gateway_api::GatewayClass::read(
            raw,
        )?))),
        "HTTPRoute" => HttpRoute::parse(&read::strict(raw)?, meta).map(|r| Object::HttpRoute(Arc::new(r))),
        "TLSRoute" => {
            StreamRoute::parse_tls(&read::strict(raw)?, meta).map(|r| Object::StreamRoute(Arc::new(r)))
        }
        "TCPRoute" => {
            StreamRoute::parse_tcp(&read::strict(raw)?, meta).map(|r| Object::StreamRoute(Arc::new(r)))
        }
        "ReferenceGrant" => Ok(Object::ReferenceGrant(Arc::new(read::strict(raw)?))),
        _ => Err(unsupported_kind(kind)),
    }
}

fn unsupported_kind(kind: &str) -> Rejection {
    let reason = match kind {
        "WorkloadEntry" | "WorkloadGroup" => format!(
            "{kind} is not supported by this version, and no ServiceEntry selects it; nothing of it is in effect. Write the addresses as endpoints of a ServiceEntry"
        ),
        _ => format!("kind {kind} is not supported by this version; nothing of it is in effect"),
    };
    Rejection::unsupported("kind", reason)
}
