//! The lab's cgroups: found in the cgroup2 mount, emptied and removed as a tree.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;

/// How long killed processes may take to disappear.
const EMPTY_DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Error)]
pub enum CgroupError {
    #[error("no cgroup2 mount in /proc/self/mountinfo: mount one (`mount -t cgroup2 none /sys/fs/cgroup`)")]
    NoMount,
    #[error("cgroup {}: cannot {action}: {source} (the lab must run as root with a writable cgroup2)", path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
    #[error("processes in cgroup {} outlive SIGKILL: {pids}", path.display())]
    Immortal { path: PathBuf, pids: String },
}

/// The mount point of the unified hierarchy, beside v1 controllers or alone.
pub(super) fn cgroup2_mount() -> Result<PathBuf, CgroupError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|_| CgroupError::NoMount)?;
    find_mount(&mounts).ok_or(CgroupError::NoMount)
}

fn find_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let is_cgroup2 = filesystem.split(' ').next() == Some("cgroup2");
        is_cgroup2.then(|| mount.split(' ').nth(4).map(PathBuf::from))?
    })
}

pub(super) fn create(path: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(path).map_err(|source| io_error(path, "create it", source))
}

/// Moves the calling process into the cgroup.
pub(super) fn join(path: &Path) -> Result<(), CgroupError> {
    // "0" stands for the writing process, whatever pid namespace it is in.
    fs::write(path.join("cgroup.procs"), "0").map_err(|source| io_error(path, "join it", source))
}

/// Kills every process in the tree and waits until it is empty. Missing is empty.
pub(super) fn kill(path: &Path) -> Result<(), CgroupError> {
    if !path.exists() {
        return Ok(());
    }
    fs::write(path.join("cgroup.kill"), "1")
        .map_err(|source| io_error(path, "kill its processes", source))?;
    wait_empty(path)
}

/// Removes the tree, deepest first. Missing is removed.
pub(super) fn remove(path: &Path) -> Result<(), CgroupError> {
    let Ok(entries) = fs::read_dir(path) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.path().is_dir() {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(path, "remove it", error)),
        _ => Ok(()),
    }
}

fn wait_empty(path: &Path) -> Result<(), CgroupError> {
    let deadline = Instant::now() + EMPTY_DEADLINE;
    loop {
        // Opened anew: an event between reading and polling then still shows as a change.
        let events_path = path.join("cgroup.events");
        let events = match fs::File::open(&events_path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(io_error(path, "read its events", source)),
        };
        let text = io::read_to_string(&events).map_err(|source| io_error(path, "read its events", source))?;
        if text.contains("populated 0") {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(immortal(path));
        }
        let mut wait = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut wait, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(io_error(path, "wait for it to empty", errno.into())),
        }
    }
}

fn immortal(path: &Path) -> CgroupError {
    let pids = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    CgroupError::Immortal {
        path: path.to_owned(),
        pids: pids.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

fn io_error(path: &Path, action: &'static str, source: io::Error) -> CgroupError {
    CgroupError::Io {
        path: path.to_owned(),
        action,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_beside_v1_controllers() {
        let mountinfo = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                         41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(
            find_mount(mountinfo),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(find_mount("36 30 0:33 / /x rw - cgroup cgroup rw\n"), None);
    }
}
