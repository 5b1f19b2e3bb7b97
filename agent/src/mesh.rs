//! The agent's view of the mesh: one immutable snapshot, replaced by the xDS stream, read without locks.

mod handlers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_core::snapshot::{Change, MeshSnapshot};
use aquifer_core::workload::{Workload, WorkloadUid};
use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::sync::watch;

pub(crate) use handlers::handlers;

#[derive(Debug, thiserror::Error)]
#[error("the mesh is not known after {}s; is the control plane reachable?", .0.as_secs())]
pub(crate) struct NotSynced(Duration);

/// Holds the current snapshot and tells of its changes.
pub(crate) struct MeshStore {
    current: ArcSwap<MeshSnapshot>,
    changed: watch::Sender<u64>,
    synced: watch::Sender<bool>,
    // Held while one snapshot is made from the one before; readers never take it.
    writer: Mutex<()>,
}

impl MeshStore {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            current: ArcSwap::default(),
            changed: watch::Sender::new(0),
            synced: watch::Sender::new(false),
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

    /// Notes that the snapshot is whole: every type has come at least once. It stays so without a control plane.
    pub(crate) fn set_synced(&self) {
        self.synced.send_replace(true);
    }

    /// Waits until the snapshot is whole. Before that nothing may be decided: an address that is not known *yet* would
    /// pass as one outside the mesh, a policy that has not come yet would not hold.
    pub(crate) async fn synced(&self, within: Duration) -> Result<(), NotSynced> {
        if self.is_whole() {
            return Ok(());
        }
        let synced = tokio::time::timeout(within, self.whole()).await;
        synced.map_err(|_| NotSynced(within))
    }

    pub(crate) fn is_whole(&self) -> bool {
        *self.synced.borrow()
    }

    /// As [`Self::synced`], however long it takes.
    pub(crate) async fn whole(&self) {
        let mut synced = self.synced.subscribe();
        // It cannot be closed: the other end is this store's.
        drop(synced.wait_for(|synced| *synced).await);
    }

    /// Waits until the control plane's record of a workload has come.
    pub(crate) async fn known(&self, uid: &WorkloadUid, within: Duration) -> Option<Arc<Workload>> {
        let mut changed = self.subscribe();
        let wait = async {
            loop {
                if let Some(workload) = self.load().workload(uid) {
                    return workload.clone();
                }
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(within, wait).await.ok()
    }

    pub(crate) fn apply(&self, changes: impl IntoIterator<Item = Change>) {
        let writer = self.writer.lock();
        let changes = changes.into_iter().collect();
        let next = self.current.load().apply_at(changes, Instant::now());
        let generation = next.generation();
        self.current.store(Arc::new(next));
        drop(writer);
        self.changed.send_replace(generation);
    }
}
