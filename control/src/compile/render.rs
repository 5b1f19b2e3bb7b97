//! The objects of a proxy that the control plane deploys: Deployment, Service, ServiceAccount.

mod overlay;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::compile::discovery::WAYPOINT_CLASS;
use crate::compile::gateway_api::classes;
use crate::compile::gateway_api::listeners::{OpenGateway, OpenListener};
use crate::compile::parameters::Overlays;
use crate::compile::waypoints::{GATEWAY_NAME_LABEL, HBONE_PORT, MANAGED_BY, MANAGED_LABEL, WaypointKey};
use crate::compile::{Compiled, Settings};
use crate::kubernetes::kinds::ROOT_CONFIG_MAP;
use crate::kubernetes::{MADE_BY, MADE_BY_LABEL};
use crate::model::gateway::ServerKind;
use crate::objects::gateway_api::Infrastructure;
use crate::objects::{GATEWAY_API, ObjectKey};

/// Nobody: the images' own user.
const USER: u32 = 65532;
/// The value of the label of what is made for a Gateway that is no waypoint.
pub const GATEWAY_MANAGED_BY: &str = "istio.io-gateway-controller";
/// LoadBalancer, NodePort or ClusterIP.
const SERVICE_TYPE: &str = "networking.istio.io/service-type";
/// A ServiceAccount that is there, instead of one that is made.
const SERVICE_ACCOUNT: &str = "gateway.istio.io/service-account";

/// Group, kind and the object itself.
type Made = (&'static str, &'static str, Value);

/// A proxy as it is to be deployed.
pub struct Proxy<'a> {
    namespace: &'a str,
    /// Name of the Gateway object, or what it would be called.
    gateway: &'a str,
    /// Name of the objects.
    name: &'a str,
    class: &'a str,
    role: Role,
    /// The account that it has, where that is not its own.
    account: Option<&'a str>,
    service_type: &'a str,
    address: Option<&'a str>,
    /// Ports of the Service beside that for its health.
    ports: Vec<Value>,
    infrastructure: Infrastructure,
    overlays: &'a Overlays,
    /// UID of the Gateway object; empty without one.
    owner: &'a str,
    /// What the mesh's settings say of access logs, where they say something.
    access_log: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Waypoint,
    Gateway,
}

impl<'a> Proxy<'a> {
    pub fn waypoint(
        key: &'a WaypointKey,
        owner: &'a str,
        infrastructure: Infrastructure,
        overlays: &'a Overlays,
    ) -> Self {
        Self {
            namespace: &key.namespace,
            gateway: &key.name,
            name: &key.name,
            class: WAYPOINT_CLASS,
            role: Role::Waypoint,
            account: None,
            service_type: "ClusterIP",
            address: None,
            ports: vec![
                json!({ "name": "mesh", "port": HBONE_PORT, "protocol": "TCP", "appProtocol": "all" }),
            ],
            infrastructure,
            overlays,
            owner,
            access_log: None,
        }
    }

    /// Whether it writes an access log; by its own default where nothing is said.
    pub fn logging(self, access_log: Option<bool>) -> Self {
        Self { access_log, ..self }
    }

    /// `None` for a Gateway that is served by pods of somebody else's making.
    pub fn gateway(gateway: &'a OpenGateway, overlays: &'a Overlays) -> Option<Self> {
        let meta = &gateway.entry.meta;
        let annotation = |key| meta.annotations.get(key).map(|v| &**v).filter(|v| !v.is_empty());
        let spec = &gateway.entry.spec;
        let ip = spec
            .addresses
            .iter()
            .find(|a| a.kind.as_deref().unwrap_or("IPAddress") == "IPAddress");
        Some(Self {
            namespace: &meta.namespace,
            gateway: &meta.name,
            name: gateway.deployed.as_ref()?,
            class: &spec.gateway_class_name,
            role: Role::Gateway,
            account: annotation(SERVICE_ACCOUNT),
            service_type: annotation(SERVICE_TYPE)
                .filter(|t| ["LoadBalancer", "NodePort", "ClusterIP"].contains(t))
                .unwrap_or("LoadBalancer"),
            address: ip.map(|a| &*a.value),
            ports: listening_ports(gateway),
            infrastructure: spec.infrastructure.clone(),
            overlays,
            owner: &meta.uid,
            access_log: None,
        })
    }

    /// The objects to apply.
    pub fn objects(&self, settings: &Settings) -> BTreeMap<ObjectKey, Value> {
        let account = self.account.is_none().then(|| self.service_account());
        let objects = account
            .into_iter()
            .chain([self.service(), self.deployment(settings)])
            .chain(self.on_request());
        let complete = |(group, kind, value): Made| {
            let key = ObjectKey::new(group, kind, self.namespace, self.name);
            (key, self.completed(kind, value, settings))
        };
        objects.map(complete).collect()
    }

    /// What is made only where the user has something to say about it.
    fn on_request(&self) -> Vec<Made> {
        let asked = |made: &Made| self.overlays.of(made.1).is_some();
        [self.autoscaler(), self.disruption_budget()]
            .into_iter()
            .filter(asked)
            .collect()
    }

