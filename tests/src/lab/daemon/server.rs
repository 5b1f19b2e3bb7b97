//! The daemon's socket: one request per connection, or the link of a node's helper.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::super::node;
use super::super::protocol::{MAX_LINE, Request, Response};
use super::super::status::Status;
use super::{Event, Reply};

const MAX_CLIENTS: usize = 256;
/// How long a deletion waits for its pods to end: longer than their grace period.
const GONE_DEADLINE: Duration = Duration::from_secs(180);

type StatusWatch = watch::Receiver<Arc<Status>>;

pub(super) async fn run(listener: UnixListener, events: mpsc::Sender<Event>, status: StatusWatch) {
    let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        while clients.try_join_next().is_some() {}
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        let client = Client {
            events: events.clone(),
            status: status.clone(),
        };
        clients.spawn(async move {
            if let Err(error) = client.serve(stream).await {
                tracing::debug!(%error, "client left");
            }
            drop(slot);
        });
    }
}

struct Client {
    events: mpsc::Sender<Event>,
    status: StatusWatch,
}

impl Client {
    async fn serve(mut self, stream: UnixStream) -> io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut reader = BufReader::new(read.take(MAX_LINE));
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        let response = match serde_json::from_str(&line) {
            Ok(Request::NodeLink { node }) => {
                return self
                    .node_link(node, reader.into_inner().into_inner(), write)
                    .await;
            }
            Ok(Request::Watch { after, timeout_ms }) => {
                self.watch(after, Duration::from_millis(timeout_ms)).await
            }
            Ok(Request::Shutdown) => {
                drop(self.events.send(Event::Stop).await);
                // Closed when the daemon is gone: that is the answer.
                self.events.closed().await;
                return Ok(());
            }
            Ok(request) => self.ask(request).await,
            Err(error) => refuse(&format!("not a request: {error}")),
        };
        write.write_all(&node::line(&response)?).await
    }

    async fn ask(&mut self, request: Request) -> Response {
        let (reply, answer) = oneshot::channel();
        if self.events.send(Event::Request { request, reply }).await.is_err() {
            return refuse("the lab is going down");
        }
        match answer.await {
            Ok(Reply::Now(response)) => response,
            Ok(Reply::WhenGone { lines, uids }) => self.when_gone(lines, &uids).await,
            Err(_) => refuse("the lab is going down"),
        }
    }

    async fn watch(&mut self, after: u64, timeout: Duration) -> Response {
        let newer = self.status.wait_for(|status| status.generation > after);
        // Out of time: the state as it is.
        drop(tokio::time::timeout(timeout, newer).await);
        let status = Status::clone(&self.status.borrow());
        Response::Status {
            status: Box::new(status),
        }
    }

    async fn when_gone(&mut self, lines: Vec<String>, uids: &[String]) -> Response {
        let left = |status: &Status| -> BTreeSet<String> {
            let pods = status.pods.iter().filter(|pod| uids.contains(&pod.uid));
            pods.map(|pod| format!("{}/{}", pod.namespace, pod.name))
                .collect()
        };
        let gone = self.status.wait_for(|status| left(status).is_empty());
        if tokio::time::timeout(GONE_DEADLINE, gone).await.is_ok() {
            return Response::Done { lines };
        }
        let left: Vec<String> = left(&self.status.borrow()).into_iter().collect();
        refuse(&format!(
            "deleted, but after {GONE_DEADLINE:?} these pods still run: {}",
            left.join(" ")
        ))
    }

    /// Orders one way, reports the other, until either side ends.
    async fn node_link(self, node: String, read: OwnedReadHalf, mut write: OwnedWriteHalf) -> io::Result<()> {
        let (orders, mut outgoing) = mpsc::channel(super::QUEUE);
        let linked = Event::NodeLinked {
            node: node.clone(),
            orders,
        };
        if self.events.send(linked).await.is_err() {
            return Ok(());
        }
        let mut lines = BufReader::new(read).lines();
        loop {
            tokio::select! {
                order = outgoing.recv() => match order {
                    Some(order) => write.write_all(&node::line(&order)?).await?,
                    None => return Ok(()),
                },
                line = lines.next_line() => {
                    let Some(line) = line? else { return Ok(()) };
                    let report = serde_json::from_str(&line)?;
                    let node = node.clone();
                    if self.events.send(Event::Node { node, report }).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

fn refuse(message: &str) -> Response {
    Response::Error {
        message: message.to_owned(),
    }
}
