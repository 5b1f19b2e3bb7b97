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
pub(crate) const TOOLS: [&str; 4] = ["aquifer-codegen", "aquifer-crdgen", "aquifer-oci", "xtask"];

/// Its files under `tests` are suites of their own, which may take root.
const SUITES: &str = "aquifer-tests";

pub(crate) struct Workspace {
    root: PathBuf,
    target: PathBuf,
    /// Names of the integration tests that belong to the crates.
    crate_tests: Vec<String>,
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
            crate_tests: crate_tests(&metadata),
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

    /// Every test inside a library, a program or a crate's own `tests` folder, in one selection.
    pub(crate) fn unit_tests(&self) -> Command {
        let mut command = self.cargo_product("test");
        command.args(["--quiet", "--lib", "--bins"]);
        for name in &self.crate_tests {
            command.args(["--test", name]);
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

    /// Builds a suite and tells where its program is.
    pub(crate) fn suite_program(&self, name: &str) -> Result<PathBuf> {
        let mut build = self.cargo_product("test");
        build.args([
            "--test",
            name,
            "--no-run",
            "--message-format=json-render-diagnostics",
        ]);
        let messages = process::output("the build of the suite", &mut build)?;
        let program = program_in(&String::from_utf8_lossy(&messages), name);
        program.with_context(|| format!("cargo built no program of the suite {name}"))
    }

    pub(crate) fn build_binaries(&self) -> Result<()> {
        eprintln!("==> building (profile {PROFILE}; the first time takes some minutes)");
        process::run("the build", self.cargo_product("build").arg("--bins"))
    }
}

/// Of the test of that name, in what cargo tells of a build: an object a line.
fn program_in(messages: &str, name: &str) -> Option<PathBuf> {
    let artifact = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_it = message["target"]["kind"][0] == "test" && message["target"]["name"] == name;
        let program = message["executable"].as_str()?;
        is_it.then(|| PathBuf::from(program))
    };
    messages.lines().find_map(artifact)
}

fn crate_tests(metadata: &Value) -> Vec<String> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let is_product = |package: &Value| {
        let name = package["name"].as_str().unwrap_or_default();
        name != SUITES && !TOOLS.contains(&name)
    };
    let targets = list(&metadata["packages"])
        .into_iter()
        .filter(is_product)
        .flat_map(|package| list(&package["targets"]));
    let mut names: Vec<String> = targets
        .filter(|target| target["kind"][0] == "test")
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The cargo that runs us, else the one in PATH.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_suites_program_is_found_in_what_cargo_tells() {
        let line = |kind: &str, name: &str, program: &str| {
            json!({"target": {"kind": [kind], "name": name}, "executable": program}).to_string()
        };
        let messages = [
            line("lib", "kubernetes", "/lib"),
            "warning".to_owned(),
            line("test", "lab", "/lab"),
            line("test", "kubernetes", "/program"),
        ];
        let found = program_in(&messages.join("\n"), "kubernetes");
        assert_eq!(found, Some(PathBuf::from("/program")));
    }

    #[test]
    fn the_crates_own_tests_are_told_from_suites_and_tools() {
        let package = |name: &str, test: &str| {
            json!({ "name": name, "targets": [
                { "kind": ["lib"], "name": "x" },
                { "kind": ["test"], "name": test },
            ]})
        };
        let metadata = json!({ "packages": [
            package("aquifer-hbone", "tunnel"),
            package("aquifer-xds", "wire"),
            package("aquifer-tests", "lab"),
            package("xtask", "setup"),
        ]});
        assert_eq!(crate_tests(&metadata), ["tunnel", "wire"]);
    }
}
