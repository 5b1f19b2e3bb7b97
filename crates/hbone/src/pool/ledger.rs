//! Who has which place on which connection, who is opening one, and who waits.
//!
//! Everything is counted under one lock that is never held across an await. Places are handed over directly: when a
//! stream ends or a connection opens, exactly the callers who can go on are woken, first come first served.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use h2::client::SendRequest;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{ConnectError, PoolConfig, PoolKey, PoolStats};

/// The shared part of a pool.
pub(super) struct Shared {
    config: PoolConfig,
    /// For the guards that are made from inside.
    this: Weak<Self>,
    /// Protects the ledger; taken for a few map operations at a time.
    state: Mutex<State>,
    /// The connections' tasks; dropping the pool ends them.
    tasks: Mutex<JoinSet<()>>,
}

#[derive(Default)]
struct State {
    entries: HashMap<PoolKey, Entry>,
    /// Connections, those being opened included.
    connections: usize,
    next_id: u64,
    closed: bool,
}

/// One destination.
#[derive(Default)]
struct Entry {
    connections: Vec<Connection>,
    opening: usize,
    waiting: VecDeque<oneshot::Sender<Turn>>,
}

struct Connection {
    id: u64,
    requests: SendRequest<Bytes>,
    streams: usize,
    idle_since: Instant,
}

/// Whether a connection that is there will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    Any,
    New,
}

pub(super) enum Acquired {
    Slot(Slot),
    Open(Opening),
    Wait(oneshot::Receiver<Turn>),
}

/// What a waiting caller is woken with.
pub(super) enum Turn {
    Slot(Slot),
    /// Opens a connection: whoever did so has gone, or one more is needed.
    Open(Opening),
    Failed(ConnectError),
}

pub(super) enum Idleness {
    Retired,
    BusyUntil(Instant),
}

