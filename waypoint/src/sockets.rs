//! The gateway's sockets: opened and closed as listeners come and go, the others undisturbed.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_core::http::listener::{Binding, Listener};
use aquifer_telemetry::edge::EdgeLimit;
use aquifer_telemetry::readiness::Condition;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clients::{Admission, Clients, Refusals};
use crate::edge::Arrival;
use crate::proxy::Proxy;
use crate::source::ClientInfo;

/// Connections of all listeners together.
const MAX_CONNECTIONS: usize = 20_000;
const BACKLOG: i32 = 4096;
/// Between attempts to open a socket that somebody else holds.
const RETRY: Duration = Duration::from_secs(1);
/// After an accept that failed: descriptors may be free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens a listening socket. An IPv6 one serves IPv6 only, so that both families can be bound apart.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Keeps the sockets of the gateway in step with its listeners.
pub(crate) struct Sockets {
    proxy: Arc<Proxy>,
    drain: CancellationToken,
    connections: TaskTracker,
    limits: Arc<Limits>,
    open: BTreeMap<SocketAddr, OpenSocket>,
}

/// How many connections there may be, over all listeners.
struct Limits {
    all: Arc<Semaphore>,
    clients: Arc<Clients>,
    /// Protects what has been said of refusals; never held over an await.
    refusals: Mutex<Refusals>,
}

struct OpenSocket {
    listener: Arc<str>,
    close: CancellationToken,
}

impl Sockets {
    /// `per_client` connections at most of one client; 0 is no limit.
    pub(crate) fn new(
        proxy: Arc<Proxy>,
        drain: CancellationToken,
        connections: TaskTracker,
        per_client: usize,
    ) -> Self {
        let limits = Limits {
            all: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            clients: Arc::new(Clients::new(per_client)),
            refusals: Mutex::default(),
        };
        Self {
            proxy,
            drain,
            connections,
            limits: Arc::new(limits),
            open: BTreeMap::new(),
        }
    }

    /// Runs until the drain; `up` is met while every address that a listener wants is open.
    pub(crate) async fn run(mut self, up: Condition) {
        let mut changed = self.proxy.shared.listeners_changed();
        loop {
            changed.mark_unchanged();
            let failed = self.reconcile();
            if failed.is_empty() {
                up.met();
            } else {
                up.unmet(failed.join("; "));
            }
            tokio::select! {
                () = self.drain.cancelled() => return,
                _ = changed.changed() => {}
                () = tokio::time::sleep(RETRY), if !failed.is_empty() => {}
            }
        }
    }

    /// Opens what is wanted, closes what is not; answers what could not be opened.
    fn reconcile(&mut self) -> Vec<String> {
        let wanted = wanted(self.proxy.shared.proxy().listeners.values());
        self.open.retain(|address, socket| {
            let keep = wanted.get(address) == Some(&socket.listener);
            if !keep {
                tracing::info!(%address, listener = %socket.listener, "listener closed");
                socket.close.cancel();
            }
            keep
        });
        let missing: Vec<_> = wanted
            .into_iter()
            .filter(|(a, _)| !self.open.contains_key(a))
            .collect();
        missing
            .into_iter()
            .filter_map(|(address, name)| self.open_socket(address, &name).err())
            .collect()
    }

    fn open_socket(&mut self, address: SocketAddr, name: &Arc<str>) -> Result<(), String> {
        let socket = bind(address).map_err(|e| {
            tracing::warn!(%address, listener = %name, error = %e, "cannot listen");
            format!("listener {name} cannot listen on {address}: {e}")
        })?;
        tracing::info!(%address, listener = %name, "listening");
        let close = self.drain.child_token();
        let accepting = Accepting {
            proxy: self.proxy.clone(),
            name: name.clone(),
            close: close.clone(),
            connections: self.connections.clone(),
            limits: self.limits.clone(),
        };
        self.connections.spawn(accepting.run(socket));
        let open = OpenSocket {
            listener: name.clone(),
            close,
        };
        self.open.insert(address, open);
        Ok(())
    }
}

fn wanted<'l>(listeners: impl Iterator<Item = &'l Arc<Listener>>) -> BTreeMap<SocketAddr, Arc<str>> {
    let bound = listeners.filter(|l| l.binding == Binding::Bound);
    let pairs = bound.flat_map(|l| l.addresses.iter().map(|a| (*a, l.name.clone())));
    pairs.collect()
}

/// One socket that accepts connections for a listener.
struct Accepting {
    proxy: Arc<Proxy>,
    name: Arc<str>,
    close: CancellationToken,
    connections: TaskTracker,
    limits: Arc<Limits>,
}

impl Accepting {
    async fn run(self, socket: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.close.cancelled() => return,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => self.serve(stream, client),
                Err(error) => {
                    tracing::warn!(%error, listener = %self.name, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(&self, stream: TcpStream, client: SocketAddr) {
        let Ok(permit) = self.limits.all.clone().try_acquire_owned() else {
            return self.refused(client, EdgeLimit::All);
        };
        let Some(place) = self.limits.clients.admit(client.ip()) else {
            return self.refused(client, EdgeLimit::Client);
        };
        if let Some(arrival) = self.arrival(&stream, client, Admission::new(permit, place)) {
            self.connections.spawn(arrival.serve(stream, self.close.clone()));
        }
    }

    fn refused(&self, client: SocketAddr, limit: EdgeLimit) {
        self.proxy.telemetry.edge.refused(limit);
        if let Some(refused) = self.limits.refusals.lock().note(Instant::now()) {
            tracing::warn!(client = %client.ip(), limit = limit.as_str(), refused, "connection refused: its limit is reached");
        }
    }

    /// The connection with the listener as it is now; `None` where it has just gone.
    fn arrival(&self, stream: &TcpStream, client: SocketAddr, admission: Admission) -> Option<Arrival> {
        // A socket that cannot answer these has been closed by its peer.
        stream.set_nodelay(true).ok()?;
        Some(Arrival {
            proxy: self.proxy.clone(),
            listener: self.proxy.shared.proxy().listeners.get(&self.name).cloned()?,
            client: ClientInfo::outside(SocketAddr::new(client.ip().to_canonical(), client.port())),
            local: stream.local_addr().ok()?,
            admission: Some(Arc::new(admission)),
        })
    }
}
