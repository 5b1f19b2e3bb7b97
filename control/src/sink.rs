//! Where the control plane's own output goes: objects to apply, and statuses.

pub mod folder;
pub mod kubernetes;

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::Value;

use crate::objects::ObjectKey;

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("cannot write {path}")]
    Write { path: String, source: std::io::Error },
    #[error("cannot read {path}")]
    Read { path: String, source: std::io::Error },
    #[error("cannot read from the API server: {}", crate::kubernetes::explain(.0))]
    Api(#[source] Box<kube::Error>),
}

/// Changes that are written together; a later entry for a key replaces an earlier one.
#[derive(Debug, Default)]
pub struct Batch {
    /// `None` deletes.
    pub objects: BTreeMap<ObjectKey, Option<Value>>,
    pub statuses: BTreeMap<ObjectKey, Option<Value>>,
}

impl Batch {
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.statuses.is_empty()
    }
}

/// What an earlier run left.
#[derive(Debug, Default)]
pub struct Left {
    pub objects: BTreeMap<ObjectKey, Value>,
    pub statuses: BTreeMap<ObjectKey, Value>,
}

#[async_trait]
pub trait ObjectSink: Send {
    async fn load(&mut self) -> Result<Left, SinkError>;

    async fn write(&mut self, batch: &Batch) -> Result<(), SinkError>;

    /// Waits, for a moment at most, until what others rely on has been written.
    async fn settle(&mut self) {}
}
