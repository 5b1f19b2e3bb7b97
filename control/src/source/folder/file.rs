//! One file of the folder: whatever stands there, its reader neither waits nor takes more than a manifest may have.
//!
//! People link files into the folder, and links lead anywhere: to a FIFO, to a device, to a file of the kernel that
//! answers when the kernel has something to say, such as `/proc/kmsg`. One of them must not end the reading of all.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use nix::libc;
use nix::sys::statfs::{
    BPF_FS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC, FsType, PROC_SUPER_MAGIC,
    SECURITYFS_MAGIC, SYSFS_MAGIC, TRACEFS_MAGIC, fstatfs,
};

use crate::source::document::MAX_FILE;

/// File systems of the kernel itself.
const KERNEL: [FsType; 8] = [
    PROC_SUPER_MAGIC,
    SYSFS_MAGIC,
    CGROUP_SUPER_MAGIC,
    CGROUP2_SUPER_MAGIC,
    BPF_FS_MAGIC,
    DEBUGFS_MAGIC,
    TRACEFS_MAGIC,
    SECURITYFS_MAGIC,
];

/// Tells whether a file is still the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Stamp {
    /// `None` where there is nothing.
    pub(super) fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    fn of(metadata: &Metadata) -> Self {
        Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            inode: metadata.ino(),
        }
    }
}

/// What stands at a path, as it was when it was looked at.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) stamp: Option<Stamp>,
    /// The bytes, or why there are none.
    pub(super) content: Result<Vec<u8>, String>,
}

/// Reads a file; `None` where there is none (any more).
pub(super) fn read(path: &Path) -> Option<Found> {
    // The stamp before the content: a change in between makes the file stale, not unnoticed.
    let stamp = Stamp::at(path);
    match content(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => Some(Found {
            stamp,
            content: Err(format!("cannot be read: {error}")),
        }),
        Ok(content) => Some(Found { stamp, content }),
    }
}

fn content(path: &Path) -> io::Result<Result<Vec<u8>, String>> {
    // Opening alone can do harm where there is a device; a FIFO put here in between does not block.
    if let Some(refusal) = refusal(&std::fs::metadata(path)?) {
        return Ok(Err(refusal));
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    if let Some(refusal) = refusal(&file.metadata()?) {
        return Ok(Err(refusal));
    }
    if KERNEL.contains(&fstatfs(&file)?.filesystem_type()) {
        return Ok(Err(
            "leads to a file of the kernel, which is no manifest; remove the link".to_owned(),
        ));
    }
    bounded(file)
}

fn refusal(metadata: &Metadata) -> Option<String> {
    if !metadata.is_file() {
        return Some("is not a regular file".to_owned());
    }
    (metadata.len() > MAX_FILE as u64).then(too_large)
}

/// Reads no more than a manifest may have, also of a file that grows meanwhile.
fn bounded(file: File) -> io::Result<Result<Vec<u8>, String>> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    Ok(if bytes.len() > MAX_FILE {
        Err(too_large())
    } else {
        Ok(bytes)
    })
}

fn too_large() -> String {
    format!("is larger than {} MiB", MAX_FILE / 1024 / 1024)
}
