//! bpf-linker, which turns the compiler's bitcode into an object the kernel takes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// Raised by hand: releases follow LLVM's.
const VERSION: &str = "0.13.0";

/// The linker for an LLVM, built below `tools` unless it is there; a minute, once.
pub(crate) fn find_or_build(tools: &Path, llvm: u32) -> Result<PathBuf> {
    let root = tools.join(format!("bpf-linker-{VERSION}-llvm-{llvm}"));
    let linker = root.join("bin/bpf-linker");
    if linker.exists() {
        return Ok(linker);
    }
    eprintln!("==> building bpf-linker {VERSION} for LLVM {llvm} (a minute, once)");
    let prefix = llvm_prefix(llvm)?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args([
            "install",
            "bpf-linker",
            "--quiet",
            "--locked",
            "--version",
            VERSION,
            "--no-default-features",
        ])
        .args(["--features", &format!("llvm-{llvm}"), "--root"])
        .arg(&root)
        .arg("--target-dir")
        .arg(tools.join("build"))
        // Without the first it may look in /usr and fail to find the library.
        .env("LLVM_PREFIX", &prefix)
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix);
    process::run("the build of bpf-linker", &mut command)?;
    Ok(linker)
}

fn llvm_prefix(llvm: u32) -> Result<String> {
    let output = process::output(
        "looking for LLVM",
        Command::new(format!("llvm-config-{llvm}")).arg("--prefix"),
    )?;
    Ok(String::from_utf8(output)
        .context("llvm-config's answer is not text")?
        .trim()
        .to_owned())
}
