//! Named network namespaces: made and wired by iproute2, entered by threads of our own.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns};
use thiserror::Error;

#[derive(Debug, Error)]
pub(super) enum NetnsError {
    #[error("cannot run ip: {0} (install iproute2)")]
    NoIp(io::Error),
    #[error("{place}: {message}; commands:\n{script}")]
    Ip {
        place: String,
        message: String,
        script: String,
    },
    #[error("cannot enter network namespace {namespace}: {source}")]
    Enter { namespace: String, source: io::Error },
    #[error("network namespace {namespace}: cannot set {key}: {source}")]
    Sysctl {
        namespace: String,
        key: String,
        source: io::Error,
    },
}

/// Runs lines of `ip` commands, in the caller's namespace or in the named one.
pub(super) fn ip_batch(namespace: Option<&str>, script: &str) -> Result<(), NetnsError> {
    let mut command = Command::new("ip");
    if let Some(name) = namespace {
        command.args(["-n", name]);
    }
    command.args(["-batch", "-"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(NetnsError::NoIp)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A failed write means that ip gave up: its exit status and message say why.
        drop(stdin.write_all(script.as_bytes()));
    }
    let output = child.wait_with_output().map_err(NetnsError::NoIp)?;
    if output.status.success() {
        return Ok(());
    }
    Err(NetnsError::Ip {
        place: namespace.map_or_else(|| "root namespace".to_owned(), str::to_owned),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        script: script.to_owned(),
    })
}

/// Sets `net.*` sysctls (paths below /proc/sys/net) inside a namespace.
pub(super) fn set_sysctls(namespace: &str, settings: &[(&str, &str)]) -> Result<(), NetnsError> {
    let inside = || {
        enter(namespace)?;
        for (key, value) in settings {
            let path = Path::new("/proc/sys/net").join(key);
            std::fs::write(path, value).map_err(|source| NetnsError::Sysctl {
                namespace: namespace.to_owned(),
                key: (*key).to_owned(),
                source,
            })?;
        }
        Ok(())
    };
    // A thread of its own: the namespace is the thread's, and it must not leak into the pool.
    std::thread::scope(|scope| match scope.spawn(inside).join() {
        Ok(result) => result,
        Err(_) => Err(enter_error(namespace, io::Error::other("the thread panicked"))),
    })
}

/// Moves the calling thread into the namespace, for good.
pub(super) fn enter(namespace: &str) -> Result<(), NetnsError> {
    enter_path(&super::layout::netns_path(namespace))
}

pub(super) fn enter_path(path: &Path) -> Result<(), NetnsError> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path).map_err(|source| enter_error(&name, source))?;
    setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| enter_error(&name, errno.into()))
}

fn enter_error(namespace: &str, source: io::Error) -> NetnsError {
    NetnsError::Enter {
        namespace: namespace.to_owned(),
        source,
    }
}
