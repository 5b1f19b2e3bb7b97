//! Services: their addresses, their EndpointSlices, and the rules and names made of both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::super::network::{self, Family, NodeNumber};
use super::super::node::dns::{Record, Zone};
use super::super::proxy::{ExternalSource, Protocol, VirtualPort};
use super::super::spec::{EndpointSlice, Port, ServicePort, ServiceSpec, selects};
use super::super::store::{self, Key};
use super::cluster::Cluster;
use super::pod::Pod;

const SLICE_GROUP: &str = "discovery.k8s.io";
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const DOMAIN: &str = "svc.cluster.local";

/// A Service with what is known of its endpoints.
pub(super) struct ServiceView {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) spec: ServiceSpec,
    pub(super) balancers: Vec<IpAddr>,
    slices: Vec<EndpointSlice>,
}

impl Cluster {
    /// Writes one slice per Service, family and set of port numbers.
    pub(super) fn reconcile_endpoints(&mut self) {
        let mut wanted = BTreeMap::new();
        for (key, value) in self.store.kind("Service") {
            let Some(spec) = store::part::<ServiceSpec>(value, "/spec") else {
                continue;
            };
            if !spec.selector.is_empty() {
                wanted.extend(self.slices(key, value, &spec));
            }
        }
        let managed = self.store.kind("EndpointSlice");
        let managed = managed.filter(|(_, value)| value["metadata"]["labels"][MANAGED_LABEL] == MANAGER);
        let stale: Vec<Key> = managed
            .map(|(key, _)| key.clone())
            .filter(|key| !wanted.contains_key(key))
            .collect();
        for key in stale {
            self.remove_object(&key);
        }
        for (key, value) in wanted {
            self.put_object(&key, value);
        }
    }

    fn slices(&self, key: &Key, service: &Value, spec: &ServiceSpec) -> Vec<(Key, Value)> {
        let mut slices = Vec::new();
        let members = self.pods.values().filter(|pod| {
            pod.namespace == key.namespace
                && selects(&spec.selector, &pod.labels)
                && pod.phase() != "Succeeded"
        });
        let members: Vec<&Pod> = members.filter(|pod| !pod.is_stopping()).collect();
        let names = spec.ip_families.iter();
        for family in names.filter_map(|name| {
            self.config
                .families
                .list()
                .iter()
                .find(|f| f.kubernetes_name() == name)
        }) {
            // Pods that number a named port differently need slices of their own.
            let mut groups: BTreeMap<Vec<Option<u16>>, Vec<Value>> = BTreeMap::new();
            for pod in &members {
                let numbers = spec.ports.iter().map(|port| target_number(port, pod)).collect();
                groups.entry(numbers).or_default().extend(endpoint(
                    pod,
                    *family,
                    spec.publish_not_ready_addresses,
                ));
            }
            for (index, (numbers, endpoints)) in groups.into_iter().enumerate() {
                let suffix = if *family == Family::V4 { "ipv4" } else { "ipv6" };
                let name = format!("{}-{suffix}-{index}", key.name);
                let slice = slice_object(key, service, spec, *family, &numbers, &endpoints);
                slices.push((
                    Key::new("EndpointSlice", SLICE_GROUP, &key.namespace, &name),
                    slice,
                ));
            }
        }
        slices
    }

    pub(super) fn services(&self) -> Vec<ServiceView> {
        let mut slices: BTreeMap<(String, String), Vec<EndpointSlice>> = BTreeMap::new();
        for (key, value) in self.store.kind("EndpointSlice") {
            let service = value["metadata"]["labels"][SERVICE_LABEL]
                .as_str()
                .unwrap_or_default();
            if let Ok(slice) = serde_json::from_value(value.clone()) {
                slices
                    .entry((key.namespace.clone(), service.to_owned()))
                    .or_default()
                    .push(slice);
            }
        }
        let view = |(key, value): (&Key, &Value)| {
            Some(ServiceView {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                spec: store::part(value, "/spec")?,
                balancers: balancers_of(value),
                slices: slices
                    .remove(&(key.namespace.clone(), key.name.clone()))
                    .unwrap_or_default(),
            })
        };
        self.store.kind("Service").filter_map(view).collect()
    }

