//! The command lines of Kubernetes' parts.

use serde::{Deserialize, Serialize};

use super::audit;
use super::layout::{API_PORT, Member, POD_RANGE, SERVICE_RANGE};
use super::root::{CONFIG, PARTS};

/// What a member's supervisor keeps running.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
}

impl Service {
    /// One of the parts that are linked into one program.
    fn kubernetes(name: &str, arguments: &[String]) -> Self {
        let mut all = vec![name.to_owned()];
        all.extend_from_slice(arguments);
        Self {
            name: name.to_owned(),
            program: format!("{PARTS}/aquifer-kube"),
            arguments: all,
        }
    }
}

/// Who issues service account tokens, and their default audience.
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The usual place is below /usr, which members only read.
pub(super) const PLUGINS: &str = "/var/lib/kubelet/volumeplugins";
const ETCD: &str = "http://127.0.0.1:2379";

pub(super) fn of(member: Member) -> Vec<Service> {
    match member {
        Member::World => Vec::new(),
        Member::Control => vec![etcd(), api_server(), controller_manager(), scheduler()],
        Member::Node(_) => vec![containerd(), kubelet(member), proxy(member)],
    }
}

fn etcd() -> Service {
    Service::kubernetes(
        "etcd",
        &[
            flag("name", "control"),
            flag("data-dir", "/var/lib/etcd"),
            flag("listen-client-urls", ETCD),
            flag("advertise-client-urls", ETCD),
            flag("listen-peer-urls", "http://127.0.0.1:2380"),
            flag("initial-advertise-peer-urls", "http://127.0.0.1:2380"),
            flag("initial-cluster", "control=http://127.0.0.1:2380"),
            flag("listen-metrics-urls", "http://0.0.0.0:2381"),
            // A power cut ends this cluster anyway.
            "--unsafe-no-fsync".to_owned(),
        ],
    )
}

fn api_server() -> Service {
    let address = Member::Control.address();
    Service::kubernetes(
        "kube-apiserver",
        &[
            flag("etcd-servers", ETCD),
            flag("advertise-address", address),
            flag("secure-port", API_PORT),
            flag("service-cluster-ip-range", SERVICE_RANGE),
            flag("authorization-mode", "Node,RBAC"),
            flag("enable-admission-plugins", "NodeRestriction"),
            flag("allow-privileged", true),
            // Webhooks and aggregated servers are reached at their pods: no kube-proxy runs here.
            flag("enable-aggregator-routing", true),
            flag("client-ca-file", config("ca.crt")),
            flag("tls-cert-file", config("apiserver.crt")),
            flag("tls-private-key-file", config("apiserver.key")),
            flag("kubelet-certificate-authority", config("ca.crt")),
            flag("kubelet-client-certificate", config("apiserver-kubelet.crt")),
            flag("kubelet-client-key", config("apiserver-kubelet.key")),
            flag("kubelet-preferred-address-types", "InternalIP"),
            flag("service-account-issuer", ISSUER),
            flag("service-account-key-file", config("service-account.pub")),
            flag("service-account-signing-key-file", config("service-account.key")),
            flag("requestheader-client-ca-file", config("front-proxy-ca.crt")),
            flag("requestheader-allowed-names", "front-proxy-client"),
            flag("requestheader-username-headers", "X-Remote-User"),
            flag("requestheader-group-headers", "X-Remote-Group"),
            flag("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
            flag("proxy-client-cert-file", config("front-proxy-client.crt")),
            flag("proxy-client-key-file", config("front-proxy-client.key")),
            flag("audit-policy-file", config(audit::POLICY)),
            flag("audit-log-path", audit::LOG),
            flag("audit-log-maxsize", audit::MAX_MEGABYTES),
            flag("audit-log-maxbackup", audit::MAX_BACKUPS),
        ],
    )
}

fn controller_manager() -> Service {
    let kubeconfig = config("controller-manager.kubeconfig");
    let mut arguments = watched_by_anyone(&kubeconfig);
    arguments.extend([
        flag("use-service-account-credentials", true),
        flag("service-account-private-key-file", config("service-account.key")),
        flag("root-ca-file", config("ca.crt")),
        flag("cluster-signing-cert-file", config("ca.crt")),
        flag("cluster-signing-key-file", config("ca.key")),
        flag("cluster-cidr", POD_RANGE),
        flag("service-cluster-ip-range", SERVICE_RANGE),
        // Nodes' ranges follow their numbers: routes and CNI are written before any node exists.
        flag("allocate-node-cidrs", false),
        flag("flex-volume-plugin-dir", PLUGINS),
    ]);
    Service::kubernetes("kube-controller-manager", &arguments)
}

fn scheduler() -> Service {
    Service::kubernetes(
        "kube-scheduler",
        &watched_by_anyone(&config("scheduler.kubeconfig")),
    )
}

/// Flags of the parts that ask the API server who may see them; metrics are for everybody.
fn watched_by_anyone(kubeconfig: &str) -> Vec<String> {
    vec![
        flag("kubeconfig", kubeconfig),
        flag("authentication-kubeconfig", kubeconfig),
        flag("authorization-kubeconfig", kubeconfig),
        flag(
            "authorization-always-allow-paths",
            "/healthz,/readyz,/livez,/metrics",
        ),
        // One replica: electing a leader only delays the start.
        flag("leader-elect", false),
    ]
}

fn containerd() -> Service {
    Service {
        name: "containerd".to_owned(),
        program: format!("{PARTS}/containerd"),
        arguments: vec![flag("config", config("containerd.toml"))],
    }
}

fn kubelet(member: Member) -> Service {
    Service::kubernetes(
        "kubelet",
        &[
            flag("config", config("kubelet.yaml")),
            flag("kubeconfig", config("kubelet.kubeconfig")),
            flag("hostname-override", member),
            flag("node-ip", member.address()),
        ],
    )
}

fn proxy(member: Member) -> Service {
    Service::kubernetes(
        "kube-proxy",
        &[
            flag("kubeconfig", config("kube-proxy.kubeconfig")),
            flag("hostname-override", member),
            flag("proxy-mode", "nftables"),
            flag("cluster-cidr", POD_RANGE),
            flag("metrics-bind-address", "0.0.0.0:10249"),
            // These limits belong to the machine, not to a network namespace.
            flag("conntrack-max-per-core", 0),
            flag("conntrack-tcp-timeout-established", "0s"),
            flag("conntrack-tcp-timeout-close-wait", "0s"),
        ],
    )
}

/// Where a part serves its metrics: scheme, port and path.
pub(super) fn metrics(service: &str) -> Option<(&'static str, u16, &'static str)> {
    let place = match service {
        "etcd" => ("http", 2381, "/metrics"),
        "kube-apiserver" => ("https", API_PORT, "/metrics"),
        "kube-controller-manager" => ("https", 10257, "/metrics"),
        "kube-scheduler" => ("https", 10259, "/metrics"),
        "kubelet" => ("https", 10250, "/metrics"),
        "kube-proxy" => ("http", 10249, "/metrics"),
        "containerd" => ("http", 1338, "/v1/metrics"),
        _ => return None,
    };
    Some(place)
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

fn config(file: &str) -> String {
    format!("{CONFIG}/{file}")
}
