//! Where objects come from: a folder of manifests, or the API server.

pub mod document;
pub mod folder;
pub mod kubernetes;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::store::SourceEvent;

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot watch the objects in {path}; does the folder exist?")]
    Watch { path: String, source: notify::Error },
    #[error("the objects in {path} cannot be read; does the folder exist?")]
    Read { path: String, source: std::io::Error },
    #[error("the reader of {path} stopped unexpectedly")]
    Stopped { path: String },
}

/// Delivers every object, then `Synced`, then every change, until cancelled.
#[async_trait]
pub trait ObjectSource: Send {
    async fn run(
        self: Box<Self>,
        events: mpsc::Sender<SourceEvent>,
        cancel: CancellationToken,
    ) -> Result<(), SourceError>;
}
