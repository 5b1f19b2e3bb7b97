//! What is asked for: images as lists of files and settings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

/// One archive with one or more images; what they share is stored once.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Archive {
    pub(crate) output: PathBuf,
    /// RFC 3339; that of the commit, since a clock would change the digest.
    pub(crate) created: String,
    /// As Go names it: `amd64`, `arm64`.
    pub(crate) architecture: String,
    pub(crate) images: Vec<Image>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Image {
    pub(crate) references: Vec<Reference>,
    /// `UID` or `UID:GID`: a name would need /etc/passwd, and Kubernetes cannot tell whether it is root.
    pub(crate) user: String,
    pub(crate) entrypoint: Vec<String>,
    #[serde(default)]
    pub(crate) environment: Vec<String>,
    /// `15008/tcp`
    #[serde(default)]
    pub(crate) ports: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) layers: Vec<Layer>,
}

/// The full name that containerd looks for, and the familiar one that docker prints.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reference {
    /// `docker.io/aquifer/agent`
    pub(crate) repository: String,
    /// `aquifer/agent`
    pub(crate) familiar: String,
    pub(crate) tag: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layer {
    /// Shown in the image's history.
    pub(crate) comment: String,
    pub(crate) files: Vec<FileEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileEntry {
    /// Path in the image, without the leading slash; folders above it are made.
    pub(crate) path: String,
    pub(crate) mode: u32,
    pub(crate) content: Content,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Content {
    /// A file of this machine.
    File(PathBuf),
    Text(String),
    /// An empty folder.
    Folder,
    /// The public certificate authorities that Mozilla trusts, as PEM.
    PublicAuthorities,
}

impl Reference {
    pub(crate) fn full(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }

    pub(crate) fn short(&self) -> String {
        format!("{}:{}", self.familiar, self.tag)
    }
}
