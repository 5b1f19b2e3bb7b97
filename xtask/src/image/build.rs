//! Static programs, built so that neither the machine nor the checkout's path shows in them.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::ebpf::SEPARATOR;
use crate::homes::Homes;
use crate::image::catalogue::Image;
use crate::process;
use crate::workspace::Workspace;

pub(super) struct StaticBuild {
    triple: String,
    programs: PathBuf,
}

impl StaticBuild {
    pub(super) fn run(workspace: &Workspace, images: &[&Image], profile: &str) -> Result<Self> {
        let triple = host_triple()?;
        check_libc()?;
        let homes = Homes::find(workspace.root(), workspace.target())?;
        eprintln!("==> building static programs (profile {profile})");
        let mut command = workspace.plain_cargo("build");
        command.args(["--profile", profile, "--target", &triple]);
        for image in images {
            command.args(["--package", image.package, "--bin", image.binary]);
        }
        // Flags given here replace those of the environment: they are part of what the digest depends on.
        command
            .env_remove("RUSTFLAGS")
            .env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&homes).join(SEPARATOR))
            .env(c_flags_variable(&triple), homes.c_flags().join(" "));
        process::run("the build of static programs", &mut command)?;
        let programs = workspace.target().join(&triple).join(profile);
        Ok(Self { triple, programs })
    }

    pub(super) fn triple(&self) -> &str {
        &self.triple
    }

    /// Copies without symbols; those stay in the build's own files, for a debugger.
    pub(super) fn strip_into(&self, images: &[&Image], folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        for image in images {
            process::run(
                "stripping",
                Command::new("strip")
                    .args(["--strip-all", "--enable-deterministic-archives", "-o"])
                    .arg(folder.join(image.binary))
                    .arg(self.programs.join(image.binary)),
            )?;
        }
        Ok(())
    }
}

fn rust_flags(homes: &Homes) -> Vec<String> {
    [
        "-Ctarget-feature=+crt-static".to_owned(),
        // A hash over debug information that is stripped afterwards.
        "-Clink-arg=-Wl,--build-id=none".to_owned(),
    ]
    .into_iter()
    .chain(homes.rust_flags())
    .collect()
}

/// As the cc crate reads it; only for what goes into the images, not for build scripts.
fn c_flags_variable(triple: &str) -> OsString {
    format!("CFLAGS_{}", triple.replace('-', "_")).into()
}

/// From 2.34 on the look-up of names is inside the static library. Before, it loads libraries that an empty
/// image lacks, and no name resolves.
fn check_libc() -> Result<()> {
    let output = process::output("getconf", Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    let text = String::from_utf8_lossy(&output);
    let version = text.trim().trim_start_matches("glibc ");
    if !has_static_name_lookup(version) {
        bail!("glibc {version} is too old for static programs that resolve names; 2.34 or later is needed");
    }
    Ok(())
}

fn has_static_name_lookup(version: &str) -> bool {
    let mut parts = version.split('.').map_while(|part| part.parse::<u32>().ok());
    (parts.next(), parts.next()) >= (Some(2), Some(34))
}

fn host_triple() -> Result<String> {
    let output = process::output("rustc", Command::new("rustc").arg("-vV"))?;
    String::from_utf8_lossy(&output)
        .lines()
        .find_map(|line| line.strip_prefix("host: ").map(str::to_owned))
        .context("`rustc -vV` names no host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_libraries_are_refused() {
        for (version, wanted) in [
            ("2.36", true),
            ("2.34", true),
            ("2.31", false),
            ("3.0", true),
            ("", false),
        ] {
            assert_eq!(has_static_name_lookup(version), wanted, "{version}");
        }
    }
}
