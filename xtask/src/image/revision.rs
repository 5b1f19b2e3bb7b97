//! Which commit an image is of.

use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::workspace::Workspace;

pub(super) struct Revision {
    /// With `-dirty` where the checkout differs from its commit.
    pub(super) commit: String,
    /// The commit's time, RFC 3339 in UTC.
    pub(super) time: String,
}

impl Revision {
    pub(super) fn of(workspace: &Workspace) -> Result<Self> {
        let commit = git(workspace, &["rev-parse", "HEAD"])?;
        let time = git(
            workspace,
            &[
                "log",
                "-1",
                "--format=%cd",
                "--date=format-local:%Y-%m-%dT%H:%M:%SZ",
            ],
        )?;
        let changes = git(workspace, &["status", "--porcelain", "--untracked-files=no"])?;
        let dirty = if changes.is_empty() { "" } else { "-dirty" };
        Ok(Self {
            commit: format!("{commit}{dirty}"),
            time,
        })
    }
}

fn git(workspace: &Workspace, arguments: &[&str]) -> Result<String> {
    let output = process::output(
        "git",
        Command::new("git")
            // Root may look at a checkout of somebody else's.
            .arg("-c")
            .arg(format!("safe.directory={}", workspace.root().display()))
            .arg("-C")
            .arg(workspace.root())
            .args(arguments)
            .env("TZ", "UTC"),
    )
    .context("images are named after the commit they are of")?;
    Ok(String::from_utf8_lossy(&output).trim().to_owned())
}
