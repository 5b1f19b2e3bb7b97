//! Where the demo plays: what the story needs of the lab and of a cluster alike.

mod kubernetes;
mod lab;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::lab::status::{PodStatus, Status};

use super::failure::Failure;
use super::namespace::Namespace;
use super::progress::Progress;
use super::{Options, Stage};

/// Where every proxy shows its metrics.
const METRICS_PORT: u16 = 15020;
const METRICS_PATH: &str = "/metrics";

/// Failures are told as text: the story says at which step.
pub(crate) trait Place {
    fn status(&self) -> Result<Status, String>;
    fn apply(&self, namespace: &str, manifests: &str) -> Result<(), String>;
    fn apply_path(&self, namespace: &str, path: &Path) -> Result<(), String>;
    fn wait_until(
        &self,
        what: &str,
        timeout: Duration,
        wanted: &dyn Fn(&Status) -> bool,
    ) -> Result<Status, String>;
    /// Waits until everything that was applied runs.
    fn wait_ready(&self, timeout: Duration) -> Result<Status, String>;
    /// The network of whoever is outside.
    fn outside(&self) -> Namespace;
    /// The networks of the nodes; none where nobody from here can enter them.
    fn nodes(&self, status: &Status) -> Vec<Namespace>;
    /// What a proxy shows on its port of metrics.
    fn metrics(&self, proxy: &PodStatus) -> Result<String, String>;
    /// Where the world reaches the ingress gateway.
    fn entry(&mut self, status: &Status) -> Result<SocketAddr, String>;
    /// What the control plane says about the routing objects, for the person whose canary does not work.
    fn routing_status(&self) -> String;
    /// What helps whatever failed, where that is not the steps' own advice.
    fn remedy(&self) -> Option<&'static str>;
    fn down(self: Box<Self>) -> Result<(), String>;
}

/// Two nodes, control plane, node agents, ingress gateway.
pub(crate) fn build(options: &Options, progress: Progress) -> Result<Box<dyn Place>, Failure> {
    Ok(match &options.stage {
        Stage::Lab => Box::new(lab::LabPlace::build(options, progress)?),
        Stage::Kubernetes => Box::new(kubernetes::KubernetesPlace::make(options, progress)?),
        Stage::Foreign(terms, access) => Box::new(kubernetes::KubernetesPlace::attach(
            options, terms, access, progress,
        )?),
    })
}
