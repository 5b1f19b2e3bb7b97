//! Small values that several resources use.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use aquifer_core::http::fault::Share;
use prost::Message;

use super::pb::envoy::config::core::v3 as core_pb;
use super::pb::envoy::config::core::v3::address::Address as AddressKind;
use super::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use super::pb::envoy::r#type::v3::FractionalPercent;
use super::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use super::pb::google::protobuf as wkt;
use super::{FieldError, Result};

pub(super) fn duration(field: &str, value: &wkt::Duration) -> Result<Duration> {
    let seconds = u64::try_from(value.seconds).ok();
    let nanos = u32::try_from(value.nanos).ok().filter(|n| *n < 1_000_000_000);
    match (seconds, nanos) {
        (Some(seconds), Some(nanos)) => Ok(Duration::new(seconds, nanos)),
        _ => Err(FieldError::new(field, "is not a duration of zero or more")),
    }
}

pub(super) fn optional_duration(field: &str, value: Option<&wkt::Duration>) -> Result<Option<Duration>> {
    value.map(|v| duration(field, v)).transpose()
}

/// Envoy's convention: absent is `default`, zero is no limit.
pub(super) fn limit(
    field: &str,
    value: Option<&wkt::Duration>,
    default: Option<Duration>,
) -> Result<Option<Duration>> {
    let Some(value) = optional_duration(field, value)? else {
        return Ok(default);
    };
    Ok((!value.is_zero()).then_some(value))
}

pub(super) fn flag(value: Option<&wkt::BoolValue>) -> bool {
    value.is_some_and(|v| v.value)
}

pub(super) fn socket_address(field: &str, address: Option<&core_pb::Address>) -> Result<SocketAddr> {
    let (host, port) = host_and_port(field, address)?;
    let ip: IpAddr = host
        .parse()
        .map_err(|_| FieldError::new(field, format!("{host:?} is not an IP address")))?;
    Ok(SocketAddr::new(ip.to_canonical(), port))
}

pub(super) fn host_and_port(field: &str, address: Option<&core_pb::Address>) -> Result<(String, u16)> {
    let kind = address.and_then(|a| a.address.as_ref());
    let Some(AddressKind::SocketAddress(socket)) = kind else {
        return Err(FieldError::new(field, "is not a socket address"));
    };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return Err(FieldError::new(field, "has no port_value"));
    };
    let port =
        u16::try_from(port).map_err(|_| FieldError::new(field, format!("port {port} is above 65535")))?;
    if socket.protocol != core_pb::socket_address::Protocol::Tcp as i32 {
        return Err(FieldError::new(field, "protocol is not TCP"));
    }
    Ok((socket.address.clone(), port))
}

pub(super) fn share(field: &str, percent: Option<&FractionalPercent>) -> Result<Share> {
    let Some(percent) = percent else {
        return Ok(Share::new(0, 1));
    };
    let denominator = match DenominatorType::try_from(percent.denominator) {
        Ok(DenominatorType::Hundred) => 100,
        Ok(DenominatorType::TenThousand) => 10_000,
        Ok(DenominatorType::Million) => 1_000_000,
        Err(_) => return Err(FieldError::new(field, "has an unknown denominator")),
    };
    Ok(Share::new(percent.numerator, denominator))
}

/// An HTTP status in `range`.
pub(super) fn status(field: &str, value: u32, range: std::ops::Range<u32>) -> Result<u16> {
    match u16::try_from(value) {
        Ok(status) if range.contains(&value) => Ok(status),
        _ => Err(FieldError::new(
            field,
            format!("{value} is not a status in {range:?}"),
        )),
    }
}

/// Unwraps a typed configuration, which must be of type `M`.
pub(super) fn unpack<M: Message + Default + prost::Name>(field: &str, any: &wkt::Any) -> Result<M> {
    if any.type_url != M::type_url() {
        let reason = format!(
            "has type {:?} where {:?} is expected",
            any.type_url,
            M::type_url()
        );
        return Err(FieldError::new(field, reason));
    }
    M::decode(any.value.as_slice()).map_err(|e| FieldError::new(field, format!("cannot be decoded: {e}")))
}
