//! A member's own root file system and kernel file systems, as a machine of its own would have them.
//!
//! Only programs are shared with this machine, read-only. Whatever a pod's hostPath reaches, a CNI plugin installs or a
//! kubelet mounts stays in the member's folder and mount namespace, and ends with its last process.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::cgroup::{Cgroups, Hierarchy, Kind};

/// Where the programs of the cluster's parts are in every member.
pub(super) const PARTS: &str = "/opt/aquifer-cluster/bin";
/// A member's certificates and configuration files.
pub(super) const CONFIG: &str = "/etc/aquifer-cluster";
pub(super) const BPFFS: &str = "/sys/fs/bpf";

/// Folders of this machine's root that hold programs, or links to them.
const PROGRAMS: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// What programs expect of /etc and does not belong to one machine.
const SHARED_ETC: [&str; 7] = [
    "alternatives",
    "group",
    "ld.so.cache",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "ssl",
];
/// A kubelet sets these for the whole kernel. It reads them first: told that they are set, it leaves them alone.
const KUBELET_SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// What a member's root is put together from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Root {
    /// The member's folder: `etc`, `opt`, `var` are its own and stay when it restarts.
    pub(super) folder: PathBuf,
    pub(super) parts: PathBuf,
    pub(super) hostname: String,
    pub(super) cgroups: Cgroups,
}