    /// With what the user lays over it; what it is and whose it is stays.
    fn completed(&self, kind: &str, mut value: Value, settings: &Settings) -> Value {
        let made = value.clone();
        if let Some(over) = self.overlays.of(kind) {
            overlay::lay(over, &mut value);
        }
        for field in ["apiVersion", "kind"] {
            value[field] = made[field].clone();
        }
        let metadata = &mut value["metadata"];
        overlay::lay(&made["metadata"], metadata);
        metadata["labels"][MADE_BY_LABEL] = json!(MADE_BY);
        if settings.deployment.owned && !self.owner.is_empty() {
            metadata["ownerReferences"] = json!([self.owner_reference()]);
        }
        if kind == "Deployment" && self.overlays.of("HorizontalPodAutoscaler").is_some() {
            // The number of pods is the autoscaler's to decide.
            value["spec"].as_object_mut().map(|spec| spec.remove("replicas"));
        }
        value
    }

    fn autoscaler(&self) -> Made {
        let target = json!({ "apiVersion": "apps/v1", "kind": "Deployment", "name": self.name });
        let value = json!({
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": self.metadata(),
            "spec": { "scaleTargetRef": target, "maxReplicas": 1 },
        });
        ("autoscaling", "HorizontalPodAutoscaler", value)
    }

    fn disruption_budget(&self) -> Made {
        let value = json!({
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": self.metadata(),
            "spec": { "selector": { "matchLabels": { GATEWAY_NAME_LABEL: self.gateway } } },
        });
        ("policy", "PodDisruptionBudget", value)
    }

    /// The Gateway object: the cluster deletes what it owns with it.
    fn owner_reference(&self) -> Value {
        json!({
            "apiVersion": format!("{GATEWAY_API}/v1"),
            "kind": "Gateway",
            "name": self.gateway,
            "uid": self.owner,
            "controller": true,
        })
    }

    /// The user's own, under those that the mesh relies on.
    fn labels(&self) -> Value {
        let managed = match self.role {
            Role::Waypoint => MANAGED_BY,
            Role::Gateway => GATEWAY_MANAGED_BY,
        };
        let own = json!({
            GATEWAY_NAME_LABEL: self.gateway,
            "gateway.networking.k8s.io/gateway-class-name": self.class,
            MANAGED_LABEL: managed,
            "istio.io/dataplane-mode": "none",
            "sidecar.istio.io/inject": "false",
            "service.istio.io/canonical-name": self.name,
            "service.istio.io/canonical-revision": "latest",
        });
        over(&self.infrastructure.labels, own)
    }

    fn metadata(&self) -> Value {
        let mut metadata = json!({ "name": self.name, "namespace": self.namespace, "labels": self.labels() });
        if !self.infrastructure.annotations.is_empty() {
            metadata["annotations"] = over(&self.infrastructure.annotations, json!({}));
        }
        metadata
    }

    fn service_account(&self) -> Made {
        let value = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": self.metadata() });
        ("", "ServiceAccount", value)
    }

