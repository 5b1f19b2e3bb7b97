//! Flags, each with an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aquifer_core::identity::TrustDomain;
use aquifer_identity::authority::{MAX_WORKLOAD_TTL, MIN_WORKLOAD_TTL};
use aquifer_telemetry::logging::LogFormat;
use clap::Parser;

/// The control plane of the mesh: reads objects, serves proxies and certificates, writes statuses.
#[derive(Clone, Debug, Parser)]
#[command(name = "aquifer-control", version)]
pub struct Config {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub action: Option<Action>,
    /// Folder of manifests to read and watch instead of an API server; needs --sink, --state and --token-keys.
    #[arg(long, env = "AQUIFER_OBJECTS", requires_all = ["sink", "state", "token_keys"])]
    pub objects: Option<PathBuf>,
    /// Folder for what the control plane writes: objects to apply, statuses, the root certificate.
    #[arg(long, env = "AQUIFER_SINK", requires = "objects")]
    pub sink: Option<PathBuf>,
    /// Folder of the authority's own key and root; survives a restart.
    #[arg(long, env = "AQUIFER_STATE", requires = "objects")]
    pub state: Option<PathBuf>,
    /// Kubeconfig of the API server; without one the service account of the pod that this runs in is used.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the control plane: where its Lease, its Secrets and the mesh's settings are.
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    pub namespace: String,
    /// Monitoring addresses of the other replicas; the control plane's other pods by default.
    #[arg(long, env = "AQUIFER_PEERS", value_delimiter = ',')]
    pub peers: Vec<SocketAddr>,
    /// Name of this replica; the host's name by default.
    #[arg(long, env = "POD_NAME")]
    pub name: Option<String>,
    /// Folder with ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem to sign with instead of an own root.
    #[arg(long, env = "AQUIFER_CACERTS", requires = "objects")]
    pub cacerts: Option<PathBuf>,
    /// Key set (JWKS) that service account tokens are checked with; an API server is asked instead where there is one.
    #[arg(long, env = "AQUIFER_TOKEN_KEYS", requires = "objects")]
    pub token_keys: Option<PathBuf>,
    /// Issuer that tokens must name; any by default.
    #[arg(long, env = "AQUIFER_TOKEN_ISSUER")]
    pub token_issuer: Option<String>,
    /// Trust domain of all identities.
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,
    /// Name of the cluster, in workload keys and telemetry.
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// Name of the pods' network; empty where there is one.
    #[arg(long, env = "NETWORK", default_value = "")]
    pub network: String,
    /// Namespace whose policies and rules are the mesh's.
    #[arg(long, env = "ROOT_NAMESPACE", default_value = "istio-system")]
    pub root_namespace: String,
    /// Address of xDS and the certificate service (TLS).
    #[arg(long, env = "AQUIFER_GRPC_LISTEN", default_value = "[::]:15012")]
    pub grpc_listen: SocketAddr,
    /// Address of metrics, readiness and debugging.
    #[arg(long, env = "AQUIFER_MONITORING_LISTEN", default_value = "[::]:15014")]
    pub monitoring_listen: SocketAddr,
    /// Address of the validating webhook (TLS); none is served where this is not given.
    #[arg(long, env = "AQUIFER_WEBHOOK_LISTEN")]
    pub webhook_listen: Option<SocketAddr>,
    /// Name of the ValidatingWebhookConfiguration that the authority's root is written to.
    #[arg(long, env = "AQUIFER_WEBHOOK_CONFIGURATION", conflicts_with = "objects")]
    pub webhook_configuration: Option<String>,
    /// Names in the serving certificate: what proxies dial.
    #[arg(
        long,
        env = "AQUIFER_DNS_NAMES",
        value_delimiter = ',',
        default_value = "istiod.istio-system.svc,istiod.istio-system.svc.cluster.local,istiod.istio-system,istiod,localhost"
    )]
    pub dns_names: Vec<String>,
    /// Service accounts (NAMESPACE/NAME) of node agents, which may ask for identities of pods on their node.
    #[arg(
        long,
        env = "AQUIFER_TRUSTED_NODE_ACCOUNTS",
        value_delimiter = ',',
        default_value = "istio-system/ztunnel"
    )]
    pub trusted_node_accounts: Vec<String>,
    /// Seconds that a certificate of a workload lives, at most and where it asks for none; 60 to 86400.
    #[arg(long, env = "AQUIFER_WORKLOAD_CERT_TTL", default_value = "86400", value_parser = workload_ttl)]
    pub workload_cert_ttl: Duration,
    /// Seconds that every proxy has known a new root, at least, before certificates are signed under it.
    #[arg(long, env = "AQUIFER_ROOT_ANNOUNCE", default_value = "60", value_parser = seconds)]
    pub root_announce: Duration,
    /// Image of the waypoints that the control plane asks for.
    #[arg(long, env = "AQUIFER_WAYPOINT_IMAGE", default_value = "aquifer/waypoint")]
    pub waypoint_image: String,
    /// When the nodes pull that image: Always, IfNotPresent or Never.
    #[arg(long, env = "AQUIFER_WAYPOINT_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub waypoint_pull_policy: String,
    /// Names of Secrets for the registry, in the waypoints' namespaces.
    #[arg(long, env = "AQUIFER_WAYPOINT_PULL_SECRETS", value_delimiter = ',')]
    pub waypoint_pull_secrets: Vec<String>,
    /// Whether a rule that needs a waypoint gets one in a namespace that has none; otherwise the rule's status says that
    /// it has no effect.
    #[arg(long, env = "AQUIFER_AUTOMATIC_WAYPOINTS", default_value = "true", action = clap::ArgAction::Set)]
    pub automatic_waypoints: bool,
    /// Seconds that an automatic waypoint outlives the last rule that needed it.
    #[arg(long, env = "AQUIFER_WAYPOINT_LINGER", default_value = "30", value_parser = seconds)]
    pub waypoint_linger: Duration,
    /// Log filter: LEVEL or TARGET=LEVEL,….
    #[arg(long, env = "AQUIFER_LOG", default_value = "info")]
    pub log: String,
    /// Log format: text or json.
    #[arg(long, env = "AQUIFER_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Action {
    /// Take away what control planes made, when their release is gone; the chart runs it after `helm uninstall`.
    Remove,
}

