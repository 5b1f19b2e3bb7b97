//! Builds the kernel programs: `ebpf/` to `target/ebpf/aquifer.bpf.o`, which the agent embeds.
//!
//! They are compiled for a target that rustup's stable toolchain has no `core` for. Two compilers
//! can do it: Debian's `rustc-web`, which ships a prebuilt one and is what gets installed when
//! nothing is there, and a rustup nightly with `rust-src`. Either needs `bpf-linker` built against
//! the LLVM of the same major version, kept below `target/tools`, never in the user's own folders.

mod compiler;
mod inputs;
mod linker;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use self::compiler::Compiler;
use crate::homes::Homes;
use crate::process;

/// What cargo splits `CARGO_ENCODED_RUSTFLAGS` at.
pub(crate) const SEPARATOR: &str = "\x1f";
const TARGET: &str = "bpfel-unknown-none";
/// The binary of the package in `ebpf/`.
const PROGRAM: &str = "aquifer";

/// Builds the object unless it is up to date, installing what that takes. Returns its path.
pub(crate) fn build() -> Result<PathBuf> {
    let folders = Folders::new()?;
    let object = folders.output.join("aquifer.bpf.o");
    let compiler = Compiler::find_or_install()?;
    let linker = linker::find_or_build(&folders.tools, compiler.llvm())?;
    let flags = flags(&folders)?.join(SEPARATOR);
    let inputs = inputs::fingerprint(
        &folders.sources,
        &[&compiler.version()?, &linker.display().to_string(), &flags],
    )?;
    let record = folders.output.join("inputs");
    if object.exists() && fs::read_to_string(&record).is_ok_and(|last| last == inputs) {
        return Ok(object);
    }
    eprintln!("==> building the kernel programs with {}", compiler.describe());
    process::run(
        "the build of the kernel programs",
        &mut cargo(&compiler, &linker, &flags, &folders),
    )?;
    let built = folders.build().join(TARGET).join("release").join(PROGRAM);
    replace(&built, &object)?;
    fs::write(&record, inputs).with_context(|| format!("cannot write {}", record.display()))?;
    Ok(object)
}

struct Folders {
    root: PathBuf,
    target: PathBuf,
    sources: PathBuf,
    output: PathBuf,
    tools: PathBuf,
}

impl Folders {
    fn new() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask has no parent folder")?;
        let folders = Self {
            root: root.to_path_buf(),
            target: root.join("target"),
            sources: root.join("ebpf"),
            output: root.join("target/ebpf"),
            tools: root.join("target/tools"),
        };
        for folder in [&folders.output, &folders.tools] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(folders)
    }

    fn build(&self) -> PathBuf {
        self.output.join("build")
    }
}

fn cargo(compiler: &Compiler, linker: &Path, flags: &str, folders: &Folders) -> Command {
    let mut command = compiler.cargo();
    command
        .args([
            "build",
            "--quiet",
            "--locked",
            "--release",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(folders.build())
        .current_dir(&folders.sources)
        // Not among the flags: they are hashed into symbols, and it lies elsewhere in another checkout.
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    command
}

/// Debug information becomes the BTF that socket storage maps cannot do without. The agent embeds it, so it names no
/// folder of this machine.
fn flags(folders: &Folders) -> Result<Vec<String>> {
    let homes = Homes::find(&folders.root, &folders.target)?;
    Ok([
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
    ]
    .into_iter()
    .chain(homes.rust_flags())
    .collect())
}

/// Whoever builds the agent meanwhile sees the old object or the new one, whole.
fn replace(built: &Path, object: &Path) -> Result<()> {
    let fresh = object.with_extension("new");
    fs::copy(built, &fresh)
        .and_then(|_| fs::rename(&fresh, object))
        .with_context(|| format!("cannot copy {} to {}", built.display(), object.display()))
}
