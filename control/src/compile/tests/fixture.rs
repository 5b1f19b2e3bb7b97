//! A mesh written as YAML, compiled, and looked at from a proxy's side.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_core::http::action::Action;
use aquifer_core::http::cluster::{Cluster, Endpoints};
use aquifer_core::http::listener::Listener;
use aquifer_core::http::table::{Route, RouteTable};
use aquifer_core::identity::TrustDomain;
use aquifer_xds::envoy::{Resource, Secret, decode};
use aquifer_xds::handler::Update;
use aquifer_xds::type_url;

use crate::compile::report::{ObjectReport, PodName};
use crate::compile::waypoints::WaypointKey;
use crate::compile::{Carry, Compiled, Moment, Settings, compile};
use crate::objects::ObjectKey;
use crate::proxies::{Picture, ProxyKey, Types, ambient};
use crate::serve::Version;
use crate::source::document;
use crate::store::{Changes, SourceEvent, Store};

pub(crate) fn settings() -> Arc<Settings> {
    Arc::new(Settings {
        cluster_id: "Kubernetes".into(),
        network: "".into(),
        trust_domain: TrustDomain::default(),
        namespace: "istio-system".into(),
        root_namespace: "istio-system".into(),
        waypoint_image: "aquifer/waypoint".into(),
        automatic_waypoints: true,
        waypoint_linger: Duration::from_secs(30),
        deployment: crate::compile::Deployment::default(),
    })
}

pub(crate) struct Mesh {
    pub(crate) store: Store,
    pub(crate) settings: Arc<Settings>,
    pub(crate) carry: Carry,
    pub(crate) moment: Moment,
    age: u32,
    /// Since `last` was compiled.
    changes: Changes,
    last: Option<Compiled>,
    /// The models that were made one from the other, since somebody took them.
    steps: Vec<Compiled>,
    last_moment: Option<(Instant, BTreeMap<PodName, u64>)>,
}

impl Mesh {
    pub(crate) fn new() -> Self {
        let settings = settings();
        Self {
            store: Store::of_mesh(&settings.namespace),
            settings,
            carry: Carry::default(),
            moment: Moment {
                now: Instant::now(),
                generation: 1,
                in_effect: BTreeMap::new(),
            },
            age: 0,
            changes: Changes::default(),
            last: None,
            steps: Vec::new(),
            last_moment: None,
        }
    }

    /// Adds the documents; each is younger than the ones before. Objects without a namespace go to `namespace`.
    pub(crate) fn add(&mut self, namespace: &str, yaml: &str) -> &mut Self {
        let parsed = document::parse(yaml.as_bytes());
        assert_eq!(parsed.problems, Vec::<String>::new(), "{yaml}");
        for object in parsed.objects {
            let mut object = Arc::unwrap_or_clone(object);
            if &*object.key.namespace == "default" {
                object.key.namespace = namespace.into();
            }
            self.age += 1;
            object.value["metadata"]["creationTimestamp"] =
                format!("2024-01-01T00:{:02}:{:02}Z", self.age / 60, self.age % 60).into();
            let origin = object.key.to_string().into();
            let object = Arc::new(object);
            self.apply(SourceEvent::Applied { origin, object });
        }
        self
    }

    /// Whether anything changed.
    pub(crate) fn apply(&mut self, event: SourceEvent) -> bool {
        let change = self.store.apply(event);
        change.map(|change| self.changes.note(change)).is_some()
    }

    pub(crate) fn remove(&mut self, group: &str, kind: &str, namespace: &str, name: &str) -> &mut Self {
        let key = ObjectKey::new(group, kind, namespace, name);
        let origin: Arc<str> = key.to_string().into();
        assert!(self.apply(SourceEvent::Deleted { origin, key }));
        self
    }

