//! Whether anything changed since the last build.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A digest of every file below `sources` and of `tools`. For skipping work, not for trust.
pub(crate) fn fingerprint(sources: &Path, tools: &[&str]) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    tools.hash(&mut hasher);
    for file in files(sources)? {
        file.strip_prefix(sources)
            .context("a file outside its folder")?
            .hash(&mut hasher);
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        content.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// Every file below `folder` in a fixed order; what builds leave is none of the sources.
fn files(folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                found.insert(entry.path());
            } else if entry.file_name() != "target" {
                folders.push(entry.path());
            }
        }
    }
    Ok(found)
}
