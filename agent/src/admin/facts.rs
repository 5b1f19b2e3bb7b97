//! What this node is like, for `aquifer check`, which judges it: nobody but the agent sees all of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use aquifer_telemetry::timestamp::rfc3339;
use serde_json::{Value, json};

use crate::cni::{CniConfig, Installer};
use crate::config::{Config, PodSource};

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Read anew each time, as it may have changed since the agent started.
pub(super) fn of(config: &Config, now: SystemTime) -> Value {
    let (netns, cni) = match &config.pods {
        PodSource::ApiServer(source) => (Some(&source.netns_dir), source.cni.as_ref()),
        PodSource::Folder(_) => (None, None),
    };
    json!({
        "node": config.node_name,
        "version": env!("CARGO_PKG_VERSION"),
        "time": rfc3339(now),
        "kernel": first_line("/proc/sys/kernel/osrelease"),
        "btf": Path::new(BTF).is_file(),
        "capabilities": capabilities(),
        "capturedCgroup": place(&config.capture.captured_cgroup),
        "podNetns": netns.map(place),
        "cni": cni.map(plugin),
    })
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// The kernel's line of those that this process has in effect.
fn capabilities() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("CapEff:"));
    line.unwrap_or_default().to_owned()
}

fn place(path: &PathBuf) -> Value {
    json!({ "path": path, "isThere": path.is_dir() })
}

/// Whether pods of the mesh wait for their capture before they start.
fn plugin(config: &CniConfig) -> Value {
    match Installer::new(config.clone()).is_in_place() {
        Ok(in_place) => json!({ "inPlace": in_place }),
        Err(error) => json!({ "inPlace": false, "error": error.to_string() }),
    }
}
