//! Changes of headers, of the path and of the host.

use std::sync::Arc;

use crate::model::field::{check_regex, header_name, header_value};
use crate::objects::Rejection;
use crate::objects::istio as raw;

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

impl HeaderEdits {
    pub(crate) fn parse(raw: Option<&raw::HeaderOperations>, field: &str) -> Result<Self, Rejection> {
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
    pub(in crate::model::virtual_service) fn parse(
        raw: &raw::Rewrite,
        field: &str,
    ) -> Result<Self, Rejection> {
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
