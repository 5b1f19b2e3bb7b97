//! Becoming a member: cgroups, namespaces and root, then the first process of a PID namespace that runs its services.

use std::fs;
use std::io::{self, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::cgroup::{self, CgroupError, Cgroups};
use super::layout::{Layout, Member, netns_path};
use super::netns::{self, NetworkError};
use super::root::{Root, RootError};
use super::services::Service;
use super::supervisor::{self, SupervisorError};

/// Everything that a member's first process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Spec {
    pub(super) root: Root,
    pub(super) netns: PathBuf,
    pub(super) cgroup: PathBuf,
    /// Where the supervisor takes commands.
    pub(super) socket: PathBuf,
    pub(super) pid: PathBuf,
    pub(super) logs: PathBuf,
    pub(super) services: Vec<Service>,
    pub(super) forward: Option<Forward>,
}

/// The API server's way out: a port of this machine's loopback that leads into the member.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Forward {
    pub(super) listen: SocketAddrV4,
    pub(super) to: SocketAddrV4,
}

#[derive(Debug, Error)]
pub enum MemberError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Root(#[from] RootError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot make or enter namespaces: {0} (a cluster needs root)")]
    Namespaces(io::Error),
    #[error("cannot listen at {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot start {program}: {source}")]
    Start { program: String, source: io::Error },
    #[error("{0} is not running; see `status`")]
    Down(Member),
}

const ALL_BUT_USER: [(&str, CloneFlags); 6] = [
    ("cgroup", CloneFlags::CLONE_NEWCGROUP),
    ("ipc", CloneFlags::CLONE_NEWIPC),
    ("uts", CloneFlags::CLONE_NEWUTS),
    ("net", CloneFlags::CLONE_NEWNET),
    ("pid", CloneFlags::CLONE_NEWPID),
    ("mnt", CloneFlags::CLONE_NEWNS),
];

/// The step outside: enters what can be entered, starts the first process inside and ends.
pub(super) fn launch(spec_path: &Path) -> Result<(), MemberError> {
    let spec = Spec::read(spec_path)?;
    // Made in this machine's network, before that is left.
    let listener = spec.forward.map(|forward| listen(forward.listen)).transpose()?;
    let socket = spec.listen()?;
    fs::create_dir_all(&spec.logs).map_err(|source| file_error("make", &spec.logs, source))?;
    let log_path = spec.logs.join("init");
    let log = fs::File::options().create(true).append(true).open(&log_path);
    let log = log.map_err(|source| file_error("open", &log_path, source))?;
    spec.root.cgroups.join(&spec.cgroup)?;
    netns::enter(&spec.netns)?;
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWPID;
    unshare(namespaces).map_err(|errno| MemberError::Namespaces(errno.into()))?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("init").arg(spec_path);
    command.arg("--socket").arg(inherit(&socket)?);
    if let Some(listener) = &listener {
        command.arg("--forward").arg(inherit(listener)?);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // Opened now: as soon as the child moves to its own root, paths lead elsewhere in this process, too.
    let pid = fs::File::create(&spec.pid).map_err(|source| file_error("make", &spec.pid, source))?;
    let child = command.spawn().map_err(|source| MemberError::Start {
        program: "the member's first process".to_owned(),
        source,
    })?;
    (&pid)
        .write_all(child.id().to_string().as_bytes())
        .map_err(|source| file_error("write", &spec.pid, source))
}

/// The step inside: PID 1. Returns when the member is to end, and everything else in it with it.
pub(super) fn init(spec_path: &Path, socket: RawFd, forward: Option<RawFd>) -> Result<(), MemberError> {
    let spec = Spec::read(spec_path)?;
    let socket = UnixListener::from(adopt(socket)?);
    let forward = match (spec.forward, forward) {
        (Some(forward), Some(listener)) => Some((TcpListener::from(adopt(listener)?), forward.to)),
        _ => None,
    };
    spec.root.enter()?;
    leave_cgroup_root(&spec.root.cgroups);
    Ok(supervisor::run(spec.services, &socket, forward)?)
}

/// In a cgroup2 that gives controllers to its children no process may live beside them.
fn leave_cgroup_root(cgroups: &Cgroups) {
    for hierarchy in &cgroups.hierarchies {
        if hierarchy.kind == cgroup::Kind::Two {
            let system = hierarchy.mount.join(cgroup::LEAF);
            // Only where controllers are at stake does a refusal matter, and then the kubelet says which one it lacks.
            drop(fs::create_dir_all(&system));
            drop(fs::write(system.join("cgroup.procs"), "0"));
            cgroup::delegate(&hierarchy.mount);
        }
    }
}

/// A command inside a member, as a process of its own cgroups: what is left of it ends with the member.
pub(super) fn run_inside(
    layout: &Layout,
    cgroups: &Cgroups,
    member: Member,
    argv: &[String],
) -> Result<i32, MemberError> {
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| start_error("the command", io::Error::other("nothing to run")))?;
    cgroups.join_leaf(&layout.member_cgroup(member))?;
    if member == Member::World {
        netns::enter(&netns_path(&layout.netns(member)))?;
    } else {
        enter_namespaces(layout, member)?;
    }
    // A child: only children are in the PID namespace.
    let mut command = Command::new(program);
    command.args(arguments);
    if member != Member::World {
        command
            .env_clear()
            .envs(supervisor::environment())
            .current_dir("/");
    }
    let status = command.status().map_err(|source| start_error(program, source))?;
    Ok(exit_code(status))
}

