//! `cargo xtask test`: what CI runs, in order, with a summary that names what failed.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::leftovers::Leftovers;
use crate::own_cluster::OwnCluster;
use crate::setup::{self, Needs};
use crate::workspace::{TOOLS, Workspace};
use crate::{cluster, ebpf, image, process};

/// The suite that looks at the images that ship.
const IMAGES: &str = "images";

/// What the suites of files find in theirs, beside what this process has.
type Environment = Vec<(&'static str, OsString)>;

/// Everything that can be asked for by name. One file or folder in `tests/tests` is one suite.
enum Suite {
    Format,
    Lint,
    Codegen,
    /// Tests inside the crates: unit, property, in-process
    Unit,
    /// Tests of what builds and packs the product
    Tools,
    File(String),
}

impl Suite {
    fn name(&self) -> &str {
        match self {
            Self::Format => "fmt",
            Self::Lint => "lint",
            Self::Codegen => "codegen",
            Self::Unit => "unit",
            Self::Tools => "tools",
            Self::File(name) => name,
        }
    }

    fn run(&self, workspace: &Workspace, environment: &Environment) -> Result<()> {
        let mut command = match self {
            Self::Format => {
                let mut command = workspace.plain_cargo("fmt");
                command.args(["--all", "--check"]);
                command
            }
            Self::Lint => {
                let mut command = workspace.cargo("clippy");
                command.args(["--workspace", "--all-targets", "--", "-D", "warnings"]);
                command
            }
            Self::Codegen => return workspace.codegen(true),
            Self::Unit => workspace.unit_tests(),
            Self::Tools => {
                let mut command = workspace.cargo("test");
                command.arg("--quiet");
                for tool in TOOLS {
                    command.args(["--package", tool]);
                }
                command
            }
            // Built like everything else, run alone: see Workspace on features.
            Self::File(name) => {
                let mut command = workspace.cargo_product("test");
                command.args(["--test", name]);
                command.envs(environment.iter().map(|(key, value)| (key, value)));
                command
            }
        };
        process::run(self.name(), &mut command)
    }
}

#[allow(clippy::print_stdout, reason = "the list is this command's output")]
pub(crate) fn list(workspace: &Workspace) -> Result<()> {
    for suite in all(workspace)? {
        println!("{}", suite.name());
    }
    Ok(())
}

/// Runs the suites named in `wanted`, or all of them.
pub(crate) fn run(workspace: &Workspace, wanted: &[String], own: &OwnCluster) -> Result<()> {
    let suites = select(all(workspace)?, wanted)?;
    own.take_over(workspace, wanted)?;
    setup::install(Needs::Everything)?;
    if suites.iter().any(|suite| cluster::SUITES.contains(&suite.name())) {
        cluster::install()?;
    }
    ebpf::build()?;
    if suites.iter().any(|suite| matches!(suite, Suite::File(_))) {
        workspace.build_binaries()?;
    }
    let mut environment = Environment::new();
    let before = Leftovers::look(workspace);
    let mut failed = Vec::new();
    if suites.iter().any(|suite| suite.name() == IMAGES)
        && let Err(error) = make_images(workspace, &mut environment)
    {
        eprintln!("==> the images cannot be made: {error:#}");
        failed.push("the making of images".to_owned());
    }
    failed.extend(run_each(workspace, &suites, &environment));
    let left = Leftovers::look(workspace).since(&before);
    if !left.is_empty() {
        bail!("left behind by the tests (or started by someone else meanwhile):\n{left}");
    }
    if !failed.is_empty() {
        bail!(
            "{} of {} suites failed: {}",
            failed.len(),
            suites.len(),
            failed.join(", ")
        );
    }
    eprintln!("==> all {} suites passed, nothing left behind", suites.len());
    Ok(())
}

/// Having been made, they are what every other cluster of this run gets.
fn make_images(workspace: &Workspace, environment: &mut Environment) -> Result<()> {
    environment.push((image::FOLDER_VARIABLE, image::for_tests(workspace)?.into()));
    Ok(())
}

/// Names of the suites that failed; one failure does not hide the next.
fn run_each(workspace: &Workspace, suites: &[Suite], environment: &Environment) -> Vec<String> {
    let mut failed = Vec::new();
    for (index, suite) in suites.iter().enumerate() {
        eprintln!("==> [{}/{}] {}", index + 1, suites.len(), suite.name());
        let start = Instant::now();
        match suite.run(workspace, environment) {
            Ok(()) => eprintln!("    {} passed in {}", suite.name(), seconds(start.elapsed())),
            Err(error) => {
                eprintln!(
                    "    {} FAILED in {}: {error:#}",
                    suite.name(),
                    seconds(start.elapsed())
                );
                failed.push(suite.name().to_owned());
            }
        }
    }
    failed
}

fn all(workspace: &Workspace) -> Result<Vec<Suite>> {
    let mut files = suite_files(workspace)?;
    // Cheap, and what it says explains many a failure after it.
    files.sort_by_key(|name| (name != "dependency_rules", name.clone()));
    let mut suites = vec![
        Suite::Format,
        Suite::Lint,
        Suite::Codegen,
        Suite::Unit,
        Suite::Tools,
    ];
    suites.extend(files.into_iter().map(Suite::File));
    Ok(suites)
}

fn suite_files(workspace: &Workspace) -> Result<Vec<String>> {
    let folder = workspace.root().join("tests/tests");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {}", folder.display())),
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // As cargo finds them: a file, or a folder with a main.rs.
        if path.extension().is_some_and(|extension| extension == "rs") || path.join("main.rs").is_file() {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    Ok(names)
}

fn select(suites: Vec<Suite>, wanted: &[String]) -> Result<Vec<Suite>> {
    if wanted.is_empty() {
        return Ok(suites);
    }
    if let Some(unknown) = wanted
        .iter()
        .find(|name| !suites.iter().any(|suite| suite.name() == name.as_str()))
    {
        let known: Vec<&str> = suites.iter().map(Suite::name).collect();
        bail!("no suite is named {unknown}; there are {}", known.join(", "));
    }
    Ok(suites
        .into_iter()
        .filter(|suite| wanted.iter().any(|name| name == suite.name()))
        .collect())
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suites() -> Vec<Suite> {
        vec![Suite::Format, Suite::Lint, Suite::File("lab".to_owned())]
    }

    #[test]
    fn no_name_selects_every_suite() {
        assert_eq!(select(suites(), &[]).unwrap().len(), 3);
    }

    #[test]
    fn a_name_selects_its_suite() {
        let selected = select(suites(), &["lab".to_owned()]).unwrap();
        assert_eq!(selected.iter().map(Suite::name).collect::<Vec<_>>(), ["lab"]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_those_that_exist() {
        let error = select(suites(), &["labb".to_owned()]).err().unwrap().to_string();
        assert!(
            error.contains("labb") && error.contains("fmt, lint, lab"),
            "{error}"
        );
    }
}
