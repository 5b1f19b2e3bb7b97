//! Folders whose names must not get into a program, since they differ from machine to machine, and what stands for them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

pub(crate) struct Homes(Vec<(PathBuf, &'static str)>);

impl Homes {
    /// Of the repository and of what it is built in.
    pub(crate) fn find(root: &Path, target: &Path) -> Result<Self> {
        let cargo = std::env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))
            .context("neither CARGO_HOME nor HOME is set")?;
        Ok(Self(vec![
            (cargo, "/cargo"),
            (target.to_path_buf(), "/target"),
            (root.to_path_buf(), "/aquifer"),
        ]))
    }

    /// The last of the mappings that fit wins, so the target folder comes after the root it may lie in.
    pub(crate) fn rust_flags(&self) -> Vec<String> {
        self.flags("--remap-path-prefix")
    }

    pub(crate) fn c_flags(&self) -> Vec<String> {
        self.flags("-ffile-prefix-map")
    }

    fn flags(&self, flag: &str) -> Vec<String> {
        let map = |(path, name): &(PathBuf, &str)| format!("{flag}={}={name}", path.display());
        self.0.iter().rev().map(map).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_folder_is_mapped_last() {
        let homes = Homes(vec![
            ("/c".into(), "/cargo"),
            ("/r/target".into(), "/target"),
            ("/r".into(), "/aquifer"),
        ]);
        let flags = homes.rust_flags();
        assert_eq!(flags[0], "--remap-path-prefix=/r=/aquifer");
        let position = |text: &str| flags.iter().position(|flag| flag.ends_with(text));
        assert!(position("=/aquifer") < position("=/target"), "{flags:?}");
    }
}
