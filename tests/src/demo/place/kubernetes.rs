//! The demo on Kubernetes: on a cluster of real parts, or on somebody's own, whose nodes stay closed.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::cluster::ClusterOptions;
use crate::cluster::foreign::{Access, ForeignError, Terms, Wanted};
use crate::cluster::ground::{Ground, GroundError, Way};
use crate::cluster::layout::ClusterName;
use crate::cluster::observe;
use crate::demo::Options;
use crate::demo::failure::{Failure, OrFailed, Step};
use crate::demo::namespace::Namespace;
use crate::demo::progress::Progress;
use crate::demo::story::{GATEWAY, NAMESPACE, SYSTEM};
use crate::lab::status::{PodStatus, Status};

use super::{METRICS_PATH, METRICS_PORT, Place};

const LOOK_AT_OURS: &str = "run `cargo xtask demo --kubernetes --keep`, then `cargo xtask cluster --name demo status` and \
                            `cargo xtask cluster --name demo kubectl -- -n istio-system logs -l app=istiod`";
const LOOK_AT_YOURS: &str = "run it with --keep, then look with kubectl: `kubectl get pods -A -o wide`, \
                             `kubectl -n istio-system logs -l app=istiod`, `... logs -l app=ztunnel`";
const MAKE: Step = Step {
    name: "cluster",
    remedy: "run it as root on Linux 6.1 or later; `cargo xtask cluster up` shows more",
};
const ATTACH: Step = Step {
    name: "cluster",
    remedy: "README.md says what a cluster of one's own needs, under \"On a cluster of your own\"",
};
const IMAGES: Step = Step {
    name: "images",
    remedy: "try the command of --load-with by hand on an archive of `cargo xtask image`, or `skopeo login` to the registry",
};
const INSTALL_ON_OURS: Step = Step {
    name: "install",
    remedy: LOOK_AT_OURS,
};
const INSTALL_ON_YOURS: Step = Step {
    name: "install",
    remedy: "`kubectl -n istio-system get pods,events`; where the nodes keep pods' cgroups elsewhere, say it by --set agent.cgroup.captured=... (docs/install.md)",
};
const HTTP_PORT: u16 = 80;
/// Images may have to be pulled first.
const READY: Duration = Duration::from_secs(180);

pub(super) struct KubernetesPlace {
    /// To the ingress gateway; closed before the cluster is cleared.
    way: Option<Way>,
    ground: Ground,
}

impl KubernetesPlace {
    pub(super) fn make(options: &Options, progress: Progress) -> Result<Self, Failure> {
        let name: ClusterName = options.name.parse().or_failed(MAKE)?;
        progress
            .say("cluster: two nodes with kubelet, containerd, kube-proxy; etcd, API server, controllers");
        let tell = |step: &str| progress.say(format_args!("  {step}"));
        let ground = Ground::make(&ClusterOptions::new(name), &tell).or_failed(MAKE)?;
        Self::install(ground, options, INSTALL_ON_OURS, progress)
    }

    pub(super) fn attach(
        options: &Options,
        terms: &Terms,
        access: &Access,
        progress: Progress,
    ) -> Result<Self, Failure> {
        let wanted = Wanted {
            namespaces: &[NAMESPACE],
            later: &[],
            images: &|| Ok(Vec::new()),
        };
        let ground = Ground::attach(terms, access.clone(), &wanted, &|step| progress.say(step))
            .map_err(|error| step_of(&error).failed(error))?;
        Self::install(ground, options, INSTALL_ON_YOURS, progress)
    }

    /// What fails here, or later, takes down or clears the cluster as it is dropped.
    fn install(
        mut ground: Ground,
        options: &Options,
        step: Step,
        progress: Progress,
    ) -> Result<Self, Failure> {
        if options.keep {
            ground.keep();
        }
        progress.say("images loaded, chart installed by helm");
        ground
            .load(options.programs())
            .and_then(|()| ground.install(&[], READY))
            .or_failed(step)?;
        progress.say("  control plane, node agents and ingress gateway are ready");
        Ok(Self { way: None, ground })
    }
}

fn step_of(error: &GroundError) -> Step {
    match error {
        GroundError::Foreign(ForeignError::Delivery(_)) => IMAGES,
        _ => ATTACH,
    }
}

impl Place for KubernetesPlace {
    fn status(&self) -> Result<Status, String> {
        observe::status(self.ground.kubectl()).map_err(text)
    }

    fn apply(&self, namespace: &str, manifests: &str) -> Result<(), String> {
        self.ground.apply(namespace, manifests).map_err(text)
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
        observe::until(self.ground.kubectl(), what, timeout, wanted).map_err(text)
    }

    /// Every Deployment of the mesh and of the application.
    fn wait_ready(&self, timeout: Duration) -> Result<Status, String> {
        for namespace in [SYSTEM, NAMESPACE] {
            let available = self.ground.kubectl().wait_available(namespace, timeout);
            available.map_err(text)?;
        }
        self.status()
    }

    fn outside(&self) -> Namespace {
        self.ground.outside()
    }

    fn nodes(&self, _: &Status) -> Vec<Namespace> {
        self.ground.nodes()
    }

    /// Through the API server, which reaches every pod.
    fn metrics(&self, proxy: &PodStatus) -> Result<String, String> {
        let PodStatus { namespace, name, .. } = proxy;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{METRICS_PORT}/proxy{METRICS_PATH}");
        self.ground.kubectl().run(&["get", "--raw", &path]).map_err(text)
    }

    /// At the gateway's own node: no other one comes between.
    fn entry(&mut self, status: &Status) -> Result<SocketAddr, String> {
        let gateway = status.pods_of(SYSTEM, GATEWAY).next();
        let node = &gateway.ok_or("no ingress gateway runs")?.node;
        let way = self
            .ground
            .way_to(SYSTEM, GATEWAY, HTTP_PORT, node)
            .map_err(text)?;
        Ok(self.way.insert(way).address)
    }

    fn routing_status(&self) -> String {
        let template =
            "jsonpath={range .items[*]}\n  status of VirtualService {.metadata.name}: {.status}{end}";
        let get = ["-n", NAMESPACE, "get", "virtualservices", "-o", template];
        let said = self.ground.kubectl().run(&get);
        said.unwrap_or_else(|error| error.to_string())
    }

    fn remedy(&self) -> Option<&'static str> {
        Some(match self.ground {
            Ground::Made(_) => LOOK_AT_OURS,
            Ground::Foreign(_) => LOOK_AT_YOURS,
        })
    }

    fn down(self: Box<Self>) -> Result<(), String> {
        let Self { ground, way } = *self;
        drop(way);
        ground.down().map_err(text)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
