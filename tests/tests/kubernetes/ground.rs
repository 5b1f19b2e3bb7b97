//! The cluster below: made for the suite, or somebody's own, which is asked for less.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use aquifer_tests::cluster::foreign::{Access, Foreign, Terms, Wanted};
use aquifer_tests::cluster::kubectl::Kubectl;
use aquifer_tests::cluster::layout::Member;
use aquifer_tests::cluster::mesh::Mesh;
use aquifer_tests::cluster::parts::Parts;
use aquifer_tests::cluster::tunnel::Tunnel;
use aquifer_tests::cluster::{Cluster, ClusterOptions};
use serde_json::Value;

use super::world::UNMESHED;

/// Namespaces that chapters make.
const MADE_LATER: [&str; 3] = ["own", "kinds", UNMESHED];

pub(crate) enum Ground {
    Ours(Cluster),
    Theirs(Foreign),
}

/// Where a Service is reached from outside, for as long as this is held.
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    _tunnel: Option<Tunnel>,
}

impl Ground {
    pub(crate) fn make() -> Self {
        let name = "test-mesh".parse().unwrap();
        let cluster = Cluster::up(&ClusterOptions::new(name), &|step| eprintln!("{step}")).unwrap();
        Self::Ours(cluster)
    }

    /// The cluster of KUBECONFIG, with the namespace and all images on it.
    pub(crate) fn find(terms: &Terms, programs: &Path, namespace: &str) -> Self {
        let tell = |step: &str| eprintln!("{step}");
        let wanted = Wanted {
            namespaces: &[namespace],
            later: &MADE_LATER,
            images: &|| Ok(vec![Parts::find_or_build(&tell)?.app_image()]),
        };
        let cluster =
            Access::take(programs).and_then(|access| Foreign::attach(terms, access, &wanted, &tell));
        Self::Theirs(cluster.unwrap_or_else(|error| panic!("{error}")))
    }

    pub(crate) fn kubectl(&self) -> &Kubectl {
        match self {
            Self::Ours(cluster) => cluster.kubectl(),
            Self::Theirs(cluster) => cluster.kubectl(),
        }
    }

    pub(crate) fn mesh(&self) -> Mesh<'_> {
        match self {
            Self::Ours(cluster) => Mesh::of(cluster).unwrap(),
            Self::Theirs(cluster) => cluster.mesh().unwrap(),
        }
    }

    /// Manifests as this cluster takes them.
    pub(crate) fn adapt(&self, manifests: &str) -> String {
        match self {
            Self::Ours(_) => manifests.to_owned(),
            Self::Theirs(cluster) => cluster.rename(&inside(manifests, &cluster.marks())),
        }
    }

    /// To a Service of type NodePort at the first node, or to a pod behind it.
    pub(crate) fn way_to(&self, namespace: &str, service: &str, port: u16) -> Way {
        match self {
            Self::Ours(cluster) => {
                let template = format!("jsonpath={{.spec.ports[?(@.port=={port})].nodePort}}");
                let get = ["-n", namespace, "get", "service", service, "-o", &template];
                let port = cluster.kubectl().run(&get).unwrap();
                let node = IpAddr::V4(Member::Node(1).address());
                Way {
                    address: SocketAddr::new(node, port.parse().unwrap()),
                    _tunnel: None,
                }
            }
            Self::Theirs(cluster) => {
                let tunnel = Tunnel::open(cluster.kubectl(), namespace, service, port).unwrap();
                Way {
                    address: tunnel.address(),
                    _tunnel: Some(tunnel),
                }
            }
        }
    }

    pub(crate) fn down(self) {
        match self {
            Self::Ours(cluster) => {
                let layout = cluster.layout().clone();
                cluster.down().unwrap();
                assert!(!layout.state_dir().exists());
            }
            Self::Theirs(cluster) => cluster.leave().unwrap(),
        }
    }
}

/// Nothing takes a port of the nodes or a balancer of theirs, and every namespace tells whose it is.
fn inside(manifests: &str, marks: &[(&str, &str)]) -> String {
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(manifests).unwrap();
    for document in &mut documents {
        if document["kind"] == "Namespace" {
            for &(key, value) in marks {
                document["metadata"]["labels"][key] = Value::from(value);
            }
        }
        if document["kind"] != "Service" {
            continue;
        }
        let spec = document["spec"].as_object_mut().unwrap();
        if spec
            .get("type")
            .is_some_and(|kind| kind == "NodePort" || kind == "LoadBalancer")
        {
            spec.remove("type");
            spec.remove("allocateLoadBalancerNodePorts");
            for port in spec["ports"].as_array_mut().unwrap() {
                port.as_object_mut().unwrap().remove("nodePort");
            }
        }
    }
    let texts: Vec<String> = documents.iter().map(Value::to_string).collect();
    texts.join("\n---\n")
}
