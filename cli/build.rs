//! Puts the chart and its renderings into the program, so that it installs what it was built with.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let mut text = String::new();
    for (name, folder) in [("CHART", "deploy/chart"), ("RENDERED", "deploy/rendered")] {
        let root = package.join("..").join(folder);
        println!("cargo::rerun-if-changed={}", root.display());
        let mut files = Vec::new();
        collect(&root, &mut files)?;
        files.sort();
        list(&mut text, name, folder, &root, &files);
    }
    fs::write(out.join("carried.rs"), text)
}

/// `static NAME: &[(&str, &str)]`, path below the folder and content.
fn list(text: &mut String, name: &str, folder: &str, root: &Path, files: &[PathBuf]) {
    let _ = writeln!(text, "pub(crate) static {name}: &[(&str, &str)] = &[");
    for file in files {
        let below = file.strip_prefix(root).unwrap_or(file).display();
        let path = format!("/../{folder}/{below}");
        let _ = writeln!(
            text,
            "({:?}, include_str!(concat!(env!(\"CARGO_MANIFEST_DIR\"), {path:?}))),",
            below.to_string()
        );
    }
    text.push_str("];\n");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