#[derive(Debug, Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub struct RootError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Root {
    /// Puts the root together and moves the process into it. It must be in mount, PID, UTS and cgroup namespaces
    /// of its own, and be the first of its PID namespace.
    pub(super) fn enter(&self) -> Result<(), RootError> {
        let slash = Path::new("/");
        mount_call(None, slash, None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
        let root = self.folder.join("root");
        make_dir(&root)?;
        new_filesystem("tmpfs", &root, Some("mode=0755"))?;
        self.share_programs(&root)?;
        self.own_folders(&root)?;
        self.kernel_filesystems(&root)?;
        self.set_hostname()?;
        change_root(&root)?;
        // Containers with Bidirectional or HostToContainer mounts see what the node mounts.
        mount_call(None, slash, None, MsFlags::MS_REC | MsFlags::MS_SHARED, None)
    }

    fn share_programs(&self, root: &Path) -> Result<(), RootError> {
        for name in PROGRAMS {
            let (source, target) = (Path::new("/").join(name), root.join(name));
            match fs::read_link(&source) {
                Ok(link) => {
                    symlink(link, &target).map_err(|error| failed("make the link", &target, error))?
                }
                Err(_) if source.is_dir() => bind(&source, &target, Access::ReadOnly)?,
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn own_folders(&self, root: &Path) -> Result<(), RootError> {
        for name in ["etc", "opt", "var"] {
            let source = self.folder.join(name);
            make_dir(&source)?;
            bind(&source, &root.join(name), Access::Write)?;
        }
        for (name, options) in [("run", "mode=0755"), ("tmp", "mode=1777")] {
            make_dir(&root.join(name))?;
            new_filesystem("tmpfs", &root.join(name), Some(options))?;
        }
        for name in ["home", "mnt", "root", "srv", "run/netns", "run/lock"] {
            make_dir(&root.join(name))?;
        }
        link_once(Path::new("/run"), &root.join("var/run"))?;
        bind(&self.parts, &in_root(root, PARTS), Access::ReadOnly)?;
        for name in SHARED_ETC {
            let source = Path::new("/etc").join(name);
            if source.exists() {
                bind(&source, &root.join("etc").join(name), Access::ReadOnly)?;
            }
        }
        Ok(())
    }

    fn kernel_filesystems(&self, root: &Path) -> Result<(), RootError> {
        devices(&root.join("dev"))?;
        for (kind, target) in [("proc", "proc"), ("sysfs", "sys")] {
            make_dir(&root.join(target))?;
            new_filesystem(kind, &root.join(target), None)?;
        }
        // On a kernel without eBPF the agent must be able to say so: a missing folder is not this one's business.
        let bpf = in_root(root, BPFFS);
        if bpf.is_dir() {
            new_filesystem("bpf", &bpf, Some("mode=0700"))?;
        }
        self.mount_cgroups(&root.join("sys/fs/cgroup"))?;
        self.keep_settings(root)
    }

    /// Inside a cgroup namespace a fresh mount shows the member's folder as the root.
    fn mount_cgroups(&self, target: &Path) -> Result<(), RootError> {
        let below = |hierarchy: &Hierarchy| hierarchy.subfolder().map(|name| target.join(name));
        if self.cgroups.hierarchies.iter().any(|one| below(one).is_some()) {
            new_filesystem("tmpfs", target, Some("mode=0755"))?;
        }
        for hierarchy in &self.cgroups.hierarchies {
            let folder = below(hierarchy).unwrap_or_else(|| target.to_owned());
            make_dir(&folder)?;
            match &hierarchy.kind {
                Kind::Two => new_filesystem("cgroup2", &folder, None)?,
                Kind::One { options } => new_filesystem("cgroup", &folder, Some(options))?,
            }
        }
        Ok(())
    }

    fn keep_settings(&self, root: &Path) -> Result<(), RootError> {
        let folder = self.folder.join("settings");
        make_dir(&folder)?;
        for (index, (key, value)) in KUBELET_SETTINGS.into_iter().enumerate() {
            let (shown, actual) = (folder.join(index.to_string()), root.join("proc/sys").join(key));
            write_file(&shown, &format!("{value}\n"))?;
            bind(&shown, &actual, Access::Write)?;
        }
        // A restarted node is a rebooted one.
        let boot = folder.join("boot_id");
        let fresh = root.join("proc/sys/kernel/random/uuid");
        let id = fs::read_to_string(&fresh).map_err(|error| failed("read", &fresh, error))?;
        write_file(&boot, &id)?;
        bind(&boot, &root.join("proc/sys/kernel/random/boot_id"), Access::Write)
    }

    fn set_hostname(&self) -> Result<(), RootError> {
        write_file(Path::new("/proc/sys/kernel/hostname"), &self.hostname)
    }
}

/// The machine's devices, with terminals and shared memory of the member's own.
fn devices(target: &Path) -> Result<(), RootError> {
    make_dir(target)?;
    mount_call(Some(Path::new("/dev")), target, None, MsFlags::MS_BIND, None)?;
    let own = [
        ("devpts", "pts", "newinstance,ptmxmode=0666,mode=0620"),
        ("tmpfs", "shm", "mode=1777"),
        ("mqueue", "mqueue", ""),
    ];
    for (kind, name, options) in own {
        let folder = target.join(name);
        // Not made where it is missing: the folder would be the machine's.
        if folder.is_dir() {
            new_filesystem(kind, &folder, Some(options).filter(|options| !options.is_empty()))?;
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadOnly,
    Write,
}

/// Leaves this machine's root: with the old tree go all copies of mounts, so that nobody's unmount waits for us.
fn change_root(root: &Path) -> Result<(), RootError> {
    chdir(root).map_err(|errno| failed("enter", root, errno.into()))?;
    pivot_root(".", ".").map_err(|errno| failed("make the root of", root, errno.into()))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(|errno| failed("leave the root above", root, errno.into()))?;
    chdir("/").map_err(|errno| failed("enter", root, errno.into()))
}

/// Binds a file or folder, with what is mounted below it, onto a target that is made first.
fn bind(source: &Path, target: &Path, access: Access) -> Result<(), RootError> {
    if source.is_dir() {
        make_dir(target)?;
    } else if !target.exists() {
        write_file(target, "")?;
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount_call(Some(source), target, None, flags, None)?;
    if access == Access::ReadOnly {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount_call(None, target, None, flags, None)?;
    }
    Ok(())
}

fn new_filesystem(kind: &str, target: &Path, options: Option<&str>) -> Result<(), RootError> {
    mount_call(
        Some(Path::new(kind)),
        target,
        Some(kind),
        MsFlags::empty(),
        options,
    )
}

fn mount_call(
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    options: Option<&str>,
) -> Result<(), RootError> {
    mount(source, target, kind, flags, options).map_err(|errno| failed("mount", target, errno.into()))
}

fn in_root(root: &Path, absolute: &str) -> PathBuf {
    root.join(absolute.trim_start_matches('/'))
}

fn make_dir(path: &Path) -> Result<(), RootError> {
    fs::create_dir_all(path).map_err(|error| failed("make", path, error))
}

/// Opened for writing, not made anew: some targets are the kernel's.
fn write_file(path: &Path, text: &str) -> Result<(), RootError> {
    let opened = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path);
    opened
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| failed("write", path, error))
}

fn link_once(to: &Path, at: &Path) -> Result<(), RootError> {
    match symlink(to, at) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("make the link", at, error)),
        _ => Ok(()),
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> RootError {
    RootError {
        action,
        path: path.to_owned(),
        source,
    }
}
