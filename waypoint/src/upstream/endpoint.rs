//! What is kept of one endpoint between requests: its load, and the connections that wait for the next request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aquifer_core::http::cluster::{Endpoint, Transport};
use parking_lot::Mutex;

use super::connection::{Http1Sender, Http2Sender};

/// Connections to one endpoint at a time; a request beyond gets `UO`.
const MAX_CONNECTIONS: u32 = 16_384;
/// Connections kept for the next request.
const MAX_IDLE: usize = 1024;
/// Shorter than what most servers keep an idle connection, so that rarely a request meets a closing one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// An endpoint is the same one while its address and the identity it must prove are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EndpointKey {
    pub(crate) address: SocketAddr,
    pub(crate) transport: Transport,
}

impl EndpointKey {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        Self {
            address: endpoint.address,
            transport: endpoint.transport.clone(),
        }
    }
}

pub(crate) struct EndpointState {
    pub(crate) key: EndpointKey,
    active: AtomicU32,
    /// Shared with the connections themselves. They must not keep the endpoint: it keeps those that wait, and goes with
    /// the last cluster that it is in.
    connections: Arc<AtomicU32>,
    // Guards the waiting connections; held for a push or a pop, never across an await.
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    http1: Vec<Idle>,
    http2: Option<Http2Sender>,
}

struct Idle {
    sender: Http1Sender,
    since: Instant,
}

impl EndpointState {
    pub(crate) fn new(key: EndpointKey) -> Self {
        Self {
            key,
            active: AtomicU32::new(0),
            connections: Arc::default(),
            waiting: Mutex::default(),
        }
    }

    /// Requests in flight.
    pub(crate) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Counts a request until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> ActiveRequest {
        self.active.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(self.clone())
    }

    /// A place for one more connection; `None` where the limit is reached.
    pub(crate) fn connection(&self) -> Option<ConnectionSlot> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let slot = ConnectionSlot(self.connections.clone());
        (before < MAX_CONNECTIONS).then_some(slot)
    }

    /// The connection used last: the others may grow idle and be closed.
    pub(crate) fn take_http1(&self) -> Option<Http1Sender> {
        let mut waiting = self.waiting.lock();
        while let Some(idle) = waiting.http1.pop() {
            if !idle.sender.is_closed() {
                return Some(idle.sender);
            }
        }
        None
    }

    pub(crate) fn put_http1(&self, sender: Http1Sender, now: Instant) {
        let mut waiting = self.waiting.lock();
        if !sender.is_closed() && waiting.http1.len() < MAX_IDLE {
            waiting.http1.push(Idle { sender, since: now });
        }
    }

    /// The one HTTP/2 connection, which all requests share.
    pub(crate) fn http2(&self) -> Option<Http2Sender> {
        let waiting = self.waiting.lock();
        waiting.http2.as_ref().filter(|s| !s.is_closed()).cloned()
    }

    pub(crate) fn put_http2(&self, sender: Http2Sender) {
        self.waiting.lock().http2 = Some(sender);
    }

    /// Closes what has been idle for too long.
    pub(crate) fn expire(&self, now: Instant) {
        let mut waiting = self.waiting.lock();
        let fresh = |idle: &Idle| !idle.sender.is_closed() && now.duration_since(idle.since) < IDLE_TIMEOUT;
        waiting.http1.retain(fresh);
        if waiting.http2.as_ref().is_some_and(Http2Sender::is_closed) {
            waiting.http2 = None;
        }
    }
}

/// One request in flight.
pub(crate) struct ActiveRequest(Arc<EndpointState>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One open connection; held by the task that drives it.
pub(crate) struct ConnectionSlot(Arc<AtomicU32>);

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
