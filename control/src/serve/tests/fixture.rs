//! A control plane on a port of its own, with objects set by hand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aquifer_core::identity::TrustDomain;
use aquifer_identity::CertificateAuthority;
use aquifer_identity::authority::MAX_WORKLOAD_TTL;
use aquifer_telemetry::registry::Registry;
use aquifer_xds::channel::ControlPlane;
use aquifer_xds::client::{AdsConfig, AdsStatus, NodeId};
use aquifer_xds::convert::Address;
use aquifer_xds::handler::{Rejected, ResourceHandler, Update};
use aquifer_xds::type_url::{ADDRESS, AUTHORIZATION};
use aquifer_xds::{AdsClient, TokenFile};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::auth::jwks::JwksVerifier;
use crate::auth::tests::{FakePods, Issuer, caller};
use crate::auth::{Authenticator, Caller, TrustedNodeAccounts};
use crate::ca::CaService;
use crate::serve::ads::AdsService;
use crate::serve::grpc::{ServingCertificate, serve};
use crate::serve::registry::ProxyRegistry;
use crate::serve::{
    ClientIdentity, Denied, ResourceSnapshot, ResourceSnapshots, Resources, VersionedResource,
};

/// Generous: the machine may be busy. Nothing waits for it to pass.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// One snapshot for everybody.
pub(crate) struct FixedSnapshots {
    pub(crate) sender: watch::Sender<Arc<ResourceSnapshot>>,
    denied: Mutex<Option<String>>,
}

impl ResourceSnapshots for FixedSnapshots {
    fn subscribe(&self, _client: &ClientIdentity) -> Result<watch::Receiver<Arc<ResourceSnapshot>>, Denied> {
        match self.denied.lock().clone() {
            Some(reason) => Err(Denied { reason }),
            None => Ok(self.sender.subscribe()),
        }
    }
}

pub(crate) struct ControlFixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) issuer: Issuer,
    pub(crate) pods: Arc<FakePods>,
    pub(crate) snapshots: Arc<FixedSnapshots>,
    pub(crate) registry: ProxyRegistry,
    pub(crate) metrics: Registry,
    pub(crate) address: SocketAddr,
    pub(crate) authority: watch::Sender<Arc<CertificateAuthority>>,
    server: Option<(CancellationToken, JoinSet<()>)>,
}

impl ControlFixture {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::new("one");
        std::fs::write(folder.path().join("jwks.json"), issuer.jwks().to_string()).unwrap();
        let trust_domain = TrustDomain::default();
        let authority = CertificateAuthority::new_self_signed(trust_domain, SystemTime::now()).unwrap();
        std::fs::write(folder.path().join("root-cert.pem"), authority.roots_pem()).unwrap();
        let sender = watch::Sender::new(snapshot(1, &[]));
        let mut fixture = Self {
            folder,
            issuer,
            pods: Arc::default(),
            snapshots: Arc::new(FixedSnapshots {
                sender,
                denied: Mutex::default(),
            }),
            registry: ProxyRegistry::default(),
            metrics: Registry::new(),
            address: "127.0.0.1:0".parse().unwrap(),
            authority: watch::Sender::new(Arc::new(authority)),
            server: None,
        };
        fixture.pods.add(&agent(), &[]);
        fixture.serve().await;
        fixture
    }

    /// Listens; the second time on the same port, as a restarted control plane does.
    pub(crate) async fn serve(&mut self) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener: TcpListener = socket.listen(64).unwrap();
        self.address = listener.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let verifier = JwksVerifier::open(self.folder.path().join("jwks.json"), None).unwrap();
        let trusted = TrustedNodeAccounts::new(["istio-system/ztunnel".to_owned()]);
        let auth = Authenticator::new(Arc::new(verifier), self.pods.clone(), trusted);
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate =
            ServingCertificate::new(self.authority.subscribe(), names, SystemTime::now()).unwrap();
        let ads = AdsService::new(
            self.snapshots.clone(),
            auth.clone(),
            self.registry.clone(),
            &self.metrics,
            cancel.clone(),
        )
        .announcing(self.authority.subscribe());
        let ca = CaService::new(auth, self.authority.subscribe(), MAX_WORKLOAD_TTL, &self.metrics);
        let mut tasks = JoinSet::new();
        let stop = cancel.clone();
        tasks.spawn(async move {
            serve(listener, Arc::new(certificate), ads, ca, stop)
                .await
                .unwrap()
        });
        self.server = Some((cancel, tasks));
    }

    pub(crate) async fn stop(&mut self) {
        let (cancel, mut tasks) = self.server.take().unwrap();
        cancel.cancel();
        timeout(DEADLINE, tasks.join_next()).await.unwrap();
    }

    pub(crate) fn deny(&self, reason: &str) {
        *self.snapshots.denied.lock() = Some(reason.to_owned());
    }

    pub(crate) fn publish(&self, generation: u64, names: &[(&str, &str)]) {
        self.snapshots.sender.send_replace(snapshot(generation, names));
    }

    pub(crate) fn control_plane(&self) -> ControlPlane {
        ControlPlane::new(
            &self.address.to_string(),
            self.folder.path().join("root-cert.pem"),
        )
        .unwrap()
    }

    pub(crate) fn token_file(&self, token: &str) -> TokenFile {
        let path = self
            .folder
            .path()
            .join(format!("token-{:x}", rand::random::<u64>()));
        std::fs::write(&path, token).unwrap();
        TokenFile::new(path)
    }

    pub(crate) fn token_of(&self, caller: &Caller) -> TokenFile {
        self.token_file(&self.issuer.token(caller))
    }

    pub(crate) fn config(&self, caller: &Caller) -> AdsConfig {
        ads_config(self.control_plane(), self.token_of(caller), caller)
    }

    /// An agent that is connected and records what it is given.
    pub(crate) fn client(&self) -> TestClient {
        TestClient::start(self.config(&agent()))
    }
}

