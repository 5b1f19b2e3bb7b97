//! Where objects come from: a folder of manifests, or the API server.

pub mod document;
pub mod folder;
pub mod kubernetes;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::store::SourceEvent;

/// The source's end of [`SecretsWatch`].
pub struct SecretsWanted {
    pub(crate) namespaces: watch::Receiver<BTreeSet<Arc<str>>>,
    /// Those whose Secrets have been delivered, or turned out not to be readable.
    pub(crate) looked: watch::Sender<BTreeSet<Arc<str>>>,
}

/// Which namespaces' Secrets the model needs, and which have been looked at.
///
/// They are known only once the other objects are: a source that can choose reads no Secret before it is told to.
pub struct SecretsWatch {
    namespaces: watch::Sender<BTreeSet<Arc<str>>>,
    looked: watch::Receiver<BTreeSet<Arc<str>>>,
}

impl SecretsWatch {
    pub fn new() -> (Self, SecretsWanted) {
        let (wanted, namespaces) = watch::channel(BTreeSet::new());
        let (seen, looked) = watch::channel(BTreeSet::new());
        let watch = Self {
            namespaces: wanted,
            looked,
        };
        (
            watch,
            SecretsWanted {
                namespaces,
                looked: seen,
            },
        )
    }

    /// Says which are needed from now on.
    pub fn want(&self, namespaces: BTreeSet<Arc<str>>) {
        self.namespaces.send_if_modified(|wanted| {
            let changed = *wanted != namespaces;
            *wanted = namespaces;
            changed
        });
    }

    /// Waits until all that are needed have been looked at; what was found is in the events by then.
    pub async fn looked(&mut self) {
        let wanted = self.namespaces.borrow().clone();
        // An error means that the source has ended, which is noticed elsewhere.
        let _ = self.looked.wait_for(|looked| wanted.is_subset(looked)).await;
    }
}

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
