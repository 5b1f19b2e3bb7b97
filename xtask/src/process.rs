//! Starting other programs, with errors that name the step that failed.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs `command` with this terminal and fails unless it succeeds.
pub(crate) fn run(step: &str, command: &mut Command) -> Result<()> {
    let shown = display(command);
    let status = command
        .status()
        .with_context(|| format!("{step}: cannot start `{shown}`"))?;
    if !status.success() {
        bail!("{step} failed ({status}); the command was `{shown}`");
    }
    Ok(())
}

/// Whether `command` runs and succeeds; its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Standard output of `command`.
pub(crate) fn output(step: &str, command: &mut Command) -> Result<Vec<u8>> {
    let shown = display(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("{step}: cannot start `{shown}`"))?;
    if !output.status.success() {
        bail!("{step} failed ({}); the command was `{shown}`", output.status);
    }
    Ok(output.stdout)
}

/// Replaces this process by `program`, with more in its environment; returns only when that is not possible.
pub(crate) fn become_program(
    program: &Path,
    arguments: &[OsString],
    environment: &[(&str, OsString)],
) -> Result<()> {
    let mut command = Command::new(program);
    let environment = environment.iter().map(|(key, value)| (key, value));
    let error = command.args(arguments).envs(environment).exec();
    Err(error).with_context(|| format!("cannot start {}", program.display()))
}

/// Finds `name` among the folders of PATH and those that hold administrators' programs.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| is_file(candidate))
}

fn is_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}

fn display(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