    fn service(&self) -> Made {
        let status =
            [json!({ "name": "status-port", "port": 15021, "protocol": "TCP", "appProtocol": "tcp" })];
        let mut value = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": self.metadata(),
            "spec": {
                "type": self.service_type,
                "ipFamilyPolicy": "PreferDualStack",
                "selector": { GATEWAY_NAME_LABEL: self.gateway },
                "ports": status.into_iter().chain(self.ports.iter().cloned()).collect::<Vec<_>>(),
            },
        });
        if let Some(address) = self.address.filter(|_| self.service_type == "LoadBalancer") {
            value["spec"]["loadBalancerIP"] = json!(address);
        }
        ("", "Service", value)
    }

    fn deployment(&self, settings: &Settings) -> Made {
        let value = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": self.metadata(),
            "spec": {
                "replicas": 1,
                // As the chart's gateways: the new one is ready before an old one is told to end.
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
                "selector": { "matchLabels": { GATEWAY_NAME_LABEL: self.gateway } },
                "template": {
                    "metadata": {
                        "labels": self.labels(),
                        "annotations": over(&self.infrastructure.annotations, json!({
                            "prometheus.io/scrape": "true",
                            "prometheus.io/port": "15020",
                            "prometheus.io/path": "/stats/prometheus",
                        })),
                    },
                    "spec": self.pod_spec(settings),
                },
            },
        });
        ("apps", "Deployment", value)
    }

    fn pod_spec(&self, settings: &Settings) -> Value {
        let secrets = &settings.deployment.pull_secrets;
        let secrets: Vec<Value> = secrets.iter().map(|name| json!({ "name": **name })).collect();
        let mut spec = json!({
            "serviceAccountName": self.account.unwrap_or(self.name),
            // It speaks to the control plane, never to the API server.
            "automountServiceAccountToken": false,
            "imagePullSecrets": secrets,
            "terminationGracePeriodSeconds": 30,
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "nodeSelector": { "kubernetes.io/os": "linux" },
            "containers": [self.container(settings)],
            "volumes": [
                {
                    "name": "istio-token",
                    "projected": { "sources": [{ "serviceAccountToken": {
                        "audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token",
                    } }] },
                },
                { "name": "istiod-ca-cert", "configMap": { "name": ROOT_CONFIG_MAP } },
            ],
        });
        if self.role == Role::Gateway {
            // Listeners are usually below 1024, and the program is nobody.
            let sysctl = json!({ "name": "net.ipv4.ip_unprivileged_port_start", "value": "0" });
            spec["securityContext"]["sysctls"] = json!([sysctl]);
        }
        spec
    }

    fn container(&self, settings: &Settings) -> Value {
        json!({
            "name": "istio-proxy",
            "image": *settings.waypoint_image,
            "imagePullPolicy": *settings.deployment.pull_policy,
            "args": ["--role", self.role.as_str()],
            "env": self.env(settings),
            "ports": self.container_ports(),
            "readinessProbe": {
                "httpGet": { "path": "/healthz/ready", "port": 15021 },
                "periodSeconds": 1,
                // A busy node is not a dead waypoint, without which its services refuse all.
                "timeoutSeconds": 5,
                "failureThreshold": 4,
            },
            "resources": { "requests": { "cpu": "100m", "memory": "64Mi" } },
            "securityContext": {
                "allowPrivilegeEscalation": false,
                "readOnlyRootFilesystem": true,
                "capabilities": { "drop": ["ALL"] },
            },
            "volumeMounts": [
                { "name": "istio-token", "mountPath": "/var/run/secrets/tokens", "readOnly": true },
                { "name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio", "readOnly": true },
            ],
        })
    }

    fn container_ports(&self) -> Vec<Value> {
        let port =
            |name: &str, number: u16| json!({ "name": name, "containerPort": number, "protocol": "TCP" });
        let mesh = (self.role == Role::Waypoint).then(|| port("mesh", HBONE_PORT));
        let own = [port("metrics", 15020), port("status-port", 15021)];
        mesh.into_iter().chain(own).collect()
    }

    fn env(&self, settings: &Settings) -> Vec<Value> {
        let text = |name: &str, value: &str| json!({ "name": name, "value": value });
        let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
        let mut env = vec![
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("INSTANCE_IP", "status.podIP"),
            field("NODE_NAME", "spec.nodeName"),
            field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
            text("CLUSTER_ID", &settings.cluster_id),
            text("NETWORK", &settings.network),
            text("XDS_ADDRESS", &settings.deployment.xds_address),
            text("TRUST_DOMAIN", settings.trust_domain.as_str()),
            text("GATEWAY_NAME", self.gateway),
        ];
        let log = self.access_log.map(|on| if on { "true" } else { "false" });
        env.extend(log.map(|on| text("AQUIFER_ACCESS_LOG", on)));
        env
    }
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Waypoint => "waypoint",
            Self::Gateway => "gateway",
        }
    }
}

/// Everything that is to be deployed.
pub fn all(compiled: &Compiled) -> BTreeMap<ObjectKey, Value> {
    let (settings, parameters) = (&*compiled.settings, &compiled.parameters);
    let access_log = compiled.mesh_config.access_log;
    let mut objects = compiled.waypoints.render(parameters, settings, access_log);
    let none = Overlays::default();
    for (name, gateway) in &compiled.gateway_api.gateways {
        let overlays = parameters.get(name).map_or(&none, |p| &p.overlays);
        let proxy = Proxy::gateway(gateway, overlays).map(|p| p.logging(access_log));
        objects.extend(proxy.into_iter().flat_map(|p| p.objects(settings)));
    }
    if settings.deployment.owned {
        objects.extend(classes::missing(&compiled.inputs));
    }
    objects
}

/// One port for each that a served listener opens.
fn listening_ports(gateway: &OpenGateway) -> Vec<Value> {
    let mut ports: BTreeMap<u16, &OpenListener> = BTreeMap::new();
    for listener in gateway.listeners.iter().filter(|l| l.is_served()) {
        ports.entry(listener.port).or_insert(listener);
    }
    let port = |(number, listener): (u16, &OpenListener)| {
        let protocol = app_protocol(listener);
        json!({ "name": format!("{protocol}-{number}"), "port": number, "targetPort": number, "protocol": "TCP", "appProtocol": protocol })
    };
    ports.into_iter().map(port).collect()
}

fn app_protocol(listener: &OpenListener) -> &'static str {
    match listener.served() {
        Some(ServerKind::Https(_)) => "https",
        Some(ServerKind::Tls(_) | ServerKind::Passthrough) => "tls",
        Some(ServerKind::Tcp) => "tcp",
        Some(ServerKind::Http { .. }) | None => "http",
    }
}

/// `own` laid over what the user says.
fn over(users: &BTreeMap<Arc<str>, Arc<str>>, own: Value) -> Value {
    let mut all: serde_json::Map<String, Value> = users
        .iter()
        .map(|(key, value)| (key.to_string(), json!(**value)))
        .collect();
    if let Value::Object(own) = own {
        all.extend(own);
    }
    Value::Object(all)
}
