//! When and how often a request is tried again.

use std::sync::Arc;
use std::time::Duration;

use crate::model::field::{duration, shorten};
use crate::objects::istio as raw;
use crate::objects::{Notice, Rejection};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// 0 disables.
    pub attempts: u32,
    pub per_try_timeout: Option<Duration>,
    pub conditions: Vec<Arc<str>>,
    pub status_codes: Vec<u32>,
    pub backoff: Option<Duration>,
    pub ignore_previous_hosts: bool,
}

impl Default for RetryPolicy {
    /// Istio's: two attempts, on failures that cannot have reached the application, on another host.
    fn default() -> Self {
        Self {
            attempts: 2,
            per_try_timeout: None,
            conditions: DEFAULT_RETRY_ON.iter().map(|c| Arc::from(*c)).collect(),
            status_codes: vec![503],
            backoff: None,
            ignore_previous_hosts: true,
        }
    }
}

const DEFAULT_RETRY_ON: [&str; 4] = ["connect-failure", "refused-stream", "unavailable", "cancelled"];
const KNOWN_RETRY_ON: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

impl RetryPolicy {
    pub(super) fn parse(
        raw: &raw::Retries,
        field: &str,
        notices: &mut Vec<Notice>,
    ) -> Result<Self, Rejection> {
        let at = |name: &str| format!("{field}.{name}");
        let attempts = raw.attempts.unwrap_or(2);
        let attempts = u32::try_from(attempts)
            .ok()
            .filter(|n| *n <= 100)
            .ok_or_else(|| Rejection::invalid(at("attempts"), format!("is {attempts}; expected 0 to 100")))?;
        let mut policy = Self {
            attempts,
            ..Self::default()
        };
        if !raw.retry_on.is_empty() {
            (policy.conditions, policy.status_codes) = parse_retry_on(&raw.retry_on, &at("retryOn"))?;
        }
        policy.per_try_timeout = raw
            .per_try_timeout
            .as_ref()
            .map(|t| duration(t, &at("perTryTimeout")))
            .transpose()?;
        policy.backoff = raw
            .backoff
            .as_ref()
            .map(|t| duration(t, &at("backoff")))
            .transpose()?;
        policy.ignore_previous_hosts = raw.retry_ignore_previous_hosts.unwrap_or(true);
        if raw.retry_remote_localities.is_some() {
            let message = "localities are not used by this version; retries go to any endpoint";
            notices.push(Notice::not_supported(at("retryRemoteLocalities"), message));
        }
        Ok(policy)
    }
}

fn parse_retry_on(text: &str, field: &str) -> Result<(Vec<Arc<str>>, Vec<u32>), Rejection> {
    let mut conditions: Vec<Arc<str>> = Vec::new();
    let mut codes = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        match part.parse::<u32>() {
            Ok(code) if (100..600).contains(&code) => codes.push(code),
            _ if KNOWN_RETRY_ON.contains(&part) => conditions.push(part.into()),
            _ => {
                let reason = format!(
                    "{:?} is neither a retry condition nor a status code",
                    shorten(part)
                );
                return Err(Rejection::invalid(field, reason));
            }
        }
    }
    Ok((conditions, codes))
}
