//! Puts the agent together, runs it, and takes it down in order.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use aquifer_identity::{CertificateManager, ManagerConfig, TrustBundle};
use aquifer_telemetry::access_log::AccessLog;
use aquifer_telemetry::admin::{self as admin_server, Routes};
use aquifer_telemetry::process;
use aquifer_telemetry::readiness::{Condition, Readiness};
use aquifer_telemetry::registry::Registry;
use aquifer_xds::ca::{Asking, CaClient};
use aquifer_xds::channel::ControlPlane;
use aquifer_xds::client::{AdsConfig, AdsStatus, NodeId};
use aquifer_xds::handler::ResourceHandler;
use aquifer_xds::trust::TrustHandler;
use aquifer_xds::{AdsClient, TokenFile};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, Admin};
use crate::capture::{Capture, CaptureConfig};
use crate::cni::{self, Arriving, CniConfig, Installer};
use crate::config::{Config, PodSource};
use crate::enrol::{Enroller, Reports};
use crate::mesh::{self, MeshStore};
use crate::node::Node;
use crate::pod::Shared;
use crate::pods::NodePods;
use crate::pods::folder::FolderPods;
use crate::pods::kubernetes::{Fate, KubernetesPods};
use crate::telemetry::Telemetry;

/// Runs the agent until SIGTERM or SIGINT; two runtimes, so that control work never holds up traffic.
pub fn run(config: Config) -> anyhow::Result<()> {
    let control = runtime("control", 1)?;
    let workers = match config.workers {
        0 => std::thread::available_parallelism().map_or(2, usize::from),
        n => n,
    };
    let data = runtime("data", workers)?;
    let result = control.block_on(Agent::new(Arc::new(config), &data)?.run());
    // Nothing of value is left: connections have been drained or cut.
    data.shutdown_background();
    control.shutdown_background();
    result
}

fn runtime(name: &str, threads: usize) -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build()
        .with_context(|| format!("cannot start the {name} threads"))
}

/// Until the folder of the network configurations can be written.
const SOCKET_RETRY: Duration = Duration::from_secs(5);

/// For the reason of this agent's end.
const FATE_WAIT: Duration = Duration::from_secs(1);
/// How long an agent that leaves the cluster goes on giving its pods back one by one, as their peers follow; at most half
/// of its time to drain.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// The pods of this node.
struct Pods {
    pods: Box<dyn NodePods>,
    /// What becomes of the agents as a whole.
    fate: watch::Receiver<Fate>,
    cni: Option<Cni>,
}

/// What the CNI plugin's other end works with.
struct Cni {
    config: CniConfig,
    arrivals: mpsc::Sender<Arriving>,
    in_mesh: watch::Receiver<Arc<BTreeSet<String>>>,
}

impl Cni {
    /// Tries until there is one.
    async fn socket(&self) -> cni::Socket {
        loop {
            match cni::Socket::open(&self.config.configurations) {
                Ok(socket) => return socket,
                Err(error) => {
                    tracing::warn!(%error, folder = %self.config.configurations.display(), "no socket for the CNI plugin: pods that start now talk plainly until they are captured; trying again");
                    tokio::time::sleep(SOCKET_RETRY).await;
                }
            }
        }
    }
}

struct Agent<'a> {
    config: Arc<Config>,
    data: &'a Runtime,
    registry: Registry,
    readiness: Readiness,
    mesh: Arc<MeshStore>,
    trust: TrustBundle,
    tasks: TaskTracker,
    stop_enrolment: CancellationToken,
    stop: CancellationToken,
}

impl<'a> Agent<'a> {
    fn new(config: Arc<Config>, data: &'a Runtime) -> anyhow::Result<Self> {
        let registry = Registry::new();
        process::describe_build(&registry, "ztunnel");
        Ok(Self {
            config,
            data,
            registry,
            readiness: Readiness::default(),
            mesh: MeshStore::new(),
            trust: TrustBundle::default(),
            tasks: TaskTracker::new(),
            stop_enrolment: CancellationToken::new(),
            stop: CancellationToken::new(),
        })
    }

