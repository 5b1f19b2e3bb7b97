//! Flags and environment, read once and resolved into [`Config`]; every mistake is reported together.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use aquifer_core::identity::TrustDomain;
use aquifer_telemetry::logging::LogFormat;
use clap::Parser;
use ipnet::IpNet;

use crate::cni::CniConfig;
use crate::pods::kubernetes::KubernetesConfig;

/// The node agent of the Aquifer mesh.
#[derive(Clone, Debug, Parser)]
#[command(name = "aquifer-agent", version)]
pub struct Flags {
    /// Name of this node
    #[arg(long, env = "NODE_NAME")]
    node_name: String,
    /// Name of this agent's pod
    #[arg(long, env = "POD_NAME")]
    pod_name: String,
    /// Namespace of this agent's pod
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    pod_namespace: String,
    /// Address of this agent's pod
    #[arg(long, env = "INSTANCE_IP")]
    instance_ip: String,
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    trust_domain: String,
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    cluster_id: String,
    /// Network of this node, in a mesh of several networks
    #[arg(long, env = "NETWORK", default_value = "")]
    network: String,
    #[arg(long, env = "XDS_ADDRESS", default_value = "istiod.istio-system.svc:15012")]
    xds_address: String,
    /// Defaults to the xDS address
    #[arg(long, env = "CA_ADDRESS")]
    ca_address: Option<String>,
    #[arg(
        long,
        env = "XDS_ROOT_CA",
        default_value = "/var/run/secrets/istio/root-cert.pem"
    )]
    xds_root_ca: PathBuf,
    #[arg(
        long,
        env = "TOKEN_FILE",
        default_value = "/var/run/secrets/tokens/istio-token"
    )]
    token_file: PathBuf,
    /// Folder on a mounted bpffs for pinned programs and maps
    #[arg(long, env = "AQUIFER_BPFFS", default_value = "/sys/fs/bpf/aquifer")]
    bpffs: PathBuf,
    /// The cgroup above all pods of this node
    #[arg(
        long,
        env = "AQUIFER_CAPTURED_CGROUP",
        default_value = "/sys/fs/cgroup/kubepods.slice"
    )]
    captured_cgroup: PathBuf,
    /// The cgroup above everything on this node
    #[arg(long, env = "AQUIFER_NODE_CGROUP", default_value = "/sys/fs/cgroup")]
    node_cgroup: PathBuf,
    /// The node's own network namespace
    #[arg(long, env = "AQUIFER_NODE_NETNS", default_value = "/proc/1/ns/net")]
    node_netns: PathBuf,
    /// Pod and Service ranges, separated by commas
    #[arg(long, env = "AQUIFER_MESH_CIDRS")]
    mesh_cidrs: String,
    /// Folder with pods.json, the pods of this node, in place of the API server's
    #[arg(long, env = "AQUIFER_PODS_DIR")]
    pods_dir: Option<PathBuf>,
    /// Where the container runtime keeps pods' network namespaces
    #[arg(long, env = "AQUIFER_POD_NETNS_DIR", default_value = "/var/run/netns")]
    pod_netns_dir: PathBuf,
    /// Name of the agents' DaemonSet: with its end this agent's captures end, too
    #[arg(long, env = "AQUIFER_DAEMONSET")]
    daemonset: Option<String>,
    /// The container runtime's folder of network configurations; with it pods of the mesh start only when captured
    #[arg(long, env = "AQUIFER_CNI_CONF_DIR", requires = "cni_bin_dir")]
    cni_conf_dir: Option<PathBuf>,
    /// The same folder as the node sees it (default: the same path)
    #[arg(long, env = "AQUIFER_CNI_CONF_DIR_ON_NODE")]
    cni_conf_dir_on_node: Option<PathBuf>,
    /// The container runtime's folder of network plugins
    #[arg(long, env = "AQUIFER_CNI_BIN_DIR")]
    cni_bin_dir: Option<PathBuf>,
    /// Threads for traffic; 0 means one per processor
    #[arg(long, env = "AQUIFER_WORKERS", default_value_t = 0)]
    workers: usize,
    /// Open connections per pod; more are refused
    #[arg(long, env = "AQUIFER_MAX_CONNECTIONS_PER_POD", default_value_t = 16_384)]
    max_connections_per_pod: usize,
    /// Seconds that open connections may take to finish when the agent ends
    #[arg(long, env = "AQUIFER_DRAIN_DEADLINE", default_value_t = 10)]
    drain_deadline: u64,
    #[arg(long, env = "AQUIFER_ADMIN_LISTEN", default_value = "127.0.0.1:15000")]
    admin_listen: String,
    #[arg(long, env = "AQUIFER_METRICS_LISTEN", default_value = "[::]:15020")]
    metrics_listen: String,
    #[arg(long, env = "AQUIFER_READINESS_LISTEN", default_value = "[::]:15021")]
    readiness_listen: String,
    /// Log filter, such as info or aquifer_agent=debug,info
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log_level: String,
    /// text or json
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    log_format: String,
}

