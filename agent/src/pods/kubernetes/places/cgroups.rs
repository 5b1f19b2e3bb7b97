//! Pods' cgroups by the uids in their names.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// `kubepods/burstable/podUID` and `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice`: one
/// level between, for the quality of service, or none.
const DEPTH: usize = 2;

/// What cannot be read has no pods; its pods are then reported as not found.
pub(super) fn by_uid(captured: &Path) -> HashMap<String, PathBuf> {
    let mut found = HashMap::new();
    walk(captured, DEPTH, &mut found);
    found
}

fn walk(folder: &Path, depth: usize, found: &mut HashMap<String, PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        match entry.file_name().to_str().and_then(uid_in) {
            Some(uid) => {
                found.insert(uid, entry.path());
            }
            None if depth > 1 => walk(&entry.path(), depth - 1, found),
            None => {}
        }
    }
}

/// systemd takes dashes for slashes, so they are underscores there.
fn uid_in(name: &str) -> Option<String> {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let (before, uid) = name.rsplit_once("pod")?;
    let is_uid = uid.len() >= 32
        && uid
            .bytes()
            .all(|b| b.is_ascii_hexdigit() || b == b'-' || b == b'_');
    (is_uid && (before.is_empty() || before.ends_with('-'))).then(|| uid.replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b2f36ea-6e4b-4a6c-9a0c-6d0b8d2f0c11";

    #[test]
    fn both_drivers_names_are_read() {
        for name in [
            format!("pod{UID}"),
            format!("kubepods-besteffort-pod{}.slice", UID.replace('-', "_")),
            format!("kubepods-pod{}.slice", UID.replace('-', "_")),
            format!("kubelet-kubepods-burstable-pod{}.slice", UID.replace('-', "_")),
        ] {
            assert_eq!(uid_in(&name).as_deref(), Some(UID), "{name}");
        }
        assert_eq!(uid_in(&format!("pod{}", "ab".repeat(16))), Some("ab".repeat(16)));
        for name in ["kubepods", "kubepods.slice", "burstable", "podinfo", "tripod-1"] {
            assert_eq!(uid_in(name), None, "{name}");
        }
    }

    #[test]
    fn pods_are_found_at_either_depth() {
        let folder = tempfile::tempdir().unwrap();
        let other = UID.replace('0', "1");
        fs::create_dir_all(folder.path().join(format!("besteffort/pod{UID}/container"))).unwrap();
        fs::create_dir_all(folder.path().join(format!("pod{other}"))).unwrap();
        let found = by_uid(folder.path());
        assert!(found[UID].ends_with(format!("besteffort/pod{UID}")));
        assert_eq!(found.len(), 2);
        assert!(by_uid(&folder.path().join("absent")).is_empty());
    }
}
