//! The built program, run away from any cluster.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs it with a text on its standard input, and without kubectl or helm.
pub(crate) fn aquifer(arguments: &[&str], input: &str) -> Ended {
    with_kubectl("/nonexistent/kubectl", arguments, input)
}

/// Runs it with this program in the place of kubectl.
pub(crate) fn with_kubectl(kubectl: &str, arguments: &[&str], input: &str) -> Ended {
    let mut child = Command::new(program())
        .args(arguments)
        .current_dir(root())
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env_remove("AQUIFER_EXEC")
        .env_remove("AQUIFER_CONTROL")
        .env("HOME", "/nonexistent")
        .env("KUBECTL", kubectl)
        .env("HELM", "/nonexistent/helm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its input is right to end before it was written.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    Ended {
        status: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Beside this test's own program, where `cargo xtask test` has built it.
fn program() -> PathBuf {
    let mut folder = std::env::current_exe().unwrap();
    while folder.pop() {
        let candidate = folder.join("aquifer");
        if candidate.is_file() {
            return candidate;
        }
    }
    panic!("aquifer is not built: `cargo xtask test cli` builds it, or cargo build -p aquifer-cli");
}
