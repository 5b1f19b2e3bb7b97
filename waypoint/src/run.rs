//! Starts everything: the control runtime, the traffic runtime, and the graceful end of both.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use aquifer_core::workload::WorkloadUid;
use aquifer_hbone::{Pool, PoolConfig, TunnelHandler};
use aquifer_identity::{CertificateManager, ManagerConfig, TrustBundle};
use aquifer_telemetry::access_log::AccessLog;
use aquifer_telemetry::logging::{self, LogFormat};
use aquifer_telemetry::peer::Reporter;
use aquifer_telemetry::process;
use aquifer_telemetry::readiness::{Condition, Readiness};
use aquifer_telemetry::registry::Registry;
use aquifer_xds::ca::Asking;
use aquifer_xds::channel::ControlPlane;
use aquifer_xds::client::{AdsConfig, AdsStatus, NodeId};
use aquifer_xds::handler::ResourceHandler;
use aquifer_xds::trust::TrustHandler;
use aquifer_xds::{AdsClient, CaClient, TokenFile};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, AdminState};
use crate::config::{Config, Role};
use crate::inbound::Inbound;
use crate::names::{Names, lookup};
use crate::proxy::{Leaving, Proxy};
use crate::sockets::{Sockets, bind};
use crate::state::handlers::Writer;
use crate::state::{Shared, StateWriter, handlers};
use crate::telemetry::Telemetry;
use crate::tunnel::{GatewayTunnels, WaypointTunnels};
use crate::upstream::connection::Drivers;
use crate::upstream::dial::Dialer;

const HBONE_PORT: u16 = 15008;
const ADMIN_PORT: u16 = 15000;
const METRICS_PORT: u16 = 15020;
const READY_PORT: u16 = 15021;
/// For clients that have yet to hear that this proxy ends, from the control plane or by their nodes' tables; as
/// terminationDrainDuration of Istio's proxies.
const LINGER: Duration = Duration::from_secs(5);
/// Between sweeps of idle upstream connections.
const SWEEP: Duration = Duration::from_secs(10);
/// Before the first attempt of a certificate after a failure is logged again.
const CERTIFICATE_RETRY: Duration = Duration::from_secs(1);

