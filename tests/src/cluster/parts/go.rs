//! Running Go for a recipe.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{PartsError, Recipe};

/// The end of the compiler's output is what explains a failure.
const SHOWN_OUTPUT: usize = 4000;

/// Builds the recipe's programs into the folder.
///
/// At low priority: it uses every core for minutes, and nothing waits for it but us.
pub(super) fn build(recipe: &Recipe, go: &Path, sources: &Path, programs: &Path) -> Result<(), PartsError> {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(go);
    match recipe.version {
        // `go build -o FOLDER/` names a program for its package's folder.
        None => command.arg("build").arg("-o").arg(programs.join("")),
        Some(_) => command.arg("install"),
    };
    command.args([
        "-trimpath",
        "-buildvcs=false",
        "-ldflags",
        recipe.linker,
        "-tags",
        recipe.tags,
    ]);
    match recipe.version {
        None => command.args(recipe.packages),
        Some(version) => command.args(
            recipe
                .packages
                .iter()
                .map(|package| format!("{package}@{version}")),
        ),
    };
    command.current_dir(sources).env("GOBIN", programs);
    command.env("CGO_ENABLED", if recipe.cgo { "1" } else { "0" });
    // What a person's own settings would change.
    command.env_remove("GOFLAGS").env("GOTOOLCHAIN", "local");
    command.stdin(Stdio::null());
    run(recipe.what, &mut command)
}

/// The folder of a module's sources, with this checksum; from a folder without a module of its own.
pub(super) fn download(
    go: &Path,
    module: &str,
    version: &str,
    sum: &str,
    folder: &Path,
) -> Result<PathBuf, PartsError> {
    let mut command = Command::new(go);
    command
        .args(["mod", "download", "-json"])
        .arg(format!("{module}@{version}"));
    command.current_dir(folder);
    command.env_remove("GOFLAGS").env("GOTOOLCHAIN", "local");
    // The sum is compared here.
    command.env("GOSUMDB", "off").stdin(Stdio::null());
    let wrong = |got: String| PartsError::Module {
        module: format!("{module}@{version}"),
        got,
        expected: sum.to_owned(),
    };
    let output = command.output().map_err(|error| wrong(error.to_string()))?;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let text = |key: &str| said[key].as_str().map(str::to_owned);
    match text("Dir") {
        Some(found) if text("Sum").as_deref() == Some(sum) => Ok(PathBuf::from(found)),
        _ => Err(wrong(text("Error").or_else(|| text("Sum")).unwrap_or_else(
            || String::from_utf8_lossy(&output.stderr).into_owned(),
        ))),
    }
}

fn run(what: &'static str, command: &mut Command) -> Result<(), PartsError> {
    let failed = |command: &Command, output: String| PartsError::Build {
        what,
        command: format!("{command:?}"),
        output,
    };
    let output = command
        .output()
        .map_err(|error| failed(command, error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let start = text.len().saturating_sub(SHOWN_OUTPUT);
    let shown = text
        .get(start..)
        .map_or_else(|| text.clone().into_owned(), str::to_owned);
    Err(failed(command, shown))
}