    async fn run(self) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let synced = self
            .readiness
            .wait_for("xds", "first synchronisation with the control plane");
        let taken = self.readiness.wait_for("pods", "the capture of this node's pods");
        let captured = self.readiness.wait_for("capture", "the kernel programs");
        // First the ports on which a failure of the rest can be seen.
        self.serve_public().await?;
        let control_plane = self.control_plane(&self.config.control.xds_address)?;
        let certificates = self.certificates()?;
        let capture = self.load_capture().await?;
        captured.met();
        let xds = self.follow_xds(control_plane, certificates.clone(), synced);
        let shared = self.shared(certificates)?;
        let node = Arc::new(Node::new(
            shared.clone(),
            capture,
            self.data.handle().clone(),
            self.config.drain_deadline,
        ));
        let Pods { pods, fate, cni } = self.pods()?;
        let reports = tokio::select! {
            reports = self.enrol(pods, &node, taken) => reports,
            // The pods of this node may be long in coming.
            _ = terminate.recv() => return Ok(()),
        };
        let installer = cni.map(|cni| self.hold_pods(cni, &fate));
        self.serve_admin(Admin {
            config: self.config.clone(),
            shared,
            node: node.clone(),
            reports,
            xds,
        })
        .await?;
        tracing::info!(node = %self.config.node_name, "agent started");
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        self.shut_down(&node, &fate, installer).await;
        Ok(())
    }

    /// Has the container runtime start pods of the mesh only when they are captured.
    fn hold_pods(&self, cni: Cni, fate: &watch::Receiver<Fate>) -> Installer {
        let installer = Installer::new(cni.config.clone());
        let (keeper, fate) = (installer.clone(), fate.clone());
        self.spawn(async move {
            // First who answers, then who asks.
            let socket = cni.socket().await;
            tokio::join!(socket.serve(cni.arrivals), keeper.keep(fate, cni.in_mesh));
        });
        installer
    }

    /// Enrolment first, so that nothing new begins, where the agents leave once it has given the pods back; then the
    /// connections, still under policies; the admin port last. All within the time to drain.
    async fn shut_down(&self, node: &Node, fate: &watch::Receiver<Fate>, installer: Option<Installer>) {
        let begun = Instant::now();
        let deadline = self.config.drain_deadline;
        let _never_met = self.readiness.wait_for("termination", "the agent is draining");
        let leaves = leaves(fate.clone()).await;
        let pods = if leaves {
            "the agents leave this cluster, pods are given back"
        } else {
            "pods stay captured"
        };
        tracing::info!(?deadline, "draining; {pods}");
        if leaves {
            node.released(LEAVE_WAIT.min(deadline / 2)).await;
        }
        self.stop_enrolment.cancel();
        if leaves {
            // Or pods that start now would wait for an agent that is no more.
            uninstall(installer.as_ref());
            node.leave(&self.config.capture.bpffs).await;
        }
        node.shut_down(deadline.saturating_sub(begun.elapsed())).await;
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if leaves {
            // Once more: whoever kept the socket in its place may have made it again meanwhile.
            uninstall(installer.as_ref());
        }
        tracing::info!("agent stopped");
    }

    async fn serve_public(&self) -> anyhow::Result<()> {
        let metrics = Routes::new().metrics(&self.registry);
        self.listen(self.config.metrics_listen, metrics).await?;
        let readiness = Routes::new().readiness(&self.readiness);
        self.listen(self.config.readiness_listen, readiness).await?;
        self.spawn(self.registry.clone().upkeep());
        Ok(())
    }

    async fn serve_admin(&self, admin: Admin) -> anyhow::Result<()> {
        let routes = admin::routes(&Arc::new(admin), &self.registry, &self.readiness);
        self.listen(self.config.admin_listen, routes).await
    }

    async fn listen(&self, address: SocketAddr, routes: Routes) -> anyhow::Result<()> {
        let listener = bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}; does another process use the port?"))?;
        self.tasks
            .spawn(admin_server::serve(listener, routes, self.stop.clone()));
        Ok(())
    }

    /// Runs on the control runtime until the agent stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    fn control_plane(&self, address: &str) -> anyhow::Result<ControlPlane> {
        let plane = ControlPlane::new(address, &self.config.control.root)?;
        Ok(plane.trusting(self.trust.clone()))
    }

    fn certificates(&self) -> anyhow::Result<CertificateManager> {
        let authority = self.control_plane(&self.config.control.ca_address)?;
        let token = TokenFile::new(&self.config.control.token);
        let source = CaClient::new(&authority, token, &self.config.proxy.cluster, Asking::ForPods);
        let config = ManagerConfig {
            trust: self.trust.clone(),
            ..ManagerConfig::default()
        };
        let (manager, driver) = CertificateManager::new(Arc::new(source), config);
        self.spawn(driver);
        Ok(manager)
    }

    async fn load_capture(&self) -> anyhow::Result<Arc<Capture>> {
        let c = &self.config.capture;
        let config = CaptureConfig {
            bpffs: c.bpffs.clone(),
            captured_cgroup: c.captured_cgroup.clone(),
            node_cgroup: c.node_cgroup.clone(),
            node_netns: c.node_netns.clone(),
            mesh_cidrs: c.mesh_cidrs.clone(),
            own_cgroup: None,
        };
        let loaded = tokio::task::spawn_blocking(move || Capture::load(&config)).await?;
        let capture = Arc::new(loaded.context("cannot capture this node's pods")?);
        if let Some(log) = capture.take_log() {
            self.spawn(async move {
                if let Err(error) = log.forward().await {
                    tracing::warn!(%error, "the kernel programs' log is lost");
                }
            });
        }
        Ok(capture)
    }

    fn follow_xds(
        &self,
        control_plane: ControlPlane,
        certificates: CertificateManager,
        synced: Condition,
    ) -> watch::Receiver<AdsStatus> {
        let c = &self.config;
        let ip = c.instance_ip.to_string();
        let id = NodeId {
            proxy_type: "ztunnel",
            ip: &ip,
            pod: &c.pod_name,
            namespace: &c.pod_namespace,
        };
        let (client, status) = AdsClient::new(AdsConfig {
            control_plane,
            token: TokenFile::new(&c.control.token),
            cluster: c.proxy.cluster.to_string(),
            node: id.into_node(&c.proxy.cluster, &c.node_name),
        });
        let mut handlers: Vec<Box<dyn ResourceHandler>> = vec![Box::new(TrustHandler::new(certificates))];
        handlers.extend(mesh::handlers(&self.mesh));
        let stop = self.stop.clone();
        self.tasks.spawn(client.run(handlers, stop));
        let mut seen = status.clone();
        let mesh = self.mesh.clone();
        self.spawn(async move {
            if aquifer_xds::client::synced(&mut seen).await.is_ok() {
                tracing::info!("synchronised with the control plane");
                mesh.set_synced();
                synced.met();
            }
        });
        status
    }

    fn shared(&self, certificates: CertificateManager) -> anyhow::Result<Arc<Shared>> {
        let access_log = AccessLog::stdout(&self.registry).context("cannot start the access log")?;
        Ok(Arc::new(Shared {
            config: self.config.proxy.clone(),
            mesh: self.mesh.clone(),
            certificates,
            telemetry: Arc::new(Telemetry::new(&self.registry, access_log)),
        }))
    }

    fn pods(&self) -> anyhow::Result<Pods> {
        match &self.config.pods {
            PodSource::Folder(folder) => {
                // Nobody says otherwise: it stays.
                let (_, fate) = watch::channel(Fate::Stays);
                Ok(Pods {
                    pods: Box::new(FolderPods::open(folder)?),
                    fate,
                    cni: None,
                })
            }
            PodSource::ApiServer(config) => {
                let pods = KubernetesPods::open(config.clone())?;
                let cni = config.cni.clone().map(|config| Cni {
                    config,
                    arrivals: pods.arrivals(),
                    in_mesh: pods.in_mesh(),
                });
                Ok(Pods {
                    fate: pods.fate(),
                    pods: Box::new(pods),
                    cni,
                })
            }
        }
    }

    async fn enrol(&self, pods: Box<dyn NodePods>, node: &Arc<Node>, taken: Condition) -> Reports {
        let reports = Reports::default();
        let enroller = Enroller::new(pods, node.clone(), reports.clone()).await;
        let stop = self.stop_enrolment.clone();
        self.tasks.spawn(enroller.run(move || taken.met(), stop));
        reports
    }
}

/// Whether this end is the mesh's end on this node. The signal may come before what the API server tells of the DaemonSet.
async fn leaves(mut fate: watch::Receiver<Fate>) -> bool {
    let told = fate.wait_for(|fate| *fate != Fate::Stays);
    tokio::time::timeout(FATE_WAIT, told)
        .await
        .is_ok_and(|told| told.is_ok())
}

fn uninstall(installer: Option<&Installer>) {
    if let Some(Err(error)) = installer.map(Installer::uninstall) {
        tracing::error!(%error, "the CNI plugin stays on this node");
    }
}

/// Where the kernel has no IPv6, `[::]` means every IPv4 address.
async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() => {
            let v4 = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), address.port());
            TcpListener::bind(v4).await.map_err(|_| error)
        }
        bound => bound,
    }
}
