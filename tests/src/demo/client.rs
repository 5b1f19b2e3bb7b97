//! The person outside: requests for pages, from the world's namespace, over a new connection each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::bookinfo::answer::{self, ServedBy};

use super::namespace::{Inside, Namespace, NamespaceError};

/// For any text.
const FETCH_PATIENCE: Duration = Duration::from_secs(60);
const MAX_BODY: usize = 8 << 20;
const TITLE: &str = "<title>Simple Bookstore App</title>";
/// What productpage and reviews write in place of what they could not get.
const APOLOGIES: [&str; 2] = ["Error fetching", "currently unavailable"];

/// One request and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) finished: Instant,
    pub(crate) result: Result<Vec<ServedBy>, String>,
}

/// A client in a namespace that asks one address.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) namespace: Namespace,
    pub(crate) address: SocketAddr,
    /// For a page.
    pub(crate) patience: Duration,
    /// Requests under way at once: more than a machine can serve would say nothing of the mesh.
    pub(crate) most: usize,
}

impl Client {
    /// `count` pages, `parallel` at a time.
    pub(crate) fn pages(&self, count: usize, parallel: usize) -> Result<Vec<Outcome>, NamespaceError> {
        let (address, patience) = (self.address, self.patience);
        self.in_runtime(move || async move {
            let slots = Arc::new(Semaphore::new(parallel));
            let mut pending = JoinSet::new();
            for _ in 0..count {
                let slots = Arc::clone(&slots);
                pending.spawn(async move {
                    let _slot = slots.acquire_owned().await;
                    page(address, patience).await
                });
            }
            pending.join_all().await
        })?
        .join()
    }

    /// Pages at a steady rate until `stop`, while not too many are unanswered.
    pub(crate) fn load(
        &self,
        per_second: u32,
        stop: CancellationToken,
    ) -> Result<Inside<Vec<Outcome>>, NamespaceError> {
        let (address, patience, most) = (self.address, self.patience, self.most);
        self.in_runtime(move || async move {
            let mut pending = JoinSet::new();
            let mut outcomes = Vec::new();
            let mut tick = tokio::time::interval(Duration::from_secs(1) / per_second);
            // After a pause of this machine's no burst, which would say nothing of the mesh.
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = stop.cancelled() => break,
                    Some(done) = pending.join_next() => outcomes.extend(done),
                    _ = tick.tick(), if pending.len() < most => drop(pending.spawn(page(address, patience))),
                }
            }
            outcomes.extend(pending.join_all().await);
            outcomes
        })
    }

    fn in_runtime<T, F, Fut>(&self, inside: F) -> Result<Inside<T>, NamespaceError>
    where
        T: Send + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = T>,
    {
        self.namespace.spawn(move || block_on(inside()))
    }
}

/// Any text, over HTTP, from inside `namespace`.
pub(crate) fn fetch(
    namespace: &Namespace,
    address: SocketAddr,
    path: &'static str,
) -> Result<String, String> {
    let get = move || {
        let answer = block_on(get(address, path, FETCH_PATIENCE));
        answer.map(|(_, body, _)| body)
    };
    namespace.run(get).map_err(|error| error.to_string())?
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime of one thread needs only descriptors")
        .block_on(future)
}

async fn page(address: SocketAddr, patience: Duration) -> Outcome {
    let result = get(address, "/productpage", patience)
        .await
        .and_then(|(status, body, chain)| {
            if status != StatusCode::OK {
                return Err(format!(
                    "{status}: {}",
                    body.chars().take(200).collect::<String>()
                ));
            }
            match APOLOGIES.iter().find(|apology| body.contains(**apology)) {
                Some(apology) => Err(format!("the page says {apology:?}")),
                None if !body.contains(TITLE) => Err(format!("the page has no {TITLE}")),
                None => Ok(chain),
            }
        });
    Outcome {
        finished: Instant::now(),
        result,
    }
}

async fn get(
    address: SocketAddr,
    path: &str,
    patience: Duration,
) -> Result<(StatusCode, String, Vec<ServedBy>), String> {
    tokio::time::timeout(patience, exchange(address, path))
        .await
        .map_err(|_| format!("no answer within {patience:?}"))?
}

async fn exchange(address: SocketAddr, path: &str) -> Result<(StatusCode, String, Vec<ServedBy>), String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("cannot connect to {address}: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    // An error of the connection shows in the exchange.
    let _driver = AbortOnDropHandle::new(tokio::spawn(async move { drop(connection.await) }));
    let request = Request::get(path)
        .header("host", address.ip().to_string())
        .header("user-agent", "aquifer-demo")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender
        .send_request(request)
        .await
        .map_err(|error| format!("no answer: {error}"))?;
    let (status, chain) = (response.status(), answer::chain(response.headers()));
    let body = Limited::new(response.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(|error| format!("the answer broke off: {error}"))?;
    Ok((
        status,
        String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        chain,
    ))
}
