//! What names outside the mesh stand for, looked up again and again beside the data path.
//!
//! A name that cannot be looked up keeps its last answer: a name server that is away takes nothing out of service that
//! the proxy knows. The system's resolver is asked, which tells no time to live, so every name is asked for in a fixed
//! interval.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aquifer_core::address::is_of_a_host;
use aquifer_telemetry::names::NameMetrics;
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::state::Wanted;
use crate::state::handlers::Writer;

/// Between two look-ups of a name, as Envoy's where it is told no time to live.
const INTERVAL: Duration = Duration::from_secs(5);
/// Names that one proxy looks up; the others are named in the log and have no endpoints.
const MAX_NAMES: usize = 1000;
/// Look-ups at a time: each holds a thread while the resolver waits.
const MAX_AT_ONCE: usize = 8;
/// Addresses that are taken of one answer.
const MAX_ADDRESSES: usize = 64;

type Answer = io::Result<Vec<IpAddr>>;
/// Looks a name up.
pub(crate) type Lookup = Arc<dyn Fn(Arc<str>) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// Keeps the answers of the names that clusters need.
pub(crate) struct Names {
    writer: Writer,
    lookup: Lookup,
    metrics: NameMetrics,
    interval: Duration,
    wanted: watch::Receiver<Wanted>,
    following: JoinSet<()>,
    tasks: BTreeMap<Arc<str>, AbortHandle>,
    told: tokio::sync::mpsc::Receiver<(Arc<str>, Answer)>,
    tell: tokio::sync::mpsc::Sender<(Arc<str>, Answer)>,
    /// Names whose last look-up failed.
    failing: BTreeSet<Arc<str>>,
}

impl Names {
    pub(crate) fn new(writer: &Writer, lookup: Lookup, metrics: NameMetrics) -> Self {
        let (tell, told) = tokio::sync::mpsc::channel(MAX_AT_ONCE);
        let wanted = writer.lock().wanted_names();
        Self {
            writer: writer.clone(),
            lookup,
            metrics,
            interval: INTERVAL,
            wanted,
            following: JoinSet::new(),
            tasks: BTreeMap::new(),
            told,
            tell,
            failing: BTreeSet::new(),
        }
    }

    /// Asks more often, as tests have to.
    #[cfg(test)]
    pub(crate) fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        self.wanted.mark_changed();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.follow(),
                    Err(_) => return,
                },
                Some((name, answer)) = self.told.recv() => self.answer(&name, answer),
                Some(_) = self.following.join_next() => {}
            }
        }
    }

    /// Begins with names that are new, and ends with those that nobody needs.
    fn follow(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        self.tasks.retain(|name, task| {
            let keep = wanted.contains(name);
            if !keep {
                task.abort();
            }
            keep
        });
        self.failing.retain(|name| wanted.contains(name));
        self.metrics.failing(self.failing.len());
        let mut left_out = 0;
        for name in wanted {
            if self.tasks.contains_key(&name) {
                continue;
            }
            if self.tasks.len() >= MAX_NAMES {
                left_out += 1;
                continue;
            }
            let task = again_and_again(
                name.clone(),
                self.lookup.clone(),
                self.tell.clone(),
                self.interval,
            );
            self.tasks.insert(name, self.following.spawn(task));
        }
        if left_out > 0 {
            tracing::warn!(
                limit = MAX_NAMES,
                left_out,
                "more names of ServiceEntries than this proxy looks up; requests for the rest get 503"
            );
        }
    }

    fn answer(&mut self, name: &Arc<str>, answer: Answer) {
        if !self.tasks.contains_key(name) {
            return;
        }
        match answer {
            Ok(addresses) => {
                self.metrics.answered();
                if self.failing.remove(name) {
                    tracing::info!(%name, "looked up again");
                }
                self.writer.lock().answered(name, &addresses);
            }
            Err(error) => {
                self.metrics.failed();
                // Once, and not each time: it may stay so for days.
                if self.failing.insert(name.clone()) {
                    tracing::warn!(%name, %error, "cannot be looked up; the last answer stays in effect, if there was one");
                }
            }
        }
        self.metrics.failing(self.failing.len());
    }
}

async fn again_and_again(
    name: Arc<str>,
    lookup: Lookup,
    tell: tokio::sync::mpsc::Sender<(Arc<str>, Answer)>,
    interval: Duration,
) {
    loop {
        let answer = lookup(name.clone()).await.and_then(usable);
        if tell.send((name.clone(), answer)).await.is_err() {
            return;
        }
        tokio::time::sleep(interval).await;
    }
}

fn usable(addresses: Vec<IpAddr>) -> Answer {
    let mut kept: Vec<IpAddr> = Vec::new();
    for ip in addresses {
        let ip = ip.to_canonical();
        if is_of_a_host(ip) && !kept.contains(&ip) && kept.len() < MAX_ADDRESSES {
            kept.push(ip);
        }
    }
    match kept.is_empty() {
        true => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the answer has no address of another host",
        )),
        false => Ok(kept),
    }
}

/// The system's resolver. An answer in flight keeps its place until it has come: the resolver has time limits of its
/// own.
pub(crate) fn lookup() -> Lookup {
    let places = Arc::new(Semaphore::new(MAX_AT_ONCE));
    Arc::new(move |name: Arc<str>| {
        let places = places.clone();
        Box::pin(async move {
            let place = places.acquire_owned().await.map_err(io::Error::other)?;
            let asked = tokio::task::spawn_blocking(move || {
                let answer = ask(&name);
                drop(place);
                answer
            });
            asked.await.map_err(io::Error::other)?
        })
    })
}

/// The addresses that this host has a route to; all where it has one to none.
fn ask(name: &str) -> Answer {
    let found = (name, 0).to_socket_addrs()?;
    let all: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    let routed: Vec<IpAddr> = all.iter().copied().filter(|ip| has_route(*ip)).collect();
    Ok(if routed.is_empty() { all } else { routed })
}

/// The kernel says so when a socket of datagrams is told its peer; nothing is sent.
fn has_route(ip: IpAddr) -> bool {
    let any: IpAddr = match ip {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0));
    socket.is_ok_and(|socket| socket.connect(SocketAddr::new(ip, 9)).is_ok())
}