fn workload_ttl(text: &str) -> Result<Duration, String> {
    let ttl = seconds(text)?;
    if (MIN_WORKLOAD_TTL..=MAX_WORKLOAD_TTL).contains(&ttl) {
        return Ok(ttl);
    }
    let (min, max) = (MIN_WORKLOAD_TTL.as_secs(), MAX_WORKLOAD_TTL.as_secs());
    Err(format!("{text} is not from {min} to {max}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: u32 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Ok(Duration::from_secs(u64::from(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_documented_ones() {
        let args = [
            "x",
            "--objects",
            "o",
            "--sink",
            "s",
            "--state",
            "t",
            "--token-keys",
            "k",
        ];
        let config = Config::try_parse_from(args).unwrap();
        assert_eq!(config.grpc_listen.port(), 15012);
        assert_eq!(config.monitoring_listen.port(), 15014);
        assert_eq!(config.dns_names[0], "istiod.istio-system.svc");
        assert_eq!(config.waypoint_linger, Duration::from_secs(30));
        assert_eq!(config.workload_cert_ttl, MAX_WORKLOAD_TTL);
        for wrong in [
            ["--waypoint-linger", "x"],
            ["--workload-cert-ttl", "59"],
            ["--workload-cert-ttl", "86401"],
        ] {
            assert!(Config::try_parse_from(args.iter().chain(&wrong)).is_err());
        }
        assert!(config.automatic_waypoints);
        let without = args.iter().chain(&["--automatic-waypoints", "false"]);
        assert!(!Config::try_parse_from(without).unwrap().automatic_waypoints);
    }

    #[test]
    fn a_folder_needs_all_of_its_flags_and_an_api_server_none() {
        assert!(Config::try_parse_from(["x"]).unwrap().objects.is_none());
        assert!(Config::try_parse_from(["x", "--objects", "o"]).is_err());
        assert!(Config::try_parse_from(["x", "--sink", "s"]).is_err());
    }
}
