//! Applying and deleting objects.

use serde_json::{Value, json};

use super::super::manifest::{self, ManifestError, Object};
use super::super::protocol::Document;
use super::super::protocol::Response;
use super::super::spec::{Meta, PodSpec};
use super::super::store::{Change, Key};
use super::Reply;
use super::cluster::Cluster;
use super::workloads::stop;

impl Cluster {
    /// Checks all documents, then stores them: all or nothing.
    pub(super) fn apply(&mut self, namespace: &str, documents: &[Document]) -> Result<Vec<String>, String> {
        self.apply_keys(namespace, documents).map(|(_, lines)| lines)
    }

    pub(super) fn apply_keys(
        &mut self,
        namespace: &str,
        documents: &[Document],
    ) -> Result<(Vec<Key>, Vec<String>), String> {
        let objects = manifest::read(documents, namespace).map_err(|errors| listed(&errors))?;
        let images = &self.config.images;
        let errors: Vec<_> = objects
            .iter()
            .filter_map(|object| manifest::check(object, images).err())
            .collect();
        if !errors.is_empty() {
            return Err(listed(&errors));
        }
        let (mut keys, mut lines) = (Vec::new(), Vec::new());
        for object in objects {
            lines.extend(self.ensure_namespace(&object.key.namespace));
            keys.push(object.key.clone());
            lines.push(self.store_object(object)?);
        }
        Ok((keys, lines))
    }

    /// A namespace that nobody applied is made without labels, and the client is told.
    fn ensure_namespace(&mut self, name: &str) -> Option<String> {
        let key = Key::core("Namespace", "", name);
        if name.is_empty() || self.store.contains(&key) {
            return None;
        }
        self.create_namespace(
            name,
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } }),
        );
        Some(format!(
            "namespace/{name} created without labels, because an object names it"
        ))
    }

    pub(super) fn create_namespace(&mut self, name: &str, mut value: Value) -> Change {
        // Selectors find namespaces by this label (KEP 2161).
        let labels = value["metadata"]["labels"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        value["metadata"]["labels"] = Value::Object(labels);
        value["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(name);
        value["status"] = json!({ "phase": "Active" });
        let change = self.put_object(&Key::core("Namespace", "", name), value);
        let account = Key::core("ServiceAccount", name, "default");
        if !self.store.contains(&account) {
            self.put_object(&account, json!({ "apiVersion": "v1", "kind": "ServiceAccount" }));
        }
        change
    }

    fn store_object(&mut self, object: Object) -> Result<String, String> {
        let key = object.key.clone();
        let mut value = object.into_value();
        let change = match key.kind.as_str() {
            "Namespace" => self.create_namespace(&key.name, value),
            "Pod" => self.store_pod(&key, value)?,
            "Service" => {
                self.complete_service(&key, &mut value)
                    .map_err(|reason| format!("{key}: {reason}"))?;
                self.put_object(&key, value)
            }
            _ => self.put_object(&key, value),
        };
        Ok(format!("{key} {}", change.word()))
    }

    /// A bare pod. Its spec cannot change: Kubernetes refuses that as well.
    fn store_pod(&mut self, key: &Key, value: Value) -> Result<Change, String> {
        if let Some(pod) = self.pods.get_mut(&(key.namespace.clone(), key.name.clone())) {
            if pod.manifest["spec"] != value["spec"] {
                return Err(format!("{key}: a pod's spec cannot be changed: delete it first"));
            }
            pod.labels = manifest::labels(&value);
            return Ok(Change::Configured);
        }
        let spec: PodSpec =
            super::super::store::part(&value, "/spec").ok_or_else(|| format!("{key}: no spec"))?;
        let mut meta: Meta = super::super::store::part(&value, "/metadata").unwrap_or_default();
        meta.namespace = Some(key.namespace.clone());
        self.add_pod(meta, spec, value, None, None)
            .map_err(|reason| format!("{key}: {reason}"))?;
        Ok(Change::Created)
    }

    /// Deletes what the documents name; the answer comes when their pods are gone.
    pub(super) fn delete(&mut self, namespace: &str, documents: &[Document]) -> Reply {
        let objects = match manifest::read(documents, namespace) {
            Ok(objects) => objects,
            Err(errors) => return error(&listed(&errors)),
        };
        let (mut lines, mut missing) = (Vec::new(), Vec::new());
        // Namespaces last: what is named in them is then reported by name.
        for object in objects.iter().rev() {
            let known = self.store.contains(&object.key);
            let list = if known { &mut lines } else { &mut missing };
            list.push(format!(
                "{} {}",
                object.key,
                if known { "deleted" } else { "not found" }
            ));
            self.delete_object(&object.key);
        }
        self.reconcile_workloads();
        let stopping = self
            .pods
            .values()
            .filter(|pod| pod.is_stopping() || self.never_starts(pod));
        let uids = stopping.map(|pod| pod.uid.clone()).collect();
        if missing.is_empty() {
            return Reply::WhenGone { lines, uids };
        }
        missing.extend(lines);
        error(&missing.join("\n"))
    }

    fn delete_object(&mut self, key: &Key) {
        if key.kind == "Namespace" {
            let inside: Vec<Key> = self
                .store
                .keys()
                .filter(|other| other.namespace == key.name)
                .cloned()
                .collect();
            for other in inside {
                self.delete_object(&other);
            }
        }
        match self.pods.get_mut(&(key.namespace.clone(), key.name.clone())) {
            // The object stays until the pod is gone.
            Some(pod) if key.kind == "Pod" => stop(pod),
            _ => self.remove_object(key),
        }
    }
}

fn listed(errors: &[ManifestError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    format!("{}\nnothing was applied", lines.join("\n"))
}

fn error(message: &str) -> Reply {
    Reply::Now(Response::Error {
        message: message.to_owned(),
    })
}
