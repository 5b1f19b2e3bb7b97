//! The CNI plugin: a pod of the mesh starts when its agent has captured it, and not before.
//!
//! The API server tells of a pod's addresses when its containers run already, and an agent may be away. So that no pod
//! talks plainly meanwhile, the container runtime is made to ask: it runs the plugin when a pod's network namespace
//! stands and none of its containers runs. The plugin asks the agent over a socket, and waits for the answer.
//!
//! The plugin is this program under another name ([`plugin::NAME`]), copied to the node and run as a process of the
//! node. With the agent away it holds the pods of those namespaces that were in the mesh when an agent last looked, and
//! lets all others go: a broken agent does not make its node unusable.

mod conflist;
mod exchange;
mod folder;
mod install;
pub mod plugin;
mod server;

pub(crate) use exchange::{AGENT_PATIENCE, Arrival, NetnsFile, Verdict};
pub(crate) use install::Installer;
pub(crate) use server::{Arriving, Socket};

use std::path::PathBuf;

/// Where the node keeps what its container runtime runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniConfig {
    /// The runtime's folder of network configurations, as the agent sees it.
    pub configurations: PathBuf,
    /// The same folder as the node sees it.
    pub configurations_on_node: PathBuf,
    /// The runtime's folder of plugins, as the agent sees it.
    pub plugins: PathBuf,
}
