//! Conditions of routes.

use aquifer_xds::envoy::pb::envoy::config::route::v3 as route;
use aquifer_xds::envoy::pb::envoy::r#type::matcher::v3 as matcher;
use aquifer_xds::envoy::{SOURCE_FILTER, SOURCE_NAMESPACE_FILTER};
use route::header_matcher::HeaderMatchSpecifier;
use route::query_parameter_matcher::QueryParameterMatchSpecifier;
use route::route_match::PathSpecifier;

use crate::envoy::values::bool_value;
use crate::model::field::TextMatch;
use crate::model::virtual_service::{HeaderCondition, HttpCondition, PathCondition, SourceCondition};

/// Every request of a client that fits `source`.
pub fn any_request(source: &SourceCondition) -> route::RouteMatch {
    route::RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        dynamic_metadata: source_matchers(source),
        ..route::RouteMatch::default()
    }
}

/// `source` is the condition's own, joined with those of its surroundings.
pub fn route_match(condition: &HttpCondition, source: &SourceCondition) -> route::RouteMatch {
    let insensitive = condition.ignore_uri_case && condition.uri.is_some();
    route::RouteMatch {
        path_specifier: Some(path(condition.uri.as_ref())),
        case_sensitive: insensitive.then(|| bool_value(false)),
        headers: condition.headers.iter().map(header).collect(),
        query_parameters: condition
            .query
            .iter()
            .map(|(name, value)| query(name, value))
            .collect(),
        dynamic_metadata: source_matchers(source),
        ..route::RouteMatch::default()
    }
}

fn path(uri: Option<&PathCondition>) -> PathSpecifier {
    let text = match uri {
        None => &TextMatch::Present,
        Some(PathCondition::Segments(prefix)) => {
            return PathSpecifier::PathSeparatedPrefix(prefix.to_string());
        }
        Some(PathCondition::Text(text)) => text,
    };
    match text {
        TextMatch::Present => PathSpecifier::Prefix("/".to_owned()),
        TextMatch::Exact(path) => PathSpecifier::Path(path.to_string()),
        TextMatch::Prefix(prefix) => PathSpecifier::Prefix(prefix.to_string()),
        TextMatch::Regex(regex) => PathSpecifier::SafeRegex(safe_regex(regex)),
    }
}

pub fn safe_regex(regex: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: regex.to_owned(),
        engine_type: None,
    }
}

/// `None` for presence, which Envoy says differently in each place.
pub fn string_matcher(text: &TextMatch) -> Option<matcher::StringMatcher> {
    use matcher::string_matcher::MatchPattern;
    let pattern = match text {
        TextMatch::Present => return None,
        TextMatch::Exact(exact) => MatchPattern::Exact(exact.to_string()),
        // An empty prefix is not allowed on the wire; every value has it.
        TextMatch::Prefix(prefix) if prefix.is_empty() => return None,
        TextMatch::Prefix(prefix) => MatchPattern::Prefix(prefix.to_string()),
        TextMatch::Regex(regex) => MatchPattern::SafeRegex(safe_regex(regex)),
    };
    Some(matcher::StringMatcher {
        ignore_case: false,
        match_pattern: Some(pattern),
    })
}

fn header(condition: &HeaderCondition) -> route::HeaderMatcher {
    let specifier = match string_matcher(&condition.value) {
        Some(matcher) => HeaderMatchSpecifier::StringMatch(matcher),
        None => HeaderMatchSpecifier::PresentMatch(true),
    };
    // "Without this value" also holds where the header is missing.
    let compares = matches!(specifier, HeaderMatchSpecifier::StringMatch(_));
    route::HeaderMatcher {
        name: condition.name.to_string(),
        invert_match: condition.invert,
        treat_missing_header_as_empty: condition.invert && compares,
        header_match_specifier: Some(specifier),
    }
}

fn query(name: &str, value: &TextMatch) -> route::QueryParameterMatcher {
    let specifier = match string_matcher(value) {
        Some(matcher) => QueryParameterMatchSpecifier::StringMatch(matcher),
        None => QueryParameterMatchSpecifier::PresentMatch(true),
    };
    route::QueryParameterMatcher {
        name: name.to_owned(),
        query_parameter_match_specifier: Some(specifier),
    }
}

fn source_matchers(source: &SourceCondition) -> Vec<matcher::MetadataMatcher> {
    let labels = source
        .labels
        .iter()
        .map(|(key, value)| metadata(SOURCE_FILTER, key, value));
    let namespace = source
        .namespace
        .iter()
        .map(|value| metadata(SOURCE_NAMESPACE_FILTER, "name", value));
    labels.chain(namespace).collect()
}

fn metadata(filter: &str, key: &str, value: &str) -> matcher::MetadataMatcher {
    use matcher::metadata_matcher::{PathSegment, path_segment::Segment};
    let exact = matcher::StringMatcher {
        ignore_case: false,
        match_pattern: Some(matcher::string_matcher::MatchPattern::Exact(value.to_owned())),
    };
    matcher::MetadataMatcher {
        filter: filter.to_owned(),
        path: vec![PathSegment {
            segment: Some(Segment::Key(key.to_owned())),
        }],
        value: Some(matcher::ValueMatcher {
            match_pattern: Some(matcher::value_matcher::MatchPattern::StringMatch(exact)),
        }),
        invert: false,
    }
}
