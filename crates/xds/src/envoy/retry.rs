//! Retry policies.

use std::time::Duration;

use aquifer_core::http::retry::{BackOff, RetryOn, RetryPolicy as Policy};

use super::pb::envoy::config::route::v3::RetryPolicy;
use super::pb::envoy::config::route::v3::retry_policy::RetryBackOff;
use super::values::{duration, limit, optional_duration, status};
use super::{FieldError, Result, fields};

const PREVIOUS_HOSTS: &str = "envoy.retry_host_predicates.previous_hosts";

/// `None` where the policy allows no retry.
pub(super) fn convert(policy: &RetryPolicy) -> Result<Option<Policy>> {
    fields!(policy => RetryPolicy {
        read: [
            retry_on, num_retries, per_try_timeout, retry_host_predicate, host_selection_retry_max_attempts,
            retriable_status_codes, retry_back_off,
        ],
        harmless: [],
        refused: [
            per_try_idle_timeout, retry_priority, retry_options_predicates, rate_limited_retry_back_off,
            retriable_headers, retriable_request_headers, refresh_cluster_on_retry,
        ],
    });
    let attempts = policy.num_retries.map_or(1, |n| n.value);
    let on = RetryOn::parse(&policy.retry_on).map_err(|e| FieldError::new("retry_on", e))?;
    if attempts == 0 {
        return Ok(None);
    }
    Ok(Some(Policy {
        on,
        attempts,
        status_codes: status_codes(&policy.retriable_status_codes)?,
        per_try_timeout: limit("per_try_timeout", policy.per_try_timeout.as_ref(), None)?,
        avoid_previous_hosts: avoids_previous_hosts(policy)?,
        back_off: policy
            .retry_back_off
            .as_ref()
            .map_or_else(|| Ok(BackOff::default()), back_off)?,
    }))
}

fn status_codes(codes: &[u32]) -> Result<Vec<u16>> {
    let codes = codes
        .iter()
        .map(|code| status("retriable_status_codes", *code, 100..600));
    codes.collect()
}

fn avoids_previous_hosts(policy: &RetryPolicy) -> Result<bool> {
    let unknown = policy
        .retry_host_predicate
        .iter()
        .find(|p| p.name != PREVIOUS_HOSTS);
    if let Some(unknown) = unknown {
        let reason = format!("{:?} is not supported, only {PREVIOUS_HOSTS}", unknown.name);
        return Err(FieldError::new("retry_host_predicate", reason));
    }
    Ok(!policy.retry_host_predicate.is_empty())
}

fn back_off(back_off: &RetryBackOff) -> Result<BackOff> {
    let base = back_off.base_interval.as_ref();
    let base = base.ok_or_else(|| FieldError::new("retry_back_off.base_interval", "is missing"))?;
    let base = duration("retry_back_off.base_interval", base)?.max(Duration::from_millis(1));
    let max = optional_duration("retry_back_off.max_interval", back_off.max_interval.as_ref())?;
    let max = max.unwrap_or_else(|| base.saturating_mul(10));
    if max < base {
        return Err(FieldError::new(
            "retry_back_off.max_interval",
            "is below base_interval",
        ));
    }
    Ok(BackOff { base, max })
}
