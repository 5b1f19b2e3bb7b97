//! The client's side of the socket, and starting the daemon.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::LabError;
use super::layout::{LabName, Layout};
use super::protocol::{Document, LogFile, MAX_LINE, Request, Response, UpConfig};
use super::status::Status;

/// Lines of a log shown for a pod that is not ready.
const EXPLAIN_LINES: usize = 12;
/// One step of waiting; the daemon answers earlier when something changes.
const WATCH_STEP: Duration = Duration::from_secs(10);
/// Tries to make a folder that others take away.
const RUN_DIR_ATTEMPTS: u32 = 100;
/// A daemon that is told to stop goes at once; one that hangs is killed with its cgroup.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Error)]
pub enum ClientError {
    #[error("no lab {name} is up ({source}): `up` builds it")]
    NotUp { name: LabName, source: io::Error },
    #[error("lab {name}: the daemon broke off: {source}; see {}", log.display())]
    Broken {
        name: LabName,
        source: io::Error,
        log: PathBuf,
    },
    #[error("lab {name}: the daemon's answer makes no sense: {source}")]
    Nonsense {
        name: LabName,
        source: serde_json::Error,
    },
    #[error("{0}")]
    Refused(String),
    #[error("lab {0} is up already: take it down first, or choose another --name")]
    UpAlready(LabName),
    #[error("cannot start the lab's daemon {}: {source}", program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("lab {name} does not come up: {reason}")]
    Daemon { name: LabName, reason: String },
    #[error("the lab needs root: it makes network namespaces, cgroups and mounts")]
    NotRoot,
}

/// Sends one request and waits for its answer.
pub(super) fn call(name: &LabName, request: &Request) -> Result<Response, ClientError> {
    let stream = connect(name)?;
    let broken = |source| ClientError::Broken {
        name: name.clone(),
        source,
        log: Layout::new(name).daemon_log(),
    };
    let nonsense = |source| ClientError::Nonsense {
        name: name.clone(),
        source,
    };
    let line = super::node::line(request).map_err(nonsense)?;
    (&stream).write_all(&line).map_err(broken)?;
    let mut answer = String::new();
    let mut reader = BufReader::new((&stream).take(MAX_LINE));
    reader.read_line(&mut answer).map_err(broken)?;
    if answer.is_empty() {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    match serde_json::from_str(&answer).map_err(nonsense)? {
        Response::Error { message } => Err(ClientError::Refused(message)),
        response => Ok(response),
    }
}

pub(super) fn status(name: &LabName, request: &Request) -> Result<Status, ClientError> {
    match call(name, request)? {
        Response::Status { status } => Ok(*status),
        other => Err(ClientError::Refused(other.unexpected())),
    }
}

/// Waits until the status is as wanted; says whether it came to that.
pub(super) fn wait(
    name: &LabName,
    timeout: Duration,
    wanted: impl Fn(&Status) -> bool,
) -> Result<(Status, bool), ClientError> {
    let deadline = Instant::now() + timeout;
    let mut current = status(name, &Request::Status)?;
    loop {
        if wanted(&current) {
            return Ok((current, true));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok((current, false));
        }
        let step = left.min(WATCH_STEP).as_millis().max(1);
        let request = Request::Watch {
            after: current.generation,
            timeout_ms: u64::try_from(step).unwrap_or(u64::MAX),
        };
        current = status(name, &request)?;
    }
}

/// The ends of the log files of a target, each under its title.
pub(super) fn logs(name: &LabName, target: &str, bytes: u64) -> Result<String, ClientError> {
    let target = target.to_owned();
    match call(name, &Request::Logs { target })? {
        Response::Logs { files } => Ok(files
            .iter()
            .map(|file| log_text(file, bytes, files.len() > 1))
            .collect()),
        other => Err(ClientError::Refused(other.unexpected())),
    }
}

fn log_text(file: &LogFile, bytes: u64, titled: bool) -> String {
    let text = tail(&file.path, bytes).unwrap_or_default();
    if titled {
        format!("==> {} <==\n{text}\n", file.title)
    } else {
        text
    }
}

fn tail(path: &Path, bytes: u64) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut content = Vec::new();
    file.take(bytes).read_to_end(&mut content)?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// What is not ready and why, with the last lines of the logs of those pods.
pub(super) fn explain(name: &LabName, status: &Status) -> String {
    let mut text: String = status
        .not_ready
        .iter()
        .map(|reason| format!("  {reason}\n"))
        .collect();
    for pod in status
        .pods
        .iter()
        .filter(|pod| !pod.reason.is_empty() || !pod.ready)
    {
        let target = format!("{}/{}", pod.namespace, pod.name);
        let log = logs(name, &target, 16 * 1024).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(EXPLAIN_LINES)..];
        if !last.is_empty() {
            text += &format!("  last lines of {target}:\n    {}\n", last.join("\n    "));
        }
    }
    text
}

