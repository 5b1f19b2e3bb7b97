//! The cluster's cgroups, in every hierarchy that the machine has: one cgroup2, v1 controllers, or both.
//!
//! Members live in the same folder of each, so that a cgroup namespace shows each of them a tree that is its own.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How long killed processes may take to disappear. A kernel that is busy freeing namespaces takes seconds, on a busy
/// machine many.
const EMPTY_DEADLINE: Duration = Duration::from_secs(120);
/// Where a member's own processes live in the cgroup2: one that gives its controllers to children may hold none.
pub(super) const LEAF: &str = "system";
/// What a v1 cpuset cannot do without, and does not inherit.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

#[derive(Debug, Error)]
pub enum CgroupError {
    #[error("no cgroup2 mount in /proc/self/mountinfo: mount one (`mount -t cgroup2 none /sys/fs/cgroup`)")]
    NoMount,
    #[error("cgroup {}: cannot {action}: {source} (a cluster needs root and writable cgroups)", path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        source: io::Error,
    },
    #[error("processes in cgroup {} outlive SIGKILL: {pids}", path.display())]
    Immortal { path: PathBuf, pids: String },
}

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hierarchy {
    pub(super) mount: PathBuf,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Two,
    /// The options that mount the same hierarchy elsewhere.
    One {
        options: String,
    },
}

/// All hierarchies of the machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Cgroups {
    pub(super) hierarchies: Vec<Hierarchy>,
}

impl Cgroups {
    pub(super) fn find() -> Result<Self, CgroupError> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|_| CgroupError::NoMount)?;
        let hierarchies = parse(&mounts);
        if hierarchies.iter().any(|hierarchy| hierarchy.kind == Kind::Two) {
            Ok(Self { hierarchies })
        } else {
            Err(CgroupError::NoMount)
        }
    }

    /// Makes the folder in each hierarchy.
    pub(super) fn create(&self, path: &Path) -> Result<(), CgroupError> {
        self.hierarchies
            .iter()
            .try_for_each(|hierarchy| hierarchy.create(path))
    }

    /// Moves the calling process there.
    pub(super) fn join(&self, path: &Path) -> Result<(), CgroupError> {
        for hierarchy in &self.hierarchies {
            let folder = hierarchy.mount.join(path);
            // "0" stands for the writing process, whatever PID namespace it is in.
            fs::write(folder.join("cgroup.procs"), "0")
                .map_err(|source| io_error(&folder, "join it", source))?;
        }
        Ok(())
    }

    /// Moves the calling process beside a member's own services.
    pub(super) fn join_leaf(&self, path: &Path) -> Result<(), CgroupError> {
        for hierarchy in &self.hierarchies {
            let folder = hierarchy.mount.join(path);
            let leaf = Some(folder.join(LEAF)).filter(|leaf| leaf.exists() && hierarchy.kind == Kind::Two);
            let joined = leaf.unwrap_or(folder);
            fs::write(joined.join("cgroup.procs"), "0")
                .map_err(|source| io_error(&joined, "join it", source))?;
        }
        Ok(())
    }

    /// Kills every process below the folder and waits until they are gone. Missing is empty.
    ///
    /// By the cgroup2 hierarchy: it has every process of ours, and a kill that no fork escapes.
    pub(super) fn kill(&self, path: &Path) -> Result<(), CgroupError> {
        for folder in self.unified(path).filter(|folder| folder.exists()) {
            fs::write(folder.join("cgroup.kill"), "1")
                .map_err(|source| io_error(&folder, "kill its processes", source))?;
            wait_empty(&folder)?;
        }
        Ok(())
    }

    /// Removes the folder from each hierarchy, deepest first. Missing is removed.
    pub(super) fn remove(&self, path: &Path) -> Result<(), CgroupError> {
        self.hierarchies
            .iter()
            .try_for_each(|hierarchy| remove_tree(&hierarchy.mount.join(path)))
    }

    fn unified(&self, path: &Path) -> impl Iterator<Item = PathBuf> {
        self.hierarchies
            .iter()
            .filter(|hierarchy| hierarchy.kind == Kind::Two)
            .map(move |hierarchy| hierarchy.mount.join(path))
    }
}

