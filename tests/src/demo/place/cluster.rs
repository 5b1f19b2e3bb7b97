//! The demo on a cluster of real parts.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::kubectl::KubectlError;
use crate::cluster::layout::{ClusterName, Member};
use crate::cluster::mesh::{GATEWAY_NODE_PORT, Mesh};
use crate::cluster::observe;
use crate::cluster::{Cluster, ClusterOptions};
use crate::demo::Options;
use crate::demo::failure::{Failure, OrFailed, Step};
use crate::demo::namespace::Namespace;
use crate::demo::progress::Progress;
use crate::demo::story::{GATEWAY, NAMESPACE, SYSTEM};
use crate::lab::status::Status;

use super::Place;

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
        let programs = options
            .bookinfo
            .parent()
            .map_or_else(PathBuf::new, Path::to_path_buf);
        Mesh::prepare(&cluster, &programs)
            .and_then(|mesh| mesh.install(&[], READY))
            .or_failed(INSTALL)?;
        progress.say("  control plane, node agents and ingress gateway are ready");
        Ok(Self { cluster })
    }

    fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.cluster.kubectl().run(arguments).map_err(text)
    }
}

impl Place for ClusterPlace {
    fn status(&self) -> Result<Status, String> {
        observe::status(&self.cluster).map_err(text)
    }

    fn apply(&self, namespace: &str, manifests: &str) -> Result<(), String> {
        let kubectl = self.cluster.kubectl();
        kubectl.apply_in(namespace, manifests).map(drop).map_err(text)
    }

    fn apply_path(&self, namespace: &str, path: &Path) -> Result<(), String> {
        let manifests = std::fs::read_to_string(path).map_err(text)?;
        self.apply(namespace, &manifests)
    }

    fn wait_until(
        &self,
        what: &str,
        timeout: Duration,
        wanted: &dyn Fn(&Status) -> bool,
    ) -> Result<Status, String> {
        let attempt = || {
            let status = observe::status(&self.cluster)?;
            if wanted(&status) {
                return Ok(status);
            }
            Err(KubectlError::Failed {
                arguments: "get pods".to_owned(),
                message: status.to_string(),
            })
        };
        self.cluster.kubectl().until(what, timeout, attempt).map_err(text)
    }

    fn wait_ready(&self, timeout: Duration) -> Result<Status, String> {
        let limit = format!("--timeout={}s", timeout.as_secs());
        for namespace in [SYSTEM, NAMESPACE] {
            let wait = [
                "-n",
                namespace,
                "wait",
                "--for=condition=Available",
                "deployment",
                "--all",
                &*limit,
            ];
            self.kubectl(&wait)?;
        }
        self.status()
    }

    fn namespace(&self, member: &str) -> Namespace {
        // Members' names are the nodes': it is this program that named them.
        let member: Member = member.parse().unwrap_or(Member::World);
        Namespace::named(&self.cluster.layout().netns(member))
    }

    /// The gateway's own node: no other one comes between.
    fn entry(&self, status: &Status) -> Result<SocketAddr, String> {
        let gateway = status.pods_of(SYSTEM, GATEWAY).next();
        let member = gateway.and_then(|pod| pod.node.parse::<Member>().ok());
        let address = member.map(|member| IpAddr::V4(member.address()));
        address
            .map(|address| SocketAddr::new(address, GATEWAY_NODE_PORT))
            .ok_or_else(|| "no ingress gateway runs".to_owned())
    }

    fn routing_status(&self) -> String {
        let template =
            "jsonpath={range .items[*]}\n  status of VirtualService {.metadata.name}: {.status}{end}";
        let get = ["-n", NAMESPACE, "get", "virtualservices", "-o", template];
        self.kubectl(&get).unwrap_or_else(|error| error)
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
