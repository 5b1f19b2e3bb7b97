//! Generates `crates/xds/src/pb/*.rs` from `crates/xds/proto`.
//!
//! Pure Rust: no protoc is needed. The output is checked in, so that nobody else compiles this
//! package; `--check` writes nothing and fails when the checked-in files are not what would be written.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => bail!("unknown argument {other}; the only one is --check"),
    };
    let xds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/xds");
    let generated = generate(&xds.join("proto"))?;
    let target = xds.join("src/pb");
    if check {
        compare(&target, &generated)
    } else {
        write(&target, &generated)
    }
}

/// File name to content, for every package under `protos`.
fn generate(protos: &Path) -> Result<BTreeMap<String, String>> {
    let files = proto_files(protos)?;
    let descriptors = protox::compile(&files, [protos]).context("the protos do not compile")?;
    let out = tempfile::tempdir().context("no temporary folder")?;
    tonic_prost_build::configure()
        .build_transport(false)
        .btree_map(".")
        .bytes(".")
        .out_dir(out.path())
        .compile_fds(descriptors)
        .context("generating rust failed")?;
    read_rust(out.path())
}

fn proto_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "proto") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn read_rust(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            files.insert(name, text);
        }
    }
    Ok(files)
}

fn write(target: &Path, generated: &BTreeMap<String, String>) -> Result<()> {
    fs::create_dir_all(target)?;
    for stale in read_rust(target)?
        .keys()
        .filter(|name| !generated.contains_key(*name))
    {
        fs::remove_file(target.join(stale))?;
    }
    for (name, text) in generated {
        fs::write(target.join(name), text)?;
    }
    Ok(())
}

fn compare(target: &Path, generated: &BTreeMap<String, String>) -> Result<()> {
    let present = read_rust(target)?;
    let mut drifted: Vec<&str> = generated
        .iter()
        .filter(|(name, text)| present.get(*name) != Some(*text))
        .map(|(name, _)| name.as_str())
        .collect();
    drifted.extend(
        present
            .keys()
            .filter(|name| !generated.contains_key(*name))
            .map(String::as_str),
    );
    if drifted.is_empty() {
        return Ok(());
    }
    bail!(
        "generated code differs from the protos: {}; run `cargo run -p aquifer-codegen` and commit the result",
        drifted.join(", ")
    )
}