impl Shared {
    pub(super) fn new(config: PoolConfig) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            config,
            this: this.clone(),
            state: Mutex::default(),
            tasks: Mutex::default(),
        })
    }

    pub(super) fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// A place on the least loaded connection, the task to open one, or a turn to wait for.
    pub(super) fn acquire(&self, key: &PoolKey, freshness: Freshness) -> Result<Acquired, ConnectError> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(ConnectError::Closed { peer: key.peer });
        }
        if let Some(entry) = state.entries.get_mut(key) {
            if freshness == Freshness::Any
                && let Some(slot) = self.free_slot(entry, key)
            {
                return Ok(Acquired::Slot(slot));
            }
            // Those who wait already will fill what is being opened; one more per full connection's worth.
            if entry.waiting.len() < entry.opening * self.config.streams_per_connection {
                return self.wait(entry, key);
            }
        }
        if state.make_room(&self.config) {
            return Ok(Acquired::Open(self.begin_opening(&mut state, key)));
        }
        match state.entries.get_mut(key) {
            Some(entry) if freshness == Freshness::Any => self.wait(entry, key),
            _ => Err(ConnectError::Exhausted {
                peer: key.peer,
                limit: self.config.max_connections,
                what: "connections are open and none is idle",
            }),
        }
    }

    /// Takes over a connection's task.
    pub(super) fn own(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Drops the handle of a connection that has been idle for the configured time.
    pub(super) fn retire_if_idle(&self, key: &PoolKey, id: u64, now: Instant) -> Idleness {
        let mut state = self.state.lock();
        let timeout = self.config.idle_timeout;
        let busy = state
            .connection(key, id)
            .and_then(|connection| match connection.streams {
                0 => Some(connection.idle_since + timeout).filter(|end| *end > now),
                _ => Some(now + timeout),
            });
        match busy {
            Some(next) => Idleness::BusyUntil(next),
            None => {
                state.remove(key, id);
                Idleness::Retired
            }
        }
    }

    pub(super) fn remove(&self, key: &PoolKey, id: u64) {
        let mut state = self.state.lock();
        state.remove(key, id);
        self.serve_waiting(&mut state, key);
    }

    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.connections = 0;
        // Waiting callers see their sender dropped; connections close with their last stream.
        state.entries.clear();
    }

    pub(super) fn stats(&self) -> PoolStats {
        let state = self.state.lock();
        let entries = state.entries.values();
        entries.fold(PoolStats::default(), |stats, entry| PoolStats {
            destinations: stats.destinations + 1,
            connections: stats.connections + entry.connections.len(),
            streams: stats.streams + entry.connections.iter().map(|c| c.streams).sum::<usize>(),
            waiting: stats.waiting + entry.waiting.len(),
        })
    }

    fn wait(&self, entry: &mut Entry, key: &PoolKey) -> Result<Acquired, ConnectError> {
        if entry.waiting.len() >= self.config.max_waiting {
            entry.waiting.retain(|turn| !turn.is_closed());
        }
        if entry.waiting.len() >= self.config.max_waiting {
            return Err(ConnectError::Exhausted {
                peer: key.peer,
                limit: self.config.max_waiting,
                what: "callers wait for it already",
            });
        }
        let (turn, receiver) = oneshot::channel();
        entry.waiting.push_back(turn);
        Ok(Acquired::Wait(receiver))
    }

    fn free_slot(&self, entry: &mut Entry, key: &PoolKey) -> Option<Slot> {
        let limit = self.config.streams_per_connection;
        let connection = entry
            .connections
            .iter_mut()
            .filter(|c| c.streams < limit.min(c.requests.current_max_send_streams()))
            .min_by_key(|c| c.streams)?;
        connection.streams += 1;
        Some(Slot {
            pool: self.this.clone(),
            key: key.clone(),
            id: connection.id,
            requests: Some(connection.requests.clone()),
        })
    }

    fn begin_opening(&self, state: &mut State, key: &PoolKey) -> Opening {
        state.connections += 1;
        state.entries.entry(key.clone()).or_default().opening += 1;
        Opening {
            pool: self.this.clone(),
            key: Some(key.clone()),
        }
    }

    /// Gives every free place, and the task to open what more is needed, to those who wait.
    fn serve_waiting(&self, state: &mut State, key: &PoolKey) {
        if let Some(entry) = state.entries.get_mut(key) {
            entry.waiting.retain(|turn| !turn.is_closed());
        }
        while let Some(entry) = state
            .entries
            .get_mut(key)
            .filter(|entry| !entry.waiting.is_empty())
        {
            let turn = match self.free_slot(entry, key) {
                Some(slot) => Turn::Slot(slot),
                None if entry.waiting.len() <= entry.opening * self.config.streams_per_connection => break,
                None if state.make_room(&self.config) => Turn::Open(self.begin_opening(state, key)),
                None => break,
            };
            let Some(waiting) = state.entries.get_mut(key).and_then(|e| e.waiting.pop_front()) else {
                break;
            };
            if let Err(turn) = waiting.send(turn) {
                state.take_back(turn);
            }
        }
        state.forget_if_empty(key);
    }
}

impl State {
    fn connection(&mut self, key: &PoolKey, id: u64) -> Option<&mut Connection> {
        let connections = &mut self.entries.get_mut(key)?.connections;
        connections.iter_mut().find(|connection| connection.id == id)
    }

    fn remove(&mut self, key: &PoolKey, id: u64) {
        if let Some(entry) = self.entries.get_mut(key) {
            let before = entry.connections.len();
            entry.connections.retain(|connection| connection.id != id);
            self.connections -= before - entry.connections.len();
        }
        self.forget_if_empty(key);
    }

    fn forget_if_empty(&mut self, key: &PoolKey) {
        let empty = |e: &Entry| e.connections.is_empty() && e.opening == 0 && e.waiting.is_empty();
        if self.entries.get(key).is_some_and(empty) {
            self.entries.remove(key);
        }
    }

    /// Whether one more connection may be opened; gives up the one that has been idle longest if need be.
    fn make_room(&mut self, config: &PoolConfig) -> bool {
        if self.connections < config.max_connections {
            return true;
        }
        let idlest = self
            .entries
            .iter()
            .flat_map(|(key, entry)| entry.connections.iter().map(move |c| (key, c)))
            .filter(|(_, connection)| connection.streams == 0)
            .min_by_key(|(_, connection)| connection.idle_since)
            .map(|(key, connection)| (key.clone(), connection.id));
        match idlest {
            Some((key, id)) => {
                self.remove(&key, id);
                true
            }
            None => false,
        }
    }

