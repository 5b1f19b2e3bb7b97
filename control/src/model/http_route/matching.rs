//! `rules[].matches[]`: conditions, and which of two that both hold comes first.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::model::field::{TextMatch, check_regex, header_name, header_value, shorten};
use crate::model::virtual_service::{
    HeaderCondition, HttpCondition, PathCondition, SourceCondition, indexed,
};
use crate::objects::Rejection;
use crate::objects::gateway_api as raw;

/// The API's own limits, in matches of a rule and in headers or parameters of a match.
const MAX_MATCHES: usize = 64;
const MAX_VALUES: usize = 16;

/// A condition with what decides its place among others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rank {
    pub condition: HttpCondition,
    has_method: bool,
    headers: usize,
    query: usize,
}

impl Rank {
    /// Smaller comes first: an exact path, the longest prefix, an expression; then the method, the number of headers, the
    /// number of parameters.
    pub fn order(&self) -> impl Ord + use<> {
        let (kind, length) = match &self.condition.uri {
            Some(PathCondition::Text(TextMatch::Exact(path))) => (0, path.len()),
            Some(PathCondition::Segments(prefix)) => (1, prefix.len()),
            Some(PathCondition::Text(TextMatch::Regex(regex))) => (2, regex.len()),
            // The prefix `/`.
            None | Some(PathCondition::Text(TextMatch::Prefix(_) | TextMatch::Present)) => (3, 0),
        };
        (
            kind,
            Reverse(length),
            !self.has_method,
            Reverse(self.headers),
            Reverse(self.query),
        )
    }
}

/// One that takes everything where there is none.
pub(super) fn parse(list: &[raw::HttpMatch], field: &str) -> Result<Vec<Rank>, Rejection> {
    if list.len() > MAX_MATCHES {
        return Err(Rejection::invalid(
            field,
            format!("has more than {MAX_MATCHES} matches"),
        ));
    }
    if list.is_empty() {
        return Ok(vec![rank(&raw::HttpMatch::default(), field)?]);
    }
    indexed(list, field, rank)
}

fn rank(raw: &raw::HttpMatch, field: &str) -> Result<Rank, Rejection> {
    let at = |name: &str| format!("{field}.{name}");
    let mut headers = Vec::new();
    if let Some(method) = &raw.method {
        headers.push(HeaderCondition {
            name: ":method".into(),
            value: TextMatch::Exact(self::method(method, &at("method"))?),
            invert: false,
        });
    }
    let named = values(&raw.headers, &at("headers"), header_name)?;
    // The first of two entries for one name counts, as the API says.
    for (name, value) in named {
        headers.push(HeaderCondition {
            name,
            value,
            invert: false,
        });
    }
    let query = values(&raw.query_params, &at("queryParams"), parameter_name)?;
    let has_method = raw.method.is_some();
    Ok(Rank {
        has_method,
        headers: headers.len() - usize::from(has_method),
        query: query.len(),
        condition: HttpCondition {
            uri: raw
                .path
                .as_ref()
                .map(|p| path(p, &at("path")))
                .transpose()?
                .flatten(),
            ignore_uri_case: false,
            headers,
            query,
            port: None,
            gateways: Vec::new(),
            source: SourceCondition::default(),
        },
    })
}

fn method(text: &Arc<str>, field: &str) -> Result<Arc<str>, Rejection> {
    const METHODS: [&str; 9] = [
        "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
    ];
    if METHODS.contains(&&**text) {
        return Ok(text.clone());
    }
    let reason = format!("{:?} is none of {}", shorten(text), METHODS.join(", "));
    Err(Rejection::invalid(field, reason))
}

fn parameter_name(name: &str, field: &str) -> Result<Arc<str>, Rejection> {
    if name.is_empty() || name.len() > 256 {
        return Err(Rejection::invalid(field, "is empty, or longer than 256 bytes"));
    }
    Ok(name.into())
}

fn values(
    list: &[raw::ValueMatch],
    field: &str,
    parse_name: impl Fn(&str, &str) -> Result<Arc<str>, Rejection>,
) -> Result<Vec<(Arc<str>, TextMatch)>, Rejection> {
    if list.len() > MAX_VALUES {
        return Err(Rejection::invalid(
            field,
            format!("has more than {MAX_VALUES} entries"),
        ));
    }
    let mut found: Vec<(Arc<str>, TextMatch)> = Vec::new();
    for (i, raw) in list.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let name = parse_name(&raw.name, &format!("{field}.name"))?;
        let value = value(raw, &field)?;
        if !found.iter().any(|(known, _)| *known == name) {
            found.push((name, value));
        }
    }
    Ok(found)
}

fn value(raw: &raw::ValueMatch, field: &str) -> Result<TextMatch, Rejection> {
    let text = raw.value.clone().unwrap_or_default();
    match raw.r#type.as_deref().unwrap_or("Exact") {
        "Exact" => {
            header_value(&text.replace('%', "%%"), &format!("{field}.value")).map(|_| TextMatch::Exact(text))
        }
        "RegularExpression" => {
            check_regex(&text, &format!("{field}.value"))?;
            Ok(TextMatch::Regex(text))
        }
        other => Err(unknown_type(other, "Exact or RegularExpression", field)),
    }
}

fn unknown_type(text: &str, expected: &str, field: &str) -> Rejection {
    let reason = format!("{:?} is not known; expected {expected}", shorten(text));
    Rejection::unsupported(format!("{field}.type"), reason)
}

/// `None` for every path.
fn path(raw: &raw::ValueMatch, field: &str) -> Result<Option<PathCondition>, Rejection> {
    let text = raw.value.clone().unwrap_or_else(|| "/".into());
    let kind = raw.r#type.as_deref().unwrap_or("PathPrefix");
    if kind == "RegularExpression" {
        check_regex(&text, &format!("{field}.value"))?;
        return Ok(Some(PathCondition::Text(TextMatch::Regex(text))));
    }
    check_path(&text, &format!("{field}.value"))?;
    match kind {
        "Exact" => Ok(Some(PathCondition::Text(TextMatch::Exact(text)))),
        "PathPrefix" => {
            let prefix = text.trim_end_matches('/');
            Ok((!prefix.is_empty()).then(|| PathCondition::Segments(prefix.into())))
        }
        other => Err(unknown_type(
            other,
            "Exact, PathPrefix or RegularExpression",
            field,
        )),
    }
}

/// No request has such a path: the proxy compares normalised ones.
pub(super) fn check_path(text: &str, field: &str) -> Result<(), Rejection> {
    let odd = ["//", "/./", "/../", "%2f", "%2F", "#", "?"];
    let ends = text.ends_with("/..") || text.ends_with("/.");
    let reason = if !text.starts_with('/') {
        "does not begin with /"
    } else if text.len() > 1024 {
        "is longer than 1024 bytes"
    } else if ends
        || odd.iter().any(|part| text.contains(part))
        || text.bytes().any(|b| b <= b' ' || b == 0x7f)
    {
        "is no path that a request can have (//, /./, /../, %2f, # or ? in it)"
    } else {
        return Ok(());
    };
    Err(Rejection::invalid(field, reason))
}
