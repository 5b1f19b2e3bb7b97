//! An archive as those who read it do: unpacked by tar, every digest computed anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;
use tempfile::TempDir;

const FOLDER: &str = "AQUIFER_IMAGES";

pub(crate) struct Archive {
    /// `agent`, `control`, ...
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    unpacked: TempDir,
    pub(crate) images: Vec<Image>,
    /// By digest: images share some.
    pub(crate) layers: BTreeMap<String, Layer>,
}

/// One entry of the OCI index.
pub(crate) struct Image {
    /// With registry and tag, as containerd looks for it.
    pub(crate) reference: String,
    pub(crate) entry: Value,
    pub(crate) manifest: Value,
    pub(crate) configuration: Value,
}

pub(crate) struct Layer {
    /// SHA-256 of the archive inside the compression.
    pub(crate) difference: String,
    pub(crate) entries: Vec<Entry>,
    root: TempDir,
}

/// A file or folder as the layer has it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) mode: String,
    pub(crate) owner: String,
    pub(crate) time: String,
    pub(crate) path: String,
}

/// All that `cargo xtask image` made.
pub(crate) fn all() -> Vec<Archive> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "tar"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} holds no archive", folder().display());
    paths.iter().map(|path| Archive::open(path)).collect()
}

pub(crate) fn folder() -> PathBuf {
    let folder = std::env::var_os(FOLDER).unwrap_or_else(|| {
        panic!("{FOLDER} names no folder of images: run this suite by `cargo xtask test images`, which makes them")
    });
    PathBuf::from(folder)
}

impl Archive {
    fn open(path: &Path) -> Self {
        let unpacked = tempfile::tempdir().unwrap();
        unpack(path, unpacked.path());
        let mut archive = Self {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            path: path.to_owned(),
            unpacked,
            images: Vec::new(),
            layers: BTreeMap::new(),
        };
        let index = archive.json("index.json");
        archive.images = list(&index["manifests"])
            .map(|entry| archive.image(entry))
            .collect();
        let wanted: BTreeSet<String> = archive.images.iter().flat_map(Image::layers).collect();
        archive.layers = wanted
            .into_iter()
            .map(|digest| (digest.clone(), Layer::open(&archive.blob_path(&digest))))
            .collect();
        archive
    }

    fn image(&self, entry: &Value) -> Image {
        let manifest = self.blob(&text(&entry["digest"]));
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let configuration = self.blob(&text(&manifest["config"]["digest"]));
        Image {
            reference: text(&entry["annotations"]["io.containerd.image.name"]),
            entry: entry.clone(),
            configuration: serde_json::from_slice(&configuration).unwrap(),
            manifest,
        }
    }

    /// A file of the archive that is JSON.
    pub(crate) fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.unpacked.path().join(name)).unwrap()).unwrap()
    }

    pub(crate) fn blob(&self, digest: &str) -> Vec<u8> {
        fs::read(self.blob_path(digest)).unwrap()
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.unpacked.path().join("blobs/sha256").join(hex)
    }

    /// Digests of all blobs, by the names of their files.
    pub(crate) fn blobs(&self) -> BTreeSet<String> {
        let files = fs::read_dir(self.unpacked.path().join("blobs/sha256")).unwrap();
        let name = |file: fs::DirEntry| format!("sha256:{}", file.file_name().to_string_lossy());
        files.map(|file| name(file.unwrap())).collect()
    }

    /// A file of an image, from the topmost layer that has it.
    pub(crate) fn file(&self, image: &Image, path: &str) -> Option<PathBuf> {
        let path = path.trim_start_matches('/');
        let mut layers = image.layers();
        layers.reverse();
        layers
            .iter()
            .map(|layer| self.layers[layer].root.path().join(path))
            .find(|file| file.exists())
    }
}

impl Image {
    /// Digests, lowest first.
    pub(crate) fn layers(&self) -> Vec<String> {
        list(&self.manifest["layers"])
            .map(|layer| text(&layer["digest"]))
            .collect()
    }

    pub(crate) fn compressed(&self) -> u64 {
        list(&self.manifest["layers"])
            .map(|layer| layer["size"].as_u64().unwrap())
            .sum()
    }

    pub(crate) fn program(&self) -> String {
        text(&self.configuration["config"]["Entrypoint"][0])
    }
}

impl Layer {
    fn open(compressed: &Path) -> Self {
        let output = Command::new("gzip").arg("-dc").arg(compressed).output().unwrap();
        assert!(output.status.success(), "gzip: {output:?}");
        let root = tempfile::tempdir().unwrap();
        let archive = root.path().join("layer.tar");
        fs::write(&archive, &output.stdout).unwrap();
        unpack(&archive, root.path());
        Self {
            difference: digest_of(&output.stdout),
            entries: entries(&archive),
            root,
        }
    }
}

fn unpack(archive: &Path, folder: &Path) {
    let status = Command::new("tar")
        .args(["--extract", "--no-same-owner", "--file"])
        .arg(archive)
        .arg("--directory")
        .arg(folder)
        .status()
        .unwrap();
    assert!(status.success(), "tar cannot read {}", archive.display());
}

fn entries(archive: &Path) -> Vec<Entry> {
    let output = Command::new("tar")
        .args([
            "--list",
            "--verbose",
            "--numeric-owner",
            "--utc",
            "--full-time",
            "--file",
        ])
        .arg(archive)
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(entry)
        .collect()
}

/// `-rwxr-xr-x 0/0  4096 1970-01-01 00:00:00 usr/local/bin/aquifer`
fn entry(line: &str) -> Entry {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [mode, owner, _, day, time, path] = words[..] else {
        panic!("tar listed {line:?}")
    };
    Entry {
        mode: mode.to_owned(),
        owner: owner.to_owned(),
        time: format!("{day} {time}"),
        path: path.trim_end_matches('/').to_owned(),
    }
}

pub(crate) fn digest_of(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}
