//! Where a cluster keeps things, and the addresses of its members: all derived from the cluster's name, so that a
//! later run can clear what a dead one left.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// On a disk: containers' file systems are overlays, and images take some hundred megabytes.
const STATE: &str = "/var/lib/aquifer-cluster";
/// Inside a member, where its services' output goes.
pub(super) const LOGS: &str = "/var/log/aquifer-cluster";
const NETNS_DIR: &str = "/run/netns";
const MAX_NAME: usize = 32;

pub(super) const POD_RANGE: &str = "10.244.0.0/16";
pub(super) const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The `kubernetes` Service: the first address of its range.
pub(super) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
pub(super) const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub const API_PORT: u16 = 6443;
/// Nodes per cluster: their numbers go into one byte of the addresses.
pub(super) const MAX_NODES: u8 = 40;

/// A cluster's name: lower-case letters, digits and inner dashes, at most 32 bytes.
///
/// No dots: the dot ends the name in namespace names (`aqc-NAME.node-1`), so that no cluster's prefix is another one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName(String);

#[derive(Debug, Error)]
#[error("cluster name {0:?}: expected 1 to {MAX_NAME} lower-case letters, digits and inner dashes")]
pub struct NameError(String);

impl ClusterName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let framed = !text.starts_with('-') && !text.ends_with('-');
        if text.is_empty() || text.len() > MAX_NAME || !framed || !text.bytes().all(good) {
            return Err(NameError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A network namespace of the cluster with an address on its switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Member {
    /// Outside the cluster, and everybody's default gateway. Nothing runs there by itself.
    World,
    /// etcd, API server, controller manager, scheduler.
    Control,
    /// containerd, kubelet, kube-proxy and the pods; numbered from 1.
    Node(u8),
}

impl Member {
    /// The members of a cluster of that size.
    pub(super) fn all(nodes: u8) -> impl Iterator<Item = Self> {
        [Self::World, Self::Control]
            .into_iter()
            .chain((1..=nodes).map(Self::Node))
    }

    pub fn address(self) -> Ipv4Addr {
        let host = match self {
            Self::World => 1,
            Self::Control => 2,
            Self::Node(number) => 10 + number,
        };
        Ipv4Addr::new(172, 30, 0, host)
    }

    /// The range of a node's pods.
    pub(super) fn pod_range(self) -> Option<String> {
        match self {
            Self::Node(number) => Some(format!("10.244.{number}.0/24")),
            Self::World | Self::Control => None,
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::World => f.write_str("world"),
            Self::Control => f.write_str("control"),
            Self::Node(number) => write!(f, "node-{number}"),
        }
    }
}

#[derive(Debug, Error)]
#[error("no member {0:?}: expected control, world, or node-1 and so on")]
pub struct MemberError(String);

impl FromStr for Member {
    type Err = MemberError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "world" => return Ok(Self::World),
            "control" => return Ok(Self::Control),
            _ => {}
        }
        let number = text.strip_prefix("node-").and_then(|number| number.parse().ok());
        match number {
            Some(number) if (1..=MAX_NODES).contains(&number) => Ok(Self::Node(number)),
            _ => Err(MemberError(text.to_owned())),
        }
    }
}

/// The places of one cluster.
#[derive(Clone, Debug)]
pub struct Layout {
    name: ClusterName,
}

impl Layout {
    pub fn new(name: &ClusterName) -> Self {
        Self { name: name.clone() }
    }

    pub fn name(&self) -> &ClusterName {
        &self.name
    }

    /// The parent of all clusters.
    pub(super) fn clusters_dir() -> &'static Path {
        Path::new(STATE)
    }

    pub fn state_dir(&self) -> PathBuf {
        Path::new(STATE).join(self.name.as_str())
    }

    /// For whoever is root on this machine: the API server is reached over loopback.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state_dir().join("kubeconfig")
    }

    /// What the cluster was made with.
    pub(super) fn record(&self) -> PathBuf {
        self.state_dir().join("cluster.json")
    }

    /// A member's own files: what would be its disk.
    pub fn member_dir(&self, member: Member) -> PathBuf {
        self.state_dir().join(member.to_string())
    }

    /// What a member's services wrote, one file each.
    pub fn logs(&self, member: Member) -> PathBuf {
        self.inside(member, LOGS)
    }

    /// Where a path of the member's own disk is on this machine.
    pub(super) fn inside(&self, member: Member, absolute: &str) -> PathBuf {
        self.member_dir(member).join(absolute.trim_start_matches('/'))
    }

    pub(super) fn spec(&self, member: Member) -> PathBuf {
        self.member_dir(member).join("member.json")
    }

    pub(super) fn socket(&self, member: Member) -> PathBuf {
        self.member_dir(member).join("init.sock")
    }

    pub(super) fn pid(&self, member: Member) -> PathBuf {
        self.member_dir(member).join("pid")
    }

    /// All namespaces of this cluster start with this, and no other cluster's do.
    pub(super) fn netns_prefix(&self) -> String {
        format!("aqc-{}.", self.name)
    }

    pub fn netns(&self, member: Member) -> String {
        format!("{}{member}", self.netns_prefix())
    }

    /// The namespace that holds nothing but the bridge between the members.
    pub(super) fn switch(&self) -> String {
        format!("{}switch", self.netns_prefix())
    }

    /// The cluster's folder in each cgroup hierarchy, relative to its root.
    pub(super) fn cgroup(&self) -> PathBuf {
        PathBuf::from(format!("aqc-{}", self.name))
    }

    pub(super) fn member_cgroup(&self, member: Member) -> PathBuf {
        self.cgroup().join(member.to_string())
    }
}

pub(super) fn netns_dir() -> &'static Path {
    Path::new(NETNS_DIR)
}

pub(super) fn netns_path(name: &str) -> PathBuf {
    netns_dir().join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_names_that_cannot_collide() {
        for good in ["aquifer", "a", "demo-2", "0"] {
            assert!(good.parse::<ClusterName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "a b", "..", &"x".repeat(33)] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn members_are_found_by_the_names_they_show() {
        for member in Member::all(3) {
            assert_eq!(member.to_string().parse::<Member>().unwrap(), member);
        }
        for bad in ["", "node-0", "node-41", "node-x", "master"] {
            assert!(bad.parse::<Member>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_follow_the_plan() {
        assert_eq!(Member::Node(2).address().to_string(), "172.30.0.12");
        assert_eq!(Member::Node(2).pod_range().unwrap(), "10.244.2.0/24");
        assert_eq!(Member::Control.address().to_string(), "172.30.0.2");
    }
}
