//! What the plugin and the agent say to each other: one line of JSON each way.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longer lines are refused; a pod has few addresses and short names.
pub(super) const MAX_LINE: u64 = 16 * 1024;
/// How long the agent waits for what it needs to answer.
pub(crate) const AGENT_PATIENCE: Duration = Duration::from_secs(20);
/// How long the plugin waits for the agent; a kubelet gives a runtime two minutes.
pub(super) const PLUGIN_PATIENCE: Duration = Duration::from_secs(30);

/// A pod whose network namespace stands, and whose containers wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arrival {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Of the pod's object, or the hash of a kubelet's own pod; runtimes before 2021 do not tell it.
    #[serde(default)]
    pub(crate) uid: Option<String>,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) netns: NetnsFile,
}

/// Which network namespace a file stands for. The agent sees the runtime's folder elsewhere, but the same files in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetnsFile {
    name: String,
    inode: u64,
}

impl NetnsFile {
    /// The file as it is now.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let inode = std::fs::metadata(path)?.ino();
        Ok(Self { name, inode })
    }
}

/// What is to become of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub(crate) enum Verdict {
    /// It is captured, or is not to be.
    Start,
    /// Not now: the runtime is to try again.
    Hold { because: String },
}