    fn end_stream(&mut self, key: &PoolKey, id: u64) {
        if let Some(connection) = self.connection(key, id) {
            connection.streams -= 1;
            connection.idle_since = Instant::now();
        }
    }

    fn end_opening(&mut self, key: &PoolKey) {
        if let Some(entry) = self.entries.get_mut(key)
            && entry.opening > 0
        {
            entry.opening -= 1;
            self.connections -= 1;
        }
    }

    /// Undoes a turn whose caller has gone. The guard must not do so itself: the lock is held.
    fn take_back(&mut self, turn: Turn) {
        match turn {
            Turn::Slot(mut slot) => {
                slot.requests = None;
                self.end_stream(&slot.key, slot.id);
            }
            Turn::Open(mut opening) => {
                if let Some(key) = opening.key.take() {
                    self.end_opening(&key);
                }
            }
            Turn::Failed(_) => {}
        }
    }
}

/// A place for one stream on a connection; given back when dropped.
pub(crate) struct Slot {
    pool: Weak<Shared>,
    key: PoolKey,
    id: u64,
    /// None once the place was given back.
    requests: Option<SendRequest<Bytes>>,
}

impl Slot {
    pub(super) fn requests(&self) -> SendRequest<Bytes> {
        self.requests
            .clone()
            .expect("a slot in use has its connection: only take_back removes it, and consumes the slot")
    }

    /// The connection takes no more requests: nobody gets a place on it any more.
    pub(super) fn discard_connection(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.remove(&self.key, self.id);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The handle goes first, so that it does not keep a retired connection open.
        if self.requests.take().is_some()
            && let Some(pool) = self.pool.upgrade()
        {
            let mut state = pool.state.lock();
            state.end_stream(&self.key, self.id);
            pool.serve_waiting(&mut state, &self.key);
        }
    }
}

/// The task to open a connection. Dropped undone (its caller has gone), it passes to somebody who waits.
pub(super) struct Opening {
    pool: Weak<Shared>,
    key: Option<PoolKey>,
}

impl Opening {
    /// Enters the connection, takes the first place on it and wakes those who fit on it.
    pub(super) fn succeed(mut self, requests: SendRequest<Bytes>) -> Result<(Slot, u64), ConnectError> {
        let (Some(key), Some(pool)) = (self.key.take(), self.pool.upgrade()) else {
            unreachable!("an opening ends once, and its pool is borrowed by the caller");
        };
        let mut state = pool.state.lock();
        if state.closed {
            return Err(ConnectError::Closed { peer: key.peer });
        }
        state.end_opening(&key);
        state.connections += 1;
        state.next_id += 1;
        let id = state.next_id;
        let entry = state.entries.entry(key.clone()).or_default();
        entry.connections.push(Connection {
            id,
            requests: requests.clone(),
            streams: 1,
            idle_since: Instant::now(),
        });
        pool.serve_waiting(&mut state, &key);
        drop(state);
        let slot = Slot {
            pool: self.pool.clone(),
            key,
            id,
            requests: Some(requests),
        };
        Ok((slot, id))
    }

    /// Tells those who wait, unless another connection is on its way for them.
    pub(super) fn fail(mut self, error: &ConnectError) {
        let (Some(key), Some(pool)) = (self.key.take(), self.pool.upgrade()) else {
            return;
        };
        let mut state = pool.state.lock();
        state.end_opening(&key);
        if let Some(entry) = state.entries.get_mut(&key)
            && entry.opening == 0
        {
            for turn in entry.waiting.drain(..) {
                // Whoever has gone needs no error.
                let _ = turn.send(Turn::Failed(error.clone()));
            }
        }
        state.forget_if_empty(&key);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let (Some(key), Some(pool)) = (self.key.take(), self.pool.upgrade()) {
            let mut state = pool.state.lock();
            state.end_opening(&key);
            pool.serve_waiting(&mut state, &key);
        }
    }
}
