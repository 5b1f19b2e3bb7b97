//! Manifest text in, checked objects out. Every problem is told with file, object, field and remedy.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use thiserror::Error;

use super::images::ImageMap;
use super::protocol::Document;
use super::spec::{Labels, PodSpec, PodTemplate, Probe, ServiceSpec, WorkloadSpec, selects};
use super::store::{Key, object_field};

/// An object with its place settled.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) key: Key,
    pub(super) value: Value,
}

#[derive(Debug, Error)]
pub(super) enum ManifestError {
    #[error("{origin}: not YAML: {reason}")]
    Syntax { origin: String, reason: String },
    #[error("{origin}: document {number}: {reason}")]
    Shape {
        origin: String,
        number: usize,
        reason: String,
    },
    #[error("{origin}: {kind} {name}: {field}: {reason}")]
    Field {
        origin: String,
        kind: String,
        name: String,
        field: String,
        reason: String,
    },
}

/// Kinds that belong to no namespace.
const CLUSTER_KINDS: &[&str] = &[
    "APIService",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "GatewayClass",
    "IngressClass",
    "MutatingWebhookConfiguration",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PriorityClass",
    "StorageClass",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration",
];

/// Longer names would not fit file and namespace names derived from them.
const MAX_NAME: usize = 150;

/// Reads all documents; objects without a namespace go to `namespace`. Namespaces come first.
pub(super) fn read(documents: &[Document], namespace: &str) -> Result<Vec<Object>, Vec<ManifestError>> {
    let (mut objects, mut errors) = (Vec::new(), Vec::new());
    for document in documents {
        match values(document) {
            Ok(values) => {
                for (index, value) in values.into_iter().enumerate() {
                    match object(&document.origin, index + 1, value, namespace) {
                        Ok(object) => objects.push(object),
                        Err(error) => errors.push(error),
                    }
                }
            }
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    objects.sort_by_key(|object| object.key.kind != "Namespace");
    Ok(objects)
}

/// Checks what the lab itself runs: workloads, pods and Services. Other kinds are the control plane's.
pub(super) fn check(object: &Object, images: &ImageMap) -> Result<(), ManifestError> {
    let checker = Checker { object, images };
    match object.key.kind.as_str() {
        "Deployment" | "DaemonSet" | "StatefulSet" => checker.workload(),
        "Pod" => checker
            .spec::<PodSpec>()
            .and_then(|spec| checker.pod(&spec, "spec")),
        "Service" => checker
            .spec::<ServiceSpec>()
            .and_then(|spec| checker.service(&spec)),
        _ => Ok(()),
    }
}

fn values(document: &Document) -> Result<Vec<Value>, ManifestError> {
    let parsed: Vec<Value> =
        serde_saphyr::from_multiple(&document.text).map_err(|error| ManifestError::Syntax {
            origin: document.origin.clone(),
            reason: error.to_string(),
        })?;
    let mut values = Vec::new();
    for mut value in parsed {
        // `kind: List`, as `kubectl get -o yaml` prints it.
        let is_list = value["kind"] == "List";
        match value.get_mut("items").and_then(Value::as_array_mut) {
            Some(items) if is_list => values.append(items),
            _ => values.push(value),
        }
    }
    Ok(values.into_iter().filter(|value| !value.is_null()).collect())
}

fn object(origin: &str, number: usize, mut value: Value, namespace: &str) -> Result<Object, ManifestError> {
    let shape = |reason: &str| ManifestError::Shape {
        origin: origin.to_owned(),
        number,
        reason: reason.to_owned(),
    };
    if !value.is_object() {
        return Err(shape("expected an object with apiVersion, kind and metadata"));
    }
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let kind = text("/kind").ok_or_else(|| shape("kind is missing or not a string"))?;
    let version = text("/apiVersion").ok_or_else(|| shape("apiVersion is missing or not a string"))?;
    let name = text("/metadata/name")
        .ok_or_else(|| shape(&format!("{kind}: metadata.name is missing or not a string")))?;
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let given = value
        .pointer("/metadata/namespace")
        .filter(|given| !given.is_null());
    let place = match given {
        _ if CLUSTER_KINDS.contains(&kind.as_str()) => "",
        Some(Value::String(given)) => given,
        Some(_) => {
            return Err(shape(&format!(
                "{kind} {name}: metadata.namespace is not a string"
            )));
        }
        None => namespace,
    };
    check_name(&name).map_err(|reason| shape(&format!("{kind}: metadata.name {name:?}: {reason}")))?;
    check_name(place)
        .map_err(|reason| shape(&format!("{kind} {name}: metadata.namespace {place:?}: {reason}")))?;
    check_kind(&kind).map_err(|reason| shape(&format!("kind {kind:?}: {reason}")))?;
    let key = Key::new(&kind, group, place, &name);
    check_labels(&value).map_err(|field| ManifestError::Field {
        origin: origin.to_owned(),
        kind: kind.clone(),
        name: name.clone(),
        field,
        reason: "expected text for every key (quote numbers and booleans)".to_owned(),
    })?;
    // Where it came from, for errors found later; removed before it is stored.
    object_field(&mut value, "metadata").insert(ORIGIN.to_owned(), Value::String(origin.to_owned()));
    Ok(Object { key, value })
}

const ORIGIN: &str = "lab-origin";

impl Object {
    /// The object without the lab's own mark.
    pub(super) fn into_value(mut self) -> Value {
        object_field(&mut self.value, "metadata").remove(ORIGIN);
        self.value
    }
}

/// Names become parts of file, namespace and cgroup names.
fn check_name(name: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b':' | b'_');
    if name.len() > MAX_NAME {
        return Err(format!("longer than {MAX_NAME} bytes"));
    }
    if name.bytes().all(good) && !name.starts_with(['.', '-']) {
        return Ok(());
    }
    Err("expected lower-case letters, digits, '-' and '.'".to_owned())
}

fn check_kind(kind: &str) -> Result<(), &'static str> {
    if !kind.is_empty() && kind.len() < 64 && kind.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(());
    }
    Err("expected letters and digits")
}

