//! The plugin's own process: run by the container runtime, as the CNI specification 1.1 says (section 2).
//!
//! It changes nothing in the pod's network: what the plugins before it have made goes on as its result.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};

use super::exchange::{Arrival, MAX_LINE, NetnsFile, PLUGIN_PATIENCE, Verdict};
use super::folder::Folder;

/// As which the program is a plugin.
pub const NAME: &str = "aquifer-cni";
/// Results in these versions carry addresses in the form that is read here.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The runtime's configuration with the result of the chain before us.
const MAX_INPUT: u64 = 1024 * 1024;

/// The specification's error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Code {
    Environment = 4,
    Decode = 6,
    Configuration = 7,
    TryAgain = 11,
}

/// What the runtime, and with it the pod's events, are told.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Refusal {
    code: Code,
    message: String,
}

impl Refusal {
    fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Configuration {
    #[serde(rename = "cniVersion", default)]
    version: String,
    folder: PathBuf,
    #[serde(rename = "prevResult")]
    result: Option<Value>,
}

/// Whether this process was started as the plugin.
pub fn is_called() -> bool {
    let called = std::env::args_os().next().map(PathBuf::from);
    called.is_some_and(|path| path.file_name().is_some_and(|name| name == NAME))
}

/// Answers the runtime's call on standard output.
pub fn main() -> ExitCode {
    let (input, mut output) = (io::stdin().lock(), io::stdout().lock());
    let answered = run(|key| std::env::var(key).ok(), input);
    let (text, code) = match answered {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err((version, refusal)) => (told(&version, &refusal), ExitCode::FAILURE),
    };
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn told(version: &str, refusal: &Refusal) -> String {
    json!({ "cniVersion": version, "code": refusal.code as u8, "msg": refusal.message }).to_string()
}

fn run(environment: impl Fn(&str) -> Option<String>, input: impl Read) -> Result<String, (String, Refusal)> {
    let plain = |refusal| (VERSIONS[VERSIONS.len() - 1].to_owned(), refusal);
    let command = environment("CNI_COMMAND")
        .ok_or_else(|| {
            Refusal::new(
                Code::Environment,
                "CNI_COMMAND is not set: not run by a container runtime",
            )
        })
        .map_err(plain)?;
    if command == "VERSION" {
        let newest = VERSIONS[VERSIONS.len() - 1];
        return Ok(json!({ "cniVersion": newest, "supportedVersions": VERSIONS }).to_string());
    }
    if command != "ADD" {
        // Nothing was made that would have to be checked or undone.
        return Ok(String::new());
    }
    let configuration = read(input).map_err(plain)?;
    let version = configuration.version.clone();
    add(&environment, configuration).map_err(|refusal| (version, refusal))
}

fn read(input: impl Read) -> Result<Configuration, Refusal> {
    let mut text = String::new();
    input
        .take(MAX_INPUT)
        .read_to_string(&mut text)
        .map_err(|error| Refusal::new(Code::Decode, format!("cannot read the configuration: {error}")))?;
    serde_json::from_str(&text)
        .map_err(|error| Refusal::new(Code::Decode, format!("cannot parse the configuration: {error}")))
}

/// Lets the pod go on, with the result so far, once its agent says so.
fn add(
    environment: impl Fn(&str) -> Option<String>,
    configuration: Configuration,
) -> Result<String, Refusal> {
    let Some(result) = configuration.result else {
        let message =
            format!("{NAME} stands alone or first; it belongs after the plugin that makes the pod's network");
        return Err(Refusal::new(Code::Configuration, message));
    };
    let Some(pod) = Pod::named(&environment("CNI_ARGS").unwrap_or_default()) else {
        return Ok(result.to_string());
    };
    let folder = Folder::at(&configuration.folder);
    let asked = pod
        .clone()
        .arrival(environment("CNI_NETNS").as_deref(), &result)
        .and_then(|arrival| ask(&folder, &arrival).map_err(|error| no_answer(&folder, &error)));
    match asked {
        Ok(Verdict::Start) => Ok(result.to_string()),
        Ok(Verdict::Hold { because }) => Err(held(&pod, &because)),
        Err(because) => without_agent(&folder, &pod, &because).map(|()| result.to_string()),
    }
}

fn held(pod: &Pod, because: &str) -> Refusal {
    let message = format!(
        "pod {}/{} is in the mesh and waits for its node agent: {because}",
        pod.namespace, pod.name
    );
    Refusal::new(Code::TryAgain, message)
}

fn no_answer(folder: &Folder, error: &io::Error) -> String {
    format!(
        "it does not answer at {} ({error}); see the aquifer-agent pod of this node; the file `namespaces` beside the socket has the namespaces that wait",
        folder.socket().display()
    )
}

/// The agent cannot be asked: pods of the mesh wait for it, others do not need it.
fn without_agent(folder: &Folder, pod: &Pod, because: &str) -> Result<(), Refusal> {
    let is_in_mesh = folder.has(&pod.namespace).map_err(|error| {
        let message = format!("cannot read {}: {error}", folder.path().display());
        Refusal::new(Code::TryAgain, message)
    })?;
    match is_in_mesh {
        true => Err(held(pod, because)),
        false => Ok(()),
    }
}

/// As Kubernetes' runtimes name it.
#[derive(Clone, Debug)]
struct Pod {
    namespace: String,
    name: String,
    uid: Option<String>,
}

impl Pod {
    /// Nothing for what is no pod of Kubernetes.
    fn named(arguments: &str) -> Option<Self> {
        let argument = |key: &str| {
            let pairs = arguments.split(';').filter_map(|pair| pair.split_once('='));
            let mut values = pairs
                .filter(|(name, _)| *name == key)
                .map(|(_, value)| value.to_owned());
            values.next().filter(|value| !value.is_empty())
        };
        Some(Self {
            namespace: argument("K8S_POD_NAMESPACE")?,
            name: argument("K8S_POD_NAME")?,
            uid: argument("K8S_POD_UID"),
        })
    }

    /// With where it is; the error says what is missing.
    fn arrival(self, netns: Option<&str>, result: &Value) -> Result<Arrival, String> {
        let path = netns.ok_or_else(|| "CNI_NETNS is not set".to_owned())?;
        let netns =
            NetnsFile::of(path.as_ref()).map_err(|error| format!("cannot look at {path}: {error}"))?;
        Ok(Arrival {
            namespace: self.namespace,
            name: self.name,
            uid: self.uid,
            ips: addresses(result)?,
            netns,
        })
    }
}

/// The specification's `ips`: addresses with the length of their prefix.
fn addresses(result: &Value) -> Result<Vec<IpAddr>, String> {
    let of = |entry: &Value| {
        let text = entry.get("address")?.as_str()?;
        let address = text.split_once('/').map_or(text, |(address, _)| address);
        Some(address.parse::<IpAddr>().ok()?.to_canonical())
    };
    let entries = result.get("ips").and_then(Value::as_array);
    let found: Option<Vec<IpAddr>> = entries.and_then(|entries| entries.iter().map(of).collect());
    found
        .filter(|ips| !ips.is_empty())
        .ok_or_else(|| "the result of the plugins before it has no addresses (`ips`)".to_owned())
}

fn ask(folder: &Folder, arrival: &Arrival) -> io::Result<Verdict> {
    let mut stream = UnixStream::connect(folder.socket())?;
    stream.set_read_timeout(Some(PLUGIN_PATIENCE))?;
    stream.set_write_timeout(Some(PLUGIN_PATIENCE))?;
    let mut line = serde_json::to_vec(arrival)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}

#[cfg(test)]
mod tests;
