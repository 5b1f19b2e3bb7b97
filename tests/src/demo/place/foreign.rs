//! The demo on somebody's own cluster: the story is the same, the nodes stay closed.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::cluster::foreign::{Access, Foreign, ForeignError, Terms, Wanted};
use crate::cluster::tunnel::Tunnel;
use crate::demo::Options;
use crate::demo::failure::{Failure, OrFailed, Step};
use crate::demo::namespace::Namespace;
use crate::demo::progress::Progress;
use crate::demo::story::{GATEWAY, NAMESPACE, SYSTEM};
use crate::interrupt;
use crate::lab::status::{PodStatus, Status};

use super::{METRICS_PATH, METRICS_PORT, Place, kubernetes};

const LOOK: &str = "run it with --keep, then look with kubectl: `kubectl get pods -A -o wide`, \
                    `kubectl -n istio-system logs -l app=istiod`, `... logs -l app=ztunnel`";
const CLUSTER: Step = Step {
    name: "cluster",
    remedy: "README.md says what a cluster of one's own needs, under \"On a cluster of your own\"",
};
const IMAGES: Step = Step {
    name: "images",
    remedy: "try the command of --load-with by hand on an archive of `cargo xtask image`, or `skopeo login` to the registry",
};
const INSTALL: Step = Step {
    name: "install",
    remedy: "`kubectl -n istio-system get pods,events`; where the nodes keep pods' cgroups elsewhere, say it by --set agent.cgroup.captured=... (docs/install.md)",
};
const HTTP_PORT: u16 = 80;
const READY: Duration = Duration::from_secs(180);

pub(super) struct ForeignPlace {
    /// To the ingress gateway; closed before the cluster is cleared.
    tunnel: Option<Tunnel>,
    cluster: Foreign,
}

impl ForeignPlace {
    /// What fails here, or later, is cleared as it is dropped.
    pub(super) fn build(
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
        let mut cluster = Foreign::attach(terms, access.clone(), &wanted, &|step| progress.say(step))
            .map_err(|error| step_of(&error).failed(error))?;
        if options.keep {
            cluster.keep();
        }
        progress.say("installing the chart by helm");
        let mesh = cluster.mesh().or_failed(INSTALL)?;
        interrupt::in_turn(|| mesh.put(&[])).or_failed(INSTALL)?;
        mesh.wait_ready(READY).or_failed(INSTALL)?;
        drop(mesh);
        progress.say("  control plane, node agents and ingress gateway are ready");
        Ok(Self {
            cluster,
            tunnel: None,
        })
    }
}

fn step_of(error: &ForeignError) -> Step {
    match error {
        ForeignError::Delivery(_) => IMAGES,
        _ => CLUSTER,
    }
}

impl Place for ForeignPlace {
    fn status(&self) -> Result<Status, String> {
        kubernetes::status(self.cluster.kubectl())
    }

    fn apply(&self, namespace: &str, manifests: &str) -> Result<(), String> {
        let manifests = self.cluster.rename(manifests);
        interrupt::in_turn(|| kubernetes::apply(self.cluster.kubectl(), namespace, &manifests))
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
        Namespace::here()
    }

    fn nodes(&self, _: &Status) -> Vec<Namespace> {
        Vec::new()
    }

    fn metrics(&self, proxy: &PodStatus) -> Result<String, String> {
        let PodStatus { namespace, name, .. } = proxy;
        self.cluster
            .read(namespace, name, METRICS_PORT, METRICS_PATH)
            .map_err(text)
    }

    fn entry(&mut self, _: &Status) -> Result<SocketAddr, String> {
        let tunnel = Tunnel::open(self.cluster.kubectl(), SYSTEM, GATEWAY, HTTP_PORT).map_err(text)?;
        Ok(self.tunnel.insert(tunnel).address())
    }

    fn routing_status(&self) -> String {
        kubernetes::routing_status(self.cluster.kubectl())
    }

    fn remedy(&self) -> Option<&'static str> {
        Some(LOOK)
    }

    fn down(self: Box<Self>) -> Result<(), String> {
        let Self { cluster, tunnel } = *self;
        drop(tunnel);
        cluster.leave().map_err(text)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the form that map_err takes")]
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
