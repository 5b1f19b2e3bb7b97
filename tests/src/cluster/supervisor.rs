//! A member's PID 1: starts its services, starts them again when they end, reaps orphans, obeys its socket.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::forward;
use super::layout::LOGS;
use super::root::PARTS;
use super::services::Service;

/// A service that ended is started again after this long: most wait for another one that is not up yet.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Running this long is not failing at once.
const SETTLED: Duration = Duration::from_secs(20);
/// How long a service may take to end by itself; an API server would wait a minute for those who watch it.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// A command is one short line; whoever writes none is not waited for.
const MAX_COMMAND: u64 = 256;
const COMMAND_PATIENCE: Duration = Duration::from_secs(2);
/// For the answer of a supervisor that has others to obey, on a machine that is busy.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Error)]
pub enum SupervisorError {
    #[error("cannot watch signals, children and socket: {0}")]
    Watch(#[from] io::Error),
}

/// A service as the supervisor sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceState {
    pub name: String,
    /// Inside the member; none while it is not running.
    pub pid: Option<i32>,
    pub starts: u32,
    /// How it last ended.
    pub ended: Option<String>,
    /// Not to be started again before somebody says so.
    pub held: bool,
}

struct Running {
    service: Service,
    state: ServiceState,
    started: Instant,
    pause: Duration,
    /// When to start it, if it does not run.
    due: Option<Instant>,
    /// When to end it by force, if it was asked to end.
    kill_at: Option<Instant>,
}

struct Supervisor {
    services: BTreeMap<String, Running>,
}

/// What every process of a member finds in its environment.
pub(super) fn environment() -> [(&'static str, String); 3] {
    let path = format!("{PARTS}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    [
        ("PATH", path),
        ("HOME", "/root".to_owned()),
        ("LANG", "C.UTF-8".to_owned()),
    ]
}

/// Runs until SIGTERM. The caller is PID 1: when it ends, so does all that is left.
pub(super) fn run(
    services: Vec<Service>,
    socket: &UnixListener,
    forward: Option<(TcpListener, SocketAddrV4)>,
) -> Result<(), SupervisorError> {
    let mut watched = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        watched.add(signal);
    }
    // Before any thread is made: each inherits the mask. Children start with an empty one.
    watched.thread_block().map_err(io::Error::from)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&watched, flags).map_err(io::Error::from)?;
    if let Some((listener, to)) = forward {
        forward::start(listener, SocketAddr::V4(to))?;
    }
    let mut supervisor = Supervisor::new(services, Instant::now());
    loop {
        supervisor.act_on_time(Instant::now());
        wait(&signals, socket, supervisor.next_due())?;
        while let Ok(Some(signal)) = signals.read_signal() {
            if signal.ssi_signo != Signal::SIGCHLD as u32 {
                return Ok(());
            }
        }
        supervisor.reap(Instant::now());
        supervisor.obey(socket)?;
    }
}

fn wait(signals: &SignalFd, socket: &UnixListener, due: Option<Instant>) -> Result<(), SupervisorError> {
    let left = due.map(|due| due.saturating_duration_since(Instant::now()));
    // A millisecond more than needed: rounding down would spin.
    let timeout = left.map_or(PollTimeout::NONE, |left| {
        PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
    });
    let mut watched = [
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        PollFd::new(socket.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut watched, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(SupervisorError::Watch(errno.into())),
    }
}

impl Supervisor {
    fn new(services: Vec<Service>, now: Instant) -> Self {
        let services = services.into_iter().map(|service| {
            let running = Running {
                state: ServiceState {
                    name: service.name.clone(),
                    pid: None,
                    starts: 0,
                    ended: None,
                    held: false,
                },
                service,
                started: now,
                pause: FIRST_PAUSE,
                due: Some(now),
                kill_at: None,
            };
            (running.state.name.clone(), running)
        });
        Self {
            services: services.collect(),
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let times = |running: &Running| [running.due, running.kill_at];
        self.services.values().flat_map(times).flatten().min()
    }

    fn act_on_time(&mut self, now: Instant) {
        for running in self.services.values_mut() {
            if running.due.is_some_and(|due| due <= now) {
                running.start(now);
            }
            if running.kill_at.is_some_and(|kill_at| kill_at <= now) {
                running.kill_at = None;
                running.signal(Signal::SIGKILL);
            }
        }
    }

    /// Collects every child that ended, adopted ones too.
    fn reap(&mut self, now: Instant) {
        loop {
            let (pid, how) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, format!("exit status {code}")),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, signal.to_string()),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            let ended = self
                .services
                .values_mut()
                .find(|running| running.state.pid == Some(pid.as_raw()));
            if let Some(running) = ended {
                running.ended(how, now);
            }
        }
    }

    fn obey(&mut self, socket: &UnixListener) -> Result<(), SupervisorError> {
        socket.set_nonblocking(true)?;
        while let Ok((stream, _)) = socket.accept() {
            let answer = match read_command(&stream) {
                Ok(line) => self.command(&line, Instant::now()),
                Err(error) => Err(error.to_string()),
            };
            reply(&stream, &answer);
        }
        Ok(())
    }

    fn command(&mut self, line: &str, now: Instant) -> Result<Vec<ServiceState>, String> {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("status"), None) => {}
            (Some("stop"), Some(name)) => self.service(name)?.hold(now),
            (Some("start"), Some(name)) => self.service(name)?.release(now),
            (Some("kill"), Some(name)) => self.service(name)?.signal(Signal::SIGKILL),
            _ => return Err(format!("no command {line:?}")),
        }
        Ok(self
            .services
            .values()
            .map(|running| running.state.clone())
            .collect())
    }

    fn service(&mut self, name: &str) -> Result<&mut Running, String> {
        let known = self.services.keys().cloned().collect::<Vec<_>>().join(", ");
        self.services
            .get_mut(name)
            .ok_or_else(|| format!("no service {name}; there are {known}"))
    }
}

