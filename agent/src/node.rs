//! The pods that this process serves: what enrolment does is done here.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_core::identity::SpiffeId;
use aquifer_identity::FetchError;
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use crate::capture::{Capture, EnrolledPod, Netns, NetnsCookie, PodNetns};
use crate::enrol::PodHost;
use crate::enrol::reconciler::Release;
use crate::network::CapturedPod;
use crate::pod::{self, PodListeners, PodProxy, Shared};
use crate::pods::NodePod;

/// How long a captured pod waits for its record; then it is tried again.
const RECORD_WAIT: Duration = Duration::from_secs(10);
/// How long a pod stays with an earlier agent while its certificate is refused or its record missing here. Its connections
/// would fail after that, but its manifest may be such that it never gets them, and the earlier agent has to end.
const MEANS_WAIT: Duration = Duration::from_secs(30);
/// Between two tries for a certificate, the first of which failed.
const CERTIFICATE_RETRY: Duration = Duration::from_millis(250);
/// What draining proxies have, past their deadline, to cut their connections by themselves and say so.
const CUT: Duration = Duration::from_secs(1);
const NOT_TOLD: &str =
    "the control plane has not told about this pod; does its manifest have an address yet?";

pub(crate) struct Node {
    shared: Arc<Shared>,
    capture: Arc<Capture>,
    data: Handle,
    drain_deadline: Duration,
    /// Guards the table only; held to look up, add or remove.
    running: Mutex<HashMap<Arc<str>, Running>>,
    /// Told when one was removed.
    fewer: Notify,
    /// Proxies of pods that have left, until their connections end.
    draining: TaskTracker,
}

struct Running {
    proxy: Arc<PodProxy>,
    cookie: NetnsCookie,
}

impl Node {
    pub(crate) fn new(
        shared: Arc<Shared>,
        capture: Arc<Capture>,
        data: Handle,
        drain_deadline: Duration,
    ) -> Self {
        Self {
            shared,
            capture,
            data,
            drain_deadline,
            running: Mutex::default(),
            fewer: Notify::new(),
            draining: TaskTracker::new(),
        }
    }

    pub(crate) fn proxies(&self) -> Vec<Arc<PodProxy>> {
        self.running.lock().values().map(|r| r.proxy.clone()).collect()
    }

    /// Lets every connection finish within that time. Capture stays: traffic is refused until an agent is back.
    pub(crate) async fn shut_down(&self, within: Duration) {
        let running: Vec<Running> = self.running.lock().drain().map(|(_, running)| running).collect();
        for Running { proxy, .. } in running {
            self.drain(proxy, within);
        }
        self.draining.close();
        // Pods that were given back a moment ago have a deadline of their own, which is later.
        if tokio::time::timeout(within + CUT, self.draining.wait())
            .await
            .is_err()
        {
            tracing::warn!("connections of pods that were given back are cut with the end of this agent");
        }
    }

    /// Until enrolment has given every pod back, for so long at most: a pod that peers still take for one of the mesh
    /// answers through its tunnel.
    pub(crate) async fn released(&self, patience: Duration) {
        let all = async {
            loop {
                let fewer = self.fewer.notified();
                if self.running.lock().is_empty() {
                    return;
                }
                fewer.await;
            }
        };
        // Those that are left are given back all the same.
        let _ = tokio::time::timeout(patience, all).await;
    }

    /// Gives every pod its plain connectivity back and takes what is the mesh's off the node. What cannot be undone is
    /// told: this process is about to end, and nobody tries again.
    pub(crate) async fn leave(&self, bpffs: &Path) {
        let (capture, bpffs) = (self.capture.clone(), bpffs.to_owned());
        let undone = blocking(move || {
            capture.retain(&[]).map_err(|error| with_sources(&error))?;
            Capture::teardown(&bpffs).map_err(|error| with_sources(&error))?;
            // Made by the first agent here; others may have put something beside it.
            drop(std::fs::remove_dir(&bpffs));
            Ok(())
        });
        match undone.await {
            Ok(()) => tracing::info!("this node is left as it was before the mesh"),
            Err(error) => tracing::error!(%error, "the mesh's programs stay on this node"),
        }
    }

    fn drain(&self, proxy: Arc<PodProxy>, deadline: Duration) {
        self.draining
            .spawn_on(async move { proxy.drain(deadline).await }, &self.data);
    }

    async fn enrol(&self, pod: &NodePod) -> Result<EnrolledPod, String> {
        let capture = self.capture.clone();
        let place = PodNetns {
            netns: pod.netns.clone(),
            cgroup: Some(pod.cgroup.clone()),
            ips: pod.ips.clone(),
        };
        blocking(move || capture.enrol(&place).map_err(|error| with_sources(&error))).await
    }

    fn start(&self, pod: &Arc<NodePod>, enrolled: EnrolledPod) -> Result<(), String> {
        let cookie = enrolled.cookie();
        let EnrolledPod {
            netns,
            outbound,
            inbound,
        } = enrolled;
        let network = Arc::new(CapturedPod {
            capture: self.capture.clone(),
            netns,
        });
        let proxy = PodProxy::new(&self.shared, pod, network).map_err(|error| error.to_string())?;
        proxy.serve(PodListeners { outbound, inbound }, &self.data);
        self.shared.certificates.prefetch(&proxy.identity);
        let running = Running { proxy, cookie };
        if let Some(before) = self.running.lock().insert(pod.uid.clone(), running) {
            self.drain(before.proxy, self.drain_deadline);
        }
        Ok(())
    }

