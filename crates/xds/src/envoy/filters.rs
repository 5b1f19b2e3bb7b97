//! Per-route configuration of HTTP filters: fault injection and CORS.

use std::collections::HashMap;

use aquifer_core::http::cors::Cors;
use aquifer_core::http::fault::{Abort, Fault};
use http::HeaderValue;

use super::matching::each;
use super::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
use super::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use super::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use super::pb::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use super::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use super::pb::google::protobuf::Any;
use super::text::text_match;
use super::values::{duration, flag, share, status, unpack};
use super::{FieldError, Result, fields};

pub(super) const FAULT: &str = "envoy.filters.http.fault";
pub(super) const CORS: &str = "envoy.filters.http.cors";
pub(super) const ROUTER: &str = "envoy.filters.http.router";

/// What a route or virtual host says to filters.
#[derive(Clone, Default)]
pub(super) struct PerRoute {
    pub(super) fault: Option<Fault>,
    pub(super) cors: Option<Cors>,
}

impl PerRoute {
    /// This level's, and where it says nothing, the outer level's.
    pub(super) fn or(self, outer: &Self) -> Self {
        Self {
            fault: self.fault.or(outer.fault),
            cors: self.cors.or_else(|| outer.cors.clone()),
        }
    }
}

pub(super) fn per_route(configs: &HashMap<String, Any>) -> Result<PerRoute> {
    let mut found = PerRoute::default();
    for (name, any) in configs {
        let field = format!("typed_per_filter_config[{name}]");
        match name.as_str() {
            FAULT => found.fault = Some(fault(&unpack(&field, any)?).map_err(|e| e.within(&field))?),
            CORS => found.cors = Some(cors(&unpack(&field, any)?).map_err(|e| e.within(&field))?),
            _ => return Err(FieldError::unsupported(field)),
        }
    }
    Ok(found)
}

fn fault(fault: &HttpFault) -> Result<Fault> {
    fields!(fault => HttpFault {
        read: [delay, abort],
        harmless: [disable_downstream_cluster_stats, filter_metadata],
        refused: [
            upstream_cluster, headers, downstream_nodes, max_active_faults, response_rate_limit,
            delay_percent_runtime, abort_percent_runtime, delay_duration_runtime, abort_http_status_runtime,
            max_active_faults_runtime, response_rate_limit_percent_runtime, abort_grpc_status_runtime,
        ],
    });
    let delay = fault.delay.as_ref().map(|delay| {
        let Some(FaultDelaySecifier::FixedDelay(fixed)) = &delay.fault_delay_secifier else {
            return Err(FieldError::new(
                "delay",
                "has no fixed_delay, the only supported form",
            ));
        };
        Ok((delay_share(delay)?, duration("delay.fixed_delay", fixed)?))
    });
    Ok(Fault {
        delay: delay.transpose()?,
        abort: fault.abort.as_ref().map(abort).transpose()?,
    })
}

fn delay_share(delay: &FaultDelay) -> Result<aquifer_core::http::fault::Share> {
    share("delay.percentage", delay.percentage.as_ref())
}

fn abort(abort: &FaultAbort) -> Result<(aquifer_core::http::fault::Share, Abort)> {
    fields!(abort => FaultAbort { read: [percentage, error_type], harmless: [], refused: [response_body] });
    let kind = match abort.error_type {
        Some(ErrorType::HttpStatus(code)) => Abort::Http(status("abort.http_status", code, 200..600)?),
        Some(ErrorType::GrpcStatus(code)) => Abort::Grpc(code),
        Some(ErrorType::HeaderAbort(_)) => return Err(FieldError::unsupported("abort.header_abort")),
        None => {
            return Err(FieldError::new(
                "abort",
                "has neither http_status nor grpc_status",
            ));
        }
    };
    Ok((share("abort.percentage", abort.percentage.as_ref())?, kind))
}

fn cors(policy: &CorsPolicy) -> Result<Cors> {
    fields!(policy => CorsPolicy {
        read: [
            allow_origin_string_match, allow_methods, allow_headers, expose_headers, max_age, allow_credentials,
            forward_not_matching_preflights, filter_enabled,
        ],
        harmless: [shadow_enabled],
        refused: [allow_private_network_access],
    });
    enabled(policy)?;
    Ok(Cors {
        allow_origins: each(
            "allow_origin_string_match",
            &policy.allow_origin_string_match,
            |m| text_match("string_match", m),
        )?,
        allow_methods: value("allow_methods", &policy.allow_methods)?,
        allow_headers: value("allow_headers", &policy.allow_headers)?,
        expose_headers: value("expose_headers", &policy.expose_headers)?,
        max_age: value("max_age", &policy.max_age)?,
        allow_credentials: flag(policy.allow_credentials.as_ref()),
        forward_unmatched_preflights: policy.forward_not_matching_preflights.is_none_or(|v| v.value),
    })
}

/// A policy for a share of requests only makes no sense with a fixed configuration.
fn enabled(policy: &CorsPolicy) -> Result<()> {
    let Some(percent) = policy
        .filter_enabled
        .as_ref()
        .and_then(|e| e.default_value.as_ref())
    else {
        return Ok(());
    };
    if share("filter_enabled", Some(percent))?.parts_per_million() == 1_000_000 {
        return Ok(());
    }
    Err(FieldError::new(
        "filter_enabled",
        "is not 100 percent, the only supported share",
    ))
}

fn value(field: &str, text: &str) -> Result<Option<HeaderValue>> {
    if text.is_empty() {
        return Ok(None);
    }
    let value = HeaderValue::from_str(text);
    value
        .map(Some)
        .map_err(|_| FieldError::new(field, "holds characters that no header may"))
}
