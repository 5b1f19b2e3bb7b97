//! What cargo says about the dependency graph.
//!
//! `cargo tree` and not the lock file: the lock also names crates that a dependency could use and does
//! not (rustls-webpki's optional ring is one).

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

pub(crate) struct Tree(Vec<(String, String)>);

impl Tree {
    /// What the package is linked from, on any platform; not what its tests use.
    pub(crate) fn of(package: &str) -> Self {
        Self::run(&["--package", package, "--edges", "normal"])
    }

    /// Everything that is built, for any platform, tests included.
    pub(crate) fn whole() -> Self {
        Self::run(&["--workspace", "--edges", "normal,build,dev"])
    }

    fn run(arguments: &[&str]) -> Self {
        let fixed = [
            "tree", "--locked", "--target", "all", "--prefix", "none", "--format", "{p}|{l}",
        ];
        let text = cargo(&[&fixed, arguments].concat());
        let mut packages: Vec<(String, String)> = text.lines().filter_map(line).collect();
        packages.sort();
        packages.dedup();
        assert!(!packages.is_empty(), "cargo tree {arguments:?} printed nothing");
        Self(packages)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    pub(crate) fn licences(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(name, licence)| (name.as_str(), licence.as_str()))
    }
}

/// `NAME vVERSION (SOURCE)|LICENCE (*)`
fn line(line: &str) -> Option<(String, String)> {
    let (package, licence) = line.split_once('|')?;
    let name = package.split(' ').next()?;
    let licence = licence.trim_end_matches("(*)").trim();
    Some((name.to_owned(), licence.to_owned()))
}

pub(crate) fn members() -> Vec<String> {
    packages()
        .iter()
        .map(|package| package["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Source file of every library and program of ours, and its package.
pub(crate) fn crate_roots() -> Vec<(PathBuf, String)> {
    let mut roots = Vec::new();
    for package in packages() {
        for target in package["targets"].as_array().unwrap() {
            let kind = target["kind"][0].as_str().unwrap();
            if kind == "lib" || kind == "bin" {
                let path = PathBuf::from(target["src_path"].as_str().unwrap());
                roots.push((path, package["name"].as_str().unwrap().to_owned()));
            }
        }
    }
    roots
}

fn packages() -> Vec<Value> {
    let text = cargo(&["metadata", "--no-deps", "--locked", "--format-version", "1"]);
    let metadata: Value = serde_json::from_str(&text).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}
