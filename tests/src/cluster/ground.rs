//! What a demo or a suite stands on: a cluster made for it, or somebody's own, which is asked for less.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use thiserror::Error;

use super::foreign::{Access, Foreign, ForeignError, Terms, Wanted};
use super::kubectl::{Kubectl, KubectlError};
use super::layout::{Layout, Member};
use super::mesh::{Mesh, MeshError};
use super::tunnel::Tunnel;
use super::{Cluster, ClusterError, ClusterOptions};
use crate::demo::namespace::Namespace;
use crate::interrupt;

/// By which a Gateway's own Service gets its type.
const SERVICE_TYPE: &str = "networking.istio.io/service-type";

#[derive(Debug)]
pub enum Ground {
    Made(Cluster),
    Foreign(Foreign),
}

#[derive(Debug, Error)]
pub enum GroundError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Foreign(#[from] ForeignError),
    #[error(transparent)]
    Mesh(#[from] MeshError),
    #[error(transparent)]
    Kubectl(#[from] KubectlError),
    #[error("no manifests: {0}")]
    Manifests(#[from] serde_saphyr::Error),
    #[error("Service {0} has no port of the nodes, or {1:?} is none of them")]
    NoWay(String, String),
}

/// Where a Service is reached from [`Ground::outside`], for as long as this is held.
#[derive(Debug)]
pub struct Way {
    pub address: SocketAddr,
    _tunnel: Option<Tunnel>,
}

impl Ground {
    /// `tell` hears of each step.
    pub fn make(options: &ClusterOptions, tell: &dyn Fn(&str)) -> Result<Self, GroundError> {
        Ok(Self::Made(Cluster::up(options, tell)?))
    }

    /// The cluster of KUBECONFIG, with images and namespaces on it.
    pub fn attach(
        terms: &Terms,
        access: Access,
        wanted: &Wanted<'_>,
        tell: &dyn Fn(&str),
    ) -> Result<Self, GroundError> {
        Ok(Self::Foreign(Foreign::attach(terms, access, wanted, tell)?))
    }

    /// Leaves everything there when this is dropped.
    pub fn keep(&mut self) {
        match self {
            Self::Made(cluster) => cluster.keep(),
            Self::Foreign(cluster) => cluster.keep(),
        }
    }

    /// The cluster whose nodes are ours to enter.
    pub fn made(&self) -> Option<&Cluster> {
        match self {
            Self::Made(cluster) => Some(cluster),
            Self::Foreign(_) => None,
        }
    }

    pub fn kubectl(&self) -> &Kubectl {
        match self {
            Self::Made(cluster) => cluster.kubectl(),
            Self::Foreign(cluster) => cluster.kubectl(),
        }
    }

    /// Loads the images of mesh and sample; a foreign cluster was given them when it was attached to.
    pub fn load(&self, programs: &Path) -> Result<(), GroundError> {
        if let Self::Made(cluster) = self {
            Mesh::prepare(cluster, programs)?;
        }
        Ok(())
    }

    pub fn mesh(&self) -> Result<Mesh<'_>, GroundError> {
        Ok(match self {
            Self::Made(cluster) => Mesh::of(cluster)?,
            Self::Foreign(cluster) => cluster.mesh()?,
        })
    }

    /// Installs the chart, with more values as helm takes them, and waits until all of it is ready.
    pub fn install(&self, settings: &[&str], timeout: Duration) -> Result<(), GroundError> {
        let mesh = self.mesh()?;
        interrupt::in_turn(|| mesh.put(settings))?;
        Ok(mesh.wait_ready(timeout)?)
    }

    /// Applies manifests as this cluster takes them: with the images it has, and on a foreign one with nothing that takes
    /// a port of the nodes.
    pub fn apply(&self, namespace: &str, manifests: &str) -> Result<(), GroundError> {
        let adapted = match self {
            Self::Made(_) => None,
            Self::Foreign(cluster) => Some(cluster.rename(&inside(manifests, &cluster.marks())?)),
        };
        let manifests = adapted.as_deref().unwrap_or(manifests);
        interrupt::in_turn(|| self.kubectl().apply_in(namespace, manifests))?;
        Ok(())
    }

    /// The network of whoever is outside.
    pub fn outside(&self) -> Namespace {
        self.made().map_or_else(Namespace::here, |cluster| {
            namespace_of(cluster.layout(), Member::World)
        })
    }

    /// The networks of the nodes; none where nobody from here can enter them.
    pub fn nodes(&self) -> Vec<Namespace> {
        let of = |cluster: &Cluster| {
            let nodes = cluster.nodes();
            nodes.map(|node| namespace_of(cluster.layout(), node)).collect()
        };
        self.made().map(of).unwrap_or_default()
    }

    /// To a Service: at its port of that node, or straight to a pod behind it where the nodes' network is another one.
    pub fn way_to(&self, namespace: &str, service: &str, port: u16, node: &str) -> Result<Way, GroundError> {
        match self {
            Self::Made(cluster) => Ok(Way {
                address: node_port(cluster.kubectl(), namespace, service, port, node)?,
                _tunnel: None,
            }),
            Self::Foreign(cluster) => {
                let tunnel = Tunnel::open(cluster.kubectl(), namespace, service, port)?;
                Ok(Way {
                    address: tunnel.address(),
                    _tunnel: Some(tunnel),
                })
            }
        }
    }

    /// Removes the cluster, or everything that was put on it.
    pub fn down(self) -> Result<(), GroundError> {
        match self {
            Self::Made(cluster) => cluster.down()?,
            Self::Foreign(cluster) => cluster.leave()?,
        }
        Ok(())
    }
}

fn namespace_of(layout: &Layout, member: Member) -> Namespace {
    Namespace::named(&layout.netns(member))
}

fn node_port(
    kubectl: &Kubectl,
    namespace: &str,
    service: &str,
    port: u16,
    node: &str,
) -> Result<SocketAddr, GroundError> {
    let template = format!("jsonpath={{.spec.ports[?(@.port=={port})].nodePort}}");
    let found = kubectl.run(&["-n", namespace, "get", "service", service, "-o", &template])?;
    let no_way = || GroundError::NoWay(format!("{namespace}/{service}"), node.to_owned());
    let member: Member = node.parse().map_err(|_| no_way())?;
    let port = found.parse().map_err(|_| no_way())?;
    Ok(SocketAddr::new(IpAddr::V4(member.address()), port))
}

/// Nothing takes a port of the nodes or a balancer of theirs, and every namespace tells whose it is.
fn inside(manifests: &str, marks: &[(&str, &str)]) -> Result<String, serde_saphyr::Error> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifests)?;
    let texts = documents.into_iter().map(|mut document| {
        match document["kind"].as_str() {
            Some("Namespace") => mark(&mut document["metadata"]["labels"], marks),
            Some("Service") => take_inside(&mut document["spec"]),
            Some("Gateway") => {
                if let Some(kind) = document["metadata"]["annotations"].get_mut(SERVICE_TYPE) {
                    *kind = Value::from("ClusterIP");
                }
            }
            _ => {}
        }
        document.to_string()
    });
    Ok(texts.collect::<Vec<_>>().join("\n---\n"))
}

