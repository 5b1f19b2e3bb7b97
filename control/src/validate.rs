//! The one validator: what `aquifer analyze` and the admission webhook say about objects.
//!
//! It asks the control plane itself: documents are parsed, put into a store of their own beside what the cluster has,
//! and compiled, so that a finding is what would happen and not what a second set of rules believes. What manifests
//! alone do not show (pods, the mesh's own gateways) is filled in by [`preview`].

mod admission;
mod checks;
mod finding;
mod preview;
mod secrets;
mod suggest;
mod world;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use aquifer_core::identity::TrustDomain;

use crate::compile::waypoints::Binding;
use crate::compile::{Carry, Compiled, Moment, Settings, compile};
use crate::objects::{ObjectKey, RawObject, is_mesh_kind};
use crate::source::document;
use crate::store::Store;

pub use admission::{Verdict, judge};
pub use finding::{Finding, Level};
pub use secrets::{SecretName, references};
use world::World;

/// A text with objects, and where it stands.
#[derive(Clone, Debug)]
pub struct Document {
    pub origin: Arc<str>,
    pub bytes: Vec<u8>,
}

/// An object, and where it stands.
pub type Placed = (Arc<str>, Arc<RawObject>);

/// How much of the cluster is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Manifests only: what they do not mention may well exist.
    Files,
    /// All that the mesh reads of a cluster.
    Cluster,
}

#[derive(Clone, Debug)]
pub struct Input {
    /// What is to be judged.
    pub documents: Vec<Document>,
    /// What is there already; judged itself where there are no documents.
    pub background: Vec<Document>,
    pub view: View,
    /// For objects that name no namespace.
    pub namespace: Arc<str>,
    pub mesh: Mesh,
    /// What certificates' lifetimes are compared with.
    pub now: SystemTime,
}

/// What the control plane runs with.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// Its own namespace, where the mesh's settings are.
    pub namespace: Arc<str>,
    pub root_namespace: Arc<str>,
    pub trust_domain: TrustDomain,
}

impl Mesh {
    /// As the chart has it where nobody says otherwise.
    pub fn in_namespace(namespace: &str) -> Self {
        Self {
            namespace: namespace.into(),
            root_namespace: namespace.into(),
            trust_domain: TrustDomain::default(),
        }
    }
}

/// The objects of the documents that can be read, and a finding for each part that cannot.
pub fn read(documents: &[Document], namespace: &str) -> (Vec<Placed>, Vec<Finding>) {
    let mut objects = Vec::new();
    let mut findings = Vec::new();
    for document in documents {
        let parsed = document::parse(&document.bytes);
        let problems = parsed.problems.iter();
        findings.extend(problems.map(|problem| Finding::unreadable(&document.origin, problem)));
        let named = parsed.objects.into_iter().map(|o| in_namespace(o, namespace));
        objects.extend(named.map(|object| (document.origin.clone(), object)));
    }
    (objects, findings)
}

/// Judges the documents; the worst findings first.
pub fn validate(input: &Input) -> Vec<Finding> {
    let (judged, mut findings) = read(&input.documents, &input.namespace);
    let (background, unread) = read(&input.background, &input.namespace);
    if input.documents.is_empty() {
        findings.extend(unread);
    }
    let world = World::new(&judged, &background, input);
    let store = world.store(&mut findings);
    let compiled = settled(&store, &Arc::new(settings(&input.mesh)));
    for (key, origin, object) in store.objects() {
        if world.is_judged(key) {
            findings.extend(finding::of_object(&world, &compiled, origin, object));
        }
    }
    let checks = checks::Checks {
        world: &world,
        compiled: &compiled,
        store: &store,
        now: input.now,
    };
    findings.extend(checks.all());
    finding::sort(&mut findings);
    findings
}

fn settings(mesh: &Mesh) -> Settings {
    Settings {
        cluster_id: "Kubernetes".into(),
        network: "".into(),
        trust_domain: mesh.trust_domain.clone(),
        namespace: mesh.namespace.clone(),
        root_namespace: mesh.root_namespace.clone(),
        waypoint_image: "aquifer/waypoint".into(),
        automatic_waypoints: true,
        waypoint_linger: std::time::Duration::ZERO,
        deployment: crate::compile::Deployment::default(),
    }
}

/// Compiles as if every waypoint that is wanted were ready: whether one is belongs to `aquifer status`.
fn settled(store: &Store, settings: &Arc<Settings>) -> Compiled {
    #[allow(
        clippy::disallowed_methods,
        reason = "the edge: nothing of the result depends on the time"
    )]
    let now = std::time::Instant::now();
    let moment = Moment {
        now,
        generation: 1,
        in_effect: std::collections::BTreeMap::new(),
    };
    let first = compile(store, settings, &Carry::default(), &moment);
    let bindings = first.waypoints.bindings.iter();
    let waiting = bindings.filter_map(|(service, binding)| match binding {
        Binding::Waiting(waypoint) => Some((service.clone(), waypoint.clone())),
        _ => None,
    });
    let carry = Carry {
        bound: waiting.collect(),
        ..Carry::default()
    };
    if carry.bound.is_empty() {
        return first;
    }
    compile(store, settings, &carry, &moment)
}

/// The reader gives objects without a namespace to `default`; here the caller says.
fn in_namespace(object: Arc<RawObject>, namespace: &str) -> Arc<RawObject> {
    let unsaid = object
        .value
        .pointer("/metadata/namespace")
        .is_none_or(|n| n.is_null() || n == "");
    if !unsaid || object.key.namespace.is_empty() || &*object.key.namespace == namespace {
        return object;
    }
    let mut object = Arc::unwrap_or_clone(object);
    object.key.namespace = namespace.into();
    object.value["metadata"]["namespace"] = namespace.into();
    Arc::new(object)
}

/// Whether findings about objects of this kind are worth a line.
fn is_of_interest(key: &ObjectKey) -> bool {
    is_mesh_kind(key)
        || (key.group.is_empty() && matches!(&*key.kind, "Service" | "ConfigMap" | "Namespace" | "Pod"))
}
