//! `filters[]`: changes of headers, host and path, and redirects.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::matching::{Rank, check_path};
use crate::model::field::{header_value, shorten};
use crate::model::host::HostPattern;
use crate::model::virtual_service::{HeaderEdits, PathCondition, PathRedirect, Redirect, Rewrite};
use crate::objects::Rejection;
use crate::objects::gateway_api as raw;
use crate::objects::istio;

#[derive(Debug, Default)]
pub(super) struct Filters {
    pub(super) request_headers: HeaderEdits,
    pub(super) response_headers: HeaderEdits,
    pub(super) rewrite: Rewrite,
    pub(super) redirect: Option<Redirect>,
    pub(super) redirects_to_listener: bool,
}

impl Filters {
    pub(super) fn parse(list: &[raw::HttpFilter], matches: &[Rank], field: &str) -> Result<Self, Rejection> {
        let mut filters = Self::default();
        for (i, filter) in list.iter().enumerate() {
            let field = format!("{field}[{i}]");
            if list[..i].iter().any(|earlier| earlier.r#type == filter.r#type) {
                let reason = format!("{} is given twice", shorten(&filter.r#type));
                return Err(Rejection::invalid(format!("{field}.type"), reason));
            }
            filters.add(filter, matches, &field)?;
        }
        if filters.redirect.is_some() && filters.rewrite != Rewrite::default() {
            let reason = "has both a RequestRedirect and a URLRewrite; only one of them can be done";
            return Err(Rejection::invalid(field, reason));
        }
        Ok(filters)
    }

    /// Those of one backend: headers only.
    pub(super) fn of_backend(list: &[raw::HttpFilter], field: &str) -> Result<Self, Rejection> {
        let other = |f: &&raw::HttpFilter| !f.r#type.ends_with("HeaderModifier");
        if let Some(filter) = list.iter().find(other) {
            let reason = format!(
                "has a {}; for one backend only RequestHeaderModifier and ResponseHeaderModifier are supported",
                shorten(&filter.r#type)
            );
            return Err(Rejection::unsupported(field, reason));
        }
        Self::parse(list, &[], field)
    }

    fn add(&mut self, filter: &raw::HttpFilter, matches: &[Rank], field: &str) -> Result<(), Rejection> {
        let missing = |name: &str| Rejection::invalid(format!("{field}.{name}"), "is missing");
        match &*filter.r#type {
            "RequestHeaderModifier" => {
                let edits = filter.request_header_modifier.as_ref();
                let edits = edits.ok_or_else(|| missing("requestHeaderModifier"))?;
                self.request_headers = headers(edits, &format!("{field}.requestHeaderModifier"))?;
            }
            "ResponseHeaderModifier" => {
                let edits = filter.response_header_modifier.as_ref();
                let edits = edits.ok_or_else(|| missing("responseHeaderModifier"))?;
                self.response_headers = headers(edits, &format!("{field}.responseHeaderModifier"))?;
            }
            "RequestRedirect" => {
                let to = filter.request_redirect.as_ref();
                let to = to.ok_or_else(|| missing("requestRedirect"))?;
                self.redirects_to_listener = to.port.is_none() && to.scheme.is_none();
                self.redirect = Some(redirect(to, matches, &format!("{field}.requestRedirect"))?);
            }
            "URLRewrite" => {
                let to = filter.url_rewrite.as_ref().ok_or_else(|| missing("urlRewrite"))?;
                self.rewrite = rewrite(to, matches, &format!("{field}.urlRewrite"))?;
            }
            other => {
                let reason = format!("{:?} is not supported by this version", shorten(other));
                return Err(Rejection::unsupported(format!("{field}.type"), reason));
            }
        }
        Ok(())
    }
}

/// Values are literal here: a percent sign starts no command.
fn headers(raw: &raw::HeaderModifier, field: &str) -> Result<HeaderEdits, Rejection> {
    let map = |list: &[raw::NamedValue]| -> BTreeMap<Arc<str>, Arc<str>> {
        // The first of two entries for one name counts: it is inserted last.
        let pairs = list.iter().rev().map(|h| {
            let name: Arc<str> = h.name.to_ascii_lowercase().into();
            (name, h.value.replace('%', "%%").into())
        });
        pairs.collect()
    };
    let operations = istio::HeaderOperations {
        set: map(&raw.set),
        add: map(&raw.add),
        remove: raw.remove.clone(),
    };
    HeaderEdits::parse(Some(&operations), field)
}

/// What a path becomes: the same for rewrites and redirects.
enum NewPath {
    Full(Arc<str>),
    /// In place of a prefix that matched.
    Prefix(Arc<str>),
    /// Pattern and substitution.
    Regex(Arc<str>, Arc<str>),
}

fn new_path(raw: &raw::PathModifier, matches: &[Rank], field: &str) -> Result<NewPath, Rejection> {
    let missing = |name: &str| Rejection::invalid(format!("{field}.{name}"), "is missing");
    match &*raw.r#type {
        "ReplaceFullPath" => {
            let path = raw
                .replace_full_path
                .as_ref()
                .ok_or_else(|| missing("replaceFullPath"))?;
            let path: Arc<str> = if path.is_empty() { "/".into() } else { path.clone() };
            check_path(&path, &format!("{field}.replaceFullPath"))?;
            Ok(NewPath::Full(path))
        }
        "ReplacePrefixMatch" => {
            let path = raw
                .replace_prefix_match
                .as_ref()
                .ok_or_else(|| missing("replacePrefixMatch"))?;
            new_prefix(path, matches, &format!("{field}.replacePrefixMatch"))
        }
        other => {
            let reason = format!(
                "{:?} is neither ReplaceFullPath nor ReplacePrefixMatch",
                shorten(other)
            );
            Err(Rejection::unsupported(format!("{field}.type"), reason))
        }
    }
}

/// A trailing slash of either prefix is left out; what follows the prefix begins with one, or is nothing.
fn new_prefix(path: &str, matches: &[Rank], field: &str) -> Result<NewPath, Rejection> {
    let [only] = matches else {
        let reason = "needs a rule with exactly one match, of type PathPrefix";
        return Err(Rejection::invalid(field, reason));
    };
    if !path.is_empty() {
        check_path(path, field)?;
    }
    let new = path.trim_end_matches('/');
    match &only.condition.uri {
        // The prefix `/`: all of the path follows it.
        None if new.is_empty() => Ok(NewPath::Regex("^(.*)$".into(), r"\1".into())),
        None => Ok(NewPath::Prefix(format!("{new}/").into())),
        Some(PathCondition::Segments(old)) if new.is_empty() => {
            let pattern = format!("^{}/?(.*)$", regex::escape(old));
            Ok(NewPath::Regex(pattern.into(), r"/\1".into()))
        }
        Some(PathCondition::Segments(_)) => Ok(NewPath::Prefix(new.into())),
        Some(PathCondition::Text(_)) => Err(Rejection::invalid(
            field,
            "needs a match of type PathPrefix, whose prefix it replaces",
        )),
    }
}

fn rewrite(raw: &raw::UrlRewrite, matches: &[Rank], field: &str) -> Result<Rewrite, Rejection> {
    let mut rewrite = Rewrite {
        authority: raw
            .hostname
            .as_ref()
            .map(|h| host(h, &format!("{field}.hostname")))
            .transpose()?,
        ..Rewrite::default()
    };
    match raw
        .path
        .as_ref()
        .map(|p| new_path(p, matches, &format!("{field}.path")))
        .transpose()?
    {
        None => {}
        // Whatever matched, the whole path is replaced.
        Some(NewPath::Full(path)) => rewrite.regex = Some(("^.*$".into(), path.replace('\\', r"\\").into())),
        Some(NewPath::Prefix(prefix)) => rewrite.uri = Some(prefix),
        Some(NewPath::Regex(pattern, with)) => rewrite.regex = Some((pattern, with)),
    }
    Ok(rewrite)
}

fn redirect(raw: &raw::RequestRedirect, matches: &[Rank], field: &str) -> Result<Redirect, Rejection> {
    let code = raw.status_code.unwrap_or(302);
    if ![301, 302, 303, 307, 308].contains(&code) {
        let reason = format!("is {code}; expected 301, 302, 303, 307 or 308");
        return Err(Rejection::invalid(format!("{field}.statusCode"), reason));
    }
    if raw.scheme.as_deref().is_some_and(|s| s != "http" && s != "https") {
        return Err(Rejection::invalid(
            format!("{field}.scheme"),
            "is neither http nor https",
        ));
    }
    let path = raw
        .path
        .as_ref()
        .map(|p| new_path(p, matches, &format!("{field}.path")))
        .transpose()?;
    Ok(Redirect {
        path: path.map(|path| match path {
            NewPath::Full(path) => PathRedirect::Full(path),
            NewPath::Prefix(prefix) => PathRedirect::Prefix(prefix),
            NewPath::Regex(pattern, with) => PathRedirect::Regex(pattern, with),
        }),
        authority: raw
            .hostname
            .as_ref()
            .map(|h| host(h, &format!("{field}.hostname")))
            .transpose()?,
        scheme: raw.scheme.clone(),
        port: raw.port,
        code,
    })
}

fn host(text: &Arc<str>, field: &str) -> Result<Arc<str>, Rejection> {
    match HostPattern::parse(text, field)? {
        HostPattern::Exact(host) => header_value(&host, field),
        _ => Err(Rejection::invalid(field, "has a wildcard; expected one name")),
    }
}
