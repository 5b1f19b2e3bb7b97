//! Cross-origin requests.

use std::sync::Arc;
use std::time::Duration;

use crate::model::field::{TextMatch, duration};
use crate::model::virtual_service::indexed;
use crate::objects::Rejection;
use crate::objects::istio as raw;

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

impl Cors {
    pub(super) fn parse(raw: &raw::CorsPolicy, field: &str) -> Result<Self, Rejection> {
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
