//! Runs one pod: makes its sandbox, starts its containers once it may, and starts them again.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::sandbox::{Sandbox, SandboxError};
use super::Event;

/// Everything the task needs to know of its pod.
pub(super) struct PodRun {
    pub(super) uid: String,
    pub(super) program: PathBuf,
    pub(super) sandbox: Sandbox,
    pub(super) containers: Vec<ContainerRun>,
    pub(super) grace: Duration,
    pub(super) restart: Restart,
}

pub(super) struct ContainerRun {
    pub(super) name: String,
    /// The file that `aquifer-lab container` reads.
    pub(super) start: PathBuf,
    pub(super) log: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    Always,
    OnFailure,
    Never,
}

#[derive(Debug)]
pub(super) enum PodCommand {
    /// Nothing is waited for any more: the containers may start.
    Begin,
    /// Signals the containers; `hold` keeps them down until `Release`.
    Signal {
        signal: Signal,
        hold: bool,
    },
    Release,
    /// A liveness or startup probe failed.
    Restart {
        container: String,
    },
    Stop,
}

#[derive(Debug)]
pub(super) enum Report {
    SandboxFailed {
        reason: String,
    },
    /// Its namespace and cgroup are there.
    Placed,
    Started {
        container: String,
        pid: u32,
    },
    /// It has run for a while.
    Settled {
        container: String,
        pid: u32,
    },
    /// It has had all the time that there is to open its ports.
    Awaited {
        container: String,
        pid: u32,
    },
    Exited {
        container: String,
        exit: Exit,
    },
    Gone,
}

/// How a container ended.
#[derive(Clone, Debug)]
pub(super) struct Exit {
    pub(super) success: bool,
    pub(super) detail: String,
    pub(super) again: bool,
}

/// First restart at once, then doubling: the lab is for people who wait.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// A container that was started again has outlived its last crash after so long.
const SETTLED: Duration = Duration::from_secs(2);
/// One that nothing probes counts as ready after so long, whatever its ports do: longer than a busy machine lets a
/// program wait for its start.
const PORTS_AWAITED: Duration = Duration::from_secs(30);
/// A container that ran so long starts with the first back-off again.
const STABLE: Duration = Duration::from_secs(20);

struct Container {
    run: ContainerRun,
    pid: Option<u32>,
    started: Instant,
    backoff: Duration,
}

enum Step {
    Settled(usize, u32),
    Awaited(usize, u32),
    Exited(usize, std::io::Result<ExitStatus>),
    StartAgain(usize),
}

struct Worker {
    pod: Pod,
    containers: Vec<Container>,
    steps: JoinSet<Step>,
    held: bool,
}

struct Pod {
    uid: String,
    program: PathBuf,
    sandbox: Sandbox,
    grace: Duration,
    restart: Restart,
    events: mpsc::Sender<Event>,
}

/// Runs the pod until it is told to stop, then removes its place.
pub(super) async fn run(run: PodRun, events: mpsc::Sender<Event>, mut commands: mpsc::Receiver<PodCommand>) {
    let mut worker = Worker::new(run, events);
    let mut retry = FIRST_BACKOFF;
    while let Err(error) = worker.pod.blocking(Sandbox::create).await {
        worker
            .pod
            .report(Report::SandboxFailed {
                reason: error.to_string(),
            })
            .await;
        // Half of it may be there.
        drop(worker.pod.blocking(Sandbox::undo).await);
        if let Ok(Some(PodCommand::Stop) | None) = tokio::time::timeout(retry, commands.recv()).await {
            worker.pod.report(Report::Gone).await;
            return;
        }
        retry = (retry * 2).min(LAST_BACKOFF);
    }
    worker.pod.report(Report::Placed).await;
    if worker.may_begin(&mut commands).await {
        for index in 0..worker.containers.len() {
            worker.start(index).await;
        }
        worker.serve(&mut commands).await;
    }
    worker.stop().await;
}

impl Worker {
    fn new(run: PodRun, events: mpsc::Sender<Event>) -> Self {
        let container = |run| Container {
            run,
            pid: None,
            started: Instant::now(),
            backoff: FIRST_BACKOFF,
        };
        Self {
            containers: run.containers.into_iter().map(container).collect(),
            steps: JoinSet::new(),
            held: false,
            pod: Pod {
                uid: run.uid,
                program: run.program,
                sandbox: run.sandbox,
                grace: run.grace,
                restart: run.restart,
                events,
            },
        }
    }

    /// Waits for the word to begin; false when the pod is to stop instead.
    async fn may_begin(&mut self, commands: &mut mpsc::Receiver<PodCommand>) -> bool {
        loop {
            match commands.recv().await {
                Some(PodCommand::Begin) => return true,
                None | Some(PodCommand::Stop) => return false,
                Some(PodCommand::Signal { hold, .. }) => self.held |= hold,
                Some(PodCommand::Release) => self.held = false,
                Some(PodCommand::Restart { .. }) => {}
            }
        }
    }

