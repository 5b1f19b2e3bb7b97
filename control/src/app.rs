//! Puts the parts together and runs them until a signal.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use aquifer_identity::CertificateAuthority;
use aquifer_telemetry::readiness::{Condition, Readiness};
use aquifer_telemetry::registry::Registry;
use aquifer_telemetry::{admin, logging, process};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::auth::jwks::JwksVerifier;
use crate::auth::{Authenticator, TrustedNodeAccounts};
use crate::ca::CaService;
use crate::compile::Settings;
use crate::config::Config;
use crate::debug::{DebugState, routes};
use crate::metrics::ModelMetrics;
use crate::pipeline::{Parts, Pipeline};
use crate::serve::ads::AdsService;
use crate::serve::grpc::{ServingCertificate, serve};
use crate::serve::registry::ProxyRegistry;
use crate::sink::ObjectSink;
use crate::sink::folder::FolderSink;
use crate::snapshots::Snapshots;
use crate::source::ObjectSource;
use crate::source::folder::FolderSource;

/// Events that wait for the compiler; a source that is faster waits.
const EVENT_QUEUE: usize = 1024;

pub fn main(config: Config) -> anyhow::Result<()> {
    logging::init(&config.log, config.log_format)?;
    process::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(run(config))
}

async fn run(config: Config) -> anyhow::Result<()> {
    let cancel = CancellationToken::new();
    let metrics = Registry::new();
    process::describe_build(&metrics, "pilot");
    let authority = Arc::new(authority(&config)?);
    let mut sink = FolderSink::new(&config.sink);
    let left = sink.load().await.context("cannot use the sink")?;
    sink.publish_root(&authority.roots_pem())
        .await
        .context("cannot use the sink")?;

    let snapshots = Arc::new(Snapshots::default());
    let registry = ProxyRegistry::default();
    let parts = Parts {
        settings: Arc::new(settings(&config)),
        snapshots: snapshots.clone(),
        registry: registry.clone(),
        sink: Box::new(sink),
        metrics: ModelMetrics::new(&metrics),
    };
    let pipeline = Pipeline::new(parts, left);
    let readiness = Readiness::default();
    let serving = readiness.wait_for(
        "serving",
        "the objects have not been read yet, or the gRPC port is not open",
    );
    let mut ready = pipeline.ready();
    let debug = DebugState {
        view: pipeline.view(),
        snapshots: snapshots.clone(),
        registry: registry.clone(),
        cluster_id: config.cluster_id.as_str().into(),
    };

    let mut tasks = JoinSet::new();
    let monitoring = bind(config.monitoring_listen, "--monitoring-listen").await?;
    let admin_routes = routes(&debug).metrics(&metrics).readiness(&readiness);
    spawn(&mut tasks, admin::serve(monitoring, admin_routes, cancel.clone()));
    tasks.spawn(upkeep(metrics.clone(), cancel.clone()));
    let (events, incoming) = mpsc::channel(EVENT_QUEUE);
    let source: Box<dyn ObjectSource> = Box::new(FolderSource::new(&config.objects));
    let stop = cancel.clone();
    tasks.spawn(async move { source.run(events, stop).await.map_err(anyhow::Error::from) });
    spawn(&mut tasks, pipeline.run(incoming, cancel.clone()));

    let server = Server {
        config,
        authority,
        snapshots,
        registry,
        metrics,
        cancel: cancel.clone(),
    };
    tasks.spawn(async move {
        // Proxies are answered from the first complete model on, never from half of one.
        if ready.wait_for(|ready| *ready).await.is_err() {
            return Ok(());
        }
        server.run(serving).await
    });
    finish(tasks, cancel).await
}

async fn upkeep(metrics: Registry, cancel: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        () = metrics.upkeep() => {}
        () = cancel.cancelled() => {}
    }
    Ok(())
}

fn spawn(tasks: &mut JoinSet<anyhow::Result<()>>, task: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        task.await;
        Ok(())
    });
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
        root_namespace: config.root_namespace.as_str().into(),
        waypoint_image: config.waypoint_image.as_str().into(),
        waypoint_linger: config.waypoint_linger,
    }
}

fn authority(config: &Config) -> anyhow::Result<CertificateAuthority> {
    let (domain, now) = (config.trust_domain.clone(), SystemTime::now());
    match &config.cacerts {
        Some(folder) => CertificateAuthority::load(folder, domain, now)
            .with_context(|| format!("cannot use the authority in {} (--cacerts)", folder.display())),
        None => CertificateAuthority::load_or_create(&config.state, domain, now)
            .with_context(|| format!("cannot use the authority in {} (--state)", config.state.display())),
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
    authority: Arc<CertificateAuthority>,
    snapshots: Arc<Snapshots>,
    registry: ProxyRegistry,
    metrics: Registry,
    cancel: CancellationToken,
}

impl Server {
    async fn run(self, serving: Condition) -> anyhow::Result<()> {
        let keys = JwksVerifier::open(&self.config.token_keys, self.config.token_issuer.clone())
            .context("cannot check tokens (--token-keys)")?;
        let trusted = TrustedNodeAccounts::new(self.config.trusted_node_accounts.clone());
        let authenticator = Authenticator::new(Arc::new(keys), self.snapshots.clone(), trusted);
        let dns_names = self.config.dns_names.clone();
        let certificate = ServingCertificate::new(self.authority.clone(), dns_names, SystemTime::now())?;
        let ca = CaService::new(authenticator.clone(), self.authority, &self.metrics);
        let ads = AdsService::new(
            self.snapshots,
            authenticator,
            self.registry,
            &self.metrics,
            self.cancel.clone(),
        );
        let listener = bind(self.config.grpc_listen, "--grpc-listen").await?;
        serving.met();
        tracing::info!(address = %self.config.grpc_listen, "serving proxies");
        serve(listener, Arc::new(certificate), ads, ca, self.cancel).await?;
        Ok(())
    }
}
