//! `ClusterLoadAssignment` to the model.

use aquifer_core::http::cluster::{Endpoint as Model, Endpoints, NamedEndpoint, Transport};
use aquifer_core::identity::SpiffeId;

use super::matching::each;
use super::pb::envoy::config::core::v3::HealthStatus;
use super::pb::envoy::config::endpoint::v3::cluster_load_assignment::Policy;
use super::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use super::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use super::pb::google::protobuf::value::Kind;
use super::text::not_empty;
use super::values::{host_and_port, socket_address};
use super::{ENDPOINT_FILTER, FieldError, Result, fields};

pub(super) fn convert(assignment: &ClusterLoadAssignment) -> Result<Endpoints> {
    fields!(assignment => ClusterLoadAssignment {
        read: [cluster_name, endpoints, policy],
        harmless: [],
        refused: [named_endpoints],
    });
    assignment.policy.as_ref().map_or(Ok(()), policy)?;
    let list = each("endpoints", &assignment.endpoints, locality)?;
    Ok(Endpoints {
        name: not_empty("cluster_name", &assignment.cluster_name)?.into(),
        list: list.into_iter().flatten().collect(),
    })
}

/// Endpoints of a cluster that are looked up. They are outside the mesh, and must say so.
pub(super) fn named(assignment: &ClusterLoadAssignment) -> Result<Vec<NamedEndpoint>> {
    fields!(assignment => ClusterLoadAssignment {
        read: [endpoints],
        harmless: [cluster_name],
        refused: [policy, named_endpoints],
    });
    let list = each("endpoints", &assignment.endpoints, |locality| {
        fields!(locality => LocalityLbEndpoints {
            read: [lb_endpoints],
            harmless: [locality, metadata, load_balancing_weight, proximity],
            refused: [lb_config, priority],
        });
        each("lb_endpoints", &locality.lb_endpoints, named_endpoint)
    })?;
    Ok(list.into_iter().flatten().collect())
}

fn named_endpoint(endpoint: &LbEndpoint) -> Result<NamedEndpoint> {
    fields!(endpoint => LbEndpoint {
        read: [metadata, load_balancing_weight, host_identifier],
        harmless: [],
        refused: [health_status],
    });
    if transport(endpoint)? != Transport::Outside {
        let field = format!("metadata.filter_metadata[{ENDPOINT_FILTER}].tunnel");
        return Err(FieldError::new(field, "is not outside, where names lead"));
    }
    let (host, port) = host_and_port("endpoint.address", host(endpoint)?.address.as_ref())?;
    Ok(NamedEndpoint {
        host: not_empty("endpoint.address", &host)?.into(),
        port,
        weight: endpoint.load_balancing_weight.map_or(1, |w| w.value),
    })
}

fn host(endpoint: &LbEndpoint) -> Result<&Endpoint> {
    let Some(HostIdentifier::Endpoint(host)) = &endpoint.host_identifier else {
        return Err(FieldError::new("host_identifier", "is not an endpoint"));
    };
    fields!(host => Endpoint {
        read: [address],
        harmless: [hostname, health_check_config, observability_name],
        refused: [additional_addresses],
    });
    Ok(host)
}

fn policy(policy: &Policy) -> Result<()> {
    fields!(policy => Policy {
        read: [],
        harmless: [overprovisioning_factor, endpoint_stale_after, weighted_priority_health],
        refused: [drop_overloads],
    });
    Ok(())
}

fn locality(locality: &LocalityLbEndpoints) -> Result<Vec<Model>> {
    // Without locality-weighted balancing, which is refused in clusters, Envoy does not look at the weight either.
    fields!(locality => LocalityLbEndpoints {
        read: [lb_endpoints, priority],
        harmless: [locality, metadata, load_balancing_weight, proximity],
        refused: [lb_config],
    });
    each("lb_endpoints", &locality.lb_endpoints, |e| {
        endpoint(e, locality.priority)
    })
}

fn endpoint(endpoint: &LbEndpoint, priority: u32) -> Result<Model> {
    fields!(endpoint => LbEndpoint {
        read: [health_status, metadata, load_balancing_weight, host_identifier],
        harmless: [],
        refused: [],
    });
    let host = host(endpoint)?;
    let health = HealthStatus::try_from(endpoint.health_status);
    Ok(Model {
        address: socket_address("endpoint.address", host.address.as_ref())?,
        transport: transport(endpoint)?,
        weight: endpoint.load_balancing_weight.map_or(1, |w| w.value),
        healthy: matches!(
            health,
            Ok(HealthStatus::Unknown | HealthStatus::Healthy | HealthStatus::Degraded)
        ),
        priority,
        workload: metadata(endpoint, "workload").unwrap_or_default().into(),
    })
}

/// Said, never guessed: an endpoint that says nothing could be a pod of the mesh, reached in plaintext.
fn transport(endpoint: &LbEndpoint) -> Result<Transport> {
    let field = |key| format!("metadata.filter_metadata[{ENDPOINT_FILTER}].{key}");
    match metadata(endpoint, "tunnel") {
        Some("none") => Ok(Transport::Plaintext),
        Some("outside") => Ok(Transport::Outside),
        Some("hbone") => {
            let identity = metadata(endpoint, "identity").unwrap_or_default();
            let identity = SpiffeId::parse(identity).map_err(|e| FieldError::new(field("identity"), e))?;
            Ok(Transport::Hbone(identity))
        }
        Some(other) => Err(FieldError::new(
            field("tunnel"),
            format!("{other:?} is none of hbone, none and outside"),
        )),
        None => Err(FieldError::new(
            field("tunnel"),
            "is missing; it must be hbone, none or outside",
        )),
    }
}

fn metadata<'e>(endpoint: &'e LbEndpoint, key: &str) -> Option<&'e str> {
    let fields = &endpoint
        .metadata
        .as_ref()?
        .filter_metadata
        .get(ENDPOINT_FILTER)?
        .fields;
    match fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text),
        _ => None,
    }
}