fn enter_namespaces(layout: &Layout, member: Member) -> Result<(), MemberError> {
    let pid = pid(layout, member).ok_or(MemberError::Down(member))?;
    let folder = PathBuf::from(format!("/proc/{pid}/ns"));
    let open = |(name, flag): (&str, CloneFlags)| fs::File::open(folder.join(name)).map(|file| (file, flag));
    let namespaces: io::Result<Vec<_>> = ALL_BUT_USER.into_iter().map(open).collect();
    for (file, flag) in namespaces.map_err(MemberError::Namespaces)? {
        setns(file, flag).map_err(|errno| MemberError::Namespaces(errno.into()))?;
    }
    Ok(())
}

/// The member's first process, if it lives.
pub(super) fn pid(layout: &Layout, member: Member) -> Option<u32> {
    let pid: u32 = fs::read_to_string(layout.pid(member)).ok()?.parse().ok()?;
    // The number may be somebody else's by now.
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let folder = layout.member_cgroup(member);
    cgroup.contains(&*folder.to_string_lossy()).then_some(pid)
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

impl Spec {
    fn read(path: &Path) -> Result<Self, MemberError> {
        let text = fs::read_to_string(path).map_err(|source| file_error("read", path, source))?;
        serde_json::from_str(&text).map_err(|error| file_error("read", path, error.into()))
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), MemberError> {
        let text =
            serde_json::to_string_pretty(self).map_err(|error| file_error("write", path, error.into()))?;
        fs::write(path, text).map_err(|source| file_error("write", path, source))
    }

    fn listen(&self) -> Result<UnixListener, MemberError> {
        // A dead member's.
        drop(fs::remove_file(&self.socket));
        UnixListener::bind(&self.socket).map_err(|source| file_error("listen at", &self.socket, source))
    }
}

fn listen(address: SocketAddrV4) -> Result<TcpListener, MemberError> {
    TcpListener::bind(address).map_err(|source| MemberError::Listen {
        address: address.into(),
        source,
    })
}

/// Leaves the descriptor open over exec, and names it.
fn inherit(descriptor: &(impl std::os::fd::AsFd + AsRawFd)) -> Result<String, MemberError> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))
        .map_err(|errno| MemberError::Namespaces(errno.into()))?;
    Ok(descriptor.as_raw_fd().to_string())
}

fn adopt(descriptor: RawFd) -> Result<OwnedFd, MemberError> {
    // SAFETY: the number was given on the command line by `launch`, which left this descriptor open for us alone.
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(|errno| MemberError::Namespaces(errno.into()))?;
    Ok(owned)
}

fn start_error(program: &str, source: io::Error) -> MemberError {
    MemberError::Start {
        program: program.to_owned(),
        source,
    }
}

fn file_error(action: &'static str, path: &Path, source: io::Error) -> MemberError {
    MemberError::File {
        action,
        path: path.to_owned(),
        source,
    }
}
