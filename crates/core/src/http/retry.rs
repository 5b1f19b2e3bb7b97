//! When a failed attempt is made again: Envoy's conditions, decided without a socket or a clock.

use std::time::Duration;

/// What `retry_on` lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn {
    pub server_error: bool,
    pub gateway_error: bool,
    pub reset: bool,
    pub reset_before_request: bool,
    pub connect_failure: bool,
    pub refused_stream: bool,
    pub retriable_4xx: bool,
    pub retriable_status_codes: bool,
    pub grpc: GrpcRetryOn,
}

/// Status codes of gRPC as a bit set: bit N stands for code N.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrpcRetryOn(u32);

const CANCELLED: u32 = 1;
const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

impl GrpcRetryOn {
    fn with(self, code: u32) -> Self {
        Self(self.0 | 1 << code)
    }

    fn holds(self, code: u32) -> bool {
        code < 32 && self.0 & (1 << code) != 0
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("retry condition {0:?} is not supported")]
pub struct RetryOnError(pub String);

impl RetryOn {
    /// Parses Envoy's comma-separated list.
    pub fn parse(text: &str) -> Result<Self, RetryOnError> {
        let words = text.split(',').map(str::trim).filter(|w| !w.is_empty());
        words.into_iter().try_fold(Self::default(), Self::and)
    }

    fn and(mut self, word: &str) -> Result<Self, RetryOnError> {
        match word {
            "5xx" => self.server_error = true,
            "gateway-error" => self.gateway_error = true,
            "reset" => self.reset = true,
            "reset-before-request" => self.reset_before_request = true,
            "connect-failure" => self.connect_failure = true,
            "refused-stream" => self.refused_stream = true,
            "retriable-4xx" => self.retriable_4xx = true,
            "retriable-status-codes" => self.retriable_status_codes = true,
            "cancelled" => self.grpc = self.grpc.with(CANCELLED),
            "deadline-exceeded" => self.grpc = self.grpc.with(DEADLINE_EXCEEDED),
            "resource-exhausted" => self.grpc = self.grpc.with(RESOURCE_EXHAUSTED),
            "internal" => self.grpc = self.grpc.with(INTERNAL),
            "unavailable" => self.grpc = self.grpc.with(UNAVAILABLE),
            other => return Err(RetryOnError(other.chars().take(60).collect())),
        }
        Ok(self)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    pub on: RetryOn,
    /// Attempts after the first.
    pub attempts: u32,
    pub status_codes: Vec<u16>,
    pub per_try_timeout: Option<Duration>,
    /// Do not choose an endpoint that failed this request before, while another is there.
    pub avoid_previous_hosts: bool,
    pub back_off: BackOff,
}

/// Exponential with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    pub base: Duration,
    pub max: Duration,
}

impl Default for BackOff {
    /// Envoy's: 25 ms, at most ten times that.
    fn default() -> Self {
        Self {
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
        }
    }
}

impl BackOff {
    /// The wait before attempt `retry` (1 for the first retry), below `min(max, base * 2^retry)`.
    pub fn wait(&self, retry: u32, random: u64) -> Duration {
        let ceiling = self.base.saturating_mul(1 << retry.min(16)).min(self.max);
        let nanos = u64::try_from(ceiling.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(random % nanos)
    }
}

/// How one attempt ended, as far as trying again depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    ConnectFailure,
    /// The stream or connection ended before a response; `sent` says whether any of the request left.
    Reset {
        sent: bool,
    },
    RefusedStream,
    TimedOut,
    Response {
        status: u16,
        grpc_status: Option<u32>,
    },
}

impl RetryPolicy {
    /// Whether the conditions allow another attempt; counting attempts is the caller's.
    pub fn allows(&self, attempt: Attempt) -> bool {
        let on = &self.on;
        let as_server_error = on.server_error || on.gateway_error || on.reset;
        match attempt {
            Attempt::ConnectFailure => as_server_error || on.connect_failure || on.reset_before_request,
            Attempt::Reset { sent } => as_server_error || (on.reset_before_request && !sent),
            Attempt::RefusedStream => as_server_error || on.refused_stream || on.reset_before_request,
            Attempt::TimedOut => as_server_error,
            Attempt::Response { status, grpc_status } => self.allows_response(status, grpc_status),
        }
    }

    fn allows_response(&self, status: u16, grpc_status: Option<u32>) -> bool {
        let on = &self.on;
        (on.server_error && (500..600).contains(&status))
            || (on.gateway_error && matches!(status, 502..=504))
            || (on.retriable_4xx && status == 409)
            || (on.retriable_status_codes && self.status_codes.contains(&status))
            || grpc_status.is_some_and(|code| on.grpc.holds(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(on: &str) -> RetryPolicy {
        RetryPolicy {
            on: RetryOn::parse(on).unwrap(),
            attempts: 2,
            status_codes: vec![418],
            per_try_timeout: None,
            avoid_previous_hosts: true,
            back_off: BackOff::default(),
        }
    }

    const RESPONSE_503: Attempt = Attempt::Response {
        status: 503,
        grpc_status: None,
    };

    #[test]
    fn default_conditions_of_istio() {
        let p = policy("connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes");
        assert!(p.allows(Attempt::ConnectFailure) && p.allows(Attempt::RefusedStream));
        assert!(!p.allows(RESPONSE_503) && !p.allows(Attempt::Reset { sent: true }));
        assert!(p.allows(Attempt::Response {
            status: 418,
            grpc_status: None
        }));
        assert!(p.allows(Attempt::Response {
            status: 200,
            grpc_status: Some(14)
        }));
        assert!(!p.allows(Attempt::Response {
            status: 200,
            grpc_status: Some(13)
        }));
    }

    #[test]
    fn server_errors_and_resets() {
        assert!(policy("5xx").allows(RESPONSE_503) && policy("5xx").allows(Attempt::TimedOut));
        assert!(!policy("gateway-error").allows(Attempt::Response {
            status: 500,
            grpc_status: None
        }));
        assert!(policy("reset-before-request").allows(Attempt::Reset { sent: false }));
        assert!(!policy("reset-before-request").allows(Attempt::Reset { sent: true }));
        assert!(policy("retriable-4xx").allows(Attempt::Response {
            status: 409,
            grpc_status: None
        }));
        assert!(RetryOn::parse("connect-failure,nonsense").is_err());
    }

    proptest! {
        #[test]
        fn back_off_stays_below_its_ceiling(retry in 0u32..100, random: u64) {
            prop_assert!(BackOff::default().wait(retry, random) < Duration::from_millis(250));
        }
    }
}
