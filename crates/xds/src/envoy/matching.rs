//! The conditions of a route.

use aquifer_core::http::matching::{
    HeaderCondition, HeaderMatch, PathMatch, QueryMatch, RouteMatch as Conditions, SourceAttribute,
    SourceMatch,
};
use aquifer_core::http::text::{Case, TextMatch, TextPattern};

use super::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use super::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use super::pb::envoy::config::route::v3::route_match::PathSpecifier;
use super::pb::envoy::config::route::v3::{HeaderMatcher, QueryParameterMatcher, RouteMatch};
use super::pb::envoy::r#type::matcher::v3::MetadataMatcher;
use super::pb::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
use super::pb::envoy::r#type::matcher::v3::value_matcher::MatchPattern;
use super::text::{case, not_empty, pattern, text_match};
use super::{FieldError, Result, SOURCE_FILTER, SOURCE_NAMESPACE_FILTER, fields};

pub(super) fn convert(m: &RouteMatch) -> Result<Conditions> {
    fields!(m => RouteMatch {
        read: [path_specifier, case_sensitive, headers, query_parameters, dynamic_metadata, grpc],
        harmless: [],
        refused: [runtime_fraction, cookies, tls_context, filter_state],
    });
    Ok(Conditions {
        path: path(m)?,
        headers: each("headers", &m.headers, header)?,
        query: each("query_parameters", &m.query_parameters, query)?,
        source: each("dynamic_metadata", &m.dynamic_metadata, source)?,
        grpc: m.grpc.is_some(),
    })
}

/// Converts a list; an error names the element.
pub(super) fn each<T, U>(field: &str, list: &[T], convert: impl Fn(&T) -> Result<U>) -> Result<Vec<U>> {
    let numbered = list.iter().enumerate();
    numbered
        .map(|(i, item)| convert(item).map_err(|e| e.within(format!("{field}[{i}]"))))
        .collect()
}

fn path(m: &RouteMatch) -> Result<PathMatch> {
    let case = case(m.case_sensitive.is_none_or(|c| c.value));
    match m.path_specifier.as_ref() {
        Some(PathSpecifier::Prefix(prefix)) => Ok(PathMatch::Prefix {
            prefix: prefix.as_str().into(),
            case,
        }),
        Some(PathSpecifier::Path(path)) => Ok(PathMatch::Exact {
            path: path.as_str().into(),
            case,
        }),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => segment_prefix(prefix, case),
        Some(PathSpecifier::SafeRegex(regex)) => Ok(PathMatch::Regex(pattern("safe_regex", regex)?)),
        Some(PathSpecifier::ConnectMatcher(_)) => Err(FieldError::unsupported("connect_matcher")),
        Some(PathSpecifier::PathMatchPolicy(_)) => Err(FieldError::unsupported("path_match_policy")),
        None => Err(FieldError::new("path_specifier", "is missing")),
    }
}

fn segment_prefix(prefix: &str, case: Case) -> Result<PathMatch> {
    let bad =
        prefix.len() < 2 || !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']);
    if bad {
        let reason = "must start with a slash, not end with one, and hold neither ? nor #";
        return Err(FieldError::new("path_separated_prefix", reason));
    }
    Ok(PathMatch::SegmentPrefix {
        prefix: prefix.into(),
        case,
    })
}

fn header(m: &HeaderMatcher) -> Result<HeaderMatch> {
    fields!(m => HeaderMatcher {
        read: [name, invert_match, treat_missing_header_as_empty, header_match_specifier],
        harmless: [],
        refused: [],
    });
    let name = not_empty("name", &m.name)?.to_ascii_lowercase();
    let valid = name.starts_with(':') || http::HeaderName::from_bytes(name.as_bytes()).is_ok();
    if !valid {
        return Err(FieldError::new("name", format!("{name:?} is not a header name")));
    }
    Ok(HeaderMatch {
        name: name.into(),
        condition: header_condition(m.header_match_specifier.as_ref())?,
        invert: m.invert_match,
        missing_as_empty: m.treat_missing_header_as_empty,
    })
}

