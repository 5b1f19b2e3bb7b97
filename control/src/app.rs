//! Puts the parts together and runs them until a signal.

mod backend;
mod folder;
mod kubernetes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use aquifer_telemetry::readiness::{Condition, Readiness};
use aquifer_telemetry::registry::Registry;
use aquifer_telemetry::{admin, logging, process};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::auth::{Authenticator, TokenVerifier, TrustedNodeAccounts};
use crate::authority::{Active, Surroundings};
use crate::ca::CaService;
use crate::compile::{Deployment, Settings};
use crate::config::Config;
use crate::debug::{DebugState, routes};
use crate::metrics::ModelMetrics;
use crate::peers::{Elsewhere, Peers};
use crate::pipeline::{Parts, Pipeline};
use crate::serve::ads::AdsService;
use crate::serve::grpc::{ServingCertificate, serve};
use crate::serve::registry::ProxyRegistry;
use crate::snapshots::Snapshots;
use crate::webhook;
use backend::Backend;

/// Events that wait for the compiler; a source that is faster waits.
const EVENT_QUEUE: usize = 1024;
/// The watches' own library says at each attempt what the source says once, and better.
const QUIET: &str = "kube_runtime=off,kube_client=off";

pub fn main(config: Config) -> anyhow::Result<()> {
    logging::init(&format!("{QUIET},{}", config.log), config.log_format)?;
    process::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut app = App::new(config);
    // Before the page that tells of it: a start that waits for the API server is not a ready control plane.
    let serving = app.readiness.wait_for(
        "serving",
        "the objects have not been read yet, the mesh's settings are rejected, or the gRPC port is not open",
    );
    app.open_admin().await?;
    let backend = tokio::select! {
        backend = Backend::open(&app.config) => backend?,
        signal = termination() => {
            tracing::info!(signal = signal?, "stopping before the start was over");
            return Ok(());
        }
    };
    app.start(backend, serving);
    finish(app.tasks, app.cancel).await
}

/// What all parts share, and the tasks they run as.
struct App {
    config: Config,
    cancel: CancellationToken,
    metrics: Registry,
    readiness: Readiness,
    debug: DebugState,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl App {
    fn new(config: Config) -> Self {
        let metrics = Registry::new();
        process::describe_build(&metrics, "pilot");
        let debug = DebugState {
            view: Arc::default(),
            snapshots: Arc::new(Snapshots::default()),
            registry: ProxyRegistry::default(),
            authority: Arc::default(),
            cluster_id: config.cluster_id.as_str().into(),
        };
        Self {
            config,
            cancel: CancellationToken::new(),
            metrics,
            readiness: Readiness::default(),
            debug,
            tasks: JoinSet::new(),
        }
    }

    /// First of all, so that whoever wonders why nothing is ready can ask.
    async fn open_admin(&mut self) -> anyhow::Result<()> {
        let listener = bind(self.config.monitoring_listen, "--monitoring-listen").await?;
        let routes = routes(&self.debug)
            .metrics(&self.metrics)
            .readiness(&self.readiness);
        self.spawn(admin::serve(listener, routes, self.cancel.clone()));
        let upkeep = upkeep(self.metrics.clone(), self.cancel.clone());
        self.tasks.spawn(upkeep);
        Ok(())
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            Ok(())
        });
    }

    fn peers(&self, found: watch::Sender<Arc<Elsewhere>>) -> Peers {
        let own = (
            self.config.namespace.as_str(),
            self.config.name.as_deref().unwrap_or_default(),
        );
        let (port, fixed) = (self.config.monitoring_listen.port(), self.config.peers.clone());
        Peers::new(self.debug.snapshots.clone(), own, port, fixed, found)
    }

    fn start(&mut self, backend: Backend, serving: Condition) {
        let (found, elsewhere) = watch::channel(Arc::default());
        if self.config.objects.is_none() {
            self.spawn(self.peers(found).run(self.cancel.clone()));
        }
        let authority = backend.authority.active();
        let around = Surroundings {
            registry: self.debug.registry.clone(),
            elsewhere: elsewhere.clone(),
            views: self.debug.authority.clone(),
            metrics: self.metrics.clone(),
        };
        self.spawn(backend.authority.run(around, self.cancel.clone()));
        let parts = Parts {
            elsewhere,
            settings: Arc::new(settings(&self.config)),
            view: self.debug.view.clone(),
            snapshots: self.debug.snapshots.clone(),
            registry: self.debug.registry.clone(),
            sink: backend.sink,
            secrets: backend.secrets,
            metrics: ModelMetrics::new(&self.metrics),
        };
        let pipeline = Pipeline::new(parts, backend.left);
        let mut ready = pipeline.ready();
        let (events, incoming) = mpsc::channel(EVENT_QUEUE);
        let (source, stop) = (backend.source, self.cancel.clone());
        self.tasks
            .spawn(async move { source.run(events, stop).await.map_err(anyhow::Error::from) });
        self.spawn(pipeline.run(incoming, self.cancel.clone()));
        for duty in backend.duties {
            self.spawn(duty(self.cancel.clone()));
        }
        if let Some(election) = backend.election {
            let (mut modelled, cancel) = (ready.clone(), self.cancel.clone());
            self.spawn(async move {
                // Who has no model would keep those from writing who have one.
                let has = modelled.wait_for(|ready| *ready);
                if let Some(true) = cancel.run_until_cancelled(has).await.map(|has| has.is_ok()) {
                    election(cancel).await;
                }
            });
        }
        let server = Server {
            config: self.config.clone(),
            authority,
            verifier: backend.verifier,
            snapshots: self.debug.snapshots.clone(),
            registry: self.debug.registry.clone(),
            metrics: self.metrics.clone(),
            cancel: self.cancel.clone(),
        };
        self.tasks.spawn(async move {
            // Proxies are answered from the first complete model on, never from half of one.
            if ready.wait_for(|ready| *ready).await.is_err() {
                return Ok(());
            }
            server.run(serving).await
        });
    }
}

