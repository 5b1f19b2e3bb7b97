//! The service account token that this process calls the control plane with.

use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;
use tonic::metadata::{Ascii, MetadataValue};

/// More than any service account token; a wrong path must not fill the memory.
const MAX_TOKEN: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read the service account token {path}; is it mounted into this pod?")]
    Read { path: String, source: std::io::Error },
    #[error("service account token {path} is empty; has the kubelet written it yet?")]
    Empty { path: String },
    #[error("service account token {path} holds characters that no token has; is it the right file?")]
    Form { path: String },
}

/// A projected token: kubelet replaces the file before it expires, so it is read anew for each call.
#[derive(Clone, Debug)]
pub struct TokenFile {
    path: PathBuf,
}

impl TokenFile {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of the `authorization` header; marked sensitive, so that it is never printed.
    pub async fn bearer(&self) -> Result<MetadataValue<Ascii>, TokenError> {
        let path = || self.path.display().to_string();
        let token = self
            .read()
            .await
            .map_err(|source| TokenError::Read { path: path(), source })?;
        let token = token.trim();
        if token.is_empty() {
            return Err(TokenError::Empty { path: path() });
        }
        let mut value: MetadataValue<Ascii> = format!("Bearer {token}")
            .parse()
            .map_err(|_| TokenError::Form { path: path() })?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn read(&self) -> std::io::Result<String> {
        let mut text = String::new();
        tokio::fs::File::open(&self.path)
            .await?
            .take(MAX_TOKEN)
            .read_to_string(&mut text)
            .await?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(content: Option<&[u8]>) -> Result<MetadataValue<Ascii>, TokenError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        TokenFile::new(path).bearer().await
    }

    #[tokio::test]
    async fn reads_a_token_and_says_what_is_wrong_with_a_file() {
        let bearer = check(Some(b"a.b.c\n")).await.unwrap();
        assert_eq!(bearer, "Bearer a.b.c");
        assert!(!format!("{bearer:?}").contains("a.b.c"));
        assert!(matches!(check(None).await, Err(TokenError::Read { .. })));
        assert!(matches!(check(Some(b" \n")).await, Err(TokenError::Empty { .. })));
        assert!(matches!(check(Some(b"a\nb")).await, Err(TokenError::Form { .. })));
        assert!(matches!(
            check(Some(b"\xff\xfe")).await,
            Err(TokenError::Read { .. })
        ));
    }

    #[tokio::test]
    async fn notices_a_replaced_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "old").unwrap();
        let file = TokenFile::new(&path);
        assert_eq!(file.bearer().await.unwrap(), "Bearer old");
        std::fs::write(&path, "new").unwrap();
        assert_eq!(file.bearer().await.unwrap(), "Bearer new");
    }
}
