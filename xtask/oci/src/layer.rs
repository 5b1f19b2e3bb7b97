//! A layer: sorted files without times and owners, compressed without a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use crate::blob::{Blob, Digest};
use crate::description::{Content, FileEntry, Layer};

const MEDIA_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// gzip's "unknown", so that the machine which packs does not show.
const NO_OPERATING_SYSTEM: u8 = 255;
const FOLDER_MODE: u32 = 0o755;
/// RFC 7468, section 2.
const PEM_LINE: usize = 64;

pub(crate) struct PackedLayer {
    pub(crate) blob: Blob,
    /// Digest of the uncompressed archive, which the image's configuration names.
    pub(crate) difference: Digest,
    pub(crate) unpacked: usize,
    pub(crate) comment: String,
}

pub(crate) fn pack(layer: &Layer) -> Result<PackedLayer> {
    let archive = archive(&layer.files)?;
    Ok(PackedLayer {
        difference: Digest::of(&archive),
        unpacked: archive.len(),
        blob: Blob::new(MEDIA_TYPE, compress(&archive)?),
        comment: layer.comment.clone(),
    })
}

fn archive(files: &[FileEntry]) -> Result<Vec<u8>> {
    let files = sorted(files)?;
    let mut builder = Builder::new(Vec::new());
    let mut made = BTreeSet::new();
    for (path, file) in files {
        for folder in folders_above(path) {
            if made.insert(folder.clone()) {
                append(&mut builder, &folder, EntryType::Directory, FOLDER_MODE, &[])?;
            }
        }
        match bytes(&file.content)? {
            Some(bytes) => append(&mut builder, path, EntryType::Regular, file.mode, &bytes)?,
            None => {
                made.insert(path.to_owned());
                append(&mut builder, path, EntryType::Directory, file.mode, &[])?;
            }
        }
    }
    builder.into_inner().context("cannot finish a layer")
}

fn sorted(files: &[FileEntry]) -> Result<BTreeMap<&str, &FileEntry>> {
    let mut sorted = BTreeMap::new();
    for file in files {
        let path = file.path.as_str();
        if path.is_empty() || path.starts_with('/') || path.split('/').any(|part| part == "..") {
            bail!("{path:?} is no path inside an image");
        }
        if sorted.insert(path, file).is_some() {
            bail!("{path} is twice in one layer");
        }
    }
    Ok(sorted)
}

/// `a/b/c` has `a` and `a/b` above it.
fn folders_above(path: &str) -> Vec<String> {
    path.match_indices('/')
        .map(|(end, _)| path[..end].to_owned())
        .collect()
}

/// None for a folder.
fn bytes(content: &Content) -> Result<Option<Vec<u8>>> {
    Ok(match content {
        Content::File(path) => Some(read(path)?),
        Content::Text(text) => Some(text.clone().into_bytes()),
        Content::Folder => None,
        Content::PublicAuthorities => Some(public_authorities().into_bytes()),
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn append(
    builder: &mut Builder<Vec<u8>>,
    path: &str,
    kind: EntryType,
    mode: u32,
    bytes: &[u8],
) -> Result<()> {
    let mut header = header(kind, mode, bytes.len());
    builder
        .append_data(&mut header, path, bytes)
        .with_context(|| format!("cannot add {path} to a layer"))
}

/// Owned by root, last changed in 1970.
pub(crate) fn header(kind: EntryType, mode: u32, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size as u64);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn compress(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut writer = GzBuilder::new()
        .mtime(0)
        .operating_system(NO_OPERATING_SYSTEM)
        .write(Vec::new(), Compression::best());
    writer.write_all(bytes).context("cannot compress a layer")?;
    writer.finish().context("cannot compress a layer")
}

/// From a crate and not from the machine, whose bundle changes with its last update.
fn public_authorities() -> String {
    let mut text = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let encoded = STANDARD.encode(certificate);
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in encoded.as_bytes().chunks(PEM_LINE) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
