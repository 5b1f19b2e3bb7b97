//! The loop with a sink and a source that a test holds the other ends of.

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_telemetry::registry::Registry;
use aquifer_xds::type_url;
use async_trait::async_trait;
use serde_json::Value;

use super::*;
use crate::auth::Caller;
use crate::auth::pods::Pods;
use crate::compile::tests::fixture::settings;
use crate::serve::{ClientIdentity, ProxyType, ResourceSnapshot, ResourceSnapshots, Version};
use crate::sink::SinkError;
use crate::source::document;

/// A deadline for what happens within milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(60);

const MESH: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Service
metadata: {name: a, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: a}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: waypoint-1, namespace: shop, uid: u1, labels: {gateway.networking.k8s.io/gateway-name: waypoint, gateway.networking.k8s.io/gateway-class-name: istio-waypoint}}
spec: {nodeName: node-1, serviceAccountName: waypoint}
status: {phase: Running, podIP: 10.244.0.9, conditions: [{type: Ready, status: 'True'}]}
";

fn rules(weight: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a, namespace: shop}}\nspec: {{hosts: [a], http: [{{route: [{{destination: {{host: a}}, weight: {weight}}}, {{destination: {{host: b}}, weight: 1}}]}}]}}"
    )
}

/// Hands every batch to the test; refuses as many as it is told to.
struct TestSink {
    batches: mpsc::Sender<Batch>,
    refuse: usize,
}

#[async_trait]
impl ObjectSink for TestSink {
    async fn load(&mut self) -> Result<Left, SinkError> {
        Ok(Left::default())
    }

    async fn write(&mut self, batch: &Batch) -> Result<(), SinkError> {
        if self.refuse > 0 {
            self.refuse -= 1;
            let source = std::io::Error::other("full");
            return Err(SinkError::Write {
                path: "x".to_owned(),
                source,
            });
        }
        let copy = Batch {
            objects: batch.objects.clone(),
            statuses: batch.statuses.clone(),
        };
        self.batches.send(copy).await.unwrap();
        Ok(())
    }
}

struct Running {
    events: mpsc::Sender<SourceEvent>,
    batches: mpsc::Receiver<Batch>,
    snapshots: Arc<Snapshots>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    fn start(left: Left, refuse: usize) -> Self {
        let (sender, batches) = mpsc::channel(100);
        let snapshots = Arc::new(Snapshots::default());
        let parts = Parts {
            settings: settings(),
            view: Arc::default(),
            elsewhere: watch::channel(Arc::default()).1,
            snapshots: snapshots.clone(),
            registry: ProxyRegistry::default(),
            sink: Box::new(TestSink {
                batches: sender,
                refuse,
            }),
            secrets: None,
            metrics: ModelMetrics::new(&Registry::new()),
        };
        let (events, incoming) = mpsc::channel(100);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(Pipeline::new(parts, left).run(incoming, cancel.clone()));
        Self {
            events,
            batches,
            snapshots,
            cancel,
            task,
        }
    }

    async fn apply(&self, origin: &str, yaml: &str) {
        for object in document::parse(yaml.as_bytes()).objects {
            self.events
                .send(SourceEvent::Applied {
                    origin: origin.into(),
                    object,
                })
                .await
                .unwrap();
        }
    }

    async fn synced(&self) {
        self.events.send(SourceEvent::Synced).await.unwrap();
    }

    /// Collects batches until `wanted` finds what it looks for in one.
    async fn batch<T>(&mut self, wanted: impl Fn(&Batch) -> Option<T>) -> T {
        let found = async {
            loop {
                let batch = self.batches.recv().await.expect("the pipeline runs");
                if let Some(found) = wanted(&batch) {
                    return found;
                }
            }
        };
        tokio::time::timeout(SOON, found).await.expect("the batch comes")
    }

    fn subscribe(&self) -> watch::Receiver<Arc<ResourceSnapshot>> {
        self.subscribe_as(ProxyType::Waypoint)
    }

