//! One image: its layers, its configuration, its manifest.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::blob::Blob;
use crate::description::{Archive, Image};
use crate::layer::{self, PackedLayer};

const CONFIGURATION: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) struct PackedImage {
    pub(crate) layers: Vec<PackedLayer>,
    pub(crate) configuration: Blob,
    pub(crate) manifest: Blob,
}

pub(crate) fn pack(archive: &Archive, image: &Image) -> Result<PackedImage> {
    let layers = image.layers.iter().map(layer::pack).collect::<Result<Vec<_>>>()?;
    let configuration = configuration(archive, image, &layers)?;
    let manifest = manifest(image, &configuration, &layers)?;
    Ok(PackedImage {
        layers,
        configuration,
        manifest,
    })
}

fn configuration(archive: &Archive, image: &Image, layers: &[PackedLayer]) -> Result<Blob> {
    let ports: Map<String, Value> = image.ports.iter().map(|port| (port.clone(), json!({}))).collect();
    let differences: Vec<String> = layers.iter().map(|layer| layer.difference.name()).collect();
    let history: Vec<Value> = layers
        .iter()
        .map(|layer| json!({"created": archive.created, "created_by": layer.comment}))
        .collect();
    let value = json!({
        "created": archive.created,
        "architecture": archive.architecture,
        "os": "linux",
        "config": {
            "User": image.user,
            "ExposedPorts": ports,
            "Env": image.environment,
            "Entrypoint": image.entrypoint,
            "WorkingDir": "/",
            "Labels": image.labels,
        },
        "rootfs": {"type": "layers", "diff_ids": differences},
        "history": history,
    });
    blob(CONFIGURATION, &value)
}

fn manifest(image: &Image, configuration: &Blob, layers: &[PackedLayer]) -> Result<Blob> {
    let layers: Vec<Value> = layers.iter().map(|layer| layer.blob.descriptor()).collect();
    let value = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": configuration.descriptor(),
        "layers": layers,
        "annotations": image.labels,
    });
    blob(MANIFEST, &value)
}

/// `serde_json` sorts the keys of its maps, so the bytes depend on the value alone.
pub(crate) fn blob(media_type: &'static str, value: &Value) -> Result<Blob> {
    let bytes = serde_json::to_vec(value).context("cannot write an image's metadata")?;
    Ok(Blob::new(media_type, bytes))
}
