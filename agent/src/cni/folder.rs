//! The folder that agent and plugin share, below the runtime's network configurations: a runtime reads files only.
//!
//! It outlives a reboot of the node, when pods come back before their agent.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

const NAME: &str = "aquifer";
const SOCKET: &str = "agent.sock";
const NAMESPACES: &str = "namespaces";

#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Below this folder of network configurations.
    pub(super) fn below(configurations: &Path) -> Self {
        Self(configurations.join(NAME))
    }

    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.0.join(SOCKET)
    }

    /// For nobody but root.
    pub(super) fn make(&self) -> io::Result<()> {
        fs::create_dir_all(&self.0)?;
        fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700))
    }

    /// With the socket.
    pub(super) fn remove(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_dir_all(&self.0))
    }

    /// No namespace is in the mesh any more; the socket stays.
    pub(super) fn forget(&self) -> io::Result<()> {
        absent_is_fine(fs::remove_file(self.0.join(NAMESPACES)))
    }

    /// Whether this namespace was in the mesh when an agent last looked. Nothing is where no agent ever was.
    pub(super) fn has(&self, namespace: &str) -> io::Result<bool> {
        match fs::read_to_string(self.0.join(NAMESPACES)) {
            Ok(text) => Ok(text.lines().any(|line| line == namespace)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn note(&self, namespaces: &BTreeSet<String>) -> io::Result<()> {
        let lines: Vec<&str> = namespaces.iter().map(String::as_str).collect();
        replace(&self.0.join(NAMESPACES), lines.join("\n").as_bytes(), 0o600)
    }
}

pub(super) fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a file that others see either as it was or whole; one that is there keeps its mode.
pub(super) fn replace(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    if fs::read(path).is_ok_and(|now| now == content) {
        return Ok(());
    }
    let mode = fs::metadata(path).map_or(mode, |now| now.permissions().mode() & 0o7777);
    // Without an extension that a runtime reads.
    let mut next = path.as_os_str().to_owned();
    next.push("~");
    absent_is_fine(fs::remove_file(&next))?;
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(&next)?;
    file.write_all(content)?;
    // The umask counts at the making only.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    drop(file);
    fs::rename(&next, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_known_until_they_leave() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::below(place.path());
        assert!(!folder.has("shop").unwrap());
        folder.make().unwrap();
        folder
            .note(&["shop".to_owned(), "bank".to_owned()].into())
            .unwrap();
        assert!(folder.has("shop").unwrap() && folder.has("bank").unwrap());
        assert!(!folder.has("sho").unwrap() && !folder.has("").unwrap());
        folder.note(&BTreeSet::new()).unwrap();
        assert!(!folder.has("shop").unwrap());
        folder.remove().unwrap();
        folder.remove().unwrap();
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