fn mark(labels: &mut Value, marks: &[(&str, &str)]) {
    for &(key, value) in marks {
        labels[key] = Value::from(value);
    }
}

fn take_inside(spec: &mut Value) {
    let is_outside = |kind: &Value| kind == "NodePort" || kind == "LoadBalancer";
    let Some(spec) = spec.as_object_mut() else { return };
    if !spec.get("type").is_some_and(is_outside) {
        return;
    }
    spec.remove("type");
    spec.remove("allocateLoadBalancerNodePorts");
    let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten().filter_map(Value::as_object_mut) {
        port.remove("nodePort");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nothing_takes_a_port_of_somebody_elses_nodes() {
        let manifests = "
kind: Service
spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}
---
kind: Service
spec: {type: ExternalName, externalName: other}
---
kind: Gateway
metadata: {annotations: {networking.istio.io/service-type: NodePort}}
---
kind: Namespace
metadata: {name: own}
";
        let adapted = inside(manifests, &[("made-by", "us")]).unwrap();
        let read: Vec<Value> = serde_saphyr::from_multiple(&adapted).unwrap();
        assert_eq!(read[0]["spec"], json!({"ports": [{"port": 80}]}));
        assert_eq!(read[1]["spec"]["type"], "ExternalName");
        assert_eq!(read[2]["metadata"]["annotations"][SERVICE_TYPE], "ClusterIP");
        assert_eq!(
            read[3]["metadata"],
            json!({"name": "own", "labels": {"made-by": "us"}})
        );
    }
}
