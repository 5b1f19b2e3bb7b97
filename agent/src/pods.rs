//! Which pods of this node are to be enrolled, and what became of them: the seam to whoever knows.
//!
//! A watch of the API server, limited to this node ([`kubernetes::KubernetesPods`]), or a folder ([`folder::FolderPods`]).

pub mod folder;
pub mod kubernetes;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePod {
    pub uid: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub service_account: Arc<str>,
    pub ips: Vec<IpAddr>,
    /// A file that is the pod's network namespace.
    pub netns: PathBuf,
    pub cgroup: PathBuf,
    /// Grows when another agent, which may have captured the pod at the same time, has gone: then it is captured anew.
    pub turn: u32,
    /// An earlier agent, which is not asked to end yet, serves it: it loses nothing by waiting for this one.
    pub served: bool,
    pub wanted: bool,
    /// Why it is wanted or not, for people.
    pub reason: String,
}

impl NodePod {
    /// Whether an enrolment made for `self` serves `other` as well.
    pub fn same_enrolment(&self, other: &Self) -> bool {
        (&self.netns, &self.cgroup, &self.service_account)
            == (&other.netns, &other.cgroup, &other.service_account)
            && same_addresses(&self.ips, &other.ips)
    }
}

/// The runtime and the API server may tell a pod's addresses in different orders.
pub(crate) fn same_addresses(one: &[IpAddr], other: &[IpAddr]) -> bool {
    one.len() == other.len() && one.iter().all(|ip| other.contains(ip))
}

/// All pods of this node at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodList {
    pub pods: Vec<NodePod>,
    /// Entries that cannot be used; what runs for them goes on as it is.
    pub malformed: Vec<MalformedPod>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MalformedPod {
    pub uid: Arc<str>,
    pub reason: String,
}

/// What became of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodState {
    /// Captured, with a certificate, known to the control plane: tunnels to it work.
    Enrolled,
    Pending,
    Failed,
    NotWanted,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PodReport {
    pub uid: Arc<str>,
    pub state: PodState,
    #[serde(default)]
    pub reason: String,
    /// What its capture is for, while it is captured. Not kept: it ends with the process.
    #[serde(skip)]
    pub captured: Option<Captured>,
}

/// A capture that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    pub ips: Vec<IpAddr>,
    pub netns: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    #[error("cannot watch {path} for pods; does the folder exist?")]
    Watch { path: String, source: std::io::Error },
    #[error("cannot write {path}; enrolled pods will not be advertised")]
    Report { path: String, source: std::io::Error },
    #[error("the search for this node's pods broke off; the last list stays")]
    Search,
}

/// Source of the node's pods and sink of their states.
#[async_trait]
pub trait NodePods: Send {
    /// What was reported last, by this process or one before it.
    async fn last_report(&mut self) -> Vec<PodReport>;

    /// Waits for the next complete list; the first one comes as soon as there is any. Cancel safe.
    async fn next(&mut self) -> Result<PodList, PodsError>;

    /// Replaces the report.
    async fn report(&mut self, pods: &[PodReport]) -> Result<(), PodsError>;
}
