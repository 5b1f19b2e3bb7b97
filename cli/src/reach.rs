//! How a page of a proxy or of the control plane is reached: directly, or by a command that runs inside its pod.

use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::fetch;

/// The workload that serves the control plane's pages, as the exec command names it.
const CONTROL_PLANE: &str = "istio-system/istiod";
const CONTROL_PORT: u16 = 15014;
const ADMIN_PORT: u16 = 15000;

pub(crate) struct Reach {
    control: String,
    /// The words of the command that runs another one inside a pod.
    exec: Option<Vec<String>>,
}

impl Reach {
    pub(crate) fn new(control: String, exec: Option<&str>) -> anyhow::Result<Self> {
        let exec: Option<Vec<String>> =
            exec.map(|words| words.split_whitespace().map(str::to_owned).collect());
        if exec.as_ref().is_some_and(Vec::is_empty) {
            bail!("--exec (AQUIFER_EXEC) is empty; give a command such as 'aquifer-lab exec'");
        }
        Ok(Self { control, exec })
    }

    /// A debug page of the control plane.
    pub(crate) fn control(&self, path: &str) -> anyhow::Result<Value> {
        let text = match &self.exec {
            Some(words) => fetch_inside(
                words,
                CONTROL_PLANE,
                &format!("http://127.0.0.1:{CONTROL_PORT}{path}"),
            ),
            None => fetch::get(&format!("http://{}{path}", self.control)),
        };
        let text = text.context("cannot ask the control plane (--control or --exec says where it is)")?;
        serde_json::from_str(&text).with_context(|| format!("the control plane's page {path} is not JSON"))
    }

    /// An admin page of a proxy; these listen on the loopback address of the proxy's pod only.
    pub(crate) fn proxy(&self, namespace: &str, pod: &str, path: &str) -> anyhow::Result<Value> {
        let url = format!("http://127.0.0.1:{ADMIN_PORT}{path}");
        let text = match &self.exec {
            Some(words) => fetch_inside(words, &format!("{namespace}/{pod}"), &url)?,
            None => fetch::get(&url).context(
                "the admin port is open inside the proxy's pod only: give --exec, or run this command in that pod",
            )?,
        };
        serde_json::from_str(&text)
            .with_context(|| format!("the page {path} of {namespace}/{pod} is not JSON"))
    }
}

fn fetch_inside(words: &[String], target: &str, url: &str) -> anyhow::Result<String> {
    let this = std::env::current_exe().context("cannot find this program's own file")?;
    let output = Command::new(&words[0])
        .args(&words[1..])
        .args([target, "--"])
        .arg(this)
        .args(["fetch", url])
        .output()
        .with_context(|| format!("cannot run {}", words[0]))?;
    if !output.status.success() {
        bail!("{target}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