    fn subscribe_as(&self, proxy_type: ProxyType) -> watch::Receiver<Arc<ResourceSnapshot>> {
        let label = |key: &str, value: &str| (Arc::from(key), Arc::from(value));
        let client = ClientIdentity {
            caller: Caller {
                namespace: "shop".into(),
                service_account: "waypoint".into(),
                pod_name: "waypoint-1".into(),
                pod_uid: "u1".into(),
                node_name: "node-1".into(),
                node_uid: "".into(),
            },
            proxy_type,
            node_id: "waypoint~10.244.0.9~waypoint-1.shop~x".into(),
            pod_labels: BTreeMap::from([
                label("gateway.networking.k8s.io/gateway-name", "waypoint"),
                label("gateway.networking.k8s.io/gateway-class-name", "istio-waypoint"),
            ]),
        };
        self.snapshots.subscribe(&client).expect("the waypoint is wanted")
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }
}

fn service_status(batch: &Batch) -> Option<Value> {
    batch
        .statuses
        .get(&ObjectKey::new("", "Service", "shop", "a"))
        .cloned()
        .flatten()
}

fn routes(snapshot: &ResourceSnapshot) -> Version {
    snapshot.types[type_url::ROUTES]["inbound-vip|80|http|a.shop.svc.cluster.local"].version()
}

#[tokio::test]
async fn a_new_weight_reaches_the_waypoints_snapshot() {
    let mut running = Running::start(Left::default(), 0);
    running.apply("mesh", MESH).await;
    running.apply("rules", &rules(1)).await;
    running.synced().await;
    running
        .batch(|b| b.objects.values().any(Option::is_some).then_some(()))
        .await;
    let mut snapshots = running.subscribe();
    let before = snapshots.borrow_and_update().clone();
    running.apply("rules", &rules(9)).await;
    let newer = |s: &Arc<ResourceSnapshot>| routes(s) != routes(&before);
    let after = tokio::time::timeout(SOON, snapshots.wait_for(newer))
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(after.generation > before.generation);
    assert_eq!(after.types[type_url::CLUSTER], before.types[type_url::CLUSTER]);
    running.stop().await;
}

#[tokio::test]
async fn tokens_are_of_pods_with_their_uid_and_node() {
    let mut running = Running::start(Left::default(), 0);
    running.apply("mesh", MESH).await;
    running.apply("rules", &rules(1)).await;
    running.synced().await;
    running.batch(|b| service_status(b).map(drop)).await;
    let pods = &running.snapshots;
    assert_eq!(&*pods.pod("shop", "waypoint-1", "u1").unwrap().node, "node-1");
    assert!(pods.pod("shop", "waypoint-1", "u2").is_none());
    assert!(pods.pod("shop", "waypoint-1", "").is_none());
    assert!(pods.service_account_on_node("node-1", "shop", "waypoint"));
    assert!(!pods.service_account_on_node("node-2", "shop", "waypoint"));
    running.stop().await;
}

/// Runs until the service's status is written, and gives its condition and what clients are told.
async fn after_start(left: Left) -> (Value, bool) {
    let mut running = Running::start(left, 0);
    running.apply("mesh", MESH).await;
    running.apply("rules", &rules(1)).await;
    running.synced().await;
    let status = running.batch(service_status).await;
    let compiled = running.snapshots.compiled();
    let advertised = compiled.is_some_and(|c| c.services.values().any(|s| s.waypoint.is_some()));
    running.stop().await;
    (status["status"]["conditions"][0]["status"].clone(), advertised)
}

#[tokio::test]
async fn a_restart_remembers_which_services_are_behind_a_waypoint() {
    assert_eq!(after_start(Left::default()).await, ("False".into(), false));
    let bound = serde_json::json!({ "status": { "conditions": [{
        "type": "istio.io/WaypointBound", "status": "True", "message": "all traffic goes through waypoint shop/waypoint",
    }] } });
    let mut running = Running::start(
        Left {
            statuses: [(ObjectKey::new("", "Service", "shop", "a"), bound)].into(),
            ..Left::default()
        },
        0,
    );
    running.apply("mesh", MESH).await;
    running.apply("rules", &rules(1)).await;
    running.synced().await;
    let _ = running.batch(service_status).await;
    let compiled = running
        .snapshots
        .compiled()
        .expect("published before the status was written");
    assert!(compiled.services.values().any(|s| s.waypoint.is_some()));
    running.stop().await;
}

