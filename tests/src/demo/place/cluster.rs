//! The demo on a cluster of real parts.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::cluster::layout::{ClusterName, Member};
use crate::cluster::mesh::{GATEWAY_NODE_PORT, Mesh};
use crate::cluster::{Cluster, ClusterOptions};
use crate::demo::Options;
use crate::demo::failure::{Failure, OrFailed, Step};
use crate::demo::namespace::Namespace;
use crate::demo::progress::Progress;
use crate::demo::story::{GATEWAY, SYSTEM};
use crate::lab::status::{PodStatus, Status};

use super::kubernetes;
use super::{Place, metrics_from};

const LOOK: &str = "run `cargo xtask demo --kubernetes --keep`, then `cargo xtask cluster --name demo status` and \
                    `cargo xtask cluster --name demo kubectl -- -n istio-system logs -l app=istiod`";
const CLUSTER: Step = Step {
    name: "cluster",
    remedy: "run it as root on Linux 6.1 or later; `cargo xtask cluster up` shows more",
};
const INSTALL: Step = Step {
    name: "install",
    remedy: LOOK,
};
const READY: Duration = Duration::from_secs(120);

pub(super) struct ClusterPlace {
    cluster: Cluster,
}

impl ClusterPlace {
    pub(super) fn build(options: &Options, progress: Progress) -> Result<Self, Failure> {
        let name: ClusterName = options.name.parse().or_failed(CLUSTER)?;
        progress
            .say("cluster: two nodes with kubelet, containerd, kube-proxy; etcd, API server, controllers");
        let mut cluster = Cluster::up(&ClusterOptions::new(name), &|step| {
            progress.say(format_args!("  {step}"))
        })
        .or_failed(CLUSTER)?;
        if options.keep {
            cluster.keep();
        }
        progress.say("images loaded, chart installed by helm");
        Mesh::prepare(&cluster, options.programs())
            .and_then(|mesh| mesh.install(&[], READY))
            .or_failed(INSTALL)?;
        progress.say("  control plane, node agents and ingress gateway are ready");
        Ok(Self { cluster })
    }
}

impl Place for ClusterPlace {
    fn status(&self) -> Result<Status, String> {
        kubernetes::status(self.cluster.kubectl())
    }

    fn apply(&self, namespace: &str, manifests: &str) -> Result<(), String> {
        kubernetes::apply(self.cluster.kubectl(), namespace, manifests)
    }

    fn apply_path(&self, namespace: &str, path: &Path) -> Result<(), String> {
        self.apply(namespace, &std::fs::read_to_string(path).map_err(text)?)
    }

    fn wait_until(
        &self,
        what: &str,
        timeout: Duration,
        wanted: &dyn Fn(&Status) -> bool,
    ) -> Result<Status, String> {
        kubernetes::wait_until(self.cluster.kubectl(), what, timeout, wanted)
    }

    fn wait_ready(&self, timeout: Duration) -> Result<Status, String> {
        kubernetes::wait_ready(self.cluster.kubectl(), timeout)
    }

    fn outside(&self) -> Namespace {
        Namespace::named(&self.cluster.layout().netns(Member::World))
    }

    fn nodes(&self, _: &Status) -> Vec<Namespace> {
        let layout = self.cluster.layout();
        let members = self.cluster.nodes();
        members
            .map(|member| Namespace::named(&layout.netns(member)))
            .collect()
    }

    fn metrics(&self, proxy: &PodStatus) -> Result<String, String> {
        metrics_from(self.nodes(&Status::default()).pop(), proxy)
    }

    /// The gateway's own node: no other one comes between.
    fn entry(&mut self, status: &Status) -> Result<SocketAddr, String> {
        let gateway = status.pods_of(SYSTEM, GATEWAY).next();
        let member = gateway.and_then(|pod| pod.node.parse::<Member>().ok());
        let address = member.map(|member| IpAddr::V4(member.address()));
        address
            .map(|address| SocketAddr::new(address, GATEWAY_NODE_PORT))
            .ok_or_else(|| "no ingress gateway runs".to_owned())
    }

    fn routing_status(&self) -> String {
        kubernetes::routing_status(self.cluster.kubectl())
    }

    fn remedy(&self) -> Option<&'static str> {
        Some(LOOK)
    }

    fn down(self: Box<Self>) -> Result<(), String> {
        self.cluster.down().map_err(text)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