impl Running {
    fn start(&mut self, now: Instant) {
        self.state.starts += 1;
        self.started = now;
        self.due = None;
        match self.spawn() {
            Ok(pid) => self.state.pid = Some(pid),
            Err(error) => self.ended(format!("not started: {error}"), now),
        }
    }

    fn spawn(&self) -> io::Result<i32> {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(Path::new(LOGS).join(&self.service.name))?;
        let mut command = Command::new(&self.service.program);
        command.args(&self.service.arguments);
        command.env_clear().envs(environment()).current_dir("/");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn()?;
        Ok(i32::try_from(child.id()).unwrap_or_default())
    }

    fn ended(&mut self, how: String, now: Instant) {
        if now.saturating_duration_since(self.started) >= SETTLED {
            self.pause = FIRST_PAUSE;
        }
        self.state.pid = None;
        self.kill_at = None;
        self.state.ended = Some(how);
        self.due = (!self.state.held).then(|| now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    fn hold(&mut self, now: Instant) {
        self.state.held = true;
        self.due = None;
        self.kill_at = self.state.pid.map(|_| now + STOP_PATIENCE);
        self.signal(Signal::SIGTERM);
    }

    fn release(&mut self, now: Instant) {
        self.state.held = false;
        self.pause = FIRST_PAUSE;
        if self.state.pid.is_none() {
            self.due = Some(now);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.state.pid {
            // Gone already: its end is about to be collected.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

fn read_command(stream: &UnixStream) -> io::Result<String> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(COMMAND_PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_COMMAND)).read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// Whoever does not read the answer does without it.
fn reply(mut stream: &UnixStream, answer: &Result<Vec<ServiceState>, String>) {
    drop(stream.set_write_timeout(Some(COMMAND_PATIENCE)));
    if let Ok(text) = serde_json::to_string(answer) {
        drop(stream.write_all(text.as_bytes()));
    }
}

/// Sends a command to the supervisor at `socket` and returns its services.
pub(super) fn call(socket: &Path, command: &str) -> io::Result<Result<Vec<ServiceState>, String>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    stream.write_all(format!("{command}\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supervisor(now: Instant) -> Supervisor {
        let service = Service {
            name: "true".to_owned(),
            program: "true".to_owned(),
            arguments: Vec::new(),
        };
        Supervisor::new(vec![service], now)
    }

    #[test]
    fn a_service_that_fails_at_once_is_started_again_ever_later() {
        let now = Instant::now();
        let mut supervisor = supervisor(now);
        let running = supervisor.service("true").unwrap();
        let mut last = Duration::ZERO;
        for _ in 0..8 {
            running.ended("exit status 1".to_owned(), now);
            let pause = running.due.unwrap() - now;
            assert!(pause >= last && pause <= LONGEST_PAUSE, "{pause:?}");
            last = pause;
        }
        assert_eq!(last, LONGEST_PAUSE);
        running.ended("exit status 1".to_owned(), now + SETTLED);
        assert_eq!(running.due.unwrap() - now - SETTLED, FIRST_PAUSE);
    }

    #[test]
    fn a_held_service_stays_down_until_it_is_released() {
        let now = Instant::now();
        let mut supervisor = supervisor(now);
        assert!(supervisor.command("stop true", now).unwrap()[0].held);
        supervisor
            .service("true")
            .unwrap()
            .ended("SIGTERM".to_owned(), now);
        assert_eq!(supervisor.next_due(), None);
        assert!(!supervisor.command("start true", now).unwrap()[0].held);
        assert_eq!(supervisor.next_due(), Some(now));
    }

    #[test]
    fn a_service_that_does_not_end_is_killed() {
        let now = Instant::now();
        let mut supervisor = supervisor(now);
        let running = supervisor.service("true").unwrap();
        (running.state.pid, running.due) = (Some(i32::MAX), None);
        supervisor.command("stop true", now).unwrap();
        assert!(supervisor.next_due().is_some_and(|at| at > now));
        supervisor
            .service("true")
            .unwrap()
            .ended("SIGKILL".to_owned(), now);
        assert_eq!(supervisor.next_due(), None);
    }

    #[test]
    fn unknown_services_and_commands_are_refused_by_name() {
        let mut supervisor = supervisor(Instant::now());
        let error = supervisor.command("stop etcd", Instant::now()).unwrap_err();
        assert!(error.contains("etcd") && error.contains("true"), "{error}");
        assert!(supervisor.command("format disk", Instant::now()).is_err());
    }
}