#[tokio::test]
async fn objects_of_an_earlier_run_that_nothing_wants_are_deleted_in_the_end() {
    let key = |kind: &str| ObjectKey::new("", kind, "gone", "waypoint");
    let left = Left {
        objects: [(key("Service"), Value::Null)].into(),
        ..Left::default()
    };
    let mut running = Running::start(left, 0);
    running.synced().await;
    running
        .batch(|b| (b.objects.get(&key("Service")) == Some(&None)).then_some(()))
        .await;
    running.stop().await;
}

#[tokio::test]
async fn what_a_failing_sink_refused_is_written_later() {
    let mut running = Running::start(Left::default(), 1);
    running.apply("mesh", MESH).await;
    running.apply("rules", &rules(1)).await;
    running.synced().await;
    let wanted = |b: &Batch| b.objects.keys().any(|k| &*k.kind == "Deployment").then_some(());
    running.batch(wanted).await;
    running.stop().await;
}

fn access(principal: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: who, namespace: shop}}\nspec: {{rules: [{{from: [{{source: {{principals: [cluster.local/ns/shop/sa/{principal}]}}}}]}}]}}"
    )
}

fn mode(mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: shop}}\nspec: {{mtls: {{mode: {mode}}}}}"
    )
}

/// Nothing else changes in the mesh, and what the status says of the policy stays the same.
#[tokio::test]
async fn an_edited_policy_reaches_the_agents() {
    let mut running = Running::start(Left::default(), 0);
    running.apply("x", MESH).await;
    running.apply("policy", &access("one")).await;
    running.apply("mode", &mode("PERMISSIVE")).await;
    running.synced().await;
    running
        .batch(|batch| (!batch.statuses.is_empty()).then_some(()))
        .await;
    let mut snapshot = running.subscribe_as(ProxyType::Agent);
    let policies = |snapshot: &ResourceSnapshot| -> Vec<_> {
        let policies = snapshot.types.get(type_url::AUTHORIZATION);
        policies
            .into_iter()
            .flatten()
            .map(|(name, policy)| (name.clone(), policy.version()))
            .collect()
    };
    let mut seen = policies(&snapshot.borrow_and_update());
    for (origin, edit) in [("policy", access("two")), ("mode", mode("STRICT"))] {
        running.apply(origin, &edit).await;
        let changed = async {
            loop {
                snapshot.changed().await.unwrap();
                let now = policies(&snapshot.borrow_and_update());
                if now != seen {
                    return now;
                }
            }
        };
        seen = tokio::time::timeout(SOON, changed)
            .await
            .unwrap_or_else(|_| panic!("{edit} is not published"));
    }
}

fn mesh_settings(text: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: \"{text}\"}}"
    )
}

/// What is written of the mesh's settings; outside, where nothing is said any more.
fn said_of_settings(batch: &Batch) -> Option<Option<String>> {
    let status = batch
        .statuses
        .get(&crate::mesh_config::key("istio-system"))?
        .as_ref();
    let text = |status: &Value| {
        status
            .pointer("/status/conditions/0/message")
            .map(Value::to_string)
    };
    Some(status.and_then(text))
}

#[tokio::test]
async fn nobody_is_served_under_settings_of_which_none_were_accepted() {
    let mut pipeline = Running::start(Left::default(), 0);
    pipeline.apply("mesh.yaml", MESH).await;
    pipeline
        .apply("settings.yaml", &mesh_settings("discoverySelectors: {}"))
        .await;
    pipeline.synced().await;
    let said = pipeline.batch(said_of_settings).await.unwrap();
    assert!(said.contains("is not a list of label selectors"), "{said}");
    pipeline.apply("settings.yaml", &mesh_settings("[")).await;
    let said = pipeline.batch(said_of_settings).await.unwrap();
    assert!(said.contains("is not YAML"), "{said}");
    assert_eq!(pipeline.snapshots.generation(), 0);

    pipeline.apply("settings.yaml", &mesh_settings("{}")).await;
    assert_eq!(pipeline.batch(said_of_settings).await, None, "nothing any more");
    assert!(pipeline.snapshots.generation() > 0);
    // From now on there are some that were accepted.
    pipeline.apply("settings.yaml", &mesh_settings("[")).await;
    let said = pipeline.batch(said_of_settings).await.unwrap();
    assert!(
        said.contains("the last accepted version stays in effect"),
        "{said}"
    );
    pipeline.stop().await;
}