    pub(crate) fn namespace(&mut self, name: &str, labels: &str) -> &mut Self {
        self.add(
            "",
            &format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}"),
        )
    }

    pub(crate) fn pod(&mut self, namespace: &str, name: &str, labels: &str, ip: &str) -> &mut Self {
        self.add(
            namespace,
            &format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, uid: uid-{name}, labels: {{{labels}}}, annotations: {{ambient.istio.io/redirection: enabled}}}}\nspec: {{nodeName: node-1, serviceAccountName: sa-{name}, containers: [{{name: c, ports: [{{name: web, containerPort: 8080}}]}}]}}\nstatus: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}"
            ),
        )
    }

    pub(crate) fn service(
        &mut self,
        namespace: &str,
        name: &str,
        selector: &str,
        ip: &str,
        ports: &str,
    ) -> &mut Self {
        self.add(
            namespace,
            &format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}, selector: {{{selector}}}, ports: [{ports}]}}"),
        )
    }

    /// The pod and Service of a waypoint, as the cluster makes them from what was rendered.
    pub(crate) fn run_waypoint(&mut self, namespace: &str, name: &str) -> &mut Self {
        let labels = format!(
            "gateway.networking.k8s.io/gateway-name: {name}, gateway.networking.k8s.io/gateway-class-name: istio-waypoint"
        );
        self.pod(namespace, &format!("{name}-1"), &labels, "10.244.9.9");
        self.acknowledge(namespace, &format!("{name}-1"), u64::MAX);
        let selector = format!("gateway.networking.k8s.io/gateway-name: {name}");
        self.service(
            namespace,
            name,
            &selector,
            "10.96.9.9",
            "{name: mesh, port: 15008}",
        )
    }

    /// The waypoint's pod has brought everything up to this generation into effect.
    pub(crate) fn acknowledge(&mut self, namespace: &str, pod: &str, generation: u64) {
        self.moment
            .in_effect
            .insert((namespace.into(), pod.into()), generation);
    }

    /// Compiles everything, and checks that the model before with what changed since comes to the same.
    pub(crate) fn compile(&mut self) -> Compiled {
        let compiled = compile(&self.store, &self.settings, &self.carry, &self.moment);
        let changes = std::mem::take(&mut self.changes);
        let next = match &self.last {
            Some(last) => last.next(&self.store, &changes, &self.carry, &self.moment),
            None => compiled.clone(),
        };
        let moment = (self.moment.now, self.moment.in_effect.clone());
        self.steps.push(next);
        if self.last_moment.as_ref() != Some(&moment) && !changes.is_empty() {
            // Waypoints acknowledged something, or time went by: the pipeline looks at that on its own.
            let last = &self.steps[self.steps.len() - 1];
            let next = last.next(&self.store, &Changes::default(), &self.carry, &self.moment);
            self.steps.push(next);
        }
        let next = &self.steps[self.steps.len() - 1];
        assert_same(next, &compiled);
        self.last = Some(next.clone());
        self.last_moment = Some(moment);
        self.carry = Carry::clone(&compiled.carry);
        self.moment.generation += 1;
        compiled
    }

    /// Removes the object if it is there.
    pub(crate) fn forget(&mut self, group: &str, kind: &str, namespace: &str, name: &str) {
        let key = ObjectKey::new(group, kind, namespace, name);
        let origin: Arc<str> = key.to_string().into();
        self.apply(SourceEvent::Deleted { origin, key });
    }

    /// The models that were made one from the other since this was asked last.
    pub(crate) fn take_steps(&mut self) -> Vec<Compiled> {
        std::mem::take(&mut self.steps)
    }

    /// The model that was made last, from the one before it.
    pub(crate) fn last(&self) -> &Compiled {
        self.last.as_ref().expect("compiled before")
    }

    /// The model after what changed since the last one, at the cost of that.
    pub(crate) fn next(&mut self) -> &Compiled {
        let changes = std::mem::take(&mut self.changes);
        let last = self.last.take().expect("compiled before");
        let next = last.next(&self.store, &changes, &self.carry, &self.moment);
        self.carry = Carry::clone(&next.carry);
        self.moment.generation += 1;
        self.last.insert(next)
    }
}

/// Compares what two compilations come to.
pub(crate) fn assert_same(a: &Compiled, b: &Compiled) {
    assert_eq!(a.workloads, b.workloads);
    assert_eq!(a.services, b.services);
    assert_eq!(a.policies, b.policies);
    assert_eq!(a.waypoints, b.waypoints);
    assert_eq!(a.reports, b.reports);
    assert_eq!(a.rendered, b.rendered);
    assert_eq!(a.carry, b.carry);
    assert_eq!(a.rejected, b.rejected);
    assert_eq!(a.discovery.addressless, b.discovery.addressless);
    assert_eq!(a.discovery.by_host, b.discovery.by_host);
    for service in b.services.keys() {
        let (a, b) = (a.discovery.endpoints(service), b.discovery.endpoints(service));
        assert!(a.eq(b), "endpoints of {service}");
    }
}

