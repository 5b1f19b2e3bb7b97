//! Where the lab meets the mesh: its own workloads, enrolment, and what the control plane renders.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use aquifer_core::enrolment::{PodFacts, decide};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::manifest;
use super::super::protocol::Document;
use super::super::store::{Key, update_file};
use super::cluster::Cluster;
use super::complaints::Subject;
use super::pod::{Enrolment, MESH_IMAGES, Pod, Progress};

/// The mesh's own workloads.
const MANIFESTS: &[(&str, &str)] = &[
    (
        "deploy/lab/istio-system.yaml",
        include_str!("../../../../deploy/lab/istio-system.yaml"),
    ),
    (
        "deploy/lab/istiod.yaml",
        include_str!("../../../../deploy/lab/istiod.yaml"),
    ),
    (
        "deploy/lab/ztunnel.yaml",
        include_str!("../../../../deploy/lab/ztunnel.yaml"),
    ),
    (
        "deploy/lab/istio-ingressgateway.yaml",
        include_str!("../../../../deploy/lab/istio-ingressgateway.yaml"),
    ),
];
/// Every namespace gets the root certificate under this name, as istiod does it.
const ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";

/// What an agent writes into its NodePods folder.
#[derive(Debug, Default, Deserialize)]
struct Enrolled {
    #[serde(default)]
    pods: Vec<EnrolledPod>,
}

#[derive(Debug, Deserialize)]
struct EnrolledPod {
    uid: String,
    state: String,
    #[serde(default)]
    reason: String,
}

impl Cluster {
    pub(super) fn install_mesh(&mut self) -> Result<(), String> {
        let documents = MANIFESTS.iter().map(|(origin, text)| Document {
            origin: (*origin).to_owned(),
            text: (*text).to_owned(),
        });
        let documents: Vec<Document> = documents.collect();
        self.apply("istio-system", &documents).map(drop)
    }

    /// Whether the mesh should carry a pod's traffic, from the labels of namespace and pod.
    pub(super) fn reconcile_wanted(&mut self) {
        let namespaces: BTreeMap<String, _> = self
            .store
            .kind("Namespace")
            .map(|(key, value)| (key.name.clone(), manifest::labels(value)))
            .collect();
        let mesh = self.config.mesh;
        for pod in self.pods.values_mut() {
            let labels = namespaces.get(&pod.namespace).cloned().unwrap_or_default();
            let decision = decide(&labels, &pod.labels, facts(pod));
            pod.enrolment.wanted = mesh && decision.is_wanted();
            pod.enrolment.why = decision.because().to_owned();
        }
    }

    /// Tells every node's agent which pods it has, and takes its answers.
    pub(super) fn reconcile_enrolment(&mut self) {
        let layout = self.layout();
        for node in self.nodes.clone() {
            let folder = layout.node_pods(&node.name());
            let pods = self
                .pods
                .values()
                .filter(|pod| pod.node == node && pod.progress != Progress::Nowhere);
            let text = json!({ "pods": pods.map(node_pod).collect::<Vec<_>>() }).to_string();
            let subject = Subject::NodePods(node.name());
            match update_file(&folder.join("pods.json"), text.as_bytes()) {
                Ok(()) => self.complaints.settle(&subject),
                Err(error) => {
                    let message = format!("cannot write the pods of {}: {error}", node.name());
                    self.complaints.raise(subject, message);
                }
            }
            let answer = fs::read(folder.join("enrolled.json")).unwrap_or_default();
            let answer: Enrolled = serde_json::from_slice(&answer).unwrap_or_default();
            let answers: BTreeMap<&str, &EnrolledPod> =
                answer.pods.iter().map(|pod| (pod.uid.as_str(), pod)).collect();
            for pod in self.pods.values_mut().filter(|pod| pod.node == node) {
                take_answer(&mut pod.enrolment, answers.get(pod.uid.as_str()).copied());
            }
        }
    }

