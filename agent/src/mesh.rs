//! The agent's view of the mesh: one immutable snapshot, replaced by the xDS stream, read without locks.

mod handlers;

use std::sync::Arc;

use aquifer_core::snapshot::{Change, MeshSnapshot};
use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::watch;

pub(crate) use handlers::handlers;

/// Holds the current snapshot and tells of its changes.
pub(crate) struct MeshStore {
    current: ArcSwap<MeshSnapshot>,
    changed: watch::Sender<u64>,
    // Held while one snapshot is made from the one before; readers never take it.
    writer: Mutex<()>,
}

impl MeshStore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::default(),
            changed: watch::Sender::new(0),
            writer: Mutex::new(()),
        })
    }

    /// The snapshot for one decision. Not for keeping across an await: see [`Self::snapshot`].
    pub(crate) fn load(&self) -> Guard<Arc<MeshSnapshot>> {
        self.current.load()
    }

    pub(crate) fn snapshot(&self) -> Arc<MeshSnapshot> {
        self.current.load_full()
    }

    /// Sees a value (the generation) each time that the snapshot was replaced.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn apply(&self, changes: impl IntoIterator<Item = Change>) {
        let writer = self.writer.lock();
        let next = self.current.load().apply(changes);
        let generation = next.generation();
        self.current.store(Arc::new(next));
        drop(writer);
        self.changed.send_replace(generation);
    }
}
