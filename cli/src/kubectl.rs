//! The user's own kubectl: the cluster is reached with the access and the context that the user has.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// The longest answer that is read, in bytes: all pods of a very large cluster.
const MAX_ANSWER: u64 = 2 << 30;
/// What is kept of a message.
const MAX_MESSAGE: u64 = 64 << 10;
/// A server that does not answer is reported instead of waited for.
const TIMEOUT: &str = "--request-timeout=60s";

#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Access {
    /// File with the access to the cluster, as kubectl has it.
    #[arg(long, global = true)]
    pub(crate) kubeconfig: Option<String>,
    /// Context of that file.
    #[arg(long, global = true)]
    pub(crate) context: Option<String>,
}

impl Access {
    /// Whether the user, or the pod that this runs in, has a cluster at all.
    pub(crate) fn is_there(&self) -> bool {
        let set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let home = || {
            let file = std::env::home_dir()?.join(".kube/config");
            file.is_file().then_some(())
        };
        self.kubeconfig.is_some()
            || self.context.is_some()
            || set("KUBECONFIG")
            || set("KUBERNETES_SERVICE_HOST")
            || home().is_some()
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Kubectl {
    program: String,
    access: Access,
}

impl Kubectl {
    pub(crate) fn new(access: &Access) -> Self {
        Self {
            program: std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned()),
            access: access.clone(),
        }
    }

    /// The arguments that helm takes for the same access.
    pub(crate) fn helm_access(&self) -> Vec<String> {
        let file = self
            .access
            .kubeconfig
            .as_ref()
            .map(|f| format!("--kubeconfig={f}"));
        let context = self
            .access
            .context
            .as_ref()
            .map(|c| format!("--kube-context={c}"));
        file.into_iter().chain(context).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(file) = &self.access.kubeconfig {
            command.arg(format!("--kubeconfig={file}"));
        }
        if let Some(context) = &self.access.context {
            command.arg(format!("--context={context}"));
        }
        command.args(arguments);
        command
    }

    /// A kubectl that keeps running, such as a port-forward.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        let mut command = self.command(arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().with_context(|| self.missing())
    }

    fn missing(&self) -> String {
        format!(
            "cannot run {:?}; install kubectl, or say with the variable KUBECTL where it is",
            self.program
        )
    }

    /// What kubectl prints.
    pub(crate) fn text(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.with_input(arguments, None)
    }

    /// What kubectl prints, with a text on its standard input.
    pub(crate) fn with_input(&self, arguments: &[&str], input: Option<&str>) -> anyhow::Result<String> {
        let mut command = self.command(arguments);
        command.arg(TIMEOUT);
        run(&mut command, input)
            .with_context(|| self.missing())?
            .map_err(|message| {
                let what = arguments.iter().take(3).copied().collect::<Vec<_>>().join(" ");
                anyhow::anyhow!("kubectl {what}: {message}")
            })
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let arguments = [arguments, &["-o", "json"]].concat();
        let text = self.text(&arguments)?;
        serde_json::from_str(&text).context("kubectl printed something else than JSON; is it the real one?")
    }

    /// The items of a list; none where the cluster does not know the kind.
    pub(crate) fn items(&self, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
        let arguments = [&["get"], arguments].concat();
        match self.json(&arguments) {
            Ok(mut list) => Ok(match list["items"].take() {
                Value::Array(items) => items,
                _ => vec![list],
            }),
            Err(error) if is_unknown_kind(&error) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// One object; `None` where it does not exist.
    pub(crate) fn object(&self, arguments: &[&str]) -> anyhow::Result<Option<Value>> {
        let arguments = [&["get"], arguments, &["--ignore-not-found", "-o", "json"]].concat();
        match self.text(&arguments) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Ok(Some(
                serde_json::from_str(&text).context("kubectl printed something else than JSON")?,
            )),
            Err(error) if is_unknown_kind(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn is_unknown_kind(error: &anyhow::Error) -> bool {
    error.to_string().contains("doesn't have a resource type")
}

/// Runs a command to its end; its message where it failed. The outer error is that it could not be started.
pub(crate) fn run(command: &mut Command, input: Option<&str>) -> std::io::Result<Result<String, String>> {
    command.stdin(if input.is_some() {
        Stdio::piped()
    } else {
        Stdio::null()
    });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (text, message) = std::thread::scope(|scope| {
        let message = scope.spawn(|| read(stderr, MAX_MESSAGE));
        scope.spawn(|| {
            if let (Some(mut pipe), Some(input)) = (stdin, input) {
                // A program that ends early says why itself.
                let _ = pipe.write_all(input.as_bytes());
            }
        });
        (read(stdout, MAX_ANSWER), message.join().unwrap_or_default())
    });
    let status = child.wait()?;
    let message = String::from_utf8_lossy(&message).trim().to_owned();
    if !status.success() {
        return Ok(Err(if message.is_empty() {
            status.to_string()
        } else {
            message
        }));
    }
    if text.len() as u64 >= MAX_ANSWER {
        return Ok(Err(format!("the answer is longer than {} MiB", MAX_ANSWER >> 20)));
    }
    Ok(Ok(String::from_utf8_lossy(&text).into_owned()))
}

/// Reads to the end or to the limit; the pipe is closed then, so that the writer ends.
fn read(pipe: Option<impl std::io::Read>, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let _ = pipe.take(limit).read_to_end(&mut bytes);
    }
    bytes
}

/// Fails early, and says what is wrong, where there is no cluster.
pub(crate) fn require_cluster(kubectl: &Kubectl) -> anyhow::Result<Value> {
    let version = kubectl
        .json(&["version"])
        .context("cannot reach the cluster; check the context (`kubectl config current-context`)")?;
    if version["serverVersion"]["gitVersion"].as_str().is_none() {
        bail!("the cluster says no version; check the context (`kubectl config current-context`)");
    }
    Ok(version)
}
