//! The repository's own files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::tree::root;

/// Folders that hold nothing of ours.
const SKIPPED: [&str; 2] = ["target", ".git"];
const TEXT: [&str; 9] = ["rs", "toml", "md", "yaml", "yml", "json", "proto", "sh", "run"];

/// Paths below the root of the repository.
pub(crate) fn text_files() -> Vec<String> {
    let mut files = Vec::new();
    collect(&root(), &mut files);
    files.retain(|file| {
        let name = Path::new(file);
        let extension = name.extension().or_else(|| name.file_name()).unwrap_or_default();
        TEXT.iter().any(|known| extension == *known)
    });
    assert!(
        files.len() > 50,
        "only {} files found; is this the repository?",
        files.len()
    );
    files
}

pub(crate) fn rust_files() -> Vec<String> {
    text_files()
        .into_iter()
        .filter(|file| file.ends_with(".rs"))
        .collect()
}

pub(crate) fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn collect(folder: &Path, files: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !SKIPPED.contains(&name.as_str()) {
                collect(&path, files);
            }
        } else {
            files.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
        }
    }
}

pub(crate) fn banned_crates() -> BTreeSet<String> {
    let lines = section("bans");
    lines
        .iter()
        .filter_map(|line| line.split("crate = \"").nth(1)?.split('"').next())
        .map(str::to_owned)
        .collect()
}

pub(crate) fn allowed_licences() -> BTreeSet<String> {
    let lines = section("licenses");
    lines
        .iter()
        .filter_map(|line| line.trim().strip_prefix('"')?.split('"').next())
        .map(str::to_owned)
        .collect()
}

/// The lines of one section of deny.toml; we write it one entry a line.
fn section(name: &str) -> Vec<String> {
    let text = read("deny.toml");
    let header = format!("[{name}]");
    let lines = text.lines().skip_while(|line| *line != header).skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .map(str::to_owned)
        .collect()
}
