//! Which cgroup this process is in, by the number the kernel programs compare.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why this process's cgroup is unknown.
#[derive(Debug, Error)]
pub enum OwnCgroupError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("/proc/self/cgroup has no line for cgroup v2; the kernel must have it enabled")]
    NoUnified,
    #[error(
        "no cgroup2 mount in /proc/self/mountinfo shows {path}; mount one, or name this process's cgroup"
    )]
    NotMounted { path: PathBuf },
}

/// The id of this process's cgroup: its folder's inode number.
///
/// `configured` wins where there is one. Otherwise the folder is found through whatever cgroup2
/// mount shows it; in a container with a cgroup namespace of its own that is the mount's root.
pub(crate) fn own_id(configured: Option<&Path>) -> Result<u64, OwnCgroupError> {
    let folder = match configured {
        Some(folder) => folder.to_path_buf(),
        None => own_folder(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)?,
    };
    let metadata = fs::metadata(&folder).map_err(|source| OwnCgroupError::Read { path: folder, source })?;
    Ok(metadata.ino())
}

fn read(path: &str) -> Result<String, OwnCgroupError> {
    fs::read_to_string(path).map_err(|source| OwnCgroupError::Read {
        path: path.into(),
        source,
    })
}

fn own_folder(cgroup: &str, mountinfo: &str) -> Result<PathBuf, OwnCgroupError> {
    let path = cgroup
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .ok_or(OwnCgroupError::NoUnified)?;
    mountinfo
        .lines()
        .filter_map(cgroup2_mount)
        .find_map(|(root, mount_point)| {
            let below = Path::new(path).strip_prefix(root).ok()?;
            Some(Path::new(mount_point).join(below))
        })
        .ok_or_else(|| OwnCgroupError::NotMounted { path: path.into() })
}

/// The root and the mount point of a line of mountinfo, if it is a cgroup2 mount.
///
/// proc_pid_mountinfo(5): `ID PARENT DEV ROOT MOUNT_POINT OPTIONS [OPTIONAL...] - TYPE SOURCE ...`.
fn cgroup2_mount(line: &str) -> Option<(&str, &str)> {
    let (mount, file_system) = line.split_once(" - ")?;
    file_system.starts_with("cgroup2 ").then_some(())?;
    let mut fields = mount.split(' ').skip(3);
    Some((fields.next()?, fields.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw";

    #[test]
    fn finds_the_cgroup2_mount_beside_v1_controllers() {
        let folder = own_folder("8:pids:/x\n0::/kubepods/pod1/agent\n", HYBRID).expect("a folder");
        assert_eq!(folder, Path::new("/sys/fs/cgroup/unified/kubepods/pod1/agent"));
    }

    #[test]
    fn a_mount_of_another_subtree_is_skipped() {
        let mounts = "1 0 0:1 /other /a rw - cgroup2 c rw\n2 0 0:1 /kubepods /b rw - cgroup2 c rw";
        let folder = own_folder("0::/kubepods/agent\n", mounts).expect("a folder");
        assert_eq!(folder, Path::new("/b/agent"));
        assert!(matches!(
            own_folder("0::/elsewhere\n", mounts),
            Err(OwnCgroupError::NotMounted { path }) if path == Path::new("/elsewhere")
        ));
    }

    #[test]
    fn a_cgroup_namespace_shows_its_own_root() {
        let folder =
            own_folder("0::/\n", "1 0 0:1 / /sys/fs/cgroup ro - cgroup2 cgroup rw").expect("a folder");
        assert_eq!(folder, Path::new("/sys/fs/cgroup/"));
    }

    #[test]
    fn a_machine_without_cgroup2_is_told_so() {
        assert!(matches!(
            own_folder("4:memory:/\n", HYBRID),
            Err(OwnCgroupError::NoUnified)
        ));
    }
}
