//! Where a lab keeps things: every path, namespace and cgroup name is derived here, from the lab's
//! name alone, so that a later run can clear what a dead one left.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

const RUN: &str = "/run/aquifer-lab";
pub(super) const NETNS_DIR: &str = "/run/netns";
const MAX_NAME: usize = 32;

/// A lab's name: lower-case letters, digits and inner dashes, at most 32 bytes.
///
/// No dots: the dot ends the name in namespace names (`aq-NAME.node-1`), so that no lab's prefix is
/// another one's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

#[derive(Debug, Error)]
#[error("lab name {0:?}: expected 1 to {MAX_NAME} lower-case letters, digits and inner dashes")]
pub struct NameError(String);

impl LabName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LabName {
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

impl TryFrom<String> for LabName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> Self {
        name.0
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The places of one lab.
#[derive(Clone, Debug)]
pub struct Layout {
    name: LabName,
}

impl Layout {
    pub fn new(name: &LabName) -> Self {
        Self { name: name.clone() }
    }

    /// Everything a lab writes to disk; a mount of its own, shared, so that unmounting below it reaches
    /// every pod's mount namespace.
    pub fn run_dir(&self) -> PathBuf {
        Path::new(RUN).join(self.name.as_str())
    }

    /// The parent of all labs.
    pub fn labs_dir() -> &'static Path {
        Path::new(RUN)
    }

    pub fn socket(&self) -> PathBuf {
        self.run_dir().join("lab.sock")
    }

    pub fn daemon_log(&self) -> PathBuf {
        self.run_dir().join("daemon.log")
    }

    pub fn objects(&self) -> PathBuf {
        self.run_dir().join("objects")
    }

    pub fn sink(&self) -> PathBuf {
        self.run_dir().join("sink")
    }

    pub fn sink_objects(&self) -> PathBuf {
        self.sink().join("objects")
    }

    pub fn sink_status(&self) -> PathBuf {
        self.sink().join("status")
    }

    pub fn root_certificate(&self) -> PathBuf {
        self.sink().join("root-cert.pem")
    }

    /// What must survive a restart of the control plane: its certificate authority.
    pub fn state(&self) -> PathBuf {
        self.run_dir().join("state")
    }

    /// The public keys of the lab's service account tokens.
    pub fn token_keys(&self) -> PathBuf {
        self.run_dir().join("token-keys.json")
    }

    pub fn bpffs(&self) -> PathBuf {
        self.run_dir().join("bpf")
    }

    pub fn node_bpffs(&self, node: &str) -> PathBuf {
        self.bpffs().join(node)
    }

    /// The NodePods folder of a node.
    pub fn node_pods(&self, node: &str) -> PathBuf {
        self.run_dir().join("nodes").join(node)
    }

    pub fn pod_dir(&self, namespace: &str, pod: &str) -> PathBuf {
        self.run_dir().join("pods").join(namespace).join(pod)
    }

    /// All namespaces of this lab start with this, and no other lab's do.
    pub fn netns_prefix(&self) -> String {
        format!("aq-{}.", self.name)
    }

    /// The namespace of a node, of the `switch` between them, or of the `world` outside.
    pub fn netns(&self, member: &str) -> String {
        format!("{}{member}", self.netns_prefix())
    }

    pub fn pod_netns(&self, namespace: &str, pod: &str) -> String {
        format!("{}pod.{namespace}.{pod}", self.netns_prefix())
    }

    /// This lab's folder below the root of the cgroup2 mount.
    pub fn cgroup(&self, cgroup2: &Path) -> PathBuf {
        cgroup2.join(format!("aq-{}", self.name))
    }
}

pub(super) fn netns_path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_only_names_that_cannot_collide() {
        for good in ["aquifer", "a", "demo-2", "0"] {
            assert!(good.parse::<LabName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "a b", "..", &"x".repeat(33)] {
            assert!(bad.parse::<LabName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_lab_owns_the_namespaces_of_another() {
        let short = Layout::new(&"demo".parse().unwrap());
        let long = Layout::new(&"demo-2".parse().unwrap());
        assert!(!long.netns("node-1").starts_with(&short.netns_prefix()));
    }
}
