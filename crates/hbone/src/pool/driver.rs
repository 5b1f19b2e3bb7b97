//! Keeps one pooled connection moving, and closes it when it is dead or has been idle for long.

use std::pin::pin;
use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::PoolKey;
use super::ledger::{Idleness, Shared};
use crate::establish::Driver;
use crate::keepalive;

/// Starts the task of a new connection; the pool owns it.
pub(super) fn spawn(shared: &Arc<Shared>, connection: Driver, key: PoolKey, id: u64) {
    let pool = Arc::downgrade(shared);
    shared.own(drive(pool, connection, key, id));
}

async fn drive(pool: Weak<Shared>, mut connection: Driver, key: PoolKey, id: u64) {
    let mut dead = pin!(keepalive::watch(connection.ping_pong()));
    let timeout = match pool.upgrade() {
        Some(pool) => pool.config().idle_timeout,
        None => return,
    };
    let mut idle = pin!(tokio::time::sleep(timeout));
    let mut connection = pin!(connection);
    let mut retired = false;
    loop {
        tokio::select! {
            ended = &mut connection => {
                tracing::debug!(peer = %key.peer, result = ?ended, "tunnel connection closed");
                break;
            }
            () = &mut dead => {
                tracing::warn!(peer = %key.peer, "tunnel peer does not answer, connection cut");
                break;
            }
            () = &mut idle, if !retired => {
                let Some(pool) = pool.upgrade() else { break };
                // A retired connection has no handle left and closes itself with its last stream.
                match pool.retire_if_idle(&key, id, Instant::now()) {
                    Idleness::Retired => retired = true,
                    Idleness::BusyUntil(next) => idle.as_mut().reset(next),
                }
            }
        }
    }
    if let Some(pool) = pool.upgrade() {
        pool.remove(&key, id);
    }
}
