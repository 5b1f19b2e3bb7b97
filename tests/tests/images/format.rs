//! The archive as a format: OCI's layout and docker's, of one set of blobs, with no trace of when and where it was made.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::archive::{Archive, all, digest_of, list, text};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIGURATION: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

#[test]
fn every_blob_has_the_digest_and_size_that_it_is_named_by() {
    for archive in all() {
        assert_eq!(archive.json("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}));
        for digest in archive.blobs() {
            assert_eq!(digest_of(&archive.blob(&digest)), digest, "{}", archive.name);
        }
        let mut named = BTreeSet::new();
        for image in &archive.images {
            let manifest = &image.manifest;
            assert_eq!(text(&manifest["mediaType"]), MANIFEST);
            for (descriptor, kind) in [(&image.entry, MANIFEST), (&manifest["config"], CONFIGURATION)]
                .into_iter()
                .chain(list(&manifest["layers"]).map(|layer| (layer, LAYER)))
            {
                assert_eq!(text(&descriptor["mediaType"]), kind, "{}", image.reference);
                named.insert(described(&archive, descriptor));
            }
        }
        assert_eq!(
            named,
            archive.blobs(),
            "{}: a blob that nobody names",
            archive.name
        );
    }
}

/// Its digest, if the blob is as large as the descriptor says.
fn described(archive: &Archive, descriptor: &Value) -> String {
    let digest = text(&descriptor["digest"]);
    let size = archive.blob(&digest).len() as u64;
    assert_eq!(descriptor["size"], json!(size), "{digest}");
    digest
}

/// What `docker load` reads is what the others read.
#[test]
fn both_formats_name_the_same_images() {
    for archive in all() {
        let path = |digest: String| digest.replace("sha256:", "blobs/sha256/");
        let from_oci: Vec<Value> = archive
            .images
            .iter()
            .map(|image| {
                let familiar = image.reference.trim_start_matches("docker.io/");
                let layers: Vec<String> = image.layers().into_iter().map(path).collect();
                json!({
                    "Config": path(text(&image.manifest["config"]["digest"])),
                    "RepoTags": [familiar],
                    "Layers": layers,
                })
            })
            .collect();
        assert_eq!(
            archive.json("manifest.json"),
            Value::from(from_oci),
            "{}",
            archive.name
        );
    }
}

#[test]
fn layers_unpack_to_what_the_configuration_names() {
    for archive in all() {
        for image in &archive.images {
            let layers = image.layers();
            let unpacked: Vec<&str> = layers
                .iter()
                .map(|layer| &*archive.layers[layer].difference)
                .collect();
            assert_eq!(
                image.configuration["rootfs"],
                json!({"type": "layers", "diff_ids": unpacked}),
                "{}",
                image.reference
            );
        }
    }
}

#[test]
fn nothing_tells_when_or_where_it_was_made() {
    for archive in all() {
        for (digest, layer) in &archive.layers {
            let header = &archive.blob(digest)[..10];
            assert_eq!(header[4..8], [0; 4], "{digest}: gzip's time");
            assert_eq!(header[9], 255, "{digest}: gzip's operating system");
            for entry in &layer.entries {
                assert_eq!(
                    (&*entry.owner, &*entry.time),
                    ("0/0", "1970-01-01 00:00:00"),
                    "{entry:?}"
                );
            }
            let paths: Vec<&str> = layer.entries.iter().map(|entry| &*entry.path).collect();
            let unique: BTreeSet<&str> = paths.iter().copied().collect();
            assert_eq!(paths.len(), unique.len(), "{paths:?}");
        }
    }
}
