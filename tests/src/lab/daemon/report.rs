//! The lab's status, made anew after every step.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::super::layout::netns_path;
use super::super::spec::{GATEWAY_NAME, Labels, selects};
use super::super::status::{GatewayStatus, NodeStatus, PodStatus, PortStatus, ServiceStatus, Status};
use super::super::store::{self, Key};
use super::cluster::Cluster;
use super::pod::Pod;
use super::services::ServiceView;

impl Cluster {
    pub(super) fn report(&self, generation: u64) -> Status {
        let services = self.services();
        let nodes: Vec<NodeStatus> = self
            .nodes
            .iter()
            .map(|node| self.node_status(node.name()))
            .collect();
        let pods: Vec<PodStatus> = self.pods.values().map(pod_status).collect();
        let not_ready = self.not_ready();
        Status {
            name: self.config.name.to_string(),
            generation,
            ready: not_ready.is_empty(),
            not_ready,
            nodes,
            pods,
            gateways: self.gateways(&services),
            refused: self.verdicts.refused(),
            services: services.iter().map(service_status).collect(),
        }
    }

    fn node_status(&self, name: String) -> NodeStatus {
        let number = self.nodes.iter().find(|node| node.name() == name);
        let families = self.config.families.list();
        let addresses = number.map(|node| families.iter().map(|family| node.address(*family)).collect());
        let link = number.and_then(|node| self.links.get(node));
        NodeStatus {
            netns: netns_path(&self.layout().netns(&name)).display().to_string(),
            addresses: addresses.unwrap_or_default(),
            ready: link.is_some_and(super::nodes::NodeLink::ready),
            name,
        }
    }

    fn not_ready(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self.complaints.iter().cloned().collect();
        for (node, link) in &self.links {
            if !link.ready() {
                let trouble = if link.trouble.is_empty() {
                    "its helper is starting"
                } else {
                    &link.trouble
                };
                reasons.push(format!("{}: {trouble}", node.name()));
            }
        }
        if self.config.mesh && !self.has_root {
            reasons.push("the control plane has written no root certificate yet".to_owned());
        }
        if self.config.mesh {
            reasons.extend(self.verdicts.pending(&self.store));
        }
        for pod in self.pods.values().filter(|pod| pod.phase() != "Succeeded") {
            let reason = pod.reason();
            if !reason.is_empty() || !pod.ready() {
                reasons.push(format!("pod {}/{}: {reason}", pod.namespace, pod.name));
            }
        }
        reasons
    }

    /// Gateway objects with the addresses of the Services before their pods.
    fn gateways(&self, services: &[ServiceView]) -> Vec<GatewayStatus> {
        let gateways = self.store.kind("Gateway").map(|(key, value)| GatewayStatus {
            kind: format!("Gateway.{}", key.group),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            addresses: self.gateway_addresses(key, value, services),
        });
        gateways.collect()
    }

    fn gateway_addresses(&self, key: &Key, gateway: &Value, services: &[ServiceView]) -> Vec<IpAddr> {
        let fronts: Box<dyn Fn(&ServiceView) -> bool + '_> = if key.group == "gateway.networking.k8s.io" {
            Box::new(|service| {
                let selector = &service.spec.selector;
                service.namespace == key.namespace && selector.get(GATEWAY_NAME) == Some(&key.name)
            })
        } else {
            let selector: Labels = store::part(gateway, "/spec/selector").unwrap_or_default();
            let pods: Vec<&Pod> = self
                .pods
                .values()
                .filter(|pod| selects(&selector, &pod.labels))
                .collect();
            Box::new(move |service| {
                let fronts = |pod: &&Pod| {
                    pod.namespace == service.namespace && selects(&service.spec.selector, &pod.labels)
                };
                pods.iter().any(fronts)
            })
        };
        let addresses = services
            .iter()
            .filter(|service| fronts(service))
            .flat_map(reachable);
        addresses.collect::<BTreeSet<_>>().into_iter().collect()
    }
}

/// From outside if there is a way, else from inside.
fn reachable(service: &ServiceView) -> Vec<IpAddr> {
    if service.balancers.is_empty() {
        service.vips()
    } else {
        service.balancers.clone()
    }
}

fn pod_status(pod: &Pod) -> PodStatus {
    PodStatus {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        workload: pod.workload().to_owned(),
        labels: pod.labels.clone(),
        node: pod.node.name(),
        ip: pod.addresses.first().copied(),
        ips: pod.addresses.clone(),
        netns: pod.sandbox.netns_path().display().to_string(),
        cgroup: pod.sandbox.cgroup.display().to_string(),
        phase: if pod.is_stopping() {
            "Terminating".to_owned()
        } else {
            pod.phase().to_owned()
        },
        ready: pod.ready(),
        enrolled: pod.enrolment.enrolled,
        wanted: pod.enrolment.wanted,
        restarts: pod.restarts(),
        reason: pod.reason(),
        pids: pod.pids(),
    }
}

fn service_status(service: &ServiceView) -> ServiceStatus {
    let ports = service.spec.ports.iter().map(|port| PortStatus {
        name: port.name.clone().unwrap_or_default(),
        port: port.port,
        protocol: port.protocol.clone(),
        node_port: port.node_port,
    });
    ServiceStatus {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        r#type: service
            .spec
            .r#type
            .clone()
            .unwrap_or_else(|| "ClusterIP".to_owned()),
        vips: service.vips(),
        addresses: service.balancers.clone(),
        ports: ports.collect(),
        ready_endpoints: service.ready_addresses().len(),
        endpoints: service.ready_addresses(),
    }
}
