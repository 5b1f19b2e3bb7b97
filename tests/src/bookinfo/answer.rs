//! An answer of any part, and how it says who served it.
//!
//! The header `x-served-by` lists `SERVICE/VERSION@POD` of the part itself and then of those whose
//! answers it used, outermost first. JSON bodies carry the part's own entry in `servedBy`; the page of
//! productpage ends with the whole list in a comment.

use std::fmt;
use std::str::FromStr;

use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use serde_json::{Value, json};
use thiserror::Error;

pub const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
/// A chain longer than this is not ours.
const MAX_CHAIN: usize = 16;

/// One pod that took part in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedBy {
    pub service: String,
    pub version: String,
    pub pod: String,
}

impl fmt::Display for ServedBy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}@{}", self.service, self.version, self.pod)
    }
}

#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not SERVICE/VERSION@POD")]
pub struct ServedByError(String);

impl FromStr for ServedBy {
    type Err = ServedByError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ServedByError(text.to_owned());
        let (what, pod) = text.split_once('@').ok_or_else(refused)?;
        let (service, version) = what.split_once('/').ok_or_else(refused)?;
        Ok(Self {
            service: service.to_owned(),
            version: version.to_owned(),
            pod: pod.to_owned(),
        })
    }
}

/// Reads `x-served-by`; entries that are not ours are left out.
pub fn chain(headers: &HeaderMap) -> Vec<ServedBy> {
    let value = headers
        .get(SERVED_BY)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value
        .split(',')
        .filter_map(|entry| entry.trim().parse().ok())
        .take(MAX_CHAIN)
        .collect()
}

#[derive(Debug)]
pub struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// The part itself, then those it asked.
    pub(crate) chain: Vec<ServedBy>,
}

impl Answer {
    pub(crate) fn json(me: &ServedBy, status: StatusCode, mut body: Value) -> Self {
        if let Some(object) = body.as_object_mut() {
            object.insert("servedBy".to_owned(), Value::String(me.to_string()));
        }
        Self::text(me, status, "application/json", body.to_string())
    }

    pub(crate) fn error(me: &ServedBy, status: StatusCode, message: &str) -> Self {
        Self::json(me, status, json!({ "error": message }))
    }

    pub(crate) fn html(me: &ServedBy, body: String) -> Self {
        Self::text(me, StatusCode::OK, "text/html; charset=utf-8", body)
    }

    pub(crate) fn text(me: &ServedBy, status: StatusCode, content_type: &'static str, body: String) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Self {
            status,
            headers,
            body: Bytes::from(body),
            chain: vec![me.clone()],
        }
    }

    pub(crate) fn used(mut self, others: impl IntoIterator<Item = ServedBy>) -> Self {
        self.chain.extend(others);
        self.chain.truncate(MAX_CHAIN);
        self
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        if let Ok(value) = HeaderValue::from_str(&chain_text(&self.chain)) {
            response.headers_mut().insert(SERVED_BY, value);
        }
        response
    }
}

pub(crate) fn chain_text(chain: &[ServedBy]) -> String {
    chain
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> ServedBy {
        "reviews/v2@reviews-v2-abc".parse().unwrap()
    }

    #[test]
    fn the_chain_survives_the_header() {
        let rating: ServedBy = "ratings/v1@ratings-v1-x".parse().unwrap();
        let response = Answer::error(&me(), StatusCode::OK, "")
            .used([rating.clone()])
            .into_response();
        assert_eq!(chain(response.headers()), [me(), rating]);
    }

    #[test]
    fn foreign_entries_are_left_out() {
        let mut headers = HeaderMap::new();
        headers.insert(
            SERVED_BY,
            HeaderValue::from_static("cache-1, reviews/v2@reviews-v2-abc"),
        );
        assert_eq!(chain(&headers), [me()]);
    }
}
