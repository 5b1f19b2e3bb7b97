//! The judged documents beside what is known of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use crate::model::host::destination_host;
use crate::model::virtual_service::CLUSTER_DOMAIN;
use crate::objects::{NETWORKING, ObjectKey, ParsedObject, RawObject};
use crate::store::{SourceEvent, Store};
use crate::validate::finding::{Finding, Level};
use crate::validate::{Input, Mesh, Placed, View, is_of_interest, preview};

pub(super) struct World<'a> {
    judged: &'a [Placed],
    background: &'a [Placed],
    judged_keys: BTreeSet<ObjectKey>,
    /// Namespaces whose Services or Gateways are given: what is not among them does not exist.
    described: BTreeSet<Arc<str>>,
    pub(super) view: View,
    mesh: &'a Mesh,
}

impl<'a> World<'a> {
    pub(super) fn new(judged: &'a [Placed], background: &'a [Placed], input: &'a Input) -> Self {
        let subject = if input.documents.is_empty() {
            background
        } else {
            judged
        };
        let keys = subject.iter().map(|(_, o)| o.key.clone()).filter(is_of_interest);
        let both = judged.iter().chain(background);
        let describes = |key: &ObjectKey| {
            (key.group.is_empty() && &*key.kind == "Service")
                || (&*key.group == NETWORKING && &*key.kind == "Gateway")
        };
        let described = both
            .filter(|(_, o)| describes(&o.key))
            .map(|(_, o)| o.key.namespace.clone());
        Self {
            judged,
            background,
            judged_keys: keys.collect(),
            described: described.collect(),
            view: input.view,
            mesh: &input.mesh,
        }
    }

    pub(super) fn is_judged(&self, key: &ObjectKey) -> bool {
        self.judged_keys.contains(key)
    }

    /// Everything in one store: the documents over the background, and what both imply.
    pub(super) fn store(&self, findings: &mut Vec<Finding>) -> Store {
        let mut objects: BTreeMap<ObjectKey, Placed> = BTreeMap::new();
        for (origin, object) in self.background {
            objects.insert(object.key.clone(), (origin.clone(), object.clone()));
        }
        let mut seen: BTreeMap<&ObjectKey, &Arc<str>> = BTreeMap::new();
        for (i, (origin, object)) in self.judged.iter().enumerate() {
            if let Some(first) = seen.insert(&object.key, origin) {
                findings.push(duplicate(&object.key, origin, first));
            }
            let dated = dated(object, i, objects.get(&object.key));
            objects.insert(object.key.clone(), (origin.clone(), dated));
        }
        let implied = preview::of(
            objects.values().map(|(_, o)| &**o),
            self.view,
            &self.mesh.root_namespace,
        );
        let mut store = Store::of_mesh(&self.mesh.namespace);
        for object in implied {
            objects
                .entry(object.key.clone())
                .or_insert_with(|| ("preview".into(), Arc::new(object)));
        }
        for (origin, object) in objects.into_values() {
            store.apply(SourceEvent::Applied { origin, object });
        }
        store
    }

    /// How bad it is that a field names something that is not there.
    pub(super) fn unresolved(&self, object: &ParsedObject, field: &str) -> Level {
        let known = self.view == View::Cluster || self.names_described(object, field);
        let later = field == "spec.host" || field.starts_with("spec.hosts") || field == "spec.selector";
        match (known, later) {
            (false, _) => Level::Info,
            (true, true) => Level::Warning,
            (true, false) => Level::Error,
        }
    }

    /// Whether the input tells what exists where the field points to.
    fn names_described(&self, object: &ParsedObject, field: &str) -> bool {
        if field == "spec.selector" || names_secret(field) {
            return false;
        }
        match namespace_of(object, field) {
            Some(namespace) => self.described.contains(&*namespace),
            // A name outside the cluster would need a ServiceEntry.
            None => true,
        }
    }
}

/// Secrets are seldom among manifests.
pub(super) fn names_secret(field: &str) -> bool {
    let name = field.rsplit('.').next().unwrap_or(field);
    name.starts_with("credentialName")
        || name == "caCertCredentialName"
        || name.starts_with("certificateRefs")
}

/// The namespace that the text at `field` points into; `None` for a name outside the cluster.
fn namespace_of(object: &ParsedObject, field: &str) -> Option<String> {
    let own = object.raw.key.namespace.to_string();
    let found = at(&object.raw.value, field)?;
    let text = found.as_str().or_else(|| found.get("host")?.as_str())?;
    if field.starts_with("spec.gateways") {
        return Some(
            text.split_once('/')
                .map_or(own, |(namespace, _)| namespace.to_owned()),
        );
    }
    let host = destination_host(text, &own, CLUSTER_DOMAIN, field).ok()?;
    let inner = host.strip_suffix(&format!(".svc.{CLUSTER_DOMAIN}"))?;
    inner.split_once('.').map(|(_, namespace)| namespace.to_owned())
}

/// The value at a path such as `spec.http[0].route[1].destination`.
pub(super) fn at<'v>(value: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(value, |value, part| {
        let (name, indices) = part
            .split_once('[')
            .map_or((part, ""), |(name, rest)| (name, rest));
        let start = value.get(name)?;
        let indices = indices.split('[').filter_map(|i| i.strip_suffix(']'));
        indices
            .into_iter()
            .try_fold(start, |list, index| list.get(index.parse::<usize>().ok()?))
    })
}

fn duplicate(key: &ObjectKey, origin: &str, first: &str) -> Finding {
    Finding::of(key, origin, Level::Warning, "Duplicate")
        .at(
            "metadata.name",
            format!("the same object stands in {first}; the later one is in effect"),
        )
        .remedy("take one of them out, or rename it")
}

/// A new object is younger than all that are there; a changed one keeps its age.
fn dated(object: &Arc<RawObject>, index: usize, there: Option<&Placed>) -> Arc<RawObject> {
    let own = object
        .value
        .pointer("/metadata/creationTimestamp")
        .is_some_and(Value::is_string);
    if own || !object.value.get("metadata").is_some_and(Value::is_object) {
        return object.clone();
    }
    let old = there.and_then(|(_, o)| o.value.pointer("/metadata/creationTimestamp").cloned());
    let mut dated = RawObject::clone(object);
    // Texts sort as times do, also beyond the last second of the last year.
    dated.value["metadata"]["creationTimestamp"] = old.unwrap_or_else(|| format!("9999-{index:09}").into());
    Arc::new(dated)
}