/// What the agent runs with.
#[derive(Clone, Debug)]
pub struct Config {
    pub node_name: String,
    pub pod_name: String,
    pub pod_namespace: String,
    pub instance_ip: IpAddr,
    pub control: ControlConfig,
    pub capture: CaptureConfig,
    pub proxy: ProxyConfig,
    pub pods: PodSource,
    pub workers: usize,
    pub drain_deadline: Duration,
    pub admin_listen: SocketAddr,
    pub metrics_listen: SocketAddr,
    pub readiness_listen: SocketAddr,
    pub log_level: String,
    pub log_format: LogFormat,
}

/// Who says which pods run on this node.
#[derive(Clone, Debug)]
pub enum PodSource {
    Folder(PathBuf),
    ApiServer(KubernetesConfig),
}

/// Where the control plane is and how to prove oneself to it.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    pub xds_address: String,
    pub ca_address: String,
    pub root: PathBuf,
    pub token: PathBuf,
}

/// Where the kernel programs go.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    pub bpffs: PathBuf,
    pub captured_cgroup: PathBuf,
    pub node_cgroup: PathBuf,
    pub node_netns: PathBuf,
    pub mesh_cidrs: Vec<IpNet>,
}

/// What the data path needs to know.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    pub trust_domain: TrustDomain,
    pub cluster: Arc<str>,
    pub network: Arc<str>,
    pub max_connections_per_pod: usize,
}

/// Every mistake in the flags.
#[derive(Debug)]
pub struct ConfigErrors(Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration cannot be used:\n  {}", self.0.join("\n  "))
    }
}

impl std::error::Error for ConfigErrors {}

impl Flags {
    /// Checks every value.
    pub fn resolve(self) -> Result<Config, ConfigErrors> {
        let mut e = Vec::new();
        let instance_ip = parse(&mut e, "INSTANCE_IP", &self.instance_ip, "an IP address");
        let trust_domain = parse(
            &mut e,
            "TRUST_DOMAIN",
            &self.trust_domain,
            "a domain such as cluster.local",
        );
        let admin = parse(&mut e, "AQUIFER_ADMIN_LISTEN", &self.admin_listen, "IP:PORT");
        let metrics = parse(&mut e, "AQUIFER_METRICS_LISTEN", &self.metrics_listen, "IP:PORT");
        let readiness = parse(
            &mut e,
            "AQUIFER_READINESS_LISTEN",
            &self.readiness_listen,
            "IP:PORT",
        );
        let log_format = parse(&mut e, "LOG_FORMAT", &self.log_format, "text or json");
        let mesh_cidrs = cidrs(&mut e, &self.mesh_cidrs);
        if self.max_connections_per_pod == 0 {
            e.push("AQUIFER_MAX_CONNECTIONS_PER_POD is 0; expected at least 1".to_owned());
        }
        let (
            Some(instance_ip),
            Some(trust_domain),
            Some(admin),
            Some(metrics),
            Some(readiness),
            Some(log_format),
        ) = (instance_ip, trust_domain, admin, metrics, readiness, log_format)
        else {
            return Err(ConfigErrors(e));
        };
        if !e.is_empty() {
            return Err(ConfigErrors(e));
        }
        let cni = self.cni();
        let pods = match self.pods_dir {
            Some(folder) => PodSource::Folder(folder),
            None => PodSource::ApiServer(KubernetesConfig {
                node: self.node_name.clone(),
                namespace: self.pod_namespace.clone(),
                pod: self.pod_name.clone(),
                daemonset: self.daemonset,
                netns_dir: self.pod_netns_dir,
                captured_cgroup: self.captured_cgroup.clone(),
                cni,
            }),
        };
        Ok(Config {
            node_name: self.node_name,
            pod_name: self.pod_name,
            pod_namespace: self.pod_namespace,
            instance_ip,
            control: ControlConfig {
                ca_address: self.ca_address.unwrap_or_else(|| self.xds_address.clone()),
                xds_address: self.xds_address,
                root: self.xds_root_ca,
                token: self.token_file,
            },
            capture: CaptureConfig {
                bpffs: self.bpffs,
                captured_cgroup: self.captured_cgroup,
                node_cgroup: self.node_cgroup,
                node_netns: self.node_netns,
                mesh_cidrs,
            },
            proxy: ProxyConfig {
                trust_domain,
                cluster: self.cluster_id.into(),
                network: self.network.into(),
                max_connections_per_pod: self.max_connections_per_pod,
            },
            pods,
            workers: self.workers,
            drain_deadline: Duration::from_secs(self.drain_deadline),
            admin_listen: admin,
            metrics_listen: metrics,
            readiness_listen: readiness,
            log_level: self.log_level,
            log_format,
        })
    }

