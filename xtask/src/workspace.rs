//! Where things are, and the few cargo commands that everything shares.
//!
//! Every build names the same packages and the same profile: cargo unifies features over what it is
//! asked to build, so another selection would compile half of the dependencies a second time.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process;

/// The profile of the demo, the tests and the lab (see Cargo.toml).
const PROFILE: &str = "lab";
/// Development tools: nothing in a lab runs them.
const TOOLS: [&str; 4] = ["aquifer-codegen", "aquifer-crdgen", "aquifer-oci", "xtask"];

pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask has no parent folder")?;
        let metadata = process::output(
            "cargo metadata",
            cargo()
                .args(["metadata", "--no-deps", "--format-version", "1"])
                .current_dir(root),
        )?;
        let metadata: Value = serde_json::from_slice(&metadata).context("cargo metadata is not JSON")?;
        let target = metadata["target_directory"]
            .as_str()
            .context("cargo metadata names no target directory")?;
        Ok(Self {
            root: root.to_path_buf(),
            target: PathBuf::from(target),
        })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of everything that is built.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// Folder of the built programs.
    pub(crate) fn programs(&self) -> PathBuf {
        self.target.join(PROFILE)
    }

    pub(crate) fn binary(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    /// `cargo SUBCOMMAND` in the repository, with the shared profile.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut command = self.plain_cargo(subcommand);
        command.args(["--profile", PROFILE]);
        command
    }

    /// `cargo SUBCOMMAND` in the repository, for those that know no profile.
    pub(crate) fn plain_cargo(&self, subcommand: &str) -> Command {
        let mut command = cargo();
        command.arg(subcommand).current_dir(&self.root);
        command
    }

    /// `cargo SUBCOMMAND` over everything that a lab or a test runs.
    pub(crate) fn cargo_product(&self, subcommand: &str) -> Command {
        let mut command = self.cargo(subcommand);
        command.arg("--workspace");
        for tool in TOOLS {
            command.args(["--exclude", tool]);
        }
        command
    }

    /// Writes the generated files, or checks that they are what would be written.
    pub(crate) fn codegen(&self, check: bool) -> Result<()> {
        for (what, package) in [("protobuf code", "aquifer-codegen"), ("CRDs", "aquifer-crdgen")] {
            let mut command = self.tool(package);
            if check {
                command.arg("--check");
            }
            process::run(what, &mut command)?;
        }
        Ok(())
    }

    /// A program of the repository that this one spawns, built when it is needed.
    pub(crate) fn tool(&self, package: &str) -> Command {
        let mut command = self.cargo("run");
        command.args(["--quiet", "--package", package, "--"]);
        command
    }

    pub(crate) fn build_binaries(&self) -> Result<()> {
        eprintln!("==> building (profile {PROFILE}; the first time takes some minutes)");
        process::run("the build", self.cargo_product("build").arg("--bins"))
    }
}

/// The cargo that runs us, else the one in PATH.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}
