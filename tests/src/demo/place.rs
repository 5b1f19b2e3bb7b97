//! Where the demo plays: what the story needs of the lab and of a cluster alike.

mod cluster;
mod lab;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::lab::status::Status;

use super::failure::Failure;
use super::namespace::Namespace;
use super::progress::Progress;
use super::{Options, Stage};

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
    /// The network of a node, or of the world outside.
    fn namespace(&self, member: &str) -> Namespace;
    /// Where the world reaches the ingress gateway.
    fn entry(&self, status: &Status) -> Result<SocketAddr, String>;
    /// What the control plane says about the routing objects, for the person whose canary does not work.
    fn routing_status(&self) -> String;
    /// What helps whatever failed, where that is not the steps' own advice.
    fn remedy(&self) -> Option<&'static str>;
    fn down(self: Box<Self>) -> Result<(), String>;
}

/// Two nodes, control plane, node agents, ingress gateway.
pub(crate) fn build(options: &Options, progress: Progress) -> Result<Box<dyn Place>, Failure> {
    Ok(match options.stage {
        Stage::Lab => Box::new(lab::LabPlace::build(options, progress)?),
        Stage::Kubernetes => Box::new(cluster::ClusterPlace::build(options, progress)?),
    })
}