impl Hierarchy {
    fn create(&self, path: &Path) -> Result<(), CgroupError> {
        let mut folder = self.mount.clone();
        for part in path.components() {
            if self.kind == Kind::Two {
                delegate(&folder);
            }
            let parent = folder.clone();
            folder.push(part);
            fs::create_dir_all(&folder).map_err(|source| io_error(&folder, "create it", source))?;
            if parent.join(CPUSET[0]).exists() && matches!(self.kind, Kind::One { .. }) {
                copy_cpuset(&parent, &folder)?;
            }
        }
        Ok(())
    }

    /// The folder's name below /sys/fs/cgroup, none for the hierarchy that is mounted right there.
    pub(super) fn subfolder(&self) -> Option<&Path> {
        let below = self.mount.strip_prefix("/sys/fs/cgroup").ok()?;
        (!below.as_os_str().is_empty()).then_some(below)
    }
}

/// Lets children of a cgroup2 folder use its controllers. What the kernel refuses is not to be had there.
pub(super) fn delegate(folder: &Path) {
    let controllers = fs::read_to_string(folder.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        drop(fs::write(
            folder.join("cgroup.subtree_control"),
            format!("+{controller}"),
        ));
    }
}

fn copy_cpuset(parent: &Path, folder: &Path) -> Result<(), CgroupError> {
    for file in CPUSET {
        fs::read(parent.join(file))
            .and_then(|value| fs::write(folder.join(file), value))
            .map_err(|source| io_error(folder, "copy its parent's cpuset", source))?;
    }
    Ok(())
}

fn parse(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for hierarchy in mountinfo.lines().filter_map(parse_line) {
        // The same hierarchy mounted twice is one.
        let known = |other: &Hierarchy| other.kind == hierarchy.kind;
        if !found.iter().any(known) {
            found.push(hierarchy);
        }
    }
    found
}

fn parse_line(line: &str) -> Option<Hierarchy> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut fields = filesystem.split(' ');
    let kind = match fields.next()? {
        "cgroup2" => Kind::Two,
        "cgroup" => Kind::One {
            options: mount_options(fields.nth(1)?),
        },
        _ => return None,
    };
    let mount = PathBuf::from(mount.split(' ').nth(4)?);
    Some(Hierarchy { mount, kind })
}

/// Which hierarchy it is, out of a mount's options.
fn mount_options(shown: &str) -> String {
    const NOT_IDENTITY: [&str; 6] = [
        "rw",
        "ro",
        "xattr",
        "clone_children",
        "noprefix",
        "cpuset_v2_mode",
    ];
    let kept: Vec<&str> = shown
        .split(',')
        .filter(|option| !NOT_IDENTITY.contains(option) && !option.starts_with("release_agent="))
        .collect();
    let named_only = kept.iter().all(|option| option.starts_with("name="));
    let prefix = if named_only { "none," } else { "" };
    format!("{prefix}{}", kept.join(","))
}

fn remove_tree(path: &Path) -> Result<(), CgroupError> {
    let Ok(entries) = fs::read_dir(path) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
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
        let events = match fs::File::open(path.join("cgroup.events")) {
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
        match poll(&mut wait, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
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

    const HYBRID: &str = "\
        40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
        42 31 0:39 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        43 31 0:38 / /mnt/again rw - cgroup2 cgroup2 rw\n\
        44 31 0:40 / /proc rw - proc proc rw\n";

    #[test]
    fn finds_each_hierarchy_once_with_what_mounts_it_again() {
        let found = parse(HYBRID);
        let kinds: Vec<&Kind> = found.iter().map(|hierarchy| &hierarchy.kind).collect();
        let one = |options: &str| Kind::One {
            options: options.to_owned(),
        };
        assert_eq!(
            kinds,
            [&one("none,name=systemd"), &Kind::Two, &one("cpu,cpuacct")]
        );
        assert_eq!(found[1].subfolder(), Some(Path::new("unified")));
    }

    #[test]
    fn cgroup2_alone_is_the_folder_itself() {
        let found = parse("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(found[0].subfolder(), None);
    }
}
