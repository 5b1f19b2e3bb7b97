//! The parts of Kubernetes objects that the lab acts upon; all other fields are stored and ignored.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

pub(super) type Labels = BTreeMap<String, String>;

/// Of pods and Services that the control plane has made for a Gateway: its name.
pub(super) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) labels: Labels,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) annotations: Labels,
    pub(super) uid: String,
}

/// Deployment, DaemonSet and StatefulSet.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WorkloadSpec {
    #[serde(default = "one")]
    pub(super) replicas: u16,
    pub(super) selector: Selector,
    pub(super) template: PodTemplate,
    #[serde(default)]
    pub(super) service_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Selector {
    pub(super) match_labels: Labels,
    pub(super) match_expressions: Vec<Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodTemplate {
    #[serde(default)]
    pub(super) metadata: Meta,
    pub(super) spec: PodSpec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    pub(super) containers: Vec<Container>,
    #[serde(default)]
    pub(super) init_containers: Vec<Value>,
    #[serde(default)]
    pub(super) volumes: Vec<Volume>,
    #[serde(default, alias = "serviceAccount")]
    pub(super) service_account_name: Option<String>,
    #[serde(default)]
    pub(super) node_name: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) node_selector: Labels,
    #[serde(default)]
    pub(super) host_network: bool,
    #[serde(default)]
    pub(super) hostname: Option<String>,
    #[serde(default)]
    pub(super) subdomain: Option<String>,
    #[serde(default = "grace_period")]
    pub(super) termination_grace_period_seconds: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    pub(super) name: String,
    #[serde(default)]
    pub(super) image: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) command: Vec<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) working_dir: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) env: Vec<EnvVar>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) env_from: Vec<EnvFrom>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) ports: Vec<ContainerPort>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) volume_mounts: Vec<VolumeMount>,
    #[serde(default)]
    pub(super) readiness_probe: Option<Probe>,
    #[serde(default)]
    pub(super) liveness_probe: Option<Probe>,
    #[serde(default)]
    pub(super) startup_probe: Option<Probe>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EnvVar {
    pub(super) name: String,
    #[serde(default)]
    pub(super) value: Option<String>,
    #[serde(default)]
    pub(super) value_from: Option<EnvSource>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EnvSource {
    #[serde(default)]
    pub(super) field_ref: Option<FieldRef>,
    #[serde(default)]
    pub(super) config_map_key_ref: Option<KeyRef>,
    #[serde(default)]
    pub(super) secret_key_ref: Option<KeyRef>,
    #[serde(default)]
    pub(super) resource_field_ref: Option<ResourceRef>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FieldRef {
    pub(super) field_path: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeyRef {
    pub(super) name: String,
    pub(super) key: String,
    #[serde(default)]
    pub(super) optional: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResourceRef {
    pub(super) resource: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EnvFrom {
    #[serde(default)]
    pub(super) prefix: String,
    #[serde(default)]
    pub(super) config_map_ref: Option<NameRef>,
    #[serde(default)]
    pub(super) secret_ref: Option<NameRef>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct NameRef {
    pub(super) name: String,
    #[serde(default)]
    pub(super) optional: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerPort {
    #[serde(default)]
    pub(super) name: Option<String>,
    pub(super) container_port: u16,
    #[serde(default = "tcp")]
    pub(super) protocol: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct VolumeMount {
    pub(super) name: String,
    pub(super) mount_path: String,
    #[serde(default)]
    pub(super) sub_path: Option<String>,
}

/// A volume by its one source; sources without a field here become an empty folder.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Volume {
    pub(super) name: String,
    #[serde(default)]
    pub(super) config_map: Option<ConfigMapSource>,
    #[serde(default)]
    pub(super) secret: Option<SecretSource>,
    #[serde(default)]
    pub(super) projected: Option<Projected>,
    #[serde(default)]
    pub(super) host_path: Option<HostPath>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ConfigMapSource {
    pub(super) name: String,
    #[serde(default)]
    pub(super) optional: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecretSource {
    pub(super) secret_name: String,
    #[serde(default)]
    pub(super) optional: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Projected {
    #[serde(default)]
    pub(super) sources: Vec<ProjectedSource>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProjectedSource {
    #[serde(default)]
    pub(super) service_account_token: Option<TokenProjection>,
    #[serde(default)]
    pub(super) config_map: Option<ConfigMapSource>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct TokenProjection {
    #[serde(default)]
    pub(super) audience: Option<String>,
    pub(super) path: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct HostPath {
    pub(super) path: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Probe {
    #[serde(default)]
    pub(super) http_get: Option<HttpGet>,
    #[serde(default)]
    pub(super) tcp_socket: Option<TcpSocket>,
    #[serde(default)]
    pub(super) exec: Option<ExecAction>,
    #[serde(default)]
    pub(super) initial_delay_seconds: u32,
    #[serde(default = "ten")]
    pub(super) period_seconds: u32,
    #[serde(default = "one_u32")]
    pub(super) timeout_seconds: u32,
    #[serde(default = "three")]
    pub(super) failure_threshold: u32,
    #[serde(default = "one_u32")]
    pub(super) success_threshold: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HttpGet {
    #[serde(default = "root_path")]
    pub(super) path: String,
    pub(super) port: Port,
    #[serde(default)]
    pub(super) scheme: Option<String>,
    #[serde(default)]
    pub(super) host: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) http_headers: Vec<Header>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) value: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct TcpSocket {
    pub(super) port: Port,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ExecAction {
    pub(super) command: Vec<String>,
}

/// A port number, or the name of a container's port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(super) enum Port {
    Number(u16),
    Name(String),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServiceSpec {
    #[serde(deserialize_with = "null_as_default")]
    pub(super) selector: Labels,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) ports: Vec<ServicePort>,
    pub(super) r#type: Option<String>,
    #[serde(rename = "clusterIP")]
    pub(super) cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs", deserialize_with = "null_as_default")]
    pub(super) cluster_ips: Vec<String>,
    #[serde(deserialize_with = "null_as_default")]
    pub(super) ip_families: Vec<String>,
    pub(super) ip_family_policy: Option<String>,
    pub(super) external_name: Option<String>,
    pub(super) external_traffic_policy: Option<String>,
    pub(super) internal_traffic_policy: Option<String>,
    pub(super) publish_not_ready_addresses: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServicePort {
    #[serde(default)]
    pub(super) name: Option<String>,
    pub(super) port: u16,
    #[serde(default = "tcp")]
    pub(super) protocol: String,
    #[serde(default)]
    pub(super) target_port: Option<Port>,
    #[serde(default)]
    pub(super) node_port: Option<u16>,
    #[serde(default)]
    pub(super) app_protocol: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointSlice {
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) endpoints: Vec<Endpoint>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub(super) ports: Vec<EndpointPort>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoint {
    #[serde(default)]
    pub(super) addresses: Vec<std::net::IpAddr>,
    #[serde(default)]
    pub(super) conditions: Conditions,
    #[serde(default)]
    pub(super) node_name: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Conditions {
    /// Unknown counts as ready (Kubernetes API of EndpointConditions).
    #[serde(default)]
    pub(super) ready: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct EndpointPort {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) port: Option<u16>,
    #[serde(default = "tcp")]
    pub(super) protocol: String,
}

impl PodSpec {
    pub(super) fn service_account(&self) -> &str {
        self.service_account_name
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or("default")
    }

    /// The number of a port given by number or by the name of a container's port.
    pub(super) fn port_number(&self, port: &Port) -> Option<u16> {
        match port {
            Port::Number(number) => Some(*number),
            Port::Name(name) => self
                .containers
                .iter()
                .flat_map(|container| &container.ports)
                .find(|port| port.name.as_deref() == Some(name))
                .map(|port| port.container_port),
        }
    }
}

impl Container {
    /// The readiness probe; where the manifest has none, a look at the first TCP port it declares.
    ///
    /// Kubernetes calls such a container ready at once, and the first requests are refused. `up` promises
    /// more: that what it brought up can be used.
    pub(super) fn readiness(&self) -> Option<Probe> {
        let port = self.ports.iter().find(|port| port.protocol == "TCP");
        let look = port.map(|port| Probe {
            http_get: None,
            tcp_socket: Some(TcpSocket {
                port: Port::Number(port.container_port),
            }),
            exec: None,
            initial_delay_seconds: 0,
            period_seconds: ten(),
            timeout_seconds: one_u32(),
            failure_threshold: three(),
            success_threshold: one_u32(),
        });
        self.readiness_probe.clone().or(look)
    }
}

/// Whether `labels` has all of a non-empty selector.
pub(super) fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// YAML's `key:` without a value is null; Kubernetes takes it for absent.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn one() -> u16 {
    1
}

fn one_u32() -> u32 {
    1
}

fn three() -> u32 {
    3
}

fn ten() -> u32 {
    10
}

fn grace_period() -> u64 {
    30
}

fn tcp() -> String {
    "TCP".to_owned()
}

fn root_path() -> String {
    "/".to_owned()
}