fn check_labels(value: &Value) -> Result<(), String> {
    for field in ["labels", "annotations"] {
        let Some(labels) = value["metadata"].get(field).filter(|labels| !labels.is_null()) else {
            continue;
        };
        let texts = labels
            .as_object()
            .is_some_and(|labels| labels.values().all(Value::is_string));
        if !texts {
            return Err(format!("metadata.{field}"));
        }
    }
    Ok(())
}

struct Checker<'a> {
    object: &'a Object,
    images: &'a ImageMap,
}

impl Checker<'_> {
    fn error(&self, field: &str, reason: impl Into<String>) -> ManifestError {
        let origin = self.object.value["metadata"][ORIGIN]
            .as_str()
            .unwrap_or("manifest");
        ManifestError::Field {
            origin: origin.to_owned(),
            kind: self.object.key.kind.clone(),
            name: self.object.key.name.clone(),
            field: field.to_owned(),
            reason: reason.into(),
        }
    }

    fn spec<T: DeserializeOwned>(&self) -> Result<T, ManifestError> {
        let empty = Value::Object(Map::new());
        let spec = self.object.value.get("spec").unwrap_or(&empty);
        serde_path_to_error::deserialize(spec).map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." {
                "spec".to_owned()
            } else {
                format!("spec.{path}")
            };
            self.error(&field, error.into_inner().to_string())
        })
    }

    fn workload(&self) -> Result<(), ManifestError> {
        let spec: WorkloadSpec = self.spec()?;
        if !spec.selector.match_expressions.is_empty() {
            return Err(self.error("spec.selector.matchExpressions", "the lab knows matchLabels only"));
        }
        let PodTemplate { metadata, spec: pod } = &spec.template;
        if !selects(&spec.selector.match_labels, &metadata.labels) {
            let reason = "must not be empty, and the labels of the template must have all of it";
            return Err(self.error("spec.selector.matchLabels", reason));
        }
        self.pod(pod, "spec.template.spec")
    }

    fn pod(&self, pod: &PodSpec, at: &str) -> Result<(), ManifestError> {
        if pod.containers.is_empty() {
            return Err(self.error(&format!("{at}.containers"), "expected at least one"));
        }
        if !pod.init_containers.is_empty() {
            return Err(self.error(&format!("{at}.initContainers"), "the lab runs none; remove them"));
        }
        let unknown = |key: &&String| key.as_str() != HOSTNAME_LABEL && key.as_str() != OS_LABEL;
        if let Some(key) = pod.node_selector.keys().find(unknown) {
            let reason =
                format!("the lab's nodes have no label {key:?}, only {HOSTNAME_LABEL} and {OS_LABEL}");
            return Err(self.error(&format!("{at}.nodeSelector"), reason));
        }
        for (index, container) in pod.containers.iter().enumerate() {
            let at = format!("{at}.containers[{index}]");
            if container.command.is_empty() {
                let command = self.images.command(&container.image);
                command.map_err(|error| self.error(&format!("{at}.image"), error.to_string()))?;
            }
            self.probe(
                pod,
                container.readiness_probe.as_ref(),
                &format!("{at}.readinessProbe"),
            )?;
            self.probe(
                pod,
                container.liveness_probe.as_ref(),
                &format!("{at}.livenessProbe"),
            )?;
            self.probe(
                pod,
                container.startup_probe.as_ref(),
                &format!("{at}.startupProbe"),
            )?;
            for mount in &container.volume_mounts {
                if !pod.volumes.iter().any(|volume| volume.name == mount.name) {
                    let reason = format!("no volume {:?} in spec.volumes", mount.name);
                    return Err(self.error(&format!("{at}.volumeMounts"), reason));
                }
            }
        }
        Ok(())
    }

    fn probe(&self, pod: &PodSpec, probe: Option<&Probe>, at: &str) -> Result<(), ManifestError> {
        let Some(probe) = probe else { return Ok(()) };
        let port = match (&probe.http_get, &probe.tcp_socket, &probe.exec) {
            (Some(http), None, None) => {
                if http.scheme.as_deref().is_some_and(|scheme| scheme != "HTTP") {
                    return Err(self.error(&format!("{at}.httpGet.scheme"), "the lab probes plain HTTP only"));
                }
                &http.port
            }
            (None, Some(tcp), None) => &tcp.port,
            (None, None, Some(_)) => return Ok(()),
            _ => return Err(self.error(at, "expected one of httpGet, tcpSocket and exec")),
        };
        match pod.port_number(port) {
            Some(_) => Ok(()),
            None => Err(self.error(at, format!("no container port is named {port:?}"))),
        }
    }

    fn service(&self, spec: &ServiceSpec) -> Result<(), ManifestError> {
        let kind = spec.r#type.as_deref().unwrap_or("ClusterIP");
        if !["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"].contains(&kind) {
            return Err(self.error("spec.type", format!("no Service type {kind:?}")));
        }
        let headless = spec.cluster_ip.as_deref() == Some("None");
        if spec.ports.is_empty() && kind != "ExternalName" && !headless {
            return Err(self.error("spec.ports", "expected at least one"));
        }
        for (index, port) in spec.ports.iter().enumerate() {
            if port.port == 0 || !["TCP", "UDP"].contains(&port.protocol.as_str()) {
                let reason = "expected a port from 1 to 65535 with protocol TCP or UDP";
                return Err(self.error(&format!("spec.ports[{index}]"), reason));
            }
            let twin = spec.ports[..index].iter().any(|other| other.name == port.name);
            if twin {
                return Err(self.error(&format!("spec.ports[{index}].name"), "names of ports must differ"));
            }
        }
        Ok(())
    }
}

pub(super) const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";
pub(super) const OS_LABEL: &str = "kubernetes.io/os";

/// The labels of an object.
pub(super) fn labels(value: &Value) -> Labels {
    super::store::part(value, "/metadata/labels").unwrap_or_default()
}

#[cfg(test)]
mod tests;