    async fn serve(&mut self, commands: &mut mpsc::Receiver<PodCommand>) {
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    None | Some(PodCommand::Stop) => return,
                    Some(PodCommand::Signal { signal, hold }) => {
                        self.held |= hold;
                        self.signal_all(signal);
                    }
                    Some(PodCommand::Release) => self.release(),
                    Some(PodCommand::Restart { container }) => self.terminate(&container),
                    Some(PodCommand::Begin) => {}
                },
                Some(step) = self.steps.join_next() => match step {
                    Ok(Step::Exited(index, status)) => self.exited(index, status).await,
                    Ok(Step::StartAgain(index)) => self.start(index).await,
                    Ok(Step::Settled(index, pid)) => {
                        let container = self.containers[index].run.name.clone();
                        self.pod.report(Report::Settled { container, pid }).await;
                    }
                    Ok(Step::Awaited(index, pid)) => {
                        let container = self.containers[index].run.name.clone();
                        self.pod.report(Report::Awaited { container, pid }).await;
                    }
                    Err(_) => {}
                },
            }
        }
    }

    async fn start(&mut self, index: usize) {
        if self.held || self.containers[index].pid.is_some() {
            return;
        }
        let name = self.containers[index].run.name.clone();
        match self.spawn(index) {
            Ok(pid) => self.pod.report(Report::Started { container: name, pid }).await,
            Err(error) => self.exited(index, Err(error)).await,
        }
    }

    fn spawn(&mut self, index: usize) -> std::io::Result<u32> {
        let container = &mut self.containers[index];
        let log = super::open_log(&container.run.log)?;
        let mut command = Command::new(&self.pod.program);
        command.arg("container").arg(&container.run.start);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of its own: what a shell wrapper started ends with it.
        command.process_group(0);
        let mut child = command.spawn()?;
        let pid = child.id().ok_or_else(|| std::io::Error::other("ended at once"))?;
        container.pid = Some(pid);
        container.started = Instant::now();
        self.steps
            .spawn(async move { Step::Exited(index, child.wait().await) });
        self.steps.spawn(async move {
            tokio::time::sleep(SETTLED).await;
            Step::Settled(index, pid)
        });
        self.steps.spawn(async move {
            tokio::time::sleep(PORTS_AWAITED).await;
            Step::Awaited(index, pid)
        });
        Ok(pid)
    }

    async fn exited(&mut self, index: usize, status: std::io::Result<ExitStatus>) {
        self.signal(index, Signal::SIGKILL);
        let container = &mut self.containers[index];
        container.pid = None;
        if container.started.elapsed() > STABLE {
            container.backoff = FIRST_BACKOFF;
        }
        let success = status.as_ref().is_ok_and(ExitStatus::success);
        let again = match self.pod.restart {
            Restart::Always => true,
            Restart::OnFailure => !success,
            Restart::Never => false,
        };
        let detail = match status {
            Ok(status) => status.to_string(),
            Err(error) => format!("could not start: {error}"),
        };
        if again && !self.held {
            let pause = container.backoff;
            container.backoff = (pause * 2).min(LAST_BACKOFF);
            self.start_after(index, pause);
        }
        let container = self.containers[index].run.name.clone();
        let exit = Exit {
            success,
            detail,
            again,
        };
        self.pod.report(Report::Exited { container, exit }).await;
    }

    fn start_after(&mut self, index: usize, pause: Duration) {
        self.steps.spawn(async move {
            tokio::time::sleep(pause).await;
            Step::StartAgain(index)
        });
    }

    fn release(&mut self) {
        self.held = false;
        for index in 0..self.containers.len() {
            if self.containers[index].pid.is_none() {
                self.start_after(index, Duration::ZERO);
            }
        }
    }

    fn terminate(&self, name: &str) {
        // Grace and SIGKILL are for the end of a pod: a container that failed its probes goes at once.
        let found = self
            .containers
            .iter()
            .position(|container| container.run.name == name);
        if let Some(index) = found {
            self.signal(index, Signal::SIGKILL);
        }
    }

    fn signal(&self, index: usize, signal: Signal) {
        if let Some(pid) = self.containers[index].pid.and_then(|pid| i32::try_from(pid).ok()) {
            // The group may be gone already.
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }

    fn signal_all(&self, signal: Signal) {
        for index in 0..self.containers.len() {
            self.signal(index, signal);
        }
    }

    /// SIGTERM, the grace period, then whatever is left in the cgroup is killed.
    async fn stop(mut self) {
        self.held = true;
        self.signal_all(Signal::SIGTERM);
        let deadline = tokio::time::Instant::now() + self.pod.grace;
        while self.containers.iter().any(|container| container.pid.is_some()) {
            match tokio::time::timeout_at(deadline, self.steps.join_next()).await {
                Ok(Some(Ok(Step::Exited(index, _)))) => self.containers[index].pid = None,
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        while let Err(error) = self.pod.blocking(Sandbox::destroy).await {
            tracing::warn!(pod = %self.pod.sandbox.folder.display(), %error, "cannot remove the pod's place");
            tokio::time::sleep(LAST_BACKOFF).await;
        }
        // Reaps what the cgroup's end has killed.
        self.steps.shutdown().await;
        self.pod.report(Report::Gone).await;
    }
}

impl Pod {
    /// Namespaces and cgroups are slow enough to be made on another thread.
    async fn blocking(&self, action: fn(&Sandbox) -> Result<(), SandboxError>) -> Result<(), SandboxError> {
        let sandbox = self.sandbox.clone();
        let done = tokio::task::spawn_blocking(move || action(&sandbox)).await;
        done.unwrap_or_else(|error| {
            Err(SandboxError::Folder {
                path: self.sandbox.folder.clone(),
                source: std::io::Error::other(error),
            })
        })
    }

    async fn report(&self, report: Report) {
        let uid = self.uid.clone();
        // The daemon is going down.
        drop(self.events.send(Event::Pod { uid, report }).await);
    }
}
