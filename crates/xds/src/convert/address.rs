//! Addresses, ports and gateways: the parts that workloads and services share.

use std::net::IpAddr;
use std::sync::Arc;

use aquifer_core::address::NetworkAddress;
use aquifer_core::names::NamespacedHostname;
use aquifer_core::service::{AppProtocol, PortMapping};
use aquifer_core::workload::{GatewayAddress, GatewayDestination};
use bytes::Bytes;

use super::ConvertError;
use crate::pb::istio::workload as pb;

/// The port that Istio's waypoints and gateways speak HBONE on; used where a peer leaves it out.
const HBONE_PORT: u16 = 15008;

pub(super) fn ip(field: &'static str, bytes: &[u8]) -> Result<IpAddr, ConvertError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::from(v4));
    }
    let v6 = <[u8; 16]>::try_from(bytes).map_err(|_| {
        ConvertError::invalid(
            field,
            format!("an address has 4 or 16 bytes, not {}", bytes.len()),
        )
    })?;
    Ok(IpAddr::from(v6).to_canonical())
}

pub(super) fn ip_bytes(ip: IpAddr) -> Bytes {
    match ip {
        IpAddr::V4(v4) => Bytes::copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => Bytes::copy_from_slice(&v6.octets()),
    }
}

pub(super) fn vip(address: &pb::NetworkAddress) -> Result<NetworkAddress, ConvertError> {
    let parsed = ip("addresses", &address.address)?;
    let whole = if address.address.len() == 4 { 32 } else { 128 };
    if address.length.is_some_and(|length| length != whole) {
        return Err(ConvertError::unsupported(
            "addresses",
            "a range of addresses; list single addresses",
        ));
    }
    Ok(NetworkAddress::new(&Arc::from(address.network.as_str()), parsed))
}

pub(super) fn vip_to_pb(address: &NetworkAddress) -> pb::NetworkAddress {
    pb::NetworkAddress {
        network: address.network().to_string(),
        address: ip_bytes(address.ip()),
        length: None,
    }
}

pub(super) fn gateway(
    field: &'static str,
    gateway: pb::GatewayAddress,
) -> Result<GatewayAddress, ConvertError> {
    use pb::gateway_address::Destination;
    let destination = match gateway.destination {
        Some(Destination::Hostname(name)) => GatewayDestination::Hostname(namespaced(
            field,
            &format!("{}/{}", name.namespace, name.hostname),
        )?),
        Some(Destination::Address(address)) => GatewayDestination::Address(ip(field, &address.address)?),
        None => return Err(ConvertError::invalid(field, "neither a host name nor an address")),
    };
    let hbone_port = match port(field, gateway.hbone_mtls_port)? {
        0 => HBONE_PORT,
        given => given,
    };
    Ok(GatewayAddress {
        destination,
        hbone_port,
    })
}

pub(super) fn gateway_to_pb(gateway: &GatewayAddress) -> pb::GatewayAddress {
    use pb::gateway_address::Destination;
    let destination = match &gateway.destination {
        GatewayDestination::Hostname(name) => Destination::Hostname(pb::NamespacedHostname {
            namespace: name.namespace.to_string(),
            hostname: name.hostname.to_string(),
        }),
        GatewayDestination::Address(ip) => Destination::Address(pb::NetworkAddress {
            network: String::new(),
            address: ip_bytes(*ip),
            length: None,
        }),
    };
    pb::GatewayAddress {
        destination: Some(destination),
        hbone_mtls_port: gateway.hbone_port.into(),
    }
}

pub(super) fn namespaced(field: &'static str, text: &str) -> Result<NamespacedHostname, ConvertError> {
    NamespacedHostname::parse(text)
        .ok_or_else(|| ConvertError::invalid(field, format!("{text:?} is not NAMESPACE/HOSTNAME")))
}

pub(super) fn port(field: &'static str, number: u32) -> Result<u16, ConvertError> {
    u16::try_from(number)
        .map_err(|_| ConvertError::invalid(field, format!("{number} is not a port; the highest is 65535")))
}

pub(super) fn ports(field: &'static str, ports: &[pb::Port]) -> Result<Vec<PortMapping>, ConvertError> {
    ports.iter().map(|p| port_mapping(field, p)).collect()
}

fn port_mapping(field: &'static str, wire: &pb::Port) -> Result<PortMapping, ConvertError> {
    let service_port = port(field, wire.service_port)?;
    if service_port == 0 {
        return Err(ConvertError::invalid(field, "a service port is 0"));
    }
    Ok(PortMapping {
        service_port,
        target_port: port(field, wire.target_port)?,
        protocol: app_protocol(wire.app_protocol),
    })
}

/// A protocol of a newer peer is treated as unknown, that is as plain TCP.
fn app_protocol(number: i32) -> AppProtocol {
    match pb::AppProtocol::try_from(number) {
        Ok(pb::AppProtocol::Http11) => AppProtocol::Http11,
        Ok(pb::AppProtocol::Http2) => AppProtocol::Http2,
        Ok(pb::AppProtocol::Grpc) => AppProtocol::Grpc,
        Ok(pb::AppProtocol::Tcp) => AppProtocol::Tcp,
        Ok(pb::AppProtocol::Tls) => AppProtocol::Tls,
        Ok(pb::AppProtocol::Unknown) | Err(_) => AppProtocol::Unknown,
    }
}

pub(super) fn ports_to_pb(ports: &[PortMapping]) -> Vec<pb::Port> {
    ports
        .iter()
        .map(|mapping| pb::Port {
            service_port: mapping.service_port.into(),
            target_port: mapping.target_port.into(),
            app_protocol: app_protocol_to_pb(mapping.protocol).into(),
        })
        .collect()
}

fn app_protocol_to_pb(protocol: AppProtocol) -> pb::AppProtocol {
    match protocol {
        AppProtocol::Unknown => pb::AppProtocol::Unknown,
        AppProtocol::Http11 => pb::AppProtocol::Http11,
        AppProtocol::Http2 => pb::AppProtocol::Http2,
        AppProtocol::Grpc => pb::AppProtocol::Grpc,
        AppProtocol::Tcp => pb::AppProtocol::Tcp,
        AppProtocol::Tls => pb::AppProtocol::Tls,
    }
}

/// `fallback` where the peer left a string out.
pub(super) fn text_or(text: &str, fallback: &str) -> Arc<str> {
    if text.is_empty() {
        fallback.into()
    } else {
        text.into()
    }
}
