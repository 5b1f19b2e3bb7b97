//! String matchers and substitutions.

use aquifer_core::http::rewrite::PathRewrite;
use aquifer_core::http::text::{Case, Pattern, TextMatch, TextPattern};

use super::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use super::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher, StringMatcher};
use super::{FieldError, Result};

pub(super) fn pattern(field: &str, regex: &RegexMatcher) -> Result<Pattern> {
    if regex.regex.is_empty() {
        return Err(FieldError::new(field, "has an empty regular expression"));
    }
    Pattern::parse(&regex.regex).map_err(|e| FieldError::new(field, e))
}

pub(super) fn text_match(field: &str, matcher: &StringMatcher) -> Result<TextMatch> {
    let pattern = match &matcher.match_pattern {
        Some(MatchPattern::Exact(text)) => TextPattern::Exact(text.as_str().into()),
        Some(MatchPattern::Prefix(text)) => TextPattern::Prefix(not_empty(field, text)?),
        Some(MatchPattern::Suffix(text)) => TextPattern::Suffix(not_empty(field, text)?),
        Some(MatchPattern::Contains(text)) => TextPattern::Contains(not_empty(field, text)?),
        Some(MatchPattern::SafeRegex(regex)) => TextPattern::Regex(pattern(field, regex)?),
        Some(MatchPattern::Custom(_)) => return Err(FieldError::unsupported(format!("{field}.custom"))),
        None => return Err(FieldError::new(field, "has no match_pattern")),
    };
    Ok(TextMatch {
        pattern,
        case: case(!matcher.ignore_case),
    })
}

pub(super) fn case(sensitive: bool) -> Case {
    if sensitive {
        Case::Sensitive
    } else {
        Case::Insensitive
    }
}

pub(super) fn not_empty(field: &str, text: &str) -> Result<Box<str>> {
    if text.is_empty() {
        return Err(FieldError::new(field, "is empty"));
    }
    Ok(text.into())
}

pub(super) fn substitution(field: &str, rewrite: &RegexMatchAndSubstitute) -> Result<PathRewrite> {
    let regex = rewrite.pattern.as_ref();
    let regex = regex.ok_or_else(|| FieldError::new(field, "has no pattern"))?;
    Ok(PathRewrite::Regex {
        pattern: pattern(field, regex)?,
        substitution: rewrite.substitution.as_str().into(),
    })
}