    /// The names that the cluster's DNS knows.
    pub(super) fn zone(&self, services: &[ServiceView]) -> Zone {
        let mut zone = Zone::default();
        for service in services {
            let name = format!("{}.{}.{DOMAIN}", service.name, service.namespace);
            let vips = service.vips();
            let headless = service.spec.cluster_ip.as_deref() == Some("None");
            let addresses = if headless { service.ready_addresses() } else { vips };
            let alias = service
                .spec
                .external_name
                .as_ref()
                .map(|name| name.trim_end_matches('.').to_lowercase());
            zone.records.insert(name.clone(), Record { addresses, alias });
            if headless {
                let members = self
                    .pods
                    .values()
                    .filter(|pod| pod.namespace == service.namespace);
                let members = members.filter(|pod| pod.spec.subdomain.as_deref() == Some(&service.name));
                for (pod, hostname) in members.filter_map(|pod| Some((pod, pod.spec.hostname.as_ref()?))) {
                    let addresses = pod.addresses.clone();
                    zone.records.insert(
                        format!("{hostname}.{name}"),
                        Record {
                            addresses,
                            alias: None,
                        },
                    );
                }
            }
        }
        zone
    }
}

impl ServiceView {
    pub(super) fn vips(&self) -> Vec<IpAddr> {
        given_vips(&self.spec).unwrap_or_default()
    }

    pub(super) fn ready_addresses(&self) -> Vec<IpAddr> {
        let endpoints = self.slices.iter().flat_map(|slice| &slice.endpoints);
        let ready = endpoints.filter(|endpoint| endpoint.conditions.ready != Some(false));
        let addresses: BTreeSet<IpAddr> = ready
            .flat_map(|endpoint| endpoint.addresses.iter().copied())
            .collect();
        addresses.into_iter().collect()
    }

    /// The ports of one family, as a node translates them.
    pub(super) fn virtual_ports(&self, family: Family, node: NodeNumber) -> Vec<VirtualPort> {
        let of_family = |ips: Vec<IpAddr>| -> Vec<IpAddr> {
            ips.into_iter().filter(|ip| Family::of(*ip) == family).collect()
        };
        let vips = of_family(self.vips());
        if vips.is_empty() {
            return Vec::new();
        }
        let balancers = of_family(self.balancers.clone());
        let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        let (inside, outside) = (
            local(&self.spec.internal_traffic_policy),
            local(&self.spec.external_traffic_policy),
        );
        let port = |port: &ServicePort| VirtualPort {
            protocol: Protocol::parse(&port.protocol),
            port: port.port,
            vips: vips.clone(),
            balancers: balancers.clone(),
            node_port: port.node_port,
            internal: self.endpoints(port, family, inside.then_some(node)),
            external: self.endpoints(port, family, outside.then_some(node)),
            source: if outside {
                ExternalSource::Kept
            } else {
                ExternalSource::Masqueraded
            },
        };
        self.spec.ports.iter().map(port).collect()
    }

    /// Ready endpoints of a port; of one node only where a policy says so.
    fn endpoints(&self, port: &ServicePort, family: Family, only: Option<NodeNumber>) -> Vec<SocketAddr> {
        let mut endpoints = BTreeSet::new();
        let only = only.map(NodeNumber::name);
        for slice in &self.slices {
            let named = |other: &&super::super::spec::EndpointPort| {
                other.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                    && other.protocol == port.protocol
            };
            let Some(number) = slice.ports.iter().find(named).and_then(|port| port.port) else {
                continue;
            };
            for endpoint in slice
                .endpoints
                .iter()
                .filter(|endpoint| endpoint.conditions.ready != Some(false))
            {
                if only.is_none() || endpoint.node_name == only {
                    let ips = endpoint.addresses.iter().filter(|ip| Family::of(**ip) == family);
                    endpoints.extend(ips.map(|ip| SocketAddr::new(*ip, number)));
                }
            }
        }
        endpoints.into_iter().collect()
    }
}

