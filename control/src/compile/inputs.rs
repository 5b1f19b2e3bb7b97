//! The objects in effect by kind, in the order in which they win.

mod left_out;
mod rules;
mod table;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::mesh_config::Scope;
use crate::model::destination_rule::DestinationRule;
use crate::model::gateway::Gateway;
use crate::model::http_route::HttpRoute;
use crate::model::policy::{AuthorizationPolicy, PeerAuthentication};
use crate::model::secret::Secret;
use crate::model::service_entry::ServiceEntry;
use crate::model::stream_route::{RouteKind, StreamRoute};
use crate::model::virtual_service::{GatewayRef, VirtualService};
use crate::objects::gateway_api::{self, GatewayClass, ReferenceGrant};
use crate::objects::kube::{ConfigMap, EndpointSlice, Pod, Service};
use crate::objects::{Meta, Object, ObjectKey, ParsedObject};
use crate::store::{Change, Changes, Store};

use left_out::LeftOut;
pub use rules::{Rules, Ruling};
pub use table::{Entry, Table, age};

pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// Istio's kinds are sorted oldest first, the others by namespace and name. Clones share everything.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// All of them; of the other kinds only what is in namespaces of the scope.
    pub namespaces: imbl::OrdMap<Arc<str>, Arc<Meta>>,
    scope: Scope,
    /// Of the other namespaces, for their addresses alone.
    pub left_out: LeftOut,
    pub pods: Table<Pod>,
    pub services: Table<Service>,
    /// Address, namespace and name of Services.
    service_addresses: imbl::OrdSet<(IpAddr, Arc<str>, Arc<str>)>,
    pub endpoint_slices: Table<EndpointSlice>,
    pub config_maps: Table<ConfigMap>,
    /// By namespace and name.
    pub secrets: imbl::OrdMap<(Arc<str>, Arc<str>), Arc<Secret>>,
    /// Namespaces whose Secrets are wanted and cannot be read, and why.
    pub unreadable_secrets: BTreeMap<Arc<str>, String>,
    pub kube_gateways: Table<gateway_api::Gateway>,
    pub gateway_classes: Table<GatewayClass>,
    pub http_routes: Table<HttpRoute>,
    pub tls_routes: Table<StreamRoute>,
    pub tcp_routes: Table<StreamRoute>,
    pub grants: Table<ReferenceGrant>,
    /// Whether the source has the kind GatewayClass.
    pub has_gateway_classes: bool,
    pub virtual_services: Rules<VirtualService>,
    pub destination_rules: Rules<DestinationRule>,
    pub gateways: Table<Gateway>,
    gateways_by_name: Table<Gateway>,
    pub service_entries: Rules<ServiceEntry>,
    pub peer_authentications: Table<PeerAuthentication>,
    pub authorization_policies: Table<AuthorizationPolicy>,
}

/// Where the Secrets of a namespace stand, in reports; the namespace follows.
pub const SECRETS_OF: &str = "secrets of ";

/// What the source calls the kind where it cannot be read.
pub const GATEWAY_CLASSES: &str = "gatewayclasses.gateway.networking.k8s.io";

static NO_LABELS: Labels = BTreeMap::new();

impl Default for Inputs {
    fn default() -> Self {
        Self {
            namespaces: imbl::OrdMap::new(),
            scope: Scope::default(),
            left_out: LeftOut::default(),
            pods: Table::by_name(),
            services: Table::by_name(),
            service_addresses: imbl::OrdSet::new(),
            endpoint_slices: Table::by_name(),
            config_maps: Table::by_name(),
            secrets: imbl::OrdMap::new(),
            unreadable_secrets: BTreeMap::new(),
            kube_gateways: Table::by_name(),
            gateway_classes: Table::by_name(),
            http_routes: Table::by_name(),
            tls_routes: Table::by_name(),
            tcp_routes: Table::by_name(),
            grants: Table::by_name(),
            has_gateway_classes: false,
            virtual_services: Rules::default(),
            destination_rules: Rules::default(),
            gateways: Table::by_age(),
            gateways_by_name: Table::by_name(),
            service_entries: Rules::default(),
            peer_authentications: Table::by_age(),
            authorization_policies: Table::by_age(),
        }
    }
}