    fn cni(&self) -> Option<CniConfig> {
        let configurations = self.cni_conf_dir.clone()?;
        Some(CniConfig {
            configurations_on_node: self
                .cni_conf_dir_on_node
                .clone()
                .unwrap_or_else(|| configurations.clone()),
            configurations,
            plugins: self.cni_bin_dir.clone()?,
        })
    }
}

fn parse<T: std::str::FromStr>(errors: &mut Vec<String>, key: &str, value: &str, form: &str) -> Option<T> {
    let parsed = value.parse().ok();
    if parsed.is_none() {
        errors.push(format!("{key} is {value:?}; expected {form}"));
    }
    parsed
}

fn cidrs(errors: &mut Vec<String>, text: &str) -> Vec<IpNet> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let form = "ranges such as 10.244.0.0/16";
    let ranges: Vec<IpNet> = parts
        .filter_map(|part| parse(errors, "AQUIFER_MESH_CIDRS", part, form))
        .collect();
    if ranges.is_empty() && errors.is_empty() {
        errors.push(
            "AQUIFER_MESH_CIDRS is empty: nothing would be captured; expected the pod and Service ranges"
                .into(),
        );
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [&str; 11] = [
        "aquifer-agent",
        "--node-name=n1",
        "--pod-name=ztunnel-1",
        "--instance-ip=10.0.0.1",
        "--mesh-cidrs=10.244.0.0/16, fd00::/8",
        "--pods-dir=/pods",
        "--trust-domain=td",
        "--metrics-listen=127.0.0.1:0",
        "--readiness-listen=127.0.0.1:0",
        "--log-format=json",
        "--admin-listen=127.0.0.1:0",
    ];

    #[test]
    fn resolves_flags_and_defaults() {
        let config = Flags::try_parse_from(GOOD).unwrap().resolve().unwrap();
        assert_eq!(config.capture.mesh_cidrs.len(), 2);
        assert_eq!(config.control.ca_address, config.control.xds_address);
        assert_eq!(config.proxy.trust_domain.as_str(), "td");
    }

    #[test]
    fn without_a_folder_the_api_server_is_asked() {
        let resolve = |flags: &[&str]| Flags::try_parse_from(flags).unwrap().resolve().unwrap().pods;
        assert!(matches!(resolve(&GOOD), PodSource::Folder(_)));
        let without: Vec<&str> = GOOD
            .into_iter()
            .filter(|flag| !flag.starts_with("--pods-dir"))
            .collect();
        let PodSource::ApiServer(config) = resolve(&without) else {
            panic!("a folder")
        };
        assert_eq!(config.node, "n1");
        assert_eq!(config.netns_dir, PathBuf::from("/var/run/netns"));
        assert_eq!(config.cni, None);
        let with: Vec<&str> = without
            .into_iter()
            .chain(["--cni-conf-dir=/net.d", "--cni-bin-dir=/bin"])
            .collect();
        let PodSource::ApiServer(config) = resolve(&with) else {
            panic!("a folder")
        };
        assert_eq!(
            config.cni.unwrap().configurations_on_node,
            PathBuf::from("/net.d")
        );
    }

    #[test]
    fn tells_every_mistake_at_once() {
        let bad = GOOD.map(|arg| match arg {
            "--instance-ip=10.0.0.1" => "--instance-ip=here",
            "--mesh-cidrs=10.244.0.0/16, fd00::/8" => "--mesh-cidrs=10.244.0.0/99",
            other => other,
        });
        let text = Flags::try_parse_from(bad)
            .unwrap()
            .resolve()
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("INSTANCE_IP") && text.contains("10.244.0.0/99"),
            "{text}"
        );
    }
}
