//! Manifests from files, folders and the standard input.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use aquifer_control::source::document::MAX_FILE;
use aquifer_control::validate::Document;

/// Folders that nest deeper or hold more than this are not meant.
const MAX_DEPTH: usize = 16;
const MAX_FILES: usize = 10_000;

pub(super) fn read(paths: &[&PathBuf]) -> anyhow::Result<Vec<Document>> {
    let mut documents = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            documents.push(document("standard input", std::io::stdin().lock())?);
            continue;
        }
        let kind = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut files = Vec::new();
        if kind.is_dir() {
            collect(path, 0, &mut files)?;
            if files.is_empty() {
                bail!("{} holds no .yaml, .yml or .json file", path.display());
            }
        } else {
            files.push((*path).clone());
        }
        for file in &files {
            documents.push(open(file)?);
        }
    }
    Ok(documents)
}

fn open(path: &Path) -> anyhow::Result<Document> {
    let name = path.display().to_string();
    let file = fs::File::open(path).with_context(|| format!("cannot read {name}"))?;
    document(&name, file)
}

/// Reads one byte more than is allowed, so that the reader of documents can say that it is too long.
fn document(name: &str, from: impl std::io::Read) -> anyhow::Result<Document> {
    let mut bytes = Vec::new();
    let limited = from.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes);
    limited.with_context(|| format!("cannot read {name}"))?;
    Ok(Document {
        origin: name.into(),
        bytes,
    })
}

fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let cannot = || format!("cannot list {}", folder.display());
    if depth > MAX_DEPTH {
        bail!(
            "{} is more than {MAX_DEPTH} folders deep; does a link lead back?",
            folder.display()
        );
    }
    let entries: Result<Vec<_>, _> = fs::read_dir(folder).with_context(cannot)?.collect();
    let mut paths: Vec<PathBuf> = entries
        .with_context(cannot)?
        .into_iter()
        .map(|e| e.path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, depth + 1, files)?;
        } else if is_manifest(&path) {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            bail!(
                "{} holds more than {MAX_FILES} manifests; name the ones to judge",
                folder.display()
            );
        }
    }
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str());
    extension.is_some_and(|e| ["yaml", "yml", "json"].contains(&e))
}