pub(crate) fn ads_config(control_plane: ControlPlane, token: TokenFile, caller: &Caller) -> AdsConfig {
    let id = NodeId {
        proxy_type: "ztunnel",
        ip: "127.0.0.1",
        pod: &caller.pod_name,
        namespace: &caller.namespace,
    };
    AdsConfig {
        control_plane,
        token,
        cluster: "Kubernetes".into(),
        node: id.into_node("Kubernetes", "node-1"),
    }
}

pub(crate) fn agent() -> Caller {
    caller("istio-system", "ztunnel", "ztunnel-1", "node-1")
}

/// Workloads by pod name and node name; the node name only serves to make versions differ.
pub(crate) fn snapshot(generation: u64, pods: &[(&str, &str)]) -> Arc<ResourceSnapshot> {
    let resources: Resources = pods
        .iter()
        .map(|(name, node)| {
            let address = workload(name, node);
            let name = address.resource_name();
            let resource = VersionedResource::new(&name, address.to_any());
            (Arc::from(name), Arc::new(resource))
        })
        .collect();
    let types = BTreeMap::from([(ADDRESS, resources)]);
    Arc::new(ResourceSnapshot {
        generation,
        changed_at: Instant::now(),
        types,
    })
}

pub(crate) fn workload(name: &str, node: &str) -> Address {
    use aquifer_core::workload::{Workload, WorkloadUid};
    let uid = WorkloadUid::pod("Kubernetes", "default", name);
    let workload = Workload {
        name: name.into(),
        namespace: "default".into(),
        node: node.into(),
        ..Workload::empty(uid)
    };
    Address::Workload(workload.into())
}

/// What a client holds, as `name@node`; names starting with `bad` are rejected.
#[derive(Clone, Default)]
pub(crate) struct Held(Arc<Mutex<BTreeMap<String, String>>>);

/// Counts what each response brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) updates: Vec<String>,
    pub(crate) removals: Vec<String>,
}

struct Recorder {
    held: Held,
    batches: Arc<Mutex<Vec<Batch>>>,
}

impl ResourceHandler for Recorder {
    fn type_url(&self) -> &'static str {
        ADDRESS
    }

    fn apply(&mut self, updates: Vec<Update>, removals: Vec<String>) -> Result<(), Vec<Rejected>> {
        let mut held = self.held.0.lock();
        let mut bad = Vec::new();
        let mut batch = Batch {
            updates: updates.iter().map(|u| short(&u.name)).collect(),
            ..Batch::default()
        };
        for update in updates {
            match Address::decode(&update) {
                Ok(Address::Workload(w)) if !w.name.starts_with("bad") => {
                    held.insert(short(&update.name), w.node.to_string());
                }
                Ok(_) => bad.push(Rejected::new(&update.name, "is bad")),
                Err(rejected) => bad.push(rejected),
            }
        }
        for name in removals {
            held.remove(&short(&name));
            batch.removals.push(short(&name));
        }
        self.batches.lock().push(batch);
        if bad.is_empty() { Ok(()) } else { Err(bad) }
    }
}

fn short(name: &str) -> String {
    name.rsplit('/').next().unwrap_or_default().to_owned()
}

/// Accepts policies and forgets them.
struct Ignore;

impl ResourceHandler for Ignore {
    fn type_url(&self) -> &'static str {
        AUTHORIZATION
    }

    fn apply(&mut self, _updates: Vec<Update>, _removals: Vec<String>) -> Result<(), Vec<Rejected>> {
        Ok(())
    }
}

pub(crate) struct TestClient {
    pub(crate) status: watch::Receiver<AdsStatus>,
    held: Held,
    batches: Arc<Mutex<Vec<Batch>>>,
    _tasks: JoinSet<()>,
}

impl TestClient {
    pub(crate) fn start(config: AdsConfig) -> Self {
        let (client, status) = AdsClient::new(config);
        let held = Held::default();
        let batches = Arc::default();
        let recorder = Recorder {
            held: held.clone(),
            batches: Arc::clone(&batches),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(client.run(
            vec![Box::new(Ignore), Box::new(recorder)],
            CancellationToken::new(),
        ));
        Self {
            status,
            held,
            batches,
            _tasks: tasks,
        }
    }

    pub(crate) async fn wait(&mut self, what: &str, condition: impl FnMut(&AdsStatus) -> bool) -> AdsStatus {
        let seen = timeout(DEADLINE, self.status.wait_for(condition))
            .await
            .map(|status| status.unwrap().clone());
        seen.unwrap_or_else(|_| panic!("never {what}: {:?}", self.status.borrow()))
    }

    /// Waits until exactly these are held, as `name@node`.
    pub(crate) async fn holds(&mut self, want: &[&str]) {
        let held = self.held.clone();
        let want = want.join(" ");
        self.wait(&format!("held {want}"), move |_| held.list() == want)
            .await;
    }

    pub(crate) async fn fails_with(&mut self, want: &str) {
        let want = want.to_owned();
        self.wait(&format!("failed with {want:?}"), |s| {
            s.last_error.as_ref().is_some_and(|e| e.contains(&want))
        })
        .await;
    }

    pub(crate) fn held(&self) -> String {
        self.held.list()
    }

    pub(crate) fn last_batch(&self) -> Batch {
        self.batches.lock().last().cloned().unwrap_or_default()
    }
}

impl Held {
    fn list(&self) -> String {
        self.0
            .lock()
            .iter()
            .map(|(name, node)| format!("{name}@{node}"))
            .collect::<Vec<_>>()
            .join(" ")
    }
}
