//! Flags and environment, parsed once.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use aquifer_core::identity::{IdentityError, SpiffeId, TrustDomain};
use clap::{Parser, ValueEnum};

use crate::pods::Own;

/// What the proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Behind tunnels, for the services of its namespace.
    Waypoint,
    /// On ports of its own, for clients outside the mesh.
    Gateway,
}

impl Role {
    /// The first part of the xDS node id.
    pub(crate) fn node_type(self) -> &'static str {
        match self {
            Self::Waypoint => "waypoint",
            Self::Gateway => "router",
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Waypoint => "waypoint",
            Self::Gateway => "gateway",
        }
    }
}

/// L7 proxy of the mesh: waypoint or ingress gateway.
#[derive(Clone, Debug, Parser)]
#[command(name = "aquifer-waypoint", version)]
pub struct Config {
    /// What this proxy is.
    #[arg(long, env = "AQUIFER_ROLE", value_enum)]
    pub role: Role,
    #[arg(long, env = "POD_NAME")]
    pub pod_name: String,
    #[arg(long, env = "POD_NAMESPACE")]
    pub pod_namespace: String,
    /// This pod's address.
    #[arg(long, env = "INSTANCE_IP")]
    pub instance_ip: IpAddr,
    #[arg(long, env = "NODE_NAME", default_value = "")]
    pub node_name: String,
    /// The service account whose identity this proxy has.
    #[arg(long, env = "SERVICE_ACCOUNT")]
    pub service_account: String,
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,
    #[arg(long, env = "CLUSTER_ID", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// Name of the network this pod is on; empty where the mesh has one.
    #[arg(long, env = "NETWORK", default_value = "")]
    pub network: String,
    /// HOST:PORT of the control plane.
    #[arg(long, env = "XDS_ADDRESS", default_value = "istiod.istio-system.svc:15012")]
    pub xds_address: String,
    /// HOST:PORT of the certificate authority; that of the control plane where empty.
    #[arg(long, env = "CA_ADDRESS", default_value = "")]
    pub ca_address: String,
    /// PEM file with the root that the control plane's certificate leads to.
    #[arg(
        long,
        env = "XDS_ROOT_CA",
        default_value = "/var/run/secrets/istio/root-cert.pem"
    )]
    pub xds_root_ca: PathBuf,
    /// Of a waypoint: its name, by which the pods name it that it serves at their own addresses; none where empty.
    #[arg(long, env = "GATEWAY_NAME", default_value = "")]
    pub gateway_name: String,
    /// File with this pod's service account token.
    #[arg(
        long,
        env = "TOKEN_FILE",
        default_value = "/var/run/secrets/tokens/istio-token"
    )]
    pub token_file: PathBuf,
    /// Traffic threads; 0 is one per CPU.
    #[arg(long, env = "AQUIFER_WORKERS", default_value_t = 0)]
    pub workers: usize,
    /// Connections that one client address (of IPv6, one network of 64 bits) may have open at a gateway; 0 is no limit.
    #[arg(long, env = "AQUIFER_MAX_CONNECTIONS_PER_CLIENT", default_value_t = 10_000)]
    pub max_connections_per_client: usize,
    /// Seconds until what is open is cut after SIGTERM. During the first 5 of them, or the first half, whoever comes is
    /// served.
    #[arg(long, env = "AQUIFER_DRAIN_SECONDS", default_value_t = 25)]
    pub drain_seconds: u64,
    /// Write an access log line per request to standard output.
    #[arg(long, env = "AQUIFER_ACCESS_LOG", default_value_t = true, action = clap::ArgAction::Set)]
    pub access_log: bool,
    /// Log filter, such as info or aquifer_waypoint=debug.
    #[arg(long, env = "AQUIFER_LOG", default_value = "info")]
    pub log: String,
}

impl Config {
    /// The identity of this proxy.
    pub(crate) fn identity(&self) -> Result<SpiffeId, IdentityError> {
        SpiffeId::new(&self.trust_domain, &self.pod_namespace, &self.service_account)
    }

    /// By what pods name this waypoint; nothing for a gateway.
    pub(crate) fn own(&self) -> Option<Own> {
        let is_named = self.role == Role::Waypoint && !self.gateway_name.is_empty();
        is_named.then(|| Own {
            namespace: self.pod_namespace.as_str().into(),
            name: self.gateway_name.as_str().into(),
        })
    }

    pub(crate) fn ca_address(&self) -> &str {
        if self.ca_address.is_empty() {
            &self.xds_address
        } else {
            &self.ca_address
        }
    }

    pub(crate) fn drain_time(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    pub(crate) fn workers(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_enough_to_start() {
        let config = Config::try_parse_from([
            "aquifer-waypoint",
            "--role",
            "gateway",
            "--pod-name",
            "p",
            "--pod-namespace",
            "n",
            "--instance-ip",
            "fd00::1",
            "--service-account",
            "s",
        ])
        .unwrap();
        assert_eq!(config.role, Role::Gateway);
        assert_eq!(
            config.identity().unwrap().as_str(),
            "spiffe://cluster.local/ns/n/sa/s"
        );
        assert_eq!(config.ca_address(), "istiod.istio-system.svc:15012");
        assert!(config.access_log && config.workers() > 0);
    }
}
