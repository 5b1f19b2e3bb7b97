//! Delays and aborts.

use std::time::Duration;

use crate::model::field::{Share, duration, shorten};
use crate::objects::Rejection;
use crate::objects::istio as raw;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Abort {
    Http(u32),
    Grpc(u32),
}

pub(super) fn parse_delay(raw: &raw::Delay, field: &str) -> Result<(Duration, Share), Rejection> {
    if raw.exponential_delay.is_some() {
        return Err(Rejection::unsupported(
            format!("{field}.exponentialDelay"),
            "is not supported; use fixedDelay",
        ));
    }
    let Some(fixed) = &raw.fixed_delay else {
        return Err(Rejection::invalid(format!("{field}.fixedDelay"), "is missing"));
    };
    let share = match (raw.percentage.as_ref(), raw.percent) {
        (None, Some(percent)) => Share::percent(percent, &format!("{field}.percent"))?,
        (percentage, _) => Share::parse(percentage, &format!("{field}.percentage"))?,
    };
    Ok((duration(fixed, &format!("{field}.fixedDelay"))?, share))
}

pub(super) fn parse_abort(raw: &raw::Abort, field: &str) -> Result<(Abort, Share), Rejection> {
    let share = Share::parse(raw.percentage.as_ref(), &format!("{field}.percentage"))?;
    let abort = match (&raw.http_status, &raw.grpc_status, &raw.http2_error) {
        (Some(status), None, None) if (200..600).contains(status) => Abort::Http(*status),
        (Some(_), None, None) => {
            return Err(Rejection::invalid(
                format!("{field}.httpStatus"),
                "is not an HTTP status from 200 to 599",
            ));
        }
        (None, Some(status), None) => Abort::Grpc(grpc_status(status, &format!("{field}.grpcStatus"))?),
        (_, _, Some(_)) => {
            return Err(Rejection::unsupported(
                format!("{field}.http2Error"),
                "is not supported; use httpStatus",
            ));
        }
        _ => {
            return Err(Rejection::invalid(
                field,
                "needs exactly one of httpStatus and grpcStatus",
            ));
        }
    };
    Ok((abort, share))
}

fn grpc_status(text: &str, field: &str) -> Result<u32, Rejection> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let by_name = NAMES
        .iter()
        .position(|n| *n == text)
        .and_then(|n| u32::try_from(n).ok());
    let known = by_name.or_else(|| text.parse().ok()).filter(|n| *n <= 16);
    known.ok_or_else(|| Rejection::invalid(field, format!("{:?} is not a gRPC status", shorten(text))))
}
