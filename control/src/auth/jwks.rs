//! Token verification against a key set in a file: the lab's, or an API server's published keys.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use jsonwebtoken::{Validation, decode, decode_header};
use parking_lot::Mutex;

use super::claims::Claims;
use super::keys::{KeySet, KeySetError, VerificationKey};
use super::{AuthError, Caller, TokenVerifier};

const MAX_FILE: u64 = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    #[error("cannot read the token keys {path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("token keys {path}: {source}")]
    Keys { path: String, source: KeySetError },
}

/// Verifies with the keys of a JWKS file, which is read again when it changes; a bad new file leaves the old keys.
pub struct JwksVerifier {
    path: PathBuf,
    issuer: Option<String>,
    /// The keys and the file that they were read from.
    loaded: Mutex<Loaded>,
}

struct Loaded {
    stamp: Stamp,
    keys: Arc<KeySet>,
}

/// Tells one version of a file from the next without reading it: a replaced file has another inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl JwksVerifier {
    /// Reads the keys; `issuer`, where given, must be the `iss` of every token.
    pub fn open(path: impl Into<PathBuf>, issuer: Option<String>) -> Result<Self, JwksError> {
        let path = path.into();
        let stamp = stamp(&path).map_err(|source| JwksError::Read {
            path: path.display().to_string(),
            source,
        })?;
        let keys = Arc::new(load(&path)?);
        Ok(Self {
            path,
            issuer,
            loaded: Mutex::new(Loaded { stamp, keys }),
        })
    }

    /// The newest good keys. Costs one `stat` per token; the file is small and local, so it is read in place.
    fn keys(&self) -> Arc<KeySet> {
        let mut loaded = self.loaded.lock();
        let now = stamp(&self.path).unwrap_or(loaded.stamp);
        if now != loaded.stamp {
            // Remembered also where the new file is bad: one log line per version of it.
            loaded.stamp = now;
            match load(&self.path) {
                Ok(keys) => loaded.keys = Arc::new(keys),
                Err(error) => tracing::warn!(%error, "token keys not reloaded"),
            }
        }
        loaded.keys.clone()
    }
}

#[async_trait]
impl TokenVerifier for JwksVerifier {
    async fn verify(&self, token: &str, now: SystemTime) -> Result<Caller, AuthError> {
        let header = decode_header(token).map_err(|error| auth_error(&error))?;
        let keys = self.keys();
        let claims = claims(token, keys.find(&header)?)?;
        claims.into_caller(self.issuer.as_deref(), now)
    }
}

fn claims(token: &str, key: &VerificationKey) -> Result<Claims, AuthError> {
    // Only the signature is checked here: the claims are ours to check, against the clock that was given.
    let mut validation = Validation::new(key.algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let data = decode::<Claims>(token, &key.decoding, &validation).map_err(|error| auth_error(&error))?;
    Ok(data.claims)
}

fn auth_error(error: &jsonwebtoken::errors::Error) -> AuthError {
    use jsonwebtoken::errors::ErrorKind;
    match error.kind() {
        ErrorKind::InvalidSignature => AuthError::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => AuthError::Algorithm,
        // The parser's own words may quote the token.
        ErrorKind::Json(_) => {
            AuthError::Malformed("its header or claims are not the expected JSON".to_owned())
        }
        _ => AuthError::Malformed("it has not the three parts of one".to_owned()),
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = fs::metadata(path)?;
    Ok(Stamp {
        inode: metadata.ino(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
    })
}

fn load(path: &Path) -> Result<KeySet, JwksError> {
    let name = || path.display().to_string();
    let mut json = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut json))
        .map_err(|source| JwksError::Read { path: name(), source })?;
    KeySet::parse(&json).map_err(|source| JwksError::Keys { path: name(), source })
}