/// Clears what is left of that name and starts a daemon; returns when it serves.
pub(super) fn start_daemon(program: &Path, config: &UpConfig) -> Result<Child, LabError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(ClientError::NotRoot.into());
    }
    let name = &config.name;
    if answers(name) {
        return Err(ClientError::UpAlready(name.clone()).into());
    }
    super::cleanup::clear(name)?;
    let layout = Layout::new(name);
    let failed = |source| ClientError::Start {
        program: program.to_owned(),
        source,
    };
    // Made in a folder that the daemon mounts over itself: the open file stays the same.
    make_run_dir(&layout).map_err(failed)?;
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(layout.daemon_log())
        .map_err(failed)?;
    let mut command = Command::new(program);
    command.args(["--name", name.as_str(), "serve"]).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().map_err(failed)?;
    let config = serde_json::to_vec(config)
        .map_err(io::Error::from)
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(&config).map_err(failed)?;
    }
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
    }
    match line.trim() {
        "ready" => Ok(child),
        reason => Err(give_up(&layout, name, reason, &mut child)),
    }
}

/// The folder of all labs goes with the last of them, which may be this very moment.
fn make_run_dir(layout: &Layout) -> io::Result<()> {
    for _ in 0..RUN_DIR_ATTEMPTS {
        match fs::create_dir_all(layout.run_dir()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            made => return made,
        }
    }
    fs::create_dir_all(layout.run_dir())
}

fn give_up(layout: &Layout, name: &LabName, reason: &str, child: &mut Child) -> LabError {
    // It has said its last word.
    drop(child.wait());
    let log = tail(&layout.daemon_log(), 4096).unwrap_or_default();
    let reason = if reason.is_empty() { log } else { reason.to_owned() };
    if let Err(error) = super::cleanup::clear(name) {
        return error.into();
    }
    let name = name.clone();
    ClientError::Daemon { name, reason }.into()
}

/// Whether a daemon of that name is alive; one that was just killed may still accept.
fn answers(name: &LabName) -> bool {
    let Ok(stream) = connect(name) else { return false };
    let Ok(line) = super::node::line(&Request::Status) else {
        return false;
    };
    let asked = stream
        .set_read_timeout(Some(SHUTDOWN_PATIENCE))
        .and_then(|()| (&stream).write_all(&line));
    asked.is_ok() && (&stream).read(&mut [0]).is_ok_and(|length| length > 0)
}

/// Asks a daemon to stop supervising and go, so that what is cleared next is not started again.
pub(super) fn shut_down(name: &LabName) {
    let Ok(stream) = connect(name) else { return };
    let Ok(line) = super::node::line(&Request::Shutdown) else {
        return;
    };
    drop(stream.set_read_timeout(Some(SHUTDOWN_PATIENCE)));
    drop((&stream).write_all(&line));
    // The connection closes when the daemon is gone. If it hangs, clearing kills it.
    drop((&stream).read(&mut [0]));
}

fn connect(name: &LabName) -> Result<UnixStream, ClientError> {
    UnixStream::connect(Layout::new(name).socket()).map_err(|source| ClientError::NotUp {
        name: name.clone(),
        source,
    })
}

/// A file, every manifest of a folder in the order of names, or standard input (`-`).
pub(super) fn read_documents(path: &Path) -> Result<Vec<Document>, LabError> {
    let failed = |path: &Path, source| LabError::Read {
        path: path.to_owned(),
        source,
    };
    if path == Path::new("-") {
        let text = io::read_to_string(io::stdin()).map_err(|error| failed(path, error))?;
        return Ok(vec![Document::inline(&text)]);
    }
    let mut files = vec![path.to_owned()];
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(|error| failed(path, error))?;
        files = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| is_manifest(path))
            .collect();
        files.sort();
        if files.is_empty() {
            let empty = io::Error::other("the folder has no .yaml, .yml or .json file");
            return Err(failed(path, empty));
        }
    }
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
        let origin = path.display().to_string();
        Ok(Document { origin, text })
    };
    files.into_iter().map(read).collect()
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .is_some_and(|end| end == "yaml" || end == "yml" || end == "json")
}
