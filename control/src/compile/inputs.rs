//! The objects in effect by kind, in the order in which they win.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::destination_rule::DestinationRule;
use crate::model::gateway::Gateway;
use crate::model::http_route::HttpRoute;
use crate::model::policy::{AuthorizationPolicy, PeerAuthentication};
use crate::model::virtual_service::VirtualService;
use crate::objects::gateway_api::{self, GatewayClass, ReferenceGrant};
use crate::objects::kube::{ConfigMap, EndpointSlice, Pod, Service};
use crate::objects::{Meta, Object, ParsedObject};
use crate::store::Store;

pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// A parsed object and its metadata.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    pub meta: Arc<Meta>,
    pub spec: Arc<T>,
}

/// Istio's kinds are sorted oldest first, the others by namespace and name.
#[derive(Debug, Default)]
pub struct Inputs {
    pub namespaces: BTreeMap<Arc<str>, Arc<Meta>>,
    pub pods: Vec<Entry<Pod>>,
    pub services: Vec<Entry<Service>>,
    pub endpoint_slices: Vec<Entry<EndpointSlice>>,
    pub config_maps: Vec<Entry<ConfigMap>>,
    pub kube_gateways: Vec<Entry<gateway_api::Gateway>>,
    pub gateway_classes: Vec<Entry<GatewayClass>>,
    pub http_routes: Vec<Entry<HttpRoute>>,
    pub grants: Vec<Entry<ReferenceGrant>>,
    /// Whether the source has the kind GatewayClass.
    pub has_gateway_classes: bool,
    pub virtual_services: Vec<Entry<VirtualService>>,
    pub destination_rules: Vec<Entry<DestinationRule>>,
    pub gateways: Vec<Entry<Gateway>>,
    pub peer_authentications: Vec<Entry<PeerAuthentication>>,
    pub authorization_policies: Vec<Entry<AuthorizationPolicy>>,
}

/// What the source calls the kind where it cannot be read.
const GATEWAY_CLASSES: &str = "gatewayclasses.gateway.networking.k8s.io";

static NO_LABELS: Labels = BTreeMap::new();

impl Inputs {
    pub fn of(store: &Store) -> Self {
        let mut inputs = Self::default();
        for object in store.in_effect() {
            inputs.add(object);
        }
        // What cannot be read for a moment is there all the same.
        let readable = !store.unreadable().contains_key(GATEWAY_CLASSES);
        inputs.has_gateway_classes = readable || !inputs.gateway_classes.is_empty();
        by_age(&mut inputs.virtual_services);
        by_age(&mut inputs.destination_rules);
        by_age(&mut inputs.gateways);
        by_age(&mut inputs.peer_authentications);
        by_age(&mut inputs.authorization_policies);
        inputs
    }

    fn add(&mut self, object: &ParsedObject) {
        let meta = &object.meta;
        match &object.outcome {
            Err(_) | Ok(Object::ServiceAccount | Object::Irrelevant) => {}
            Ok(Object::Namespace) => drop(self.namespaces.insert(meta.name.clone(), meta.clone())),
            Ok(Object::Pod(spec)) => push(&mut self.pods, meta, spec),
            Ok(Object::Service(spec)) => push(&mut self.services, meta, spec),
            Ok(Object::EndpointSlice(spec)) => push(&mut self.endpoint_slices, meta, spec),
            Ok(Object::ConfigMap(spec)) => push(&mut self.config_maps, meta, spec),
            Ok(Object::KubeGateway(spec)) => push(&mut self.kube_gateways, meta, spec),
            Ok(Object::GatewayClass(spec)) => push(&mut self.gateway_classes, meta, spec),
            Ok(Object::HttpRoute(spec)) => push(&mut self.http_routes, meta, spec),
            Ok(Object::ReferenceGrant(spec)) => push(&mut self.grants, meta, spec),
            Ok(Object::VirtualService(spec)) => push(&mut self.virtual_services, meta, spec),
            Ok(Object::DestinationRule(spec)) => push(&mut self.destination_rules, meta, spec),
            Ok(Object::Gateway(spec)) => push(&mut self.gateways, meta, spec),
            Ok(Object::PeerAuthentication(spec)) => push(&mut self.peer_authentications, meta, spec),
            Ok(Object::AuthorizationPolicy(spec)) => push(&mut self.authorization_policies, meta, spec),
        }
    }

    pub fn namespace_labels(&self, namespace: &str) -> &Labels {
        self.namespaces
            .get(namespace)
            .map_or(&NO_LABELS, |meta| &meta.labels)
    }
}

fn push<T>(list: &mut Vec<Entry<T>>, meta: &Arc<Meta>, spec: &Arc<T>) {
    list.push(Entry {
        meta: meta.clone(),
        spec: spec.clone(),
    });
}

fn by_age<T>(list: &mut [Entry<T>]) {
    list.sort_by(|a, b| a.meta.age_order().cmp(&b.meta.age_order()));
}

/// Whether every label of the selector is among the labels.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
