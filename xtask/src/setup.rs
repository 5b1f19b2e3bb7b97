//! Installs what is missing on a fresh Debian machine, and says what to type anywhere else.
//!
//! Looks for the programs themselves, so that a second run costs nothing and asks no registry. The
//! compiler of the kernel programs is the business of `ebpf`.

mod envoy;
mod helm;
pub(crate) mod pypi;

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{self, find_program};

/// What the task at hand will use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Needs {
    /// Compilers
    Build,
    /// Namespaces and what runs in them
    Lab,
    /// Load generators and everything else
    Everything,
}

struct Tool {
    program: &'static str,
    package: &'static str,
    needs: Needs,
}

const TOOLS: &[Tool] = &[
    Tool {
        program: "cc",
        package: "gcc",
        needs: Needs::Build,
    },
    Tool {
        program: "c++",
        package: "g++",
        needs: Needs::Build,
    },
    Tool {
        program: "make",
        package: "make",
        needs: Needs::Build,
    },
    Tool {
        program: "cmake",
        package: "cmake",
        needs: Needs::Build,
    },
    Tool {
        program: "pkg-config",
        package: "pkg-config",
        needs: Needs::Build,
    },
    Tool {
        program: "ip",
        package: "iproute2",
        needs: Needs::Lab,
    },
    Tool {
        program: "nft",
        package: "nftables",
        needs: Needs::Lab,
    },
    Tool {
        program: "mount",
        package: "mount",
        needs: Needs::Lab,
    },
    Tool {
        program: "curl",
        package: "curl",
        needs: Needs::Everything,
    },
    Tool {
        program: "openssl",
        package: "openssl",
        needs: Needs::Everything,
    },
    Tool {
        program: "wrk",
        package: "wrk",
        needs: Needs::Everything,
    },
    Tool {
        program: "iperf3",
        package: "iperf3",
        needs: Needs::Everything,
    },
    Tool {
        program: "skopeo",
        package: "skopeo",
        needs: Needs::Everything,
    },
];

/// Files that stand for packages without a program.
const FILES: &[(&str, &str)] = &[
    ("/usr/include/stdlib.h", "libc6-dev"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
];

pub(crate) fn install(needs: Needs) -> Result<()> {
    install_packages(&missing_packages(needs))?;
    install_components(&missing_components())?;
    if needs == Needs::Everything {
        helm::install()?;
        envoy::install()?;
    }
    Ok(())
}

fn missing_packages(needs: Needs) -> Vec<&'static str> {
    let programs = TOOLS
        .iter()
        .filter(|tool| tool.needs <= needs && find_program(tool.program).is_none())
        .map(|tool| tool.package);
    let files = FILES
        .iter()
        .filter(|(file, _)| !Path::new(file).exists())
        .map(|(_, package)| *package);
    programs.chain(files).collect()
}

pub(crate) fn install_packages(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if !is_root() || find_program("apt-get").is_none() {
        bail!(
            "missing: {list}; install them (on Debian: `sudo apt-get update && sudo apt-get install --no-install-recommends {list}`) and run this again"
        );
    }
    eprintln!("==> installing {list}");
    apt_get(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(packages);
    apt_get(&arguments)
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    process::run(
        "apt-get",
        Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// Parts of the Rust toolchain that a minimal installation lacks.
fn missing_components() -> Vec<&'static str> {
    [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")]
        .into_iter()
        .filter(|(program, _)| !process::succeeds(Command::new(program).arg("--version")))
        .map(|(_, component)| component)
        .collect()
}

fn install_components(components: &[&str]) -> Result<()> {
    if components.is_empty() {
        return Ok(());
    }
    let list = components.join(" ");
    if find_program("rustup").is_none() {
        bail!("the rust toolchain lacks {list}; install them (with rustup: `rustup component add {list}`)");
    }
    eprintln!("==> adding {list} to the rust toolchain");
    process::run(
        "rustup",
        Command::new("rustup").args(["component", "add"]).args(components),
    )
}

pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
