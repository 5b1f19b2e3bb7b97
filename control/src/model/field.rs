//! Parsing of single values: durations, percentages, regular expressions, matchers.

use std::sync::Arc;
use std::time::Duration;

use crate::objects::Rejection;
use crate::objects::istio as raw;

/// A string condition of a request; the empty form of the API means "is present".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TextMatch {
    Exact(Arc<str>),
    Prefix(Arc<str>),
    /// Matches the whole value. Checked to compile.
    Regex(Arc<str>),
    Present,
}

impl TextMatch {
    pub fn parse(raw: &raw::StringMatch, field: &str) -> Result<Self, Rejection> {
        match (&raw.exact, &raw.prefix, &raw.regex) {
            (Some(exact), None, None) => Ok(Self::Exact(exact.clone())),
            (None, Some(prefix), None) => Ok(Self::Prefix(prefix.clone())),
            (None, None, Some(regex)) if &**regex == "*" => Ok(Self::Present),
            (None, None, Some(regex)) => {
                check_regex(regex, &format!("{field}.regex"))?;
                Ok(Self::Regex(regex.clone()))
            }
            (None, None, None) => Ok(Self::Present),
            _ => Err(Rejection::invalid(
                field,
                "has more than one of exact, prefix and regex",
            )),
        }
    }
}

/// The longest regular expression, in bytes.
const MAX_REGEX: usize = 1024;
/// Bounds what one expression may cost the proxy that runs it, in bytes.
const MAX_REGEX_PROGRAM: usize = 1 << 20;

pub fn check_regex(regex: &str, field: &str) -> Result<(), Rejection> {
    if regex.is_empty() {
        return Err(Rejection::invalid(field, "is empty; write .* for anything"));
    }
    if regex.len() > MAX_REGEX {
        return Err(Rejection::invalid(
            field,
            format!("is longer than {MAX_REGEX} bytes"),
        ));
    }
    let built = regex::RegexBuilder::new(regex)
        .size_limit(MAX_REGEX_PROGRAM)
        .build();
    built.map(|_| ()).map_err(|error| {
        let text = error.to_string().replace('\n', " ");
        Rejection::invalid(field, format!("is not a regular expression (RE2 syntax): {text}"))
    })
}

/// The longest duration that protobuf can carry in practice; nobody means a longer one.
const MAX_DURATION: Duration = Duration::from_secs(366 * 24 * 3600);

/// Parses Go's form of a duration: `1h30m`, `1.5s`, `100ms`.
pub fn duration(text: &str, field: &str) -> Result<Duration, Rejection> {
    let bad = || {
        Rejection::invalid(
            field,
            format!(
                "{:?} is not a duration such as 100ms, 1.5s or 1h30m",
                shorten(text)
            ),
        )
    };
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(bad)?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit() || c == '.');
        let end = unit_end.map_or(rest.len(), |n| digits + n);
        let value: f64 = rest[..digits].parse().map_err(|_| bad())?;
        let seconds = value * unit_seconds(&rest[digits..end]).ok_or_else(bad)?;
        let part = Duration::try_from_secs_f64(seconds).map_err(|_| bad())?;
        total = total
            .checked_add(part)
            .filter(|t| *t <= MAX_DURATION)
            .ok_or_else(bad)?;
        rest = &rest[end..];
    }
    Ok(total)
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "h" => 3600.0,
        "m" => 60.0,
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        "ns" => 1e-9,
        _ => return None,
    })
}

/// A share in parts of a million, as Envoy counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share(pub u32);

impl Share {
    pub const ALL: Self = Self(1_000_000);

    /// From `percentage.value`, or all where it is not given.
    pub fn parse(raw: Option<&raw::Percent>, field: &str) -> Result<Self, Rejection> {
        let Some(percent) = raw else { return Ok(Self::ALL) };
        if !(0.0..=100.0).contains(&percent.value) {
            let reason = format!("is {}; expected 0 to 100", percent.value);
            return Err(Rejection::invalid(format!("{field}.value"), reason));
        }
        Ok(Self((percent.value * 10_000.0).round() as u32))
    }

    pub fn percent(value: u32, field: &str) -> Result<Self, Rejection> {
        match value {
            0..=100 => Ok(Self(value * 10_000)),
            _ => Err(Rejection::invalid(
                field,
                format!("is {value}; expected 0 to 100"),
            )),
        }
    }
}

/// Keeps hostile input out of messages.
pub fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A header name: RFC 9110 section 5.6.2 (token), with the colon of pseudo headers refused.
pub fn header_name(name: &str, field: &str) -> Result<Arc<str>, Rejection> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > 256 || !name.bytes().all(token) {
        return Err(Rejection::invalid(
            field,
            format!("{:?} is not a header name", shorten(name)),
        ));
    }
    Ok(name.to_ascii_lowercase().into())
}

/// A header value without control characters (RFC 9110 section 5.5).
pub fn header_value(value: &str, field: &str) -> Result<Arc<str>, Rejection> {
    if value.len() > 8192 || value.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
        return Err(Rejection::invalid(
            field,
            "is not a header value (control characters, or over 8192 bytes)",
        ));
    }
    if value.replace("%%", "").contains('%') {
        let reason = "holds a %COMMAND%, which this version does not support; write %% for a percent sign";
        return Err(Rejection::unsupported(field, reason));
    }
    Ok(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let ok = |text: &str| duration(text, "f").unwrap();
        assert_eq!(ok("1.5s"), Duration::from_millis(1500));
        assert_eq!(ok("1h30m"), Duration::from_secs(5400));
        assert_eq!(ok("100ms"), Duration::from_millis(100));
        for bad in [
            "",
            "5",
            "s",
            "1x",
            "-1s",
            "1.2.3s",
            "999999999h",
            "1s ",
            "NaNs",
            "1e400s",
        ] {
            assert!(duration(bad, "f").is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_expression_names_its_field() {
        let error = check_regex("(", "spec.http[0].match[0].uri.regex").unwrap_err();
        assert_eq!(error.field, "spec.http[0].match[0].uri.regex");
        assert!(check_regex(&"a{1000}".repeat(100), "f").is_err());
    }
}