pub(super) fn given_vips(spec: &ServiceSpec) -> Result<Vec<IpAddr>, String> {
    let all = spec.cluster_ips.iter().chain(&spec.cluster_ip);
    let given = all.filter(|ip| !ip.is_empty() && *ip != "None");
    let mut vips = Vec::new();
    for text in given {
        let vip = text
            .parse()
            .map_err(|_| format!("spec.clusterIP: {text:?} is no IP address"))?;
        if !vips.contains(&vip) {
            vips.push(vip);
        }
    }
    Ok(vips)
}

pub(super) fn balancers_of(service: &Value) -> Vec<IpAddr> {
    let ingress = service
        .pointer("/status/loadBalancer/ingress")
        .and_then(Value::as_array);
    let ips = ingress
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["ip"].as_str());
    ips.filter_map(|ip| ip.parse().ok()).collect()
}

fn target_number(port: &ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target_port {
        None | Some(Port::Number(0)) => Some(port.port),
        Some(target) => pod.spec.port_number(target),
    }
}

fn endpoint(pod: &Pod, family: Family, publish_not_ready: bool) -> Option<Value> {
    let address = pod.addresses.iter().find(|ip| Family::of(**ip) == family)?;
    let ready = pod.ready();
    Some(json!({
        "addresses": [address],
        "conditions": { "ready": ready || publish_not_ready, "serving": ready, "terminating": false },
        "nodeName": pod.node.name(),
        "targetRef": { "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid },
    }))
}

fn slice_object(
    key: &Key,
    service: &Value,
    spec: &ServiceSpec,
    family: Family,
    numbers: &[Option<u16>],
    endpoints: &[Value],
) -> Value {
    let ports = spec.ports.iter().zip(numbers).filter_map(|(port, number)| {
        let mut value = json!({ "name": port.name.clone().unwrap_or_default(), "protocol": port.protocol, "port": (*number)? });
        if let Some(protocol) = &port.app_protocol {
            value["appProtocol"] = json!(protocol);
        }
        Some(value)
    });
    let owner = json!({
        "apiVersion": "v1", "kind": "Service", "name": key.name, "uid": service["metadata"]["uid"], "controller": true,
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "labels": { SERVICE_LABEL: key.name, MANAGED_LABEL: MANAGER },
            "ownerReferences": [owner],
        },
        "addressType": family.kubernetes_name(),
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": endpoints,
    })
}

/// The DNS Service and its endpoints: every node's own server.
pub(super) fn dns_service(families: network::Families, nodes: &[NodeNumber]) -> Vec<Value> {
    let family_names: Vec<&str> = families
        .list()
        .iter()
        .map(|family| family.kubernetes_name())
        .collect();
    let vips: Vec<IpAddr> = families
        .list()
        .iter()
        .map(|family| network::dns_address(*family))
        .collect();
    let port = |name: &str, protocol: &str| json!({ "name": name, "port": 53, "protocol": protocol });
    let ports = [port("dns", "UDP"), port("dns-tcp", "TCP")];
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "kube-dns", "namespace": "kube-system", "labels": { "k8s-app": "kube-dns" } },
        "spec": {
            "clusterIP": vips[0], "clusterIPs": vips, "ipFamilies": family_names, "ports": ports,
            "ipFamilyPolicy": "PreferDualStack", "internalTrafficPolicy": "Local",
        },
    })];
    for family in families.list() {
        let endpoint =
            |node: &NodeNumber| json!({ "addresses": [node.address(*family)], "nodeName": node.name() });
        objects.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("kube-dns-{}", family.kubernetes_name().to_lowercase()), "namespace": "kube-system",
                "labels": { SERVICE_LABEL: "kube-dns" },
            },
            "addressType": family.kubernetes_name(),
            "ports": ports,
            "endpoints": nodes.iter().map(endpoint).collect::<Vec<_>>(),
        }));
    }
    objects
}
