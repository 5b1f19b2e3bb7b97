//! Answers of the proxy itself: redirects and fixed responses.

use std::sync::Arc;

use base64::Engine;

use super::Action;
use crate::model::field::shorten;
use crate::objects::Rejection;
use crate::objects::istio as raw;

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
    /// Pattern and substitution.
    Regex(Arc<str>, Arc<str>),
}

pub(super) fn respond(raw: &raw::DirectResponse, field: &str) -> Result<Action, Rejection> {
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

impl Redirect {
    pub(super) fn parse(raw: &raw::Redirect, field: &str) -> Result<Self, Rejection> {
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
