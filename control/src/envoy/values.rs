//! Small values of Envoy's API.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aquifer_xds::envoy::pb::envoy::config::core::v3 as core;
use aquifer_xds::envoy::pb::envoy::r#type::v3::FractionalPercent;
use aquifer_xds::envoy::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use aquifer_xds::envoy::pb::google::protobuf as wkt;
use prost::{Message, Name};

use crate::model::field::Share;

pub fn any<M: Message + Name>(message: &M) -> wkt::Any {
    wkt::Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

pub fn bool_value(value: bool) -> wkt::BoolValue {
    wkt::BoolValue { value }
}

pub fn uint(value: u32) -> wkt::UInt32Value {
    wkt::UInt32Value { value }
}

/// Durations of the model are bounded (a year), so that neither part overflows.
pub fn duration(value: Duration) -> wkt::Duration {
    wkt::Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default(),
    }
}

pub fn share(share: Share) -> FractionalPercent {
    FractionalPercent {
        numerator: share.0,
        denominator: DenominatorType::Million as i32,
    }
}

pub fn socket_address(address: SocketAddr) -> core::Address {
    let socket = core::SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(u32::from(
            address.port(),
        ))),
        ..core::SocketAddress::default()
    };
    core::Address {
        address: Some(core::address::Address::SocketAddress(socket)),
    }
}

pub fn socket(ip: IpAddr, port: u16) -> core::Address {
    socket_address(SocketAddr::new(ip, port))
}

/// Resources of the same stream.
pub fn ads() -> core::ConfigSource {
    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3 as i32,
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        ..core::ConfigSource::default()
    }
}

pub fn text(value: &str) -> wkt::Value {
    wkt::Value {
        kind: Some(wkt::value::Kind::StringValue(value.to_owned())),
    }
}
