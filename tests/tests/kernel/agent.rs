//! The smallest agent there can be: captures, and copies bytes in plaintext.
//!
//! With no tunnel in between, the two directions meet at the receiving pod: what one agent sends as
//! the pod's outbound is the other's inbound.

use std::collections::HashMap;
use std::io;
use std::net::{self, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context, Result};
use aquifer_agent::capture::{
    Capture, CaptureConfig, DeliverySource, EnrolledPod, Netns, NetnsCookie, PodNetns,
};
use parking_lot::Mutex;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::protocol::{AgentConfig, Event, PodSpec, Reply, Request};

pub(crate) struct Agent {
    runtime: Runtime,
    log: Receiver<String>,
    capture: Arc<Capture>,
    events: Arc<Mutex<Vec<Event>>>,
    pods: HashMap<u64, Pod>,
}

struct Pod {
    cookie: NetnsCookie,
    accepting: Vec<JoinHandle<()>>,
}

impl Agent {
    pub(crate) fn load(config: AgentConfig) -> Result<Self> {
        let mesh_cidrs = config
            .mesh_cidrs
            .iter()
            .map(|range| range.parse())
            .collect::<Result<_, _>>();
        let capture = Capture::load(&CaptureConfig {
            bpffs: config.bpffs,
            captured_cgroup: config.captured_cgroup,
            node_cgroup: config.node_cgroup,
            node_netns: config.node_netns,
            mesh_cidrs: mesh_cidrs.context("a range")?,
            own_cgroup: None,
        })?;
        let runtime = Runtime::new()?;
        let log = collect_log();
        runtime.spawn(capture.take_log().context("the kernel programs' log")?.forward());
        Ok(Self {
            runtime,
            log,
            capture: Arc::new(capture),
            events: Arc::default(),
            pods: HashMap::new(),
        })
    }

    pub(crate) fn handle(&mut self, request: Request) -> Reply {
        match request {
            Request::Enrol(spec) => self.enrol(spec),
            Request::Unenrol(pod) => self.unenrol(pod),
            Request::Retain(pods) => self.retain(&pods),
            Request::Adopted => match self.capture.adopted() {
                Ok(pods) => Reply::Pods(pods.iter().map(|pod| pod.as_u64()).collect()),
                Err(error) => Reply::Failed(chain(error)),
            },
            Request::DropListeners => {
                self.stop_accepting();
                Reply::Done
            }
            Request::KernelLog(within) => match self.log.recv_timeout(within) {
                Ok(line) => Reply::Logged(line),
                Err(_) => Reply::Failed("the kernel programs logged nothing".to_owned()),
            },
            Request::Events => Reply::Events(self.events.lock().drain(..).collect()),
            other => Reply::Failed(format!("not for an agent: {other:?}")),
        }
    }

    fn enrol(&mut self, spec: PodSpec) -> Reply {
        let pod = PodNetns {
            netns: spec.netns,
            cgroup: Some(spec.cgroup),
            ips: spec.ips,
        };
        match self.capture.enrol(&pod) {
            Ok(pod) => {
                let cookie = pod.cookie();
                let accepting = self.accept(pod);
                self.pods.insert(cookie.as_u64(), Pod { cookie, accepting });
                Reply::Enrolled(cookie.as_u64())
            }
            Err(error) => Reply::Failed(chain(error)),
        }
    }

    fn unenrol(&mut self, cookie: u64) -> Reply {
        let Some(pod) = self.pods.get(&cookie) else {
            return Reply::Failed("not enrolled".to_owned());
        };
        match self.capture.unenrol(pod.cookie) {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Failed(chain(error)),
        }
    }

    fn retain(&self, wanted: &[u64]) -> Reply {
        let adopted = match self.capture.adopted() {
            Ok(pods) => pods,
            Err(error) => return Reply::Failed(chain(error)),
        };
        let wanted: Vec<_> = adopted
            .into_iter()
            .filter(|pod| wanted.contains(&pod.as_u64()))
            .collect();
        match self.capture.retain(&wanted) {
            Ok(removed) => Reply::Pods(removed.iter().map(|pod| pod.as_u64()).collect()),
            Err(error) => Reply::Failed(chain(error)),
        }
    }

    fn accept(&self, pod: EnrolledPod) -> Vec<JoinHandle<()>> {
        let cookie = pod.cookie();
        let mut accepting = Vec::new();
        let agent = Handler {
            capture: self.capture.clone(),
            events: self.events.clone(),
            netns: pod.netns,
        };
        for listener in pod.outbound {
            let agent = agent.clone();
            accepting.push(self.serve(listener, move |stream, from| {
                let agent = agent.clone();
                async move { agent.outbound(cookie, stream, from).await }
            }));
        }
        for listener in pod.inbound {
            let agent = agent.clone();
            accepting.push(self.serve(listener, move |stream, from| {
                let agent = agent.clone();
                async move { agent.inbound(stream, from).await }
            }));
        }
        accepting
    }

    fn serve<F, W>(&self, listener: net::TcpListener, handle: F) -> JoinHandle<()>
    where
        F: Fn(TcpStream, SocketAddr) -> W + Send + 'static,
        W: Future<Output = io::Result<()>> + Send + 'static,
    {
        let _context = self.runtime.enter();
        let listener = TcpListener::from_std(listener).expect("a listener");
        self.runtime.spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                tokio::spawn(handle(stream, from));
            }
        })
    }

    fn stop_accepting(&mut self) {
        for task in self.pods.values_mut().flat_map(|pod| pod.accepting.drain(..)) {
            task.abort();
            // Ends with an error that says so.
            let _ = self.runtime.block_on(task);
        }
    }
}

#[derive(Clone)]
struct Handler {
    capture: Arc<Capture>,
    events: Arc<Mutex<Vec<Event>>>,
    netns: Netns,
}

impl Handler {
    async fn outbound(&self, pod: NetnsCookie, mut client: TcpStream, from: SocketAddr) -> io::Result<()> {
        let destination = self.capture.original_destination(pod, from);
        self.events.lock().push(Event::Outbound { from, destination });
        let Some(destination) = destination else {
            return Ok(());
        };
        let mut upstream = self.netns.socket(destination.ip())?.connect(destination).await?;
        copy_bidirectional(&mut client, &mut upstream).await.map(|_| ())
    }

    async fn inbound(&self, mut client: TcpStream, from: SocketAddr) -> io::Result<()> {
        let destination = client.local_addr()?;
        self.events.lock().push(Event::Inbound { from, destination });
        if destination.ip().is_loopback() {
            return Ok(());
        }
        let source = if destination.is_ipv6() {
            DeliverySource::Pod
        } else {
            DeliverySource::Loopback
        };
        let socket = self
            .capture
            .upstream_socket(source, &self.netns, destination, from)?;
        let mut application = socket.connect(destination).await?;
        copy_bidirectional(&mut client, &mut application)
            .await
            .map(|_| ())
    }
}

/// Sends what goes to the `log` facade to whoever holds the other end.
struct Collector(SyncSender<String>);

impl log::Log for Collector {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with("aquifer") {
            // A full channel means that nobody asked for the lines before.
            let _ = self.0.try_send(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

fn collect_log() -> Receiver<String> {
    let (sender, receiver) = sync_channel(64);
    log::set_logger(Box::leak(Box::new(Collector(sender)))).expect("the first logger of this process");
    log::set_max_level(log::LevelFilter::Info);
    receiver
}

fn chain(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}
