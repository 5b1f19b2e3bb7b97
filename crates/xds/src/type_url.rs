//! The resource types of the mesh, by the type URL they carry on the wire.

pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// The roots that the mesh trusts, as Istio hands them to proxies of meshes with several.
pub const TRUST: &str = "type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig";
pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";

pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// The short name that operators and metrics use, such as `CDS`; the message's name for types without one.
pub fn short_name(type_url: &str) -> &str {
    match type_url {
        ADDRESS => "WDS",
        AUTHORIZATION => "WADS",
        TRUST => "PCDS",
        CLUSTER => "CDS",
        ENDPOINTS => "EDS",
        LISTENER => "LDS",
        ROUTES => "RDS",
        SECRET => "SDS",
        other => other.rsplit(['/', '.']).next().unwrap_or(other),
    }
}