async fn upkeep(metrics: Registry, cancel: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        () = metrics.upkeep() => {}
        () = cancel.cancelled() => {}
    }
    Ok(())
}

/// Runs until a signal or the first failure, then lets every part end.
async fn finish(mut tasks: JoinSet<anyhow::Result<()>>, cancel: CancellationToken) -> anyhow::Result<()> {
    let first = tokio::select! {
        signal = termination() => signal.map(|name| tracing::info!(signal = name, "stopping")),
        ended = tasks.join_next() => match ended {
            Some(Ok(Ok(()))) if cancel.is_cancelled() => Ok(()),
            Some(Ok(Ok(()))) | None => Err(anyhow::anyhow!("a part of the control plane ended unexpectedly")),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(error)) => Err(anyhow::Error::from(error).context("a part of the control plane failed")),
        },
    };
    cancel.cancel();
    while tasks.join_next().await.is_some() {}
    first
}

async fn termination() -> anyhow::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        cluster_id: config.cluster_id.as_str().into(),
        network: config.network.as_str().into(),
        trust_domain: config.trust_domain.clone(),
        namespace: config.namespace.as_str().into(),
        root_namespace: config.root_namespace.as_str().into(),
        waypoint_image: config.waypoint_image.as_str().into(),
        automatic_waypoints: config.automatic_waypoints,
        waypoint_linger: config.waypoint_linger,
        deployment: Deployment {
            xds_address: format!("istiod.{}.svc:15012", config.namespace).into(),
            pull_policy: config.waypoint_pull_policy.as_str().into(),
            pull_secrets: config
                .waypoint_pull_secrets
                .iter()
                .map(|name| name.as_str().into())
                .collect(),
            owned: config.objects.is_none(),
        },
    }
}

async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} ({flag}); is another control plane running?"))
}

/// The gRPC port: xDS and certificates.
struct Server {
    config: Config,
    authority: Active,
    verifier: Arc<dyn TokenVerifier>,
    snapshots: Arc<Snapshots>,
    registry: ProxyRegistry,
    metrics: Registry,
    cancel: CancellationToken,
}

impl Server {
    async fn run(self, serving: Condition) -> anyhow::Result<()> {
        let trusted = TrustedNodeAccounts::new(self.config.trusted_node_accounts.clone());
        let authenticator = Authenticator::new(self.verifier, self.snapshots.clone(), trusted);
        let dns_names = self.config.dns_names.clone();
        let certificate = ServingCertificate::new(self.authority.clone(), dns_names, SystemTime::now())?;
        let certificate = Arc::new(certificate);
        let webhook = webhook(&self.config, &certificate, &self.snapshots, &self.cancel).await?;
        let life = self.config.workload_cert_ttl;
        let ca = CaService::new(authenticator.clone(), self.authority.clone(), life, &self.metrics);
        let ads = AdsService::new(
            self.snapshots,
            authenticator,
            self.registry,
            &self.metrics,
            self.cancel.clone(),
        )
        .announcing(self.authority);
        let listener = bind(self.config.grpc_listen, "--grpc-listen").await?;
        serving.met();
        tracing::info!(address = %self.config.grpc_listen, "serving proxies");
        let (served, ()) = tokio::join!(serve(listener, certificate, ads, ca, self.cancel), webhook);
        served.map_err(anyhow::Error::from)
    }
}

/// The webhook's port where it is asked for: opened now, served by what is given back.
async fn webhook(
    config: &Config,
    certificate: &Arc<ServingCertificate>,
    snapshots: &Arc<Snapshots>,
    cancel: &CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let listener = match config.webhook_listen {
        Some(address) => Some(bind(address, "--webhook-listen").await?),
        None => None,
    };
    let (certificate, snapshots, cancel) = (certificate.clone(), snapshots.clone(), cancel.clone());
    Ok(async move {
        if let Some(listener) = listener {
            webhook::serve(listener, certificate, snapshots, cancel).await;
        }
    })
}
