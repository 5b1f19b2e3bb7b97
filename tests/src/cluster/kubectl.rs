//! The API server as everything here speaks to it: through kubectl.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use thiserror::Error;

/// Between two looks at something that tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Error)]
pub enum KubectlError {
    #[error("cannot run {}: {source}", program.display())]
    Run { program: PathBuf, source: io::Error },
    #[error("`kubectl {arguments}` failed: {message}")]
    Failed { arguments: String, message: String },
    #[error("after {waited:?} still not so: {what}; last seen: {last}")]
    Timeout {
        what: String,
        waited: Duration,
        last: String,
    },
}

/// kubectl with one cluster's kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { program, kubeconfig }
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The command, for callers that want its streams.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs it and returns what it printed.
    pub fn run(&self, arguments: &[&str]) -> Result<String, KubectlError> {
        let output = self
            .command(arguments)
            .output()
            .map_err(|source| self.not_run(source))?;
        read(arguments, &output)
    }

    /// Applies manifests, server-side: nothing needs to be known of what is there.
    pub fn apply(&self, manifests: &str) -> Result<String, KubectlError> {
        self.feed(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            manifests,
        )
    }

    /// Manifests that name no other namespace than this one, or none.
    pub fn apply_in(&self, namespace: &str, manifests: &str) -> Result<String, KubectlError> {
        let arguments = [
            "-n",
            namespace,
            "apply",
            "--server-side",
            "--force-conflicts",
            "-f",
            "-",
        ];
        self.feed(&arguments, manifests)
    }

    /// Makes what these manifests say; what is there already is an error.
    pub fn create(&self, manifests: &str) -> Result<String, KubectlError> {
        self.feed(&["create", "-f", "-"], manifests)
    }

    fn feed(&self, arguments: &[&str], manifests: &str) -> Result<String, KubectlError> {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|source| self.not_run(source))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A failed write means that kubectl gave up: its exit status and message say why.
            drop(stdin.write_all(manifests.as_bytes()));
        }
        let output = child.wait_with_output().map_err(|source| self.not_run(source))?;
        read(arguments, &output)
    }

    /// Runs it again and again until it succeeds.
    pub fn until_it_succeeds(&self, arguments: &[&str], patience: Duration) -> Result<String, KubectlError> {
        self.until(&format!("kubectl {}", arguments.join(" ")), patience, || {
            self.run(arguments)
        })
    }

    /// Waits until a pod's log is as it should be: its node writes it a moment after the pod.
    pub fn until_log(
        &self,
        pod: &str,
        patience: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), KubectlError> {
        let look = || match self.run(&["logs", pod]) {
            Ok(log) if wanted(&log) => Ok(()),
            Ok(log) => Err(log),
            Err(error) => Err(error.to_string()),
        };
        self.until(&format!("{pod} says what it is to say"), patience, look)
    }

    /// Tries until it succeeds; what the last attempt complained of is told at the deadline.
    pub fn until<T, E: Display>(
        &self,
        what: &str,
        patience: Duration,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, KubectlError> {
        let start = Instant::now();
        loop {
            let error = match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            if start.elapsed() >= patience {
                return Err(KubectlError::Timeout {
                    what: what.to_owned(),
                    waited: patience,
                    last: error.to_string(),
                });
            }
            // Not an event, but kubectl reports none for an API server that is not there.
            std::thread::park_timeout(LOOK_AGAIN);
        }
    }

    /// Waits until every Deployment of the namespace is available.
    pub fn wait_available(&self, namespace: &str, patience: Duration) -> Result<(), KubectlError> {
        let limit = limit(patience);
        let available = "--for=condition=Available";
        self.run(&["-n", namespace, "wait", available, "deployment", "--all", &limit])?;
        Ok(())
    }

    fn not_run(&self, source: io::Error) -> KubectlError {
        KubectlError::Run {
            program: self.program.clone(),
            source,
        }
    }
}

/// How long to wait, as kubectl's commands take it.
pub fn limit(patience: Duration) -> String {
    format!("--timeout={}s", patience.as_secs())
}

fn read(arguments: &[&str], output: &Output) -> Result<String, KubectlError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(KubectlError::Failed {
        arguments: arguments.join(" "),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