/// What a proxy holds, read as the proxy reads it.
pub(crate) struct Held {
    types: Types,
}

impl Held {
    pub(crate) fn of(types: Types) -> Self {
        Self { types }
    }

    pub(crate) fn by(compiled: &Compiled, key: &ProxyKey) -> Self {
        let held = Self::of(Picture::of(compiled, key).types(&ambient(compiled, Types::new(), None)));
        // A resource that the proxy rejects would take all of its kind with it: none may.
        held.all::<Listener>(type_url::LISTENER);
        held.all::<Secret>(type_url::SECRET);
        held.all::<RouteTable>(type_url::ROUTES);
        held.all::<Cluster>(type_url::CLUSTER);
        held.all::<Endpoints>(type_url::ENDPOINTS);
        held
    }

    pub(crate) fn by_waypoint(compiled: &Compiled, namespace: &str, name: &str) -> Self {
        Self::by(compiled, &ProxyKey::Waypoint(WaypointKey::new(namespace, name)))
    }

    pub(crate) fn all<R: Resource>(&self, url: &'static str) -> Vec<R> {
        let list = self.types.get(url).into_iter().flatten();
        list.map(|(name, _)| self.one(url, name)).collect()
    }

    pub(crate) fn names(&self, url: &'static str) -> Vec<String> {
        self.types
            .get(url)
            .into_iter()
            .flatten()
            .map(|(name, _)| name.to_string())
            .collect()
    }

    pub(crate) fn one<R: Resource>(&self, url: &'static str, name: &str) -> R {
        let resource = self.types.get(url).and_then(|r| r.get(name));
        let resource = resource.unwrap_or_else(|| panic!("no {name} among {:?}", self.names(url)));
        let update = Update {
            name: name.to_owned(),
            version: resource.version().to_string(),
            resource: resource.any(),
        };
        decode(&update).unwrap_or_else(|e| panic!("{e}"))
    }

    pub(crate) fn routes(&self, name: &str) -> RouteTable {
        self.one(type_url::ROUTES, name)
    }

    pub(crate) fn version(&self, url: &'static str, name: &str) -> Version {
        self.types[url][name].version()
    }
}

/// The routes of the only virtual host, one line each: `NAME CONDITIONS -> CLUSTER=WEIGHT…`.
pub(crate) fn lines(table: &RouteTable) -> Vec<String> {
    let [host] = table.virtual_hosts() else {
        panic!("{table:?}")
    };
    host.routes.iter().map(line).collect()
}

pub(crate) fn line(route: &Route) -> String {
    use aquifer_core::http::matching::SourceAttribute;
    let source = route.matches.source.iter().map(|s| {
        let value = s.value.as_ref().map(|v| format!("{v:?}")).unwrap_or_default();
        let value = value.split('"').nth(1).unwrap_or("*").to_owned();
        match &s.attribute {
            SourceAttribute::Label(name) => format!("{name}={value}"),
            SourceAttribute::Namespace => format!("namespace={value}"),
        }
    });
    let source = source.collect::<Vec<_>>().join(",");
    let action = match &route.action {
        Action::Forward(forward) => {
            let list = forward
                .destinations
                .iter()
                .map(|d| format!("{}={}", d.cluster, d.weight));
            list.collect::<Vec<_>>().join(" ")
        }
        Action::Redirect(redirect) => format!("redirect {}", redirect.status),
        Action::DirectResponse(direct) => format!("respond {}", direct.status),
    };
    format!("{}[{source}] -> {action}", route.name)
}

pub(crate) fn report<'a>(
    compiled: &'a Compiled,
    kind: &str,
    namespace: &str,
    name: &str,
) -> &'a ObjectReport {
    let found = compiled
        .reports
        .iter()
        .find(|(k, _)| &*k.kind == kind && &*k.namespace == namespace && &*k.name == name);
    found
        .map(|(_, report)| report)
        .unwrap_or_else(|| panic!("no report for {kind} {namespace}/{name}"))
}

pub(crate) fn message(report: &ObjectReport, condition: &str) -> String {
    let found = report.conditions.iter().find(|c| c.kind == condition);
    found
        .map(|c| format!("{} {}: {}", c.status, c.reason, c.message))
        .unwrap_or_default()
}
