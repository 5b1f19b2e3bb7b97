//! The open connections of one pod: for the admin port, and so that a changed policy reaches them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use aquifer_core::identity::SpiffeId;
use aquifer_core::policy::evaluate::Denial;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    Inbound,
    Outbound,
}

/// One connection that is being made or carried.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) direction: Direction,
    pub(crate) source: SocketAddr,
    /// What the client dialled.
    pub(crate) destination: SocketAddr,
    /// The identity that the client of an inbound connection proved.
    pub(crate) identity: Option<SpiffeId>,
    pub(crate) since: SystemTime,
    /// Where the connection really leads, once known.
    pub(crate) peer: OnceLock<SocketAddr>,
    denied: OnceLock<Denial>,
    close: CancellationToken,
}

impl Open {
    pub(crate) fn new(
        direction: Direction,
        source: SocketAddr,
        destination: SocketAddr,
        identity: Option<SpiffeId>,
    ) -> Self {
        Self {
            direction,
            source,
            destination,
            identity,
            since: SystemTime::now(),
            peer: OnceLock::new(),
            denied: OnceLock::new(),
            close: CancellationToken::new(),
        }
    }

    /// Has the connection closed: policies that came later deny it.
    pub(crate) fn deny(&self, denial: Denial) {
        let _ = self.denied.set(denial);
        self.close.cancel();
    }

    /// Waits for [`Self::deny`].
    pub(crate) async fn denied(&self) -> Option<Denial> {
        self.close.cancelled().await;
        self.denied.get().cloned()
    }
}

/// The table. Bounded by the pod's limit of connections.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    next: AtomicU64,
    // Guards the table only; held to add, to remove, or to copy it.
    open: Mutex<HashMap<u64, Arc<Open>>>,
}

impl Connections {
    /// Lists a connection for as long as the answer lives.
    pub(crate) fn add(self: &Arc<Self>, open: Open) -> Listed {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let open = Arc::new(open);
        self.open.lock().insert(id, open.clone());
        Listed {
            table: self.clone(),
            id,
            open,
        }
    }

    pub(crate) fn list(&self) -> Vec<Arc<Open>> {
        self.open.lock().values().cloned().collect()
    }
}

/// A listed connection; dropping it takes it off the list.
pub(crate) struct Listed {
    table: Arc<Connections>,
    id: u64,
    open: Arc<Open>,
}

impl std::ops::Deref for Listed {
    type Target = Open;
    fn deref(&self) -> &Open {
        &self.open
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.table.open.lock().remove(&self.id);
    }
}
