//! The archive: an OCI image layout which is docker's format at the same time.
//!
//! `oci-layout`, `index.json` and `blobs/` are the layout; `manifest.json` is what `docker load` of any
//! age reads, and names the same blobs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};
use tar::{Builder, EntryType};

use crate::blob::Blob;
use crate::description::{Archive, Image};
use crate::image::{self, PackedImage};
use crate::layer;

const FILE_MODE: u32 = 0o644;

/// One line of the report.
#[derive(Serialize)]
pub(crate) struct Packed {
    references: Vec<String>,
    /// Of the manifest: what `IMAGE@sha256:…` names.
    digest: String,
    /// Of the configuration: what `docker images` shows.
    id: String,
    /// Bytes of all layers as they travel.
    compressed: usize,
    /// Bytes of all layers as they lie on a node.
    unpacked: usize,
}

pub(crate) fn write(wanted: &Archive) -> Result<Vec<Packed>> {
    if wanted.images.is_empty() {
        bail!("no image is described");
    }
    let packed = wanted
        .images
        .iter()
        .map(|image| image::pack(wanted, image))
        .collect::<Result<Vec<_>>>()?;
    write_archive(&wanted.output, &entries(wanted, &packed)?)?;
    Ok(wanted
        .images
        .iter()
        .zip(&packed)
        .map(|(image, packed)| report(image, packed))
        .collect())
}

/// Path to content; sorted, and equal blobs once.
fn entries(wanted: &Archive, packed: &[PackedImage]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut entries = BTreeMap::new();
    for image in packed {
        let layers = image.layers.iter().map(|layer| &layer.blob);
        for blob in layers.chain([&image.configuration, &image.manifest]) {
            entries.insert(blob.path(), blob.bytes.clone());
        }
    }
    let images: Vec<(&Image, &PackedImage)> = wanted.images.iter().zip(packed).collect();
    let json = |value: Value| serde_json::to_vec(&value).context("cannot write an index");
    entries.insert("index.json".to_owned(), json(oci_index(wanted, &images))?);
    entries.insert("manifest.json".to_owned(), json(docker_index(&images))?);
    entries.insert(
        "oci-layout".to_owned(),
        json(json!({"imageLayoutVersion": "1.0.0"}))?,
    );
    Ok(entries)
}

/// One entry per name: containerd makes an image of each.
fn oci_index(wanted: &Archive, images: &[(&Image, &PackedImage)]) -> Value {
    let named = images.iter().flat_map(|(image, packed)| {
        image
            .references
            .iter()
            .map(|reference| (reference, &packed.manifest))
    });
    let manifests: Vec<Value> = named
        .map(|(reference, manifest)| {
            json!({
                "mediaType": image::MANIFEST,
                "digest": manifest.digest.name(),
                "size": manifest.bytes.len(),
                "platform": {"architecture": wanted.architecture, "os": "linux"},
                "annotations": {
                    "io.containerd.image.name": reference.full(),
                    // The full name too: parts of one sample share their tag, and skopeo chooses by this.
                    "org.opencontainers.image.ref.name": reference.full(),
                },
            })
        })
        .collect();
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": manifests,
    })
}

fn docker_index(images: &[(&Image, &PackedImage)]) -> Value {
    images
        .iter()
        .map(|(image, packed)| {
            let tags: Vec<String> = image.references.iter().map(|name| name.short()).collect();
            let layers: Vec<String> = packed.layers.iter().map(|layer| layer.blob.path()).collect();
            json!({"Config": packed.configuration.path(), "RepoTags": tags, "Layers": layers})
        })
        .collect()
}

fn write_archive(output: &Path, entries: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let write = || -> Result<()> {
        if let Some(folder) = output.parent() {
            fs::create_dir_all(folder)?;
        }
        // A reader never finds half an archive.
        let unfinished = output.with_extension("tar.part");
        let mut builder = Builder::new(BufWriter::new(File::create(&unfinished)?));
        for folder in ["blobs", "blobs/sha256"] {
            let mut header = layer::header(EntryType::Directory, 0o755, 0);
            builder.append_data(&mut header, folder, &[][..])?;
        }
        for (path, bytes) in entries {
            let mut header = layer::header(EntryType::Regular, FILE_MODE, bytes.len());
            builder.append_data(&mut header, path, bytes.as_slice())?;
        }
        builder.into_inner()?.flush()?;
        fs::rename(&unfinished, output)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", output.display()))
}

fn report(image: &Image, packed: &PackedImage) -> Packed {
    let size = |blob: &Blob| blob.bytes.len();
    Packed {
        references: image
            .references
            .iter()
            .map(|reference| reference.full())
            .collect(),
        digest: packed.manifest.digest.name(),
        id: packed.configuration.digest.name(),
        compressed: packed.layers.iter().map(|layer| size(&layer.blob)).sum(),
        unpacked: packed.layers.iter().map(|layer| layer.unpacked).sum(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    /// Of one program, whose file lies in `folder`, with its other files in this order.
    fn wanted(folder: &Path, files: [&str; 2]) -> Archive {
        let text = |path: &str| json!({"path": path, "mode": 0o644, "content": {"text": path}});
        let program = json!({
            "path": "usr/bin/program",
            "mode": 0o755,
            "content": {"file": folder.join("program")},
        });
        let image = |name: &str| {
            json!({
                "references": [{"repository": format!("docker.io/a/{name}"), "familiar": format!("a/{name}"), "tag": "1"}],
                "user": "1:1",
                "entrypoint": ["/usr/bin/program"],
                "labels": {},
                "layers": [{"comment": "all", "files": [text(files[0]), program, text(files[1])]}],
            })
        };
        let description = json!({
            "output": folder.join("image.tar"),
            "created": "2024-01-01T00:00:00Z",
            "architecture": "amd64",
            "images": [image("one"), image("two")],
        });
        serde_json::from_value(description).unwrap()
    }

    fn made(program_changed: SystemTime, files: [&str; 2]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let program = File::create(folder.path().join("program")).unwrap();
        program.set_modified(program_changed).unwrap();
        let wanted = wanted(folder.path(), files);
        write(&wanted).unwrap();
        fs::read(wanted.output).unwrap()
    }

    #[test]
    fn neither_time_nor_place_nor_order_shows() {
        let now = SystemTime::now();
        let first = made(now, ["etc/a", "etc/b"]);
        assert!(first == made(now - Duration::from_secs(86_400), ["etc/b", "etc/a"]));
        assert!(first != made(now, ["etc/a", "etc/c"]));
    }

    #[test]
    fn images_of_one_archive_are_told_apart_by_either_name() {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("program")).unwrap();
        let wanted = wanted(folder.path(), ["etc/a", "etc/b"]);
        let packed: Vec<PackedImage> = wanted
            .images
            .iter()
            .map(|image| image::pack(&wanted, image).unwrap())
            .collect();
        let images: Vec<_> = wanted.images.iter().zip(&packed).collect();
        let index = oci_index(&wanted, &images);
        for (at, name) in ["docker.io/a/one:1", "docker.io/a/two:1"].into_iter().enumerate() {
            let annotations = &index["manifests"][at]["annotations"];
            assert_eq!(annotations["io.containerd.image.name"], name);
            assert_eq!(annotations["org.opencontainers.image.ref.name"], name);
        }
    }
}
