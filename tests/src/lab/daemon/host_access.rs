//! The one place where the lab gives a pod more than other pods get.
//!
//! In Kubernetes these pods mount folders of the host; here the annotation below, on the pod template,
//! names the role, and the role decides which parts of the machine's /run stay visible and which
//! variables say where things are. Variables of the manifest win over these.

use std::path::PathBuf;

use super::super::layout::{Layout, NETNS_DIR};
use super::super::network::{self, Families};
use super::super::spec::Labels;

const ANNOTATION: &str = "lab.aquifer/host-access";

/// Trusted roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostAccess {
    /// Enters pods' namespaces, pins programs, reads its node's NodePods folder.
    NodeAgent,
    /// Reads the objects, writes the sink, keeps its authority's key.
    ControlPlane,
}

/// The node a pod runs on, as its variables need it.
pub(super) struct NodePlace<'a> {
    pub(super) layout: &'a Layout,
    pub(super) families: Families,
    pub(super) node: &'a str,
    pub(super) node_cgroup: PathBuf,
}

impl HostAccess {
    pub(super) fn of(annotations: &Labels) -> Option<Self> {
        match annotations.get(ANNOTATION).map(String::as_str) {
            Some("node-agent") => Some(Self::NodeAgent),
            Some("control-plane") => Some(Self::ControlPlane),
            _ => None,
        }
    }

    /// What stays visible of /run.
    pub(super) fn kept(self, layout: &Layout) -> Vec<PathBuf> {
        match self {
            Self::NodeAgent => vec![PathBuf::from(NETNS_DIR), layout.run_dir()],
            Self::ControlPlane => vec![layout.run_dir()],
        }
    }

    pub(super) fn env(self, place: &NodePlace<'_>) -> Vec<(String, String)> {
        let layout = place.layout;
        let paths = match self {
            Self::NodeAgent => vec![
                ("AQUIFER_BPFFS", layout.node_bpffs(place.node)),
                ("AQUIFER_CAPTURED_CGROUP", place.node_cgroup.join("kubepods")),
                ("AQUIFER_NODE_CGROUP", place.node_cgroup.clone()),
                (
                    "AQUIFER_NODE_NETNS",
                    PathBuf::from(NETNS_DIR).join(layout.netns(place.node)),
                ),
                ("AQUIFER_PODS_DIR", layout.node_pods(place.node)),
            ],
            Self::ControlPlane => vec![
                ("LAB_OBJECTS", layout.objects()),
                ("LAB_SINK", layout.sink()),
                ("LAB_STATE", layout.state()),
                ("LAB_TOKEN_KEYS", layout.token_keys()),
            ],
        };
        let paths = paths
            .into_iter()
            .map(|(name, path)| (name.to_owned(), path.to_string_lossy().into_owned()));
        let ranges = (
            "AQUIFER_MESH_CIDRS".to_owned(),
            network::mesh_ranges(place.families),
        );
        paths.chain([ranges]).collect()
    }
}