/// Whether an object comes into effect or goes out of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Inputs {
    /// Takes over what is in effect now in place of what was before. The changes have to name the objects of namespaces
    /// that come into the scope or leave it, see [`Inputs::crossing`].
    pub fn apply(&mut self, store: &Store, changes: &Changes, scope: &Scope) {
        self.unreadable_secrets = unreadable_secrets(store);
        let (before, now) = (self.clone(), self.scoped(store, changes, scope));
        *self = now;
        for (key, was) in changes.iter().filter(|(key, _)| !is_namespace(key)) {
            if let Some(was) = was {
                self.turn_in(before.has_in_scope(&key.namespace), was, Way::Out);
            }
            if let Some(is) = store.in_effect_of(key) {
                self.turn_in(self.has_in_scope(&key.namespace), is, Way::In);
            }
        }
        // What cannot be read for a moment is there all the same.
        let readable = !store.unreadable().contains_key(GATEWAY_CLASSES);
        self.has_gateway_classes = readable || !self.gateway_classes.is_empty();
    }

    /// The namespaces and the scope as they become, and everything else as it was.
    fn scoped(&self, store: &Store, changes: &Changes, scope: &Scope) -> Self {
        let mut inputs = self.clone();
        inputs.scope = scope.clone();
        for (key, before) in changes.iter().filter(|(key, _)| is_namespace(key)) {
            if let Some(before) = before {
                inputs.turn(before, Way::Out);
            }
            if let Some(now) = store.in_effect_of(key) {
                inputs.turn(now, Way::In);
            }
        }
        inputs
    }

    /// The objects beside the changed ones whose namespaces come into the scope or leave it.
    pub fn crossing(&self, store: &Store, changes: &Changes, scope: &Scope) -> Vec<Change> {
        let unlimited = self.scope.is_everything() && scope.is_everything();
        let named = self.scope != *scope || changes.keys().any(is_namespace);
        if unlimited || !named {
            return Vec::new();
        }
        let next = self.scoped(store, changes, scope);
        let mut known: BTreeMap<&Arc<str>, bool> = BTreeMap::new();
        let mut crosses = |namespace| {
            *known
                .entry(namespace)
                .or_insert_with(|| self.has_in_scope(namespace) != next.has_in_scope(namespace))
        };
        let objects = store
            .keys()
            .filter(|key| crosses(&key.namespace) && !changes.contains(key));
        let change = |key: &ObjectKey| Change {
            key: key.clone(),
            before: store.in_effect_of(key).cloned(),
        };
        objects.map(change).collect()
    }

    /// Whether objects of the namespace are the mesh's; its labels decide where there are `discoverySelectors`.
    pub fn has_in_scope(&self, namespace: &str) -> bool {
        self.scope.includes(namespace, self.namespace_labels(namespace))
    }

    /// With an object of the Gateway API as it would be; what it replaces, where anything, goes.
    #[must_use]
    pub fn with(&self, object: &ParsedObject) -> Self {
        let mut inputs = self.clone();
        if inputs.has_in_scope(&object.meta.namespace) {
            inputs.turn(object, Way::In);
        }
        inputs
    }

    fn turn_in(&mut self, is_in_scope: bool, object: &ParsedObject, way: Way) {
        match is_in_scope {
            true => self.turn(object, way),
            false => self.left_out.turn(object, way),
        }
    }

    fn turn(&mut self, object: &ParsedObject, way: Way) {
        let meta = &object.meta;
        match &object.outcome {
            Err(_) | Ok(Object::ServiceAccount | Object::MeshSettings(_) | Object::Irrelevant) => {}
            Ok(Object::Namespace) => self.turn_namespace(meta, way),
            Ok(Object::Pod(spec)) => turn(&mut self.pods, meta, spec, way),
            Ok(Object::Service(spec)) => self.turn_service(meta, spec, way),
            Ok(Object::EndpointSlice(spec)) => turn(&mut self.endpoint_slices, meta, spec, way),
            Ok(Object::ConfigMap(spec)) => turn(&mut self.config_maps, meta, spec, way),
            Ok(Object::Secret(spec)) => self.turn_secret(meta, spec, way),
            Ok(Object::KubeGateway(spec)) => turn(&mut self.kube_gateways, meta, spec, way),
            Ok(Object::GatewayClass(spec)) => turn(&mut self.gateway_classes, meta, spec, way),
            Ok(Object::HttpRoute(spec)) => turn(&mut self.http_routes, meta, spec, way),
            Ok(Object::StreamRoute(spec)) => {
                let table = match spec.kind {
                    RouteKind::Tcp => &mut self.tcp_routes,
                    RouteKind::Tls | RouteKind::Http => &mut self.tls_routes,
                };
                turn(table, meta, spec, way);
            }
            Ok(Object::ReferenceGrant(spec)) => turn(&mut self.grants, meta, spec, way),
            Ok(Object::VirtualService(spec)) => turn_rules(&mut self.virtual_services, meta, spec, way),
            Ok(Object::DestinationRule(spec)) => turn_rules(&mut self.destination_rules, meta, spec, way),
            Ok(Object::Gateway(spec)) => {
                turn(&mut self.gateways, meta, spec, way);
                turn(&mut self.gateways_by_name, meta, spec, way);
            }
            Ok(Object::ServiceEntry(spec)) => turn_rules(&mut self.service_entries, meta, spec, way),
            Ok(Object::PeerAuthentication(spec)) => turn(&mut self.peer_authentications, meta, spec, way),
            Ok(Object::AuthorizationPolicy(spec)) => turn(&mut self.authorization_policies, meta, spec, way),
        }
    }

    fn turn_service(&mut self, meta: &Arc<Meta>, spec: &Arc<Service>, way: Way) {
        for ip in spec.vips() {
            let place = (ip.to_canonical(), meta.namespace.clone(), meta.name.clone());
            match way {
                Way::In => drop(self.service_addresses.insert(place)),
                Way::Out => drop(self.service_addresses.remove(&place)),
            }
        }
        turn(&mut self.services, meta, spec, way);
    }

    fn turn_secret(&mut self, meta: &Arc<Meta>, spec: &Arc<Secret>, way: Way) {
        let key = (meta.namespace.clone(), meta.name.clone());
        match way {
            Way::In => drop(self.secrets.insert(key, spec.clone())),
            Way::Out => drop(self.secrets.remove(&key)),
        }
    }

    fn turn_namespace(&mut self, meta: &Arc<Meta>, way: Way) {
        match way {
            Way::In => drop(self.namespaces.insert(meta.name.clone(), meta.clone())),
            Way::Out => drop(self.namespaces.remove(&meta.name)),
        }
    }

    /// The Gateway that a VirtualService names; none for the mesh.
    pub fn gateway_of(&self, reference: &GatewayRef) -> Option<&Entry<Gateway>> {
        match reference {
            GatewayRef::Mesh => None,
            GatewayRef::Gateway { namespace, name } => self.gateways_by_name.get(namespace, name),
        }
    }

    /// Namespace and name of a Service that has the address.
    pub fn service_at(&self, ip: IpAddr) -> Option<(&Arc<str>, &Arc<str>)> {
        let first = (ip.to_canonical(), Arc::default(), Arc::default());
        let (at, namespace, name) = self.service_addresses.range(first..).next()?;
        (*at == ip.to_canonical()).then_some((namespace, name))
    }

    pub fn secret(&self, namespace: &str, name: &str) -> Option<&Secret> {
        let key = (Arc::from(namespace), Arc::from(name));
        self.secrets.get(&key).map(|secret| &**secret)
    }

    pub fn namespace_labels(&self, namespace: &str) -> &Labels {
        self.namespaces
            .get(namespace)
            .map_or(&NO_LABELS, |meta| &meta.labels)
    }
}

fn is_namespace(key: &ObjectKey) -> bool {
    key.group.is_empty() && &*key.kind == "Namespace"
}

fn unreadable_secrets(store: &Store) -> BTreeMap<Arc<str>, String> {
    let problems = store.unreadable().iter();
    problems
        .filter_map(|(origin, problems)| {
            let namespace = origin.strip_prefix(SECRETS_OF)?;
            Some((namespace.into(), problems.join("; ")))
        })
        .collect()
}

fn turn<T>(table: &mut Table<T>, meta: &Arc<Meta>, spec: &Arc<T>, way: Way) {
    match way {
        Way::In => table.insert(Entry {
            meta: meta.clone(),
            spec: spec.clone(),
        }),
        Way::Out => table.remove(meta),
    }
}

fn turn_rules<T: Ruling>(rules: &mut Rules<T>, meta: &Arc<Meta>, spec: &Arc<T>, way: Way) {
    match way {
        Way::In => rules.insert(Entry {
            meta: meta.clone(),
            spec: spec.clone(),
        }),
        Way::Out => rules.remove(meta, spec),
    }
}

/// Whether every label of the selector is among the labels.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
