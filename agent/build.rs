//! Embeds the kernel programs, which another compiler built before (`cargo xtask ebpf`).

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Where `cargo xtask ebpf` leaves the object, from the repository's root.
const OBJECT: &str = "target/ebpf/aquifer.bpf.o";
/// Names another object, for builds that keep theirs elsewhere (packaging).
const OBJECT_VARIABLE: &str = "AQUIFER_EBPF_OBJECT";

fn main() -> Result<(), String> {
    let object = object_path()?;
    println!("cargo::rerun-if-env-changed={OBJECT_VARIABLE}");
    println!("cargo::rerun-if-changed={}", object.display());
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR for build scripts")?);
    embed(&object, &out.join("aquifer.bpf.o"))
}

fn object_path() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os(OBJECT_VARIABLE) {
        return Ok(PathBuf::from(path));
    }
    let package = env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo sets CARGO_MANIFEST_DIR")?;
    let root = Path::new(&package)
        .parent()
        .ok_or("the package lies in the repository")?;
    Ok(root.join(OBJECT))
}

fn embed(object: &Path, target: &Path) -> Result<(), String> {
    match fs::copy(object, target) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!(
            "the kernel programs are not built ({} is missing): run `cargo xtask ebpf`",
            object.display()
        )),
        Err(error) => Err(format!("cannot copy {}: {error}", object.display())),
    }
}
