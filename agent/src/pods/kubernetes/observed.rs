//! What is kept of a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::places::Sought;

/// The report on a pod, as Istio's tools know it.
pub(super) const REDIRECTION: &str = "ambient.istio.io/redirection";
pub(super) const REDIRECTION_ENABLED: &str = "enabled";
const SIDECAR_STATUS: &str = "sidecar.istio.io/status";
/// A kubelet's own pods: their cgroups carry this hash, not the uid of the object that mirrors them.
const STATIC_POD_HASH: &str = "kubernetes.io/config.hash";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) uid: Arc<str>,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) service_account: Arc<str>,
    pub(super) ips: Vec<IpAddr>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) host_network: bool,
    pub(super) has_sidecar: bool,
    /// Its annotation says that it is enrolled.
    pub(super) advertised: bool,
    /// The object that made it.
    pub(super) owner: Option<Arc<str>>,
    /// In seconds, to tell an earlier pod of an owner from a later.
    pub(super) created: i64,
    /// A container of it runs, ready or not.
    pub(super) runs: bool,
    /// How often its containers were started again.
    pub(super) restarts: i32,
    /// Asked to end.
    pub(super) is_ending: bool,
    /// All its containers have ended for good: its addresses are others' soon.
    pub(super) is_over: bool,
    cgroup_uid: Arc<str>,
}

impl Observed {
    /// Nothing for an object without the fields that every stored pod has.
    pub(super) fn new(pod: Pod) -> Option<Self> {
        let metadata = pod.metadata;
        let uid: Arc<str> = metadata.uid?.into();
        let spec = pod.spec?;
        let status = pod.status.unwrap_or_default();
        let annotations = metadata.annotations.unwrap_or_default();
        let named = status.pod_ips.unwrap_or_default();
        let addresses = named.into_iter().map(|ip| ip.ip);
        let owners = metadata.owner_references.unwrap_or_default();
        let containers = status.container_statuses.unwrap_or_default();
        Some(Self {
            namespace: metadata.namespace?.into(),
            name: metadata.name?.into(),
            service_account: spec
                .service_account_name
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "default".to_owned())
                .into(),
            ips: addresses
                .filter_map(|ip| ip.parse().ok())
                .map(|ip: IpAddr| ip.to_canonical())
                .collect(),
            labels: metadata.labels.unwrap_or_default(),
            host_network: spec.host_network.unwrap_or_default(),
            has_sidecar: annotations.contains_key(SIDECAR_STATUS),
            advertised: annotations.get(REDIRECTION).map(String::as_str) == Some(REDIRECTION_ENABLED),
            owner: owners
                .into_iter()
                .find(|owner| owner.controller == Some(true))
                .map(|owner| owner.uid.into()),
            created: metadata.creation_timestamp.map_or(0, |time| time.0.as_second()),
            restarts: containers.iter().map(|container| container.restart_count).sum(),
            runs: containers
                .into_iter()
                .any(|container| container.state.is_some_and(|state| state.running.is_some())),
            is_ending: metadata.deletion_timestamp.is_some(),
            is_over: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            cgroup_uid: annotations
                .get(STATIC_POD_HASH)
                .map_or_else(|| uid.clone(), |hash| hash.as_str().into()),
            uid,
        })
    }

    /// What there is to look for on the node, if anything, where the pod has these addresses.
    pub(super) fn sought(&self, ips: &[IpAddr]) -> Option<Sought> {
        let sought = !self.host_network && !self.is_over && !ips.is_empty();
        sought.then(|| Sought {
            uid: self.uid.clone(),
            cgroup_uid: self.cgroup_uid.clone(),
            ips: ips.to_vec(),
        })
    }

    /// Whether a container runtime means this pod; one that does not tell uids is taken at its word.
    pub(super) fn is_named(&self, uid: Option<&str>) -> bool {
        uid.is_none_or(|uid| uid == &*self.uid || uid == &*self.cgroup_uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(changes: serde_json::Value) -> Option<Observed> {
        let mut pod = serde_json::json!({
            "metadata": {"uid": "u1", "namespace": "shop", "name": "web", "annotations": {}},
            "spec": {"containers": []},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "::ffff:10.0.0.2"}]},
        });
        merge(&mut pod, changes);
        Observed::new(serde_json::from_value(pod).unwrap())
    }

    fn merge(into: &mut serde_json::Value, changes: serde_json::Value) {
        match (into, changes) {
            (serde_json::Value::Object(into), serde_json::Value::Object(changes)) => {
                for (key, value) in changes {
                    merge(into.entry(key).or_insert(serde_json::Value::Null), value);
                }
            }
            (into, value) => *into = value,
        }
    }

    #[test]
    fn a_pod_is_looked_for_while_it_has_addresses_of_its_own() {
        let pod = observed(serde_json::json!({})).unwrap();
        let sought = pod.sought(&pod.ips).unwrap();
        assert_eq!(sought.ips[1].to_string(), "10.0.0.2");
        assert_eq!((&*sought.cgroup_uid, &*pod.service_account), ("u1", "default"));
        for changes in [
            serde_json::json!({"spec": {"hostNetwork": true}}),
            serde_json::json!({"status": {"phase": "Succeeded"}}),
            serde_json::json!({"status": {"podIPs": []}}),
        ] {
            let pod = observed(changes.clone()).unwrap();
            assert!(pod.sought(&pod.ips).is_none(), "{changes}");
        }
    }

    #[test]
    fn a_static_pods_cgroup_has_another_name() {
        let changes = serde_json::json!({"metadata": {"annotations": {"kubernetes.io/config.hash": "abc"}}});
        let pod = observed(changes).unwrap();
        assert_eq!(&*pod.sought(&pod.ips).unwrap().cgroup_uid, "abc");
        assert!(pod.is_named(Some("abc")) && pod.is_named(Some("u1")) && pod.is_named(None));
        assert!(!pod.is_named(Some("u2")));
    }

    #[test]
    fn only_the_annotations_own_value_counts_as_enrolled() {
        let with = |value: &str| {
            let changes = serde_json::json!({"metadata": {"annotations": {REDIRECTION: value}}});
            observed(changes).unwrap().advertised
        };
        assert!(with("enabled") && !with("disabled") && !with(""));
    }

    #[test]
    fn an_object_that_is_no_stored_pod_is_passed_over() {
        assert!(observed(serde_json::json!({"metadata": {"uid": null}})).is_none());
        assert!(observed(serde_json::json!({"spec": null})).is_none());
    }
}
