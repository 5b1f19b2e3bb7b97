//! skopeo reads the archives: what it copies is what we said.

use std::fs;
use std::process::Command;

use super::archive::{Archive, Image, all, digest_of, text};

#[test]
fn skopeo_copies_each_image_with_its_digest() {
    for archive in all() {
        for image in &archive.images {
            let copied = copy(&format!(
                "oci-archive:{}:{}",
                archive.path.display(),
                image.reference
            ));
            assert_eq!(
                digest_of(&copied.manifest),
                text(&image.entry["digest"]),
                "{}",
                image.reference
            );
            assert_eq!(copied.configuration(&archive, image), image.configuration);
        }
    }
}

/// The manifest is docker's own there, made by skopeo; the configuration, which is the image's identity, is ours.
#[test]
fn skopeo_reads_each_image_as_docker_would() {
    for archive in all() {
        for image in &archive.images {
            let copied = copy(&format!(
                "docker-archive:{}:{}",
                archive.path.display(),
                image.reference
            ));
            assert_eq!(copied.configuration(&archive, image), image.configuration);
        }
    }
}

struct Copied {
    manifest: Vec<u8>,
    folder: tempfile::TempDir,
}

impl Copied {
    fn configuration(&self, archive: &Archive, image: &Image) -> serde_json::Value {
        let digest = text(&image.manifest["config"]["digest"]);
        let copied = fs::read(self.folder.path().join(digest.trim_start_matches("sha256:"))).unwrap();
        assert_eq!(copied, archive.blob(&digest), "{}", image.reference);
        serde_json::from_slice(&copied).unwrap()
    }
}

fn copy(source: &str) -> Copied {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("skopeo")
        .args(["copy", "--insecure-policy", source])
        .arg(format!("dir:{}", folder.path().display()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "skopeo copy {source}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Copied {
        manifest: fs::read(folder.path().join("manifest.json")).unwrap(),
        folder,
    }
}