    /// Applies what the control plane wants to run, deletes what it wants no longer.
    pub(super) fn reconcile_sink(&mut self) {
        let mut present = BTreeSet::new();
        let Ok(entries) = fs::read_dir(self.layout().sink_objects()) else {
            return;
        };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths
            .iter()
            .filter(|path| path.extension().is_some_and(|end| end == "json" || end == "yaml"))
        {
            // Gone since it was listed: the next event tells.
            let Ok(text) = fs::read_to_string(path) else {
                continue;
            };
            let known = self.sink_texts.get(path);
            if let Some((old, keys)) = known
                && *old == text
                && !self.is_to_come_back(keys)
            {
                present.extend(keys.iter().cloned());
                continue;
            }
            let document = Document {
                origin: path.display().to_string(),
                text: text.clone(),
            };
            match self.apply_keys("default", std::slice::from_ref(&document)) {
                Ok((keys, _)) => {
                    present.extend(keys.iter().cloned());
                    self.complaints.settle(&Subject::Rendered(path.clone()));
                    self.sink_texts.insert(path.clone(), (text, keys));
                }
                Err(reason) => {
                    let message = format!("the control plane's object is refused: {reason}");
                    self.complaints.raise(Subject::Rendered(path.clone()), message);
                }
            }
        }
        self.sink_texts.retain(|path, _| paths.contains(path));
        self.complaints.retain_rendered(&paths);
        for key in self.sink_keys.difference(&present).cloned().collect::<Vec<_>>() {
            self.remove_object(&key);
        }
        self.sink_keys = present;
    }

    /// Whether somebody has deleted what the control plane still wants: Kubernetes tells it of that, and gets it again.
    /// A namespace that is gone takes what it held with it, for as long as it is gone.
    fn is_to_come_back(&self, keys: &[Key]) -> bool {
        let has_home = |key: &&Key| {
            let home = Key::core("Namespace", "", &key.namespace);
            key.namespace.is_empty() || self.store.contains(&home)
        };
        keys.iter().any(|key| !self.store.contains(key)) && keys.iter().all(|key| has_home(&key))
    }

    /// Publishes the root certificate as istiod would: a ConfigMap in every namespace.
    pub(super) fn reconcile_root_certificate(&mut self) {
        let Ok(root) = fs::read_to_string(self.layout().root_certificate()) else {
            return;
        };
        let namespaces: Vec<String> = self
            .store
            .kind("Namespace")
            .map(|(key, _)| key.name.clone())
            .collect();
        for namespace in namespaces {
            let value = json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": { "root-cert.pem": root } });
            self.put_object(&Key::core("ConfigMap", &namespace, ROOT_CONFIG_MAP), value);
        }
        self.has_root = true;
    }

    /// The mesh's proxies read the root certificate when they start: not before it is there.
    pub(super) fn waits_for_root(&self, pod: &Pod) -> bool {
        let proxy = |image: &str| image.starts_with(MESH_IMAGES) && !image.starts_with("aquifer/control");
        let proxies = pod
            .spec
            .containers
            .iter()
            .any(|container| proxy(&container.image));
        self.config.mesh && proxies && !self.has_root
    }
}

/// Set by injection: such a pod brings a proxy of its own.
const SIDECAR_STATUS: &str = "sidecar.istio.io/status";

fn facts(pod: &Pod) -> PodFacts {
    PodFacts {
        host_network: pod.spec.host_network,
        has_sidecar: pod.annotations.contains_key(SIDECAR_STATUS),
    }
}

fn node_pod(pod: &Pod) -> Value {
    json!({
        "uid": pod.uid,
        "namespace": pod.namespace,
        "name": pod.name,
        "serviceAccount": pod.spec.service_account(),
        "ips": pod.addresses,
        "netns": pod.sandbox.netns_path(),
        "cgroup": pod.sandbox.cgroup,
        "wanted": pod.enrolment.wanted,
        "reason": pod.enrolment.why,
    })
}

fn take_answer(enrolment: &mut Enrolment, answer: Option<&EnrolledPod>) {
    enrolment.enrolled = answer.is_some_and(|answer| answer.state == "enrolled");
    enrolment.reason = match answer {
        Some(answer) if answer.reason.is_empty() => format!("the agent says {}", answer.state),
        Some(answer) => format!("the agent says {}: {}", answer.state, answer.reason),
        None => "no answer yet".to_owned(),
    };
}
