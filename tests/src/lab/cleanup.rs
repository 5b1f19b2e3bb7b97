//! Clears a lab, running or dead, from names and cgroups alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use thiserror::Error;

use super::cgroup::{self, CgroupError};
use super::layout::{LabName, Layout, NETNS_DIR};

#[derive(Debug, Error)]
pub enum CleanupError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
}

/// Removes processes, pins, mounts, namespaces, cgroups and files of the lab, in that order.
///
/// Pins go before namespaces: a pinned sk_lookup link would keep its namespace alive.
pub(super) fn clear(name: &LabName) -> Result<(), CleanupError> {
    let layout = Layout::new(name);
    let cgroup = layout.cgroup(&cgroup::cgroup2_mount()?);
    cgroup::kill(&cgroup)?;
    remove_pins(&layout)?;
    unmount_below(&layout.run_dir())?;
    remove_namespaces(&layout.netns_prefix())?;
    cgroup::remove(&cgroup)?;
    remove_tree(&layout.run_dir())?;
    // The parent goes with the last lab; others may still live in it.
    drop(fs::remove_dir(Layout::labs_dir()));
    Ok(())
}

/// Removes one pod's namespace. Missing is removed.
pub(super) fn remove_namespace(name: &str) -> Result<(), CleanupError> {
    let path = super::layout::netns_path(name);
    if !path.exists() {
        return Ok(());
    }
    // EINVAL: a file left by a crash between its creation and the mount.
    let _ = umount2(&path, MntFlags::MNT_DETACH);
    fs::remove_file(&path).map_err(|source| failed("remove", &path, source))
}

fn remove_namespaces(prefix: &str) -> Result<(), CleanupError> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if let Some(name) = entry.file_name().to_str().filter(|name| name.starts_with(prefix)) {
            remove_namespace(name)?;
        }
    }
    Ok(())
}

/// Unlinks every pinned program, map and link: a copy of the mount may outlive ours for a moment.
fn remove_pins(layout: &Layout) -> Result<(), CleanupError> {
    let bpffs = layout.bpffs();
    if is_mounted(&bpffs) {
        remove_contents(&bpffs)?;
    }
    Ok(())
}

fn remove_contents(folder: &Path) -> Result<(), CleanupError> {
    let entries = fs::read_dir(folder).map_err(|source| failed("list", folder, source))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let removed = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_contents(&path)?;
            fs::remove_dir(&path)
        } else {
            fs::remove_file(&path)
        };
        match removed {
            // The kernel's own entries (maps.debug, progs.debug) cannot be unlinked; they go with the mount.
            Err(source) if source.kind() != io::ErrorKind::PermissionDenied => {
                return Err(failed("remove", &path, source));
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_mounted(path: &Path) -> bool {
    mounts().iter().any(|mount| mount == path)
}

/// Unmounts everything at or below the folder, last mounted first.
fn unmount_below(folder: &Path) -> Result<(), CleanupError> {
    for mount in mounts().iter().rev().filter(|mount| mount.starts_with(folder)) {
        umount2(mount, MntFlags::MNT_DETACH).map_err(|errno| failed("unmount", mount, errno.into()))?;
    }
    Ok(())
}

fn mounts() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect()
}

fn remove_tree(path: &Path) -> Result<(), CleanupError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, error)),
        _ => Ok(()),
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> CleanupError {
    CleanupError::Io {
        path: path.to_owned(),
        action,
        source,
    }
}
