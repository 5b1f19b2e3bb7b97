//! What a rule does with a request: forward (with everything around it), redirect, or answer.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;

use crate::model::field::{Share, TextMatch, check_regex, duration, header_name, header_value, shorten};
use crate::model::host::destination_host;
use crate::model::virtual_service::{CLUSTER_DOMAIN, indexed};
use crate::objects::istio as raw;
use crate::objects::{Notice, Rejection};

#[derive(Clone, Debug)]
pub enum Action {
    Forward(Box<HttpForward>),
    Redirect(Redirect),
    Respond { status: u32, body: Vec<u8> },
}

#[derive(Clone, Debug)]
pub struct HttpForward {
    pub destinations: Vec<WeightedDestination>,
    pub rewrite: Rewrite,
    pub timeout: Option<Duration>,
    pub retries: RetryPolicy,
    pub delay: Option<(Duration, Share)>,
    pub abort: Option<(Abort, Share)>,
    pub mirrors: Vec<MirrorTo>,
    pub cors: Option<Cors>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub host: Arc<str>,
    pub subset: Option<Arc<str>>,
    pub port: Option<u16>,
    /// The path of this destination in its object, for messages.
    pub field: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedDestination {
    pub destination: Destination,
    pub weight: u32,
    pub request_headers: HeaderEdits,
    pub response_headers: HeaderEdits,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    pub set: Vec<(Arc<str>, Arc<str>)>,
    pub add: Vec<(Arc<str>, Arc<str>)>,
    pub remove: Vec<Arc<str>>,
    /// `set` of `Host` or `:authority`.
    pub authority: Option<Arc<str>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Replaces the matched prefix, or the whole path of another match.
    pub uri: Option<Arc<str>>,
    pub authority: Option<Arc<str>>,
    /// Pattern and substitution.
    pub regex: Option<(Arc<str>, Arc<str>)>,
}

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

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Abort {
    Http(u32),
    Grpc(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorTo {
    pub destination: Destination,
    pub share: Share,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    pub origins: Vec<TextMatch>,
    pub methods: Vec<Arc<str>>,
    pub headers: Vec<Arc<str>>,
    pub expose: Vec<Arc<str>>,
    pub max_age: Option<Duration>,
    pub credentials: Option<bool>,
    pub forward_unmatched: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    pub path: Option<PathRedirect>,
    pub authority: Option<Arc<str>>,
    pub scheme: Option<Arc<str>>,
    pub port: Option<u16>,
    pub code: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRedirect {
    Full(Arc<str>),
    /// `%PREFIX()%` was written: the matched prefix is replaced.
    Prefix(Arc<str>),
}

impl Action {
    pub(super) fn parse(
        rule: &raw::HttpRoute,
        ns: &Arc<str>,
        field: &str,
        notices: &mut Vec<Notice>,
    ) -> Result<Self, Rejection> {
        let chosen = [
            !rule.route.is_empty(),
            rule.redirect.is_some(),
            rule.direct_response.is_some(),
        ];
        if chosen.iter().filter(|c| **c).count() != 1 {
            return Err(Rejection::invalid(
                field,
                "needs exactly one of route, redirect and directResponse",
            ));
        }
        if let Some(redirect) = &rule.redirect {
            refuse_beside(rule, field, "redirect")?;
            return Redirect::parse(redirect, &format!("{field}.redirect")).map(Self::Redirect);
        }
        if let Some(response) = &rule.direct_response {
            refuse_beside(rule, field, "directResponse")?;
            return respond(response, &format!("{field}.directResponse"));
        }
        HttpForward::parse(rule, ns, field, notices).map(|f| Self::Forward(Box::new(f)))
    }
}

/// Istio refuses these beside an answer that is not forwarded.
fn refuse_beside(rule: &raw::HttpRoute, field: &str, beside: &str) -> Result<(), Rejection> {
    let set = [
        ("fault", rule.fault.is_some()),
        ("rewrite", rule.rewrite.is_some()),
        ("mirror", rule.mirror.is_some() || !rule.mirrors.is_empty()),
        ("corsPolicy", rule.cors_policy.is_some()),
    ];
    match set.iter().find(|(_, present)| *present) {
        Some((name, _)) => Err(Rejection::invalid(
            format!("{field}.{name}"),
            format!("cannot be used together with {beside}"),
        )),
        None => Ok(()),
    }
}

fn respond(raw: &raw::DirectResponse, field: &str) -> Result<Action, Rejection> {
    if !(200..600).contains(&raw.status) {
        return Err(Rejection::invalid(
            format!("{field}.status"),
            "is not an HTTP status from 200 to 599",
        ));
    }
    let body = match raw.body.as_ref().map(|b| (&b.string, &b.bytes)) {
        None | Some((None, None)) => Vec::new(),
        Some((Some(text), None)) => text.as_bytes().to_vec(),
        Some((None, Some(bytes))) => base64::engine::general_purpose::STANDARD
            .decode(bytes.as_bytes())
            .map_err(|_| Rejection::invalid(format!("{field}.body.bytes"), "is not base64"))?,
        Some(_) => {
            return Err(Rejection::invalid(
                format!("{field}.body"),
                "has both string and bytes",
            ));
        }
    };
    if body.len() > MAX_DIRECT_BODY {
        return Err(Rejection::invalid(
            format!("{field}.body"),
            format!("is longer than {MAX_DIRECT_BODY} bytes"),
        ));
    }
    Ok(Action::Respond {
        status: raw.status,
        body,
    })
}

/// Envoy's own limit for the body of a direct response, in bytes (`max_direct_response_body_size_bytes`).
const MAX_DIRECT_BODY: usize = 4096;

impl HttpForward {
    fn parse(
        rule: &raw::HttpRoute,
        ns: &Arc<str>,
        field: &str,
        notices: &mut Vec<Notice>,
    ) -> Result<Self, Rejection> {
        let at = |name: &str| format!("{field}.{name}");
        let fault = rule.fault.as_ref();
        let delay = fault
            .and_then(|f| f.delay.as_ref())
            .map(|d| parse_delay(d, &at("fault.delay")))
            .transpose()?;
        let abort = fault
            .and_then(|f| f.abort.as_ref())
            .map(|a| parse_abort(a, &at("fault.abort")))
            .transpose()?;
        let timeout = rule
            .timeout
            .as_ref()
            .map(|t| duration(t, &at("timeout")))
            .transpose()?;
        let retries = rule
            .retries
            .as_ref()
            .map(|r| RetryPolicy::parse(r, &at("retries"), notices))
            .transpose()?;
        let rewrite = rule
            .rewrite
            .as_ref()
            .map(|r| Rewrite::parse(r, &at("rewrite")))
            .transpose()?;
        Ok(Self {
            destinations: http_destinations(&rule.route, ns, &at("route"))?,
            rewrite: rewrite.unwrap_or_default(),
            // 0s turns the timeout off, as in Envoy.
            timeout: timeout.filter(|t| !t.is_zero()),
            retries: retries.unwrap_or_default(),
            delay,
            abort,
            mirrors: note_mirrors(parse_mirrors(rule, ns, field)?, notices),
            cors: rule
                .cors_policy
                .as_ref()
                .map(|c| Cors::parse(c, &at("corsPolicy")))
                .transpose()?,
        })
    }
}

fn http_destinations(
    routes: &[raw::HttpDestination],
    ns: &Arc<str>,
    field: &str,
) -> Result<Vec<WeightedDestination>, Rejection> {
    let weights: Vec<Option<i64>> = routes.iter().map(|r| r.weight).collect();
    let weights = check_weights(&weights, field)?;
    let mut parsed = Vec::with_capacity(routes.len());
    for (i, route) in routes.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let headers = route.headers.as_ref();
        parsed.push(WeightedDestination {
            destination: Destination::parse(route.destination.as_ref(), ns, &format!("{field}.destination"))?,
            weight: weights[i],
            request_headers: HeaderEdits::parse(
                headers.and_then(|h| h.request.as_ref()),
                &format!("{field}.headers.request"),
            )?,
            response_headers: HeaderEdits::parse(
                headers.and_then(|h| h.response.as_ref()),
                &format!("{field}.headers.response"),
            )?,
        });
    }
    parsed.retain(|d| d.weight > 0);
    Ok(parsed)
}

pub(super) fn tcp_destinations(
    routes: &[raw::RouteDestination],
    ns: &Arc<str>,
    field: &str,
) -> Result<Vec<WeightedDestination>, Rejection> {
    if routes.is_empty() {
        return Err(Rejection::invalid(
            field,
            "is empty; a tcp rule needs a destination",
        ));
    }
    let weights: Vec<Option<i64>> = routes.iter().map(|r| r.weight).collect();
    let weights = check_weights(&weights, field)?;
    let mut parsed = indexed(routes, field, |route, field| {
        Ok(WeightedDestination {
            destination: Destination::parse(route.destination.as_ref(), ns, &format!("{field}.destination"))?,
            weight: 0,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
        })
    })?;
    for (destination, weight) in parsed.iter_mut().zip(&weights) {
        destination.weight = *weight;
    }
    parsed.retain(|d| d.weight > 0);
    Ok(parsed)
}

/// The sum need not be 100. One destination gets everything, whatever its weight.
fn check_weights(weights: &[Option<i64>], field: &str) -> Result<Vec<u32>, Rejection> {
    let mut checked = Vec::with_capacity(weights.len());
    for (i, weight) in weights.iter().enumerate() {
        let weight = weight.unwrap_or(0);
        let valid = u32::try_from(weight)
            .ok()
            .filter(|w| *w <= MAX_WEIGHT)
            .ok_or_else(|| {
                let reason = format!("is {weight}; expected 0 to {MAX_WEIGHT}");
                Rejection::invalid(format!("{field}[{i}].weight"), reason)
            })?;
        checked.push(valid);
    }
    if let [only] = checked.as_mut_slice() {
        *only = (*only).max(1);
    }
    if checked.iter().map(|w| u64::from(*w)).sum::<u64>() == 0 {
        return Err(Rejection::invalid(
            field,
            "has weights that add up to 0: no request could be routed",
        ));
    }
    Ok(checked)
}

/// Keeps sums within 32 bits for any number of destinations that an object can hold.
const MAX_WEIGHT: u32 = 1_000_000;

impl Destination {
    fn parse(raw: Option<&raw::Destination>, ns: &Arc<str>, field: &str) -> Result<Self, Rejection> {
        let Some(raw) = raw else {
            return Err(Rejection::invalid(field, "is missing"));
        };
        if raw.host.is_empty() {
            return Err(Rejection::invalid(format!("{field}.host"), "is missing"));
        }
        let port = raw.port.as_ref().and_then(|p| p.number);
        if port == Some(0) {
            return Err(Rejection::invalid(
                format!("{field}.port.number"),
                "is 0; expected 1 to 65535",
            ));
        }
        Ok(Self {
            host: destination_host(&raw.host, ns, CLUSTER_DOMAIN, &format!("{field}.host"))?,
            subset: (!raw.subset.is_empty()).then(|| raw.subset.clone()),
            port,
            field: field.to_owned(),
        })
    }
}

impl HeaderEdits {
    pub(super) fn parse(raw: Option<&raw::HeaderOperations>, field: &str) -> Result<Self, Rejection> {
        let Some(raw) = raw else {
            return Ok(Self::default());
        };
        let mut edits = Self::default();
        for (name, value) in &raw.set {
            let at = format!("{field}.set[{name:?}]");
            if name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority") {
                edits.authority = Some(header_value(value, &at)?);
            } else {
                edits
                    .set
                    .push((header_name(name, &at)?, header_value(value, &at)?));
            }
        }
        for (name, value) in &raw.add {
            let at = format!("{field}.add[{name:?}]");
            edits
                .add
                .push((header_name(name, &at)?, header_value(value, &at)?));
        }
        for (i, name) in raw.remove.iter().enumerate() {
            edits
                .remove
                .push(header_name(name, &format!("{field}.remove[{i}]"))?);
        }
        Ok(edits)
    }
}

impl Rewrite {
    fn parse(raw: &raw::Rewrite, field: &str) -> Result<Self, Rejection> {
        let regex = match &raw.uri_regex_rewrite {
            Some(_) if raw.uri.is_some() => {
                return Err(Rejection::invalid(field, "has both uri and uriRegexRewrite"));
            }
            Some(regex) => {
                check_regex(&regex.r#match, &format!("{field}.uriRegexRewrite.match"))?;
                Some((regex.r#match.clone(), regex.rewrite.clone()))
            }
            None => None,
        };
        let authority = raw
            .authority
            .as_ref()
            .map(|a| header_value(a, &format!("{field}.authority")))
            .transpose()?;
        Ok(Self {
            uri: raw.uri.clone(),
            authority,
            regex,
        })
    }
}

impl RetryPolicy {
    fn parse(raw: &raw::Retries, field: &str, notices: &mut Vec<Notice>) -> Result<Self, Rejection> {
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

fn parse_delay(raw: &raw::Delay, field: &str) -> Result<(Duration, Share), Rejection> {
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

fn parse_abort(raw: &raw::Abort, field: &str) -> Result<(Abort, Share), Rejection> {
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

/// Checked and kept, but no proxy of this version mirrors.
fn note_mirrors(mirrors: Vec<MirrorTo>, notices: &mut Vec<Notice>) -> Vec<MirrorTo> {
    let message = "requests are not mirrored by this version";
    notices.extend(
        mirrors
            .iter()
            .map(|m| Notice::not_supported(m.destination.field.as_str(), message)),
    );
    mirrors
}

fn parse_mirrors(rule: &raw::HttpRoute, ns: &Arc<str>, field: &str) -> Result<Vec<MirrorTo>, Rejection> {
    if rule.mirror.is_some() && !rule.mirrors.is_empty() {
        return Err(Rejection::invalid(
            format!("{field}.mirrors"),
            "cannot be used together with mirror",
        ));
    }
    if let Some(mirror) = &rule.mirror {
        let share = match (rule.mirror_percentage.as_ref(), rule.mirror_percent) {
            (None, Some(percent)) => Share::percent(percent, &format!("{field}.mirrorPercent"))?,
            (percentage, _) => Share::parse(percentage, &format!("{field}.mirrorPercentage"))?,
        };
        let destination = Destination::parse(Some(mirror), ns, &format!("{field}.mirror"))?;
        return Ok(vec![MirrorTo { destination, share }]);
    }
    indexed(&rule.mirrors, &format!("{field}.mirrors"), |mirror, field| {
        if mirror.headers.is_some() {
            let at = format!("{field}.headers");
            return Err(Rejection::unsupported(
                at,
                "headers of a mirror are not supported by this version",
            ));
        }
        Ok(MirrorTo {
            destination: Destination::parse(
                mirror.destination.as_ref(),
                ns,
                &format!("{field}.destination"),
            )?,
            share: Share::parse(mirror.percentage.as_ref(), &format!("{field}.percentage"))?,
        })
    })
}

impl Cors {
    fn parse(raw: &raw::CorsPolicy, field: &str) -> Result<Self, Rejection> {
        let mut origins = indexed(&raw.allow_origins, &format!("{field}.allowOrigins"), |o, f| {
            TextMatch::parse(o, f)
        })?;
        origins.extend(raw.allow_origin.iter().map(|o| match &**o {
            "*" => TextMatch::Present,
            exact => TextMatch::Exact(exact.into()),
        }));
        Ok(Self {
            origins,
            methods: raw.allow_methods.clone(),
            headers: raw.allow_headers.clone(),
            expose: raw.expose_headers.clone(),
            max_age: raw
                .max_age
                .as_ref()
                .map(|m| duration(m, &format!("{field}.maxAge")))
                .transpose()?,
            credentials: raw.allow_credentials,
            forward_unmatched: &*raw.unmatched_preflights != "IGNORE",
        })
    }
}

impl Redirect {
    fn parse(raw: &raw::Redirect, field: &str) -> Result<Self, Rejection> {
        let code = raw.redirect_code.unwrap_or(301);
        if ![301, 302, 303, 307, 308].contains(&code) {
            let reason = format!("is {code}; expected 301, 302, 303, 307 or 308");
            return Err(Rejection::invalid(format!("{field}.redirectCode"), reason));
        }
        if let Some(derive) = &raw.derive_port {
            let at = format!("{field}.derivePort");
            return Err(Rejection::unsupported(
                at,
                format!("{:?} is not supported; use port", shorten(derive)),
            ));
        }
        if raw.scheme.as_deref().is_some_and(|s| s != "http" && s != "https") {
            return Err(Rejection::invalid(
                format!("{field}.scheme"),
                "is neither http nor https",
            ));
        }
        let path = raw.uri.as_ref().map(|uri| match uri.strip_prefix("%PREFIX()%") {
            Some(rest) => PathRedirect::Prefix(rest.into()),
            None => PathRedirect::Full(uri.clone()),
        });
        Ok(Self {
            path,
            authority: raw.authority.clone(),
            scheme: raw.scheme.clone(),
            port: raw.port,
            code,
        })
    }
}