#[allow(
    deprecated,
    reason = "the older forms of a text condition are still what some servers send"
)]
fn header_condition(specifier: Option<&HeaderMatchSpecifier>) -> Result<HeaderCondition> {
    Ok(match specifier {
        None | Some(HeaderMatchSpecifier::PresentMatch(true)) => HeaderCondition::Present,
        Some(HeaderMatchSpecifier::PresentMatch(false)) => HeaderCondition::Absent,
        Some(HeaderMatchSpecifier::ExactMatch(text)) => TextPattern::Exact(text.as_str().into()).into(),
        Some(HeaderMatchSpecifier::PrefixMatch(text)) => {
            TextPattern::Prefix(not_empty("prefix_match", text)?).into()
        }
        Some(HeaderMatchSpecifier::SuffixMatch(text)) => {
            TextPattern::Suffix(not_empty("suffix_match", text)?).into()
        }
        Some(HeaderMatchSpecifier::ContainsMatch(text)) => {
            TextPattern::Contains(not_empty("contains_match", text)?).into()
        }
        Some(HeaderMatchSpecifier::SafeRegexMatch(regex)) => {
            TextPattern::Regex(pattern("safe_regex_match", regex)?).into()
        }
        Some(HeaderMatchSpecifier::StringMatch(matcher)) => {
            HeaderCondition::Text(text_match("string_match", matcher)?)
        }
        Some(HeaderMatchSpecifier::RangeMatch(range)) => HeaderCondition::Range {
            start: range.start,
            end: range.end,
        },
    })
}

fn query(m: &QueryParameterMatcher) -> Result<QueryMatch> {
    fields!(m => QueryParameterMatcher { read: [name, query_parameter_match_specifier], harmless: [], refused: [] });
    let value = match m.query_parameter_match_specifier.as_ref() {
        None | Some(QueryParameterMatchSpecifier::PresentMatch(true)) => None,
        Some(QueryParameterMatchSpecifier::PresentMatch(false)) => {
            return Err(FieldError::unsupported("present_match: false"));
        }
        Some(QueryParameterMatchSpecifier::StringMatch(matcher)) => {
            Some(text_match("string_match", matcher)?)
        }
    };
    Ok(QueryMatch {
        name: not_empty("name", &m.name)?,
        value,
    })
}

fn source(m: &MetadataMatcher) -> Result<SourceMatch> {
    fields!(m => MetadataMatcher { read: [filter, path, value, invert], harmless: [], refused: [] });
    Ok(SourceMatch {
        attribute: attribute(m)?,
        value: source_value(m)?,
        invert: m.invert,
    })
}

fn attribute(m: &MetadataMatcher) -> Result<SourceAttribute> {
    let [segment] = m.path.as_slice() else {
        return Err(FieldError::new("path", "must have exactly one segment"));
    };
    let Some(Segment::Key(key)) = segment.segment.as_ref() else {
        return Err(FieldError::new("path[0]", "has no key"));
    };
    match (m.filter.as_str(), key.as_str()) {
        (SOURCE_FILTER, key) => Ok(SourceAttribute::Label(not_empty("path[0].key", key)?)),
        (SOURCE_NAMESPACE_FILTER, "name") => Ok(SourceAttribute::Namespace),
        (SOURCE_NAMESPACE_FILTER, other) => {
            Err(FieldError::new("path[0].key", format!("{other:?} is not name")))
        }
        (other, _) => {
            let reason = format!("{other:?} is neither {SOURCE_FILTER} nor {SOURCE_NAMESPACE_FILTER}");
            Err(FieldError::new("filter", reason))
        }
    }
}

fn source_value(m: &MetadataMatcher) -> Result<Option<TextMatch>> {
    match m.value.as_ref().and_then(|v| v.match_pattern.as_ref()) {
        Some(MatchPattern::StringMatch(matcher)) => Ok(Some(text_match("value.string_match", matcher)?)),
        Some(MatchPattern::PresentMatch(true)) => Ok(None),
        Some(_) => Err(FieldError::new(
            "value",
            "is neither a string_match nor present_match: true",
        )),
        None => Err(FieldError::new("value", "is missing")),
    }
}