/// Runs until SIGTERM or SIGINT and the drain after it.
pub fn run(config: &Config) -> anyhow::Result<()> {
    logging::init(&config.log, LogFormat::Text)?;
    process::raise_descriptor_limit();
    let control = Builder::new_current_thread()
        .enable_all()
        .thread_name("control")
        .build()
        .context("cannot start the control runtime")?;
    let traffic = Builder::new_multi_thread()
        .worker_threads(config.workers())
        .thread_name("traffic")
        .enable_all()
        .build()
        .context("cannot start the traffic runtime")?;
    let result = control.block_on(serve(config, &traffic));
    traffic.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn serve(config: &Config, traffic: &Runtime) -> anyhow::Result<()> {
    let registry = Registry::new();
    process::describe_build(&registry, config.role.as_str());
    let readiness = Readiness::default();
    let shared = Shared::new();
    let background = TaskTracker::new();
    let stop = CancellationToken::new();

    let trust = TrustBundle::default();
    let certificates = certificates(config, &trust, &background)?;
    let writer = Arc::new(Mutex::new(StateWriter::new(shared.clone(), config.own())));
    let status = subscribe(config, (&writer, &certificates, trust), &background, &stop)?;
    let proxy = Arc::new(proxy(config, &shared, &certificates, &registry)?);
    let names = Names::new(&writer, lookup(), proxy.telemetry.names.clone());
    background.spawn(names.run(stop.clone()));
    let admin = AdminState {
        shared: shared.clone(),
        certificates: certificates.clone(),
        status: status.clone(),
        config: config.clone(),
    };
    serve_admin(admin, &registry, &readiness, &background, &stop).await?;
    background.spawn(registry.clone().upkeep());
    background.spawn(watch_xds(
        status,
        readiness.wait_for("xds", "first synchronisation with the control plane"),
    ));
    let identity = config.identity()?;
    let condition = readiness.wait_for("certificate", "a certificate of this proxy's service account");
    background.spawn(watch_certificate(certificates.clone(), identity, condition));
    if config.role == Role::Gateway {
        let what = format!("the control plane's record of pod {}", proxy.own);
        let condition = readiness.wait_for("record", &what);
        let watching = watch_record(shared.clone(), proxy.own.clone(), condition);
        background.spawn(stop.clone().run_until_cancelled_owned(watching));
    }

    let listening = Listening::start(config, &proxy, &certificates, &readiness, traffic)?;
    wait_for_signal().await?;
    tracing::info!("draining");
    let _draining = readiness.wait_for("drain", "this proxy is shutting down");
    listening.drain(&proxy, config.drain_time()).await;
    stop.cancel();
    tracing::info!("stopped");
    Ok(())
}

fn certificates(
    config: &Config,
    trust: &TrustBundle,
    background: &TaskTracker,
) -> anyhow::Result<CertificateManager> {
    let plane = ControlPlane::new(config.ca_address(), &config.xds_root_ca)?.trusting(trust.clone());
    let token = TokenFile::new(&config.token_file);
    let source = CaClient::new(&plane, token, &config.cluster_id, Asking::ForItself);
    let limits = ManagerConfig {
        trust: trust.clone(),
        ..ManagerConfig::default()
    };
    let (manager, driver) = CertificateManager::new(Arc::new(source), limits);
    background.spawn(driver);
    Ok(manager)
}

fn subscribe(
    config: &Config,
    (writer, certificates, trust): (&Writer, &CertificateManager, TrustBundle),
    background: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<watch::Receiver<AdsStatus>> {
    let ip = config.instance_ip.to_string();
    let node = NodeId {
        proxy_type: config.role.node_type(),
        ip: &ip,
        pod: &config.pod_name,
        namespace: &config.pod_namespace,
    };
    let ads = AdsConfig {
        control_plane: ControlPlane::new(&config.xds_address, &config.xds_root_ca)?.trusting(trust),
        token: TokenFile::new(&config.token_file),
        cluster: config.cluster_id.clone(),
        node: node.into_node(&config.cluster_id, &config.node_name),
    };
    let (client, status) = AdsClient::new(ads);
    let mut handlers: Vec<Box<dyn ResourceHandler>> = vec![Box::new(TrustHandler::new(certificates.clone()))];
    handlers.extend(handlers::all(writer));
    background.spawn(client.run(handlers, stop.clone()));
    Ok(status)
}

fn proxy(
    config: &Config,
    shared: &Arc<Shared>,
    certificates: &CertificateManager,
    registry: &Registry,
) -> anyhow::Result<Proxy> {
    let log = if config.access_log {
        AccessLog::stdout(registry).context("cannot start the access log")?
    } else {
        AccessLog::disabled(registry)
    };
    let reporter = match config.role {
        Role::Waypoint => Reporter::Waypoint,
        Role::Gateway => Reporter::Source,
    };
    Ok(Proxy {
        shared: shared.clone(),
        dialer: Dialer::new(
            certificates.clone(),
            config.identity()?,
            config.instance_ip,
            Pool::new(PoolConfig::default()),
            (shared.clone(), &config.network),
            config.role.as_str(),
        ),
        drivers: Drivers::default(),
        telemetry: Telemetry::new(registry, log, reporter),
        own: WorkloadUid::pod(&config.cluster_id, &config.pod_namespace, &config.pod_name),
        tasks: TaskTracker::new(),
        leaving: Leaving::default(),
    })
}

async fn serve_admin(
    state: AdminState,
    registry: &Registry,
    readiness: &Readiness,
    background: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let metrics = aquifer_telemetry::admin::Routes::new().metrics(registry);
    let ready = aquifer_telemetry::admin::Routes::new().readiness(readiness);
    let debug = admin::routes(state, registry, readiness);
    let any = |port| {
        [
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
        ]
    };
    let loopback = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, ADMIN_PORT)),
    ];
    let servers = [
        (any(METRICS_PORT), metrics),
        (any(READY_PORT), ready),
        (loopback, debug),
    ];
    for (addresses, routes) in servers {
        for socket in sockets(addresses)? {
            background.spawn(aquifer_telemetry::admin::serve(
                socket,
                routes.clone(),
                stop.clone(),
            ));
        }
    }
    Ok(())
}

/// Both families, or IPv4 alone where the kernel has no IPv6.
fn sockets(addresses: [SocketAddr; 2]) -> anyhow::Result<Vec<TcpListener>> {
    let [v4, v6] = addresses;
    let mut sockets = vec![bind(v4).with_context(|| format!("cannot listen on {v4}"))?];
    match bind(v6) {
        Ok(socket) => sockets.push(socket),
        Err(error) => tracing::debug!(address = %v6, %error, "not listening on IPv6"),
    }
    Ok(sockets)
}

/// What accepts traffic, and how it ends.
struct Listening {
    drain: CancellationToken,
    connections: TaskTracker,
}

impl Listening {
    fn start(
        config: &Config,
        proxy: &Arc<Proxy>,
        certificates: &CertificateManager,
        readiness: &Readiness,
        traffic: &Runtime,
    ) -> anyhow::Result<Self> {
        let listening = Self {
            drain: CancellationToken::new(),
            connections: TaskTracker::new(),
        };
        let _traffic = traffic.enter();
        match config.role {
            Role::Waypoint => listening.start_tunnels(
                config,
                certificates,
                WaypointTunnels {
                    proxy: proxy.clone(),
                    network: config.network.as_str().into(),
                    own: config.own(),
                    drain: listening.drain.clone(),
                },
            )?,
            Role::Gateway => {
                let up = readiness.wait_for("listeners", "sockets of the gateway's listeners");
                let sockets = Sockets::new(
                    proxy.clone(),
                    listening.drain.clone(),
                    listening.connections.clone(),
                    config.max_connections_per_client,
                );
                listening.connections.spawn(sockets.run(up));
                listening.start_tunnels(
                    config,
                    certificates,
                    GatewayTunnels {
                        proxy: proxy.clone(),
                        network: config.network.as_str().into(),
                        drain: listening.drain.clone(),
                    },
                )?;
            }
        }
        let sweeping = sweep(proxy.clone(), listening.drain.clone());
        listening.connections.spawn(sweeping);
        Ok(listening)
    }

