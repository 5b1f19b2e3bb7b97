//! Clears what a test run left that was killed, and nothing of one that is alive.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::mount::umount;

/// The worlds of one process are named after it: `aqk-PID-NUMBER`.
pub(crate) const PREFIX: &str = "aqk-";

/// Removes the worlds of dead processes: namespaces, cgroups below `cgroups`, mounts below `folders`.
pub(crate) fn sweep(cgroups: &Path, folders: &Path) {
    for name in orphans(Path::new("/run/netns")) {
        let _ = Command::new("ip").args(["netns", "delete", &name]).status();
    }
    for name in orphans(cgroups) {
        remove_cgroup(&cgroups.join(name));
    }
    for name in orphans(folders) {
        let folder = folders.join(name);
        let _ = umount(&folder);
        let _ = fs::remove_dir(&folder);
    }
}

/// Children first: only an empty cgroup can be removed.
fn remove_cgroup(path: &Path) {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_cgroup(&entry.path());
    }
    let _ = fs::remove_dir(path);
}

fn orphans(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| is_orphan(name)).collect()
}

fn is_orphan(name: &str) -> bool {
    let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
    process.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
}
