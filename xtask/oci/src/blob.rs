//! Content by digest.

use sha2::{Digest as _, Sha256};

/// Bytes and what the OCI image specification calls their descriptor.
#[derive(Clone)]
pub(crate) struct Blob {
    pub(crate) media_type: &'static str,
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
}

/// SHA-256, as lower-case hexadecimal digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Digest(String);

impl Blob {
    pub(crate) fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self {
            media_type,
            digest: Digest::of(&bytes),
            bytes,
        }
    }

    pub(crate) fn descriptor(&self) -> serde_json::Value {
        serde_json::json!({
            "mediaType": self.media_type,
            "digest": self.digest.name(),
            "size": self.bytes.len(),
        })
    }

    /// Where it lies in an OCI layout.
    pub(crate) fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest.0)
    }
}

impl Digest {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let hash = Sha256::digest(bytes);
        Self(hash.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    pub(crate) fn name(&self) -> String {
        format!("sha256:{}", self.0)
    }
}
