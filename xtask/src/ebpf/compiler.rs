//! Which compiler builds the kernel programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::setup::is_root;

/// Debian's package of a recent compiler, and where it puts things. By absolute path only: it would
/// otherwise stand in for the toolchain of everything else.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none";
/// With the LLVM that bpf-linker links against: the version rustc-web is built with.
const DEBIAN_PACKAGES: [&str; 5] = [
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "libpolly-22-dev",
];
const DEBIAN_LLVM: u32 = 22;
/// What bpf-linker can be built against.
const LINKER_LLVMS: std::ops::RangeInclusive<u32> = 21..=23;
/// What the LLVM packages install, for each major version.
const LLVM_CONFIG: &str = "/usr/bin/llvm-config-";

/// A compiler that can build for the kernel, and the LLVM its linker needs.
pub(crate) enum Compiler {
    /// Debian's rustc-web with its prebuilt `core`
    Debian,
    /// A rustup toolchain that builds `core` from its sources
    Nightly { toolchain: String, llvm: u32 },
}

impl Compiler {
    /// Debian's compiler where it is installed, else a usable nightly, else Debian's, installed now.
    pub(crate) fn find_or_install() -> Result<Self> {
        if debian_is_complete() {
            return Ok(Self::Debian);
        }
        if let Some(nightly) = nightly() {
            return Ok(nightly);
        }
        install_debian()?;
        Ok(Self::Debian)
    }

    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Debian => format!("Debian's rustc-web ({DEBIAN_RUSTC})"),
            Self::Nightly { toolchain, .. } => format!("the toolchain {toolchain}"),
        }
    }

    /// Major version of the LLVM that made its bitcode.
    pub(crate) fn llvm(&self) -> u32 {
        match self {
            Self::Debian => DEBIAN_LLVM,
            Self::Nightly { llvm, .. } => *llvm,
        }
    }

    /// Everything that tells one release from another.
    pub(crate) fn version(&self) -> Result<String> {
        let output = match self {
            Self::Debian => process::output("the compiler's version", Command::new(DEBIAN_RUSTC).arg("-vV"))?,
            Self::Nightly { toolchain, .. } => rustup_run(toolchain, "-vV")
                .context("the toolchain vanished")?
                .into(),
        };
        String::from_utf8(output).context("the compiler's version is not text")
    }

    /// `cargo` with this compiler and without what the cargo that runs us would pass on.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = match self {
            Self::Debian => {
                let mut command = Command::new(DEBIAN_CARGO);
                // aya needs one unstable feature on this target only.
                command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command
            }
            Self::Nightly { toolchain, .. } => {
                let mut command = Command::new("rustup");
                command
                    .args(["run", toolchain, "cargo", "-Zbuild-std=core"])
                    .env_remove("RUSTC");
                command
            }
        };
        for variable in [
            "RUSTUP_TOOLCHAIN",
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
        ] {
            command.env_remove(variable);
        }
        command
    }
}

/// Usable: its sources are there, and so is the LLVM to build a linker with.
fn nightly() -> Option<Compiler> {
    let list = text(Command::new("rustup").args(["toolchain", "list"]))?;
    let toolchain = list
        .lines()
        .filter_map(|line| line.split(' ').next())
        .find(|name| name.starts_with("nightly"))?;
    let sysroot = PathBuf::from(rustup_run(toolchain, "--print=sysroot")?.trim());
    if !sysroot
        .join("lib/rustlib/src/rust/library/core/Cargo.toml")
        .exists()
    {
        return None;
    }
    let llvm = llvm_major(&rustup_run(toolchain, "-vV")?)?;
    let linkable = LINKER_LLVMS.contains(&llvm) && Path::new(&format!("{LLVM_CONFIG}{llvm}")).exists();
    linkable.then(|| Compiler::Nightly {
        toolchain: toolchain.to_owned(),
        llvm,
    })
}

fn rustup_run(toolchain: &str, argument: &str) -> Option<String> {
    text(Command::new("rustup").args(["run", toolchain, "rustc", argument]))
}

/// Standard output, `None` when the program is missing or fails.
fn text(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// From `rustc -vV`: `LLVM version: 22.1.8`.
fn llvm_major(version: &str) -> Option<u32> {
    let number = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    number.split('.').next()?.parse().ok()
}

fn debian_is_complete() -> bool {
    let llvm_config = format!("{LLVM_CONFIG}{DEBIAN_LLVM}");
    // libPolly.a comes with libpolly-22-dev and is among what llvm-config tells to link.
    let polly = format!("/usr/lib/llvm-{DEBIAN_LLVM}/lib/libPolly.a");
    [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_CORE, &llvm_config, &polly]
        .iter()
        .all(|path| Path::new(path).exists())
}

fn install_debian() -> Result<()> {
    let packages = DEBIAN_PACKAGES.join(" ");
    let commands = format!("apt-get update && apt-get install -y --no-install-recommends {packages}");
    if process::find_program("apt-get").is_none() {
        bail!(
            "no compiler for the kernel programs: either a rustup nightly with its sources \
             (`rustup toolchain install nightly --component rust-src`) and the LLVM of its major version \
             with development files, or on Debian: {commands}"
        );
    }
    if !is_root() {
        bail!("no compiler for the kernel programs; as root: {commands}");
    }
    eprintln!("==> installing Debian's compiler for the kernel programs: {packages}");
    apt_get(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(DEBIAN_PACKAGES);
    apt_get(&arguments)?;
    if !debian_is_complete() {
        bail!(
            "{packages} are installed, but not all of what they should contain is in /usr; was this meant for another Debian release?"
        );
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    process::run(
        "apt-get",
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

#[cfg(test)]
mod tests {
    use super::llvm_major;

    #[test]
    fn reads_the_major_version_of_llvm() {
        assert_eq!(
            llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"),
            Some(22)
        );
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }
}
