//! What a test run must not leave on the machine.
//!
//! Compared before and after, so that a developer's own lab, or another run beside this one that was
//! there first, is not blamed on the tests.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::workspace::Workspace;

/// Prefix of every namespace, cgroup and pin folder that our programs make.
const PREFIX: &str = "aq";
/// Pods' cgroups are at most this deep below the root of the hierarchy.
const CGROUP_DEPTH: usize = 8;

pub(crate) struct Leftovers(BTreeSet<String>);

impl Leftovers {
    pub(crate) fn look(workspace: &Workspace) -> Self {
        let mut found = BTreeSet::new();
        found.extend(named("network namespace", Path::new("/run/netns")));
        found.extend(named("pinned objects", Path::new("/sys/fs/bpf")));
        for mount in cgroup_mounts() {
            cgroups(&mount, CGROUP_DEPTH, &mut found);
        }
        found.extend(processes(&workspace.programs()));
        Self(found)
    }

    pub(crate) fn since(self, before: &Self) -> Self {
        Self(self.0.difference(&before.0).cloned().collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.0 {
            writeln!(out, "  {line}")?;
        }
        Ok(())
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries.flatten().map(|entry| entry.path()).collect()
}

fn has_prefix(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
}

fn named(what: &str, folder: &Path) -> Vec<String> {
    entries(folder)
        .iter()
        .filter(|path| has_prefix(path))
        .map(|path| format!("{what} {}", path.display()))
        .collect()
}

/// The cgroup2 hierarchies, wherever this machine mounts them.
fn cgroup_mounts() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields.get(2) == Some(&"cgroup2"))
        .filter_map(|fields| fields.get(1).map(PathBuf::from))
        .collect()
}

/// The topmost cgroups of ours: their children go with them.
fn cgroups(folder: &Path, depth: usize, found: &mut BTreeSet<String>) {
    if depth == 0 {
        return;
    }
    for child in entries(folder).into_iter().filter(|path| path.is_dir()) {
        if has_prefix(&child) {
            found.insert(format!("cgroup {}", child.display()));
        } else {
            cgroups(&child, depth - 1, found);
        }
    }
}

/// Processes that run one of our programs.
fn processes(programs: &Path) -> Vec<String> {
    entries(Path::new("/proc"))
        .iter()
        .filter_map(|process| {
            let program = fs::read_link(process.join("exe")).ok()?;
            let pid = process.file_name()?.to_string_lossy().into_owned();
            program
                .starts_with(programs)
                .then(|| format!("process {pid} {}", program.display()))
        })
        .collect()
}
