//! Becoming a process of a pod or a node: cgroup, network, mounts and host name, then the program.
//!
//! The calling process enters by itself, so its standard streams, its signals and its exit status are
//! the program's. It must be single-threaded.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::cgroup::{self, CgroupError};
use super::netns::{self, NetnsError};

/// How to enter one place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub(super) netns: PathBuf,
    pub(super) cgroup: PathBuf,
    pub(super) hostname: String,
    pub(super) env: Vec<(String, String)>,
    pub(super) working_dir: Option<PathBuf>,
    pub(super) mounts: Mounts,
}

/// What the process sees otherwise than the machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Mounts {
    /// A folder of the lab where a private /run is put together; without it /run is the machine's.
    pub(super) staging: Option<PathBuf>,
    /// Parts of the machine's /run that stay visible.
    pub(super) kept: Vec<PathBuf>,
    /// Targets below /run or /var/run are made, others must exist.
    pub(super) binds: Vec<Bind>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Bind {
    pub(super) source: PathBuf,
    pub(super) target: PathBuf,
}

/// A container's first step: the program to run in the place.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) entry: Entry,
    pub(super) argv: Vec<String>,
}

#[derive(Debug, Error)]
pub(super) enum EnterError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("cannot {action} {}: {source}", path.display())]
    Mount {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("no command to run")]
    NoCommand,
    #[error("cannot run {program}: {source}")]
    Run { program: String, source: io::Error },
}

impl EnterError {
    /// As a shell reports them: 127 for a missing program, 126 for one that does not run.
    pub(super) fn exit_code(&self) -> i32 {
        match self {
            Self::Run { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Self::Run { .. } => 126,
            _ => 125,
        }
    }
}

impl Entry {
    /// Enters the place and becomes the program. Returns only when that fails.
    pub(super) fn run(&self, argv: &[String]) -> EnterError {
        let Some((program, args)) = argv.split_first() else {
            return EnterError::NoCommand;
        };
        if let Err(error) = self.enter() {
            return error;
        }
        let mut command = Command::new(program);
        command.args(args).env_clear();
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command.current_dir(self.working_dir.as_deref().unwrap_or_else(|| Path::new("/")));
        EnterError::Run {
            program: program.clone(),
            source: command.exec(),
        }
    }

    fn enter(&self) -> Result<(), EnterError> {
        cgroup::join(&self.cgroup)?;
        netns::enter_path(&self.netns)?;
        let namespaces = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
        unshare(namespaces)
            .map_err(|errno| failed("make a mount namespace for", &self.cgroup, errno.into()))?;
        // The UTS namespace's own value; the only part of it that programs look at.
        let hostname = Path::new("/proc/sys/kernel/hostname");
        fs::write(hostname, &self.hostname).map_err(|source| failed("write", hostname, source))?;
        self.mounts.apply()
    }
}

impl Mounts {
    fn apply(&self) -> Result<(), EnterError> {
        let root = Path::new("/");
        // Slave, not private: when the lab unmounts a namespace or its bpffs, that must arrive here,
        // or this process would keep them alive.
        let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
        mount_call("make a slave of", None, root, None, slave)?;
        let run = real_run();
        if let Some(staging) = &self.staging {
            mount_call(
                "mount tmpfs at",
                Some(Path::new("tmpfs")),
                staging,
                Some("tmpfs"),
                MsFlags::empty(),
            )?;
        }
        for kept in &self.kept {
            if let Some(target) = self.staged(kept, &run) {
                bind(kept, &target)?;
            }
        }
        for one in &self.binds {
            self.bind_one(one, &run)?;
        }
        for run in run.iter().filter(|_| self.staging.is_some()) {
            mount_call(
                "mount",
                self.staging.as_deref(),
                run,
                None,
                MsFlags::MS_BIND | MsFlags::MS_REC,
            )?;
        }
        Ok(())
    }

    fn bind_one(&self, one: &Bind, run: &[PathBuf]) -> Result<(), EnterError> {
        // /etc/resolv.conf may be a link into /run: what the link leads to is replaced.
        let target = fs::canonicalize(&one.target).unwrap_or_else(|_| one.target.clone());
        if let Some(staged) = self.staged(&target, run) {
            return bind(&one.source, &staged);
        }
        mount_call(
            "mount",
            Some(&one.source),
            &target,
            None,
            MsFlags::MS_BIND | MsFlags::MS_REC,
        )
    }

    /// Where a path below /run is while /run is put together.
    fn staged(&self, path: &Path, run: &[PathBuf]) -> Option<PathBuf> {
        let below = run.iter().find_map(|run| path.strip_prefix(run).ok());
        let below = below.or_else(|| path.strip_prefix("/var/run").ok())?;
        Some(self.staging.as_ref()?.join(below))
    }
}

/// /run, and /var/run where that is not a link to it.
fn real_run() -> Vec<PathBuf> {
    let run = Path::new("/run").to_owned();
    match fs::canonicalize("/var/run") {
        Ok(other) if other != run => vec![run, other],
        _ => vec![run],
    }
}

/// Binds a file or folder onto a target that is made first.
fn bind(source: &Path, target: &Path) -> Result<(), EnterError> {
    let made = if source.is_dir() {
        fs::create_dir_all(target)
    } else {
        let parent = target.parent().unwrap_or_else(|| Path::new("/"));
        fs::create_dir_all(parent).and_then(|()| fs::write(target, ""))
    };
    made.map_err(|source| failed("make", target, source))?;
    mount_call(
        "mount",
        Some(source),
        target,
        None,
        MsFlags::MS_BIND | MsFlags::MS_REC,
    )
}

fn mount_call(
    action: &'static str,
    source: Option<&Path>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
) -> Result<(), EnterError> {
    mount(source, target, kind, flags, None::<&str>).map_err(|errno| failed(action, target, errno.into()))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> EnterError {
    EnterError::Mount {
        action,
        path: path.to_owned(),
        source,
    }
}
