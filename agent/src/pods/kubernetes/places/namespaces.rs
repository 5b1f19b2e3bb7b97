//! The network namespaces in a folder, with the addresses that each has.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use crate::capture::Netns;

/// Which namespace a file is, as long as the file is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

#[derive(Clone, Debug)]
pub(super) struct Namespace {
    pub(super) path: PathBuf,
    pub(super) file: FileId,
    pub(super) addresses: Vec<IpAddr>,
}

impl Namespace {
    pub(super) fn has(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip)
    }
}

/// All but those that are taken.
pub(super) fn list(folder: &Path, taken: &HashSet<FileId>) -> Result<Vec<Namespace>, String> {
    let failed = |error: io::Error| {
        format!(
            "cannot list {}, the folder of pods' network namespaces: {error}; is it mounted (chart value agent.podNetnsDir)?",
            folder.display()
        )
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // One that goes while it is looked at, or a file that is no namespace yet, is nobody's in this look.
        let Ok(file) = FileId::of(&path) else { continue };
        if taken.contains(&file) {
            continue;
        }
        match addresses(&path) {
            Ok(addresses) => found.push(Namespace {
                path,
                file,
                addresses,
            }),
            Err(error) => {
                tracing::debug!(path = %path.display(), %error, "not a namespace that can be entered")
            }
        }
    }
    Ok(found)
}

/// Those of devices other than loopback: what the rest of the network knows.
fn addresses(path: &Path) -> io::Result<Vec<IpAddr>> {
    let netns = Netns::open(path)?;
    let all = netns.run(|| getifaddrs().map_err(io::Error::from))?;
    let address = |sockaddr: SockaddrStorage| {
        let v4 = sockaddr.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| sockaddr.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    Ok(all
        .filter_map(|interface| address(interface.address?))
        .filter(|ip| !ip.is_loopback())
        .collect())
}
