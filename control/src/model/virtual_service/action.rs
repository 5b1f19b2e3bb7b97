//! What a rule does with a request: forward (with everything around it), redirect, or answer.

mod cors;
mod destinations;
mod faults;
mod headers;
mod redirect;
mod retries;

use std::sync::Arc;
use std::time::Duration;

use crate::model::field::{Share, duration};
use crate::objects::istio as raw;
use crate::objects::{Notice, Rejection};

pub use cors::Cors;
pub(super) use destinations::tcp_destinations;
pub use destinations::{Destination, MirrorTo, WeightedDestination};
pub use faults::Abort;
pub use headers::{HeaderEdits, Rewrite};
pub use redirect::{PathRedirect, Redirect};
pub use retries::RetryPolicy;

use destinations::{http_destinations, note_mirrors, parse_mirrors};
use faults::{parse_abort, parse_delay};
use redirect::respond;

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
    /// Answered for the share of a destination that does not exist.
    pub not_found: u16,
}

/// What Envoy says of a cluster that it does not know.
const UNAVAILABLE: u16 = 503;

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
            not_found: UNAVAILABLE,
        })
    }
}
