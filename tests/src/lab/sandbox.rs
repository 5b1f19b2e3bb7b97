//! A pod's place: its network namespace, its link to the node, its cgroup and its files.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use thiserror::Error;

use super::cgroup::{self, CgroupError};
use super::cleanup::{self, CleanupError};
use super::layout::netns_path;
use super::netns::{self, NetnsError};
use super::network::{self, NodeNumber, POD_SYSCTLS};

/// What a pod gets before its containers start.
#[derive(Clone, Debug)]
pub(super) struct Sandbox {
    pub(super) cgroup: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) network: PodNetwork,
}

#[derive(Clone, Debug)]
pub(super) enum PodNetwork {
    /// `hostNetwork: true`: the node's own namespace.
    Node { netns: String },
    Own {
        netns: String,
        node_netns: String,
        node: NodeNumber,
        interface: String,
        addresses: Vec<IpAddr>,
    },
}

#[derive(Debug, Error)]
pub(super) enum SandboxError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
    #[error("cannot make or remove {}: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
}

impl PodNetwork {
    pub(super) fn netns(&self) -> &str {
        match self {
            Self::Node { netns } | Self::Own { netns, .. } => netns,
        }
    }
}

impl Sandbox {
    pub(super) fn netns_path(&self) -> PathBuf {
        netns_path(self.network.netns())
    }

    /// Makes it all; blocking, some 20 ms.
    pub(super) fn create(&self) -> Result<(), SandboxError> {
        cgroup::create(&self.cgroup)?;
        for folder in ["run", "volumes"] {
            let path = self.folder.join(folder);
            fs::create_dir_all(&path).map_err(|source| SandboxError::Folder { path, source })?;
        }
        let PodNetwork::Own {
            netns,
            node_netns,
            node,
            interface,
            addresses,
        } = &self.network
        else {
            return Ok(());
        };
        netns::ip_batch(None, &format!("netns add {netns}\n"))?;
        netns::set_sysctls(netns, POD_SYSCTLS)?;
        netns::ip_batch(Some(node_netns), &network::pod_link_script(interface, netns))?;
        Ok(netns::ip_batch(
            Some(netns),
            &network::pod_address_script(*node, addresses),
        )?)
    }

    /// Ends what runs in it and removes all but the pod's files; blocking.
    pub(super) fn undo(&self) -> Result<(), SandboxError> {
        cgroup::kill(&self.cgroup)?;
        if let PodNetwork::Own {
            netns,
            node_netns,
            interface,
            ..
        } = &self.network
        {
            // At once, not when the kernel gets round to the namespace: the address may be given again.
            drop(netns::ip_batch(
                Some(node_netns),
                &format!("link del {interface}\n"),
            ));
            cleanup::remove_namespace(netns)?;
        }
        Ok(cgroup::remove(&self.cgroup)?)
    }

    /// Removes everything; blocking.
    pub(super) fn destroy(&self) -> Result<(), SandboxError> {
        self.undo()?;
        match fs::remove_dir_all(&self.folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(SandboxError::Folder {
                path: self.folder.clone(),
                source,
            }),
            _ => Ok(()),
        }
    }
}