    /// Tries until there is one, or it has been refused for a while: an authority that is away may come back.
    async fn obtain_certificate(&self, identity: &SpiffeId) -> Result<(), FetchError> {
        let mut refused = None;
        loop {
            let Err(error) = self.shared.certificates.certificate(identity).await else {
                return Ok(());
            };
            tracing::debug!(%error, "no certificate yet");
            if !error.is_refusal() {
                refused = None;
            } else if refused.get_or_insert_with(Instant::now).elapsed() >= MEANS_WAIT {
                return Err(error);
            }
            tokio::time::sleep(CERTIFICATE_RETRY).await;
        }
    }

    fn proxy(&self, uid: &str) -> Option<Arc<PodProxy>> {
        self.running.lock().get(uid).map(|r| r.proxy.clone())
    }

    /// Takes a pod's proxy out of those that run; where the pod lives on, it drains. Whoever finds it in neither table may
    /// take it for ended.
    fn stop_running(&self, uid: &str, how: Release) -> Option<Arc<PodProxy>> {
        let mut running = self.running.lock();
        let proxy = running.remove(uid)?.proxy;
        if how == Release::Leaves {
            self.drain(proxy.clone(), self.drain_deadline);
        }
        Some(proxy)
    }

    /// Drops the certificate of an identity that no pod here has any more.
    fn forget_identity(&self, of: &PodProxy) {
        let used = self.proxies().iter().any(|proxy| proxy.identity == of.identity);
        if !used {
            self.shared.certificates.forget(&of.identity);
        }
    }
}

#[async_trait]
impl PodHost for Node {
    async fn await_means(&self, pod: Arc<NodePod>) -> Result<(), String> {
        let identity = PodProxy::identity(&self.shared, &pod).map_err(|error| error.to_string())?;
        // Without it no pod is served, and this agent does not get ready.
        self.shared.mesh.whole().await;
        let obtained = self.obtain_certificate(&identity);
        let uid = PodProxy::uid(&self.shared, &pod);
        let known = self.shared.mesh.known(&uid, MEANS_WAIT);
        let (obtained, known) = tokio::join!(obtained, known);
        obtained.map_err(|error| error.to_string())?;
        known.map(|_| ()).ok_or_else(|| NOT_TOLD.to_owned())
    }

    async fn capture(&self, pod: Arc<NodePod>) -> Result<(), String> {
        // Before anything is captured: a pod that cannot be served must not be cut off.
        PodProxy::identity(&self.shared, &pod).map_err(|error| error.to_string())?;
        let enrolled = self.enrol(&pod).await?;
        self.start(&pod, enrolled)
    }

    async fn prepare(&self, uid: Arc<str>) -> Result<(), String> {
        let proxy = self
            .proxy(&uid)
            .ok_or_else(|| "the pod is not captured".to_owned())?;
        let certificate = self.shared.certificates.certificate(&proxy.identity).await;
        certificate.map_err(|error| error.to_string())?;
        let synced = self.shared.mesh.synced(RECORD_WAIT).await;
        synced.map_err(|error| error.to_string())?;
        let known = proxy.known(RECORD_WAIT).await;
        known.map(|_| ()).ok_or_else(|| NOT_TOLD.to_owned())
    }

    async fn release(&self, pod: Arc<NodePod>, how: Release) -> Result<(), String> {
        let cookie = self.running.lock().get(&pod.uid).map(|r| r.cookie);
        let capture = self.capture.clone();
        let path = pod.netns.clone();
        blocking(move || {
            // Without a record, an earlier process captured it; a namespace that is gone needs nothing undone.
            let Some(cookie) = cookie.or_else(|| Netns::open(&path).ok().map(|netns| netns.cookie())) else {
                return Ok(());
            };
            capture.unenrol(cookie).map_err(|error| with_sources(&error))
        })
        .await?;
        if let Some(proxy) = self.stop_running(&pod.uid, how) {
            self.forget_identity(&proxy);
            if how == Release::Gone {
                proxy.kill().await;
            }
        }
        self.fewer.notify_waiters();
        Ok(())
    }

    async fn retain(&self, pods: Vec<Arc<NodePod>>) -> Result<(), String> {
        let capture = self.capture.clone();
        blocking(move || {
            let mut cookies = Vec::with_capacity(pods.len());
            for pod in &pods {
                match Netns::open(&pod.netns) {
                    Ok(netns) => cookies.push(netns.cookie()),
                    // The pod is gone, and nothing of it needs to be kept.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(format!("cannot enter {}: {error}", pod.netns.display())),
                }
            }
            let undone = capture.retain(&cookies).map_err(|error| with_sources(&error))?;
            if !undone.is_empty() {
                tracing::info!(pods = undone.len(), "captures of an earlier agent undone");
            }
            Ok(())
        })
        .await
    }

    fn is_withdrawn(&self, pod: &NodePod) -> bool {
        let (mesh, uid) = (&self.shared.mesh, PodProxy::uid(&self.shared, pod));
        // Before it is whole, nothing says so.
        mesh.is_whole() && !pod::is_advertised(&mesh.load(), &uid)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.shared.mesh.subscribe()
    }
}

/// Work that enters a pod's namespace and calls the kernel, off the control thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(format!("the task ended abnormally: {error}")),
    }
}

/// The whole story in one line, for the report.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