    fn start_tunnels<H: TunnelHandler>(
        &self,
        config: &Config,
        certificates: &CertificateManager,
        tunnels: H,
    ) -> anyhow::Result<()> {
        let tunnels = Arc::new(tunnels);
        let addresses = [
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, HBONE_PORT)),
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, HBONE_PORT)),
        ];
        for socket in sockets(addresses)? {
            let inbound = Inbound {
                tunnels: tunnels.clone(),
                certificates: certificates.clone(),
                identity: config.identity()?,
                drain: self.drain.clone(),
                connections: self.connections.clone(),
            };
            self.connections.spawn(inbound.run(socket));
        }
        Ok(())
    }

    /// Serves whoever comes for a while. Then accepts nothing more, and waits for what is open; all in all at most `time`.
    async fn drain(self, proxy: &Arc<Proxy>, time: Duration) {
        let linger = LINGER.min(time / 2);
        proxy.leaving.begin();
        tokio::time::sleep(linger).await;
        self.drain.cancel();
        self.connections.close();
        proxy.tasks.close();
        let ended = async {
            self.connections.wait().await;
            proxy.tasks.wait().await;
        };
        if tokio::time::timeout(time - linger, ended).await.is_err() {
            tracing::warn!(after = ?time, connections = self.connections.len(), "connections cut at the end of the drain");
        }
    }
}

/// Closes upstream connections that nobody has used for a while.
async fn sweep(proxy: Arc<Proxy>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let now = Instant::now();
        for cluster in proxy.shared.proxy().clusters.values() {
            cluster.states.iter().for_each(|endpoint| endpoint.expire(now));
        }
    }
}

/// Ready once every type was received. Losing the control plane later changes nothing: what was received stays.
async fn watch_xds(mut status: watch::Receiver<AdsStatus>, condition: Condition) {
    loop {
        {
            let status = status.borrow_and_update();
            if status.synced() {
                return condition.met();
            }
            condition.unmet(match &status.last_error {
                Some(error) => error.clone(),
                None => format!("waiting for {}", status.awaited().join(", ")),
            });
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_certificate(
    certificates: CertificateManager,
    identity: aquifer_core::identity::SpiffeId,
    condition: Condition,
) {
    loop {
        match certificates.certificate(&identity).await {
            Ok(_) => return condition.met(),
            Err(error) => {
                tracing::warn!(%error, "no certificate yet");
                condition.unmet(error.to_string());
                tokio::time::sleep(CERTIFICATE_RETRY).await;
            }
        }
    }
}

/// A gateway lets nobody in while its own record is unknown: so long it is not ready either.
async fn watch_record(shared: Arc<Shared>, own: WorkloadUid, condition: Condition) {
    let mut changes = shared.mesh_changed();
    loop {
        match shared.mesh().workload(&own) {
            Some(_) => condition.met(),
            None => condition.unmet(format!(
                "the control plane has not told of pod {own}; is its namespace one of discoverySelectors, and CLUSTER_ID the control plane's?"
            )),
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use aquifer_core::snapshot::Change;
    use aquifer_core::workload::Workload;

    use super::*;

    #[test]
    fn a_gateway_is_ready_only_while_its_own_record_is_known() {
        let readiness = Readiness::default();
        let shared = Shared::new();
        let own = WorkloadUid::pod("Kubernetes", "shop", "gateway");
        let condition = readiness.wait_for("record", "its record");
        let mut watching = pin!(watch_record(shared.clone(), own.clone(), condition));
        let mut writer = StateWriter::new(shared, None);
        let mut ready_after = |change: Change| {
            writer.mesh(vec![change]);
            let mut context = Context::from_waker(Waker::noop());
            assert!(watching.as_mut().poll(&mut context).is_pending());
            readiness.is_ready()
        };
        let record = |uid: &WorkloadUid| Change::Workload(Arc::new(Workload::empty(uid.clone())));
        let other = WorkloadUid::pod("Kubernetes", "shop", "other");
        assert!(!ready_after(record(&other)));
        assert!(readiness.missing()[0].contains("Kubernetes//Pod/shop/gateway"));
        assert!(ready_after(record(&own)));
        assert!(!ready_after(Change::RemoveAddress(own.as_str().into())));
    }
}
