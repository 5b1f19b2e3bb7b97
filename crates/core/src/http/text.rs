//! How a string of a request is compared: exact, prefix, suffix, contained, or by regular expression.

use std::fmt;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

/// The largest compiled expression, in bytes: an expression is data from the network.
const MAX_PROGRAM: usize = 1 << 20;

/// A regular expression that must match the whole value, as RE2's full match does.
#[derive(Clone)]
pub struct Pattern {
    source: Arc<str>,
    full: Regex,
    part: Regex,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("regular expression {pattern:?} cannot be used: {reason}")]
pub struct PatternError {
    pub pattern: String,
    pub reason: String,
}

impl Pattern {
    pub fn parse(source: &str) -> Result<Self, PatternError> {
        let compile = |text: &str| {
            RegexBuilder::new(text)
                .size_limit(MAX_PROGRAM)
                .build()
                .map_err(|e| PatternError {
                    pattern: source.chars().take(200).collect(),
                    reason: last_line(&e.to_string()),
                })
        };
        // Alone first: `a)|(b` compiles only inside the anchoring group.
        let part = compile(source)?;
        let full = compile(&format!(r"\A(?:{source})\z"))?;
        Ok(Self {
            source: source.into(),
            full,
            part,
        })
    }

    pub fn as_str(&self) -> &str {
        &self.source
    }

    pub fn matches(&self, value: &[u8]) -> bool {
        self.full.is_match(value)
    }

    /// Replaces every match; `\1` in `substitution` is a group, as in RE2. `None` where the result is not UTF-8.
    pub fn replace_all(&self, text: &str, substitution: &str) -> Option<String> {
        let replacement = re2_substitution(substitution);
        let replaced = self.part.replace_all(text.as_bytes(), replacement.as_bytes());
        String::from_utf8(replaced.into_owned()).ok()
    }
}

fn last_line(text: &str) -> String {
    text.lines().last().unwrap_or_default().trim().to_owned()
}

/// Turns RE2's `\1` and `\\` into the notation of the regex crate, whose `$` is then a literal.
fn re2_substitution(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some(d) if d.is_ascii_digit() => out.push_str(&format!("${{{d}}}")),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    out
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}
impl Eq for Pattern {}
impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

/// Whether letters of different case are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    Sensitive,
    /// ASCII letters compare without case; an expression keeps its own.
    Insensitive,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextPattern {
    Exact(Box<str>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Contains(Box<str>),
    Regex(Pattern),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextMatch {
    pub pattern: TextPattern,
    pub case: Case,
}

impl TextMatch {
    pub fn exact(text: &str) -> Self {
        Self {
            pattern: TextPattern::Exact(text.into()),
            case: Case::Sensitive,
        }
    }

    pub fn matches(&self, value: &[u8]) -> bool {
        match &self.pattern {
            TextPattern::Exact(p) => value.len() == p.len() && same(value, p.as_bytes(), self.case),
            TextPattern::Prefix(p) => has_prefix(value, p.as_bytes(), self.case),
            TextPattern::Suffix(p) => {
                let tail = value.len().checked_sub(p.len()).map(|at| &value[at..]);
                tail.is_some_and(|t| same(t, p.as_bytes(), self.case))
            }
            TextPattern::Contains(p) => contains(value, p.as_bytes(), self.case),
            TextPattern::Regex(p) => p.matches(value),
        }
    }
}

/// Whether `value` starts with `prefix`.
pub(crate) fn has_prefix(value: &[u8], prefix: &[u8], case: Case) -> bool {
    value
        .get(..prefix.len())
        .is_some_and(|head| same(head, prefix, case))
}

fn same(a: &[u8], b: &[u8], case: Case) -> bool {
    match case {
        Case::Sensitive => a == b,
        Case::Insensitive => a.eq_ignore_ascii_case(b),
    }
}

fn contains(value: &[u8], part: &[u8], case: Case) -> bool {
    part.is_empty() || value.windows(part.len()).any(|window| same(window, part, case))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: TextPattern, case: Case, value: &str) -> bool {
        TextMatch { pattern, case }.matches(value.as_bytes())
    }

    #[test]
    fn compares_in_each_way() {
        use Case::{Insensitive, Sensitive};
        assert!(matches(TextPattern::Exact("a".into()), Sensitive, "a"));
        assert!(!matches(TextPattern::Exact("a".into()), Sensitive, "A"));
        assert!(matches(TextPattern::Exact("a".into()), Insensitive, "A"));
        assert!(matches(TextPattern::Prefix("ab".into()), Sensitive, "abc"));
        assert!(!matches(TextPattern::Prefix("abc".into()), Sensitive, "ab"));
        assert!(matches(TextPattern::Suffix("BC".into()), Insensitive, "abc"));
        assert!(matches(TextPattern::Contains("b".into()), Sensitive, "abc"));
        assert!(!matches(TextPattern::Contains("abcd".into()), Sensitive, "abc"));
    }

    #[test]
    fn expressions_match_the_whole_value() {
        let p = Pattern::parse("a|ab").unwrap();
        assert!(p.matches(b"a") && p.matches(b"ab"));
        assert!(!p.matches(b"abc") && !p.matches(b"xa"));
    }

    #[test]
    fn refuses_expressions_that_do_not_stand_alone() {
        for bad in ["a)|(b", "(", "*", "(?=a)", r"(\w{1000}){1000}"] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn substitutes_groups_as_re2_does() {
        let p = Pattern::parse("^/service/([^/]+)(/.*)$").unwrap();
        let out = p.replace_all("/service/foo/v1/api", r"\2/instance/\1").unwrap();
        assert_eq!(out, "/v1/api/instance/foo");
        assert_eq!(
            Pattern::parse("a").unwrap().replace_all("a", r"$1\\").unwrap(),
            r"$1\"
        );
    }

    proptest! {
        #[test]
        fn never_panics(pattern in "\\PC{0,20}", value in "\\PC{0,40}", substitution in "\\PC{0,10}") {
            if let Ok(p) = Pattern::parse(&pattern) {
                p.matches(value.as_bytes());
                let _ = p.replace_all(&value, &substitution);
            }
        }

        #[test]
        fn insensitive_forms_agree_with_lowercasing(p in "[a-zA-Z]{1,3}", v in "[a-zA-Z]{0,6}") {
            let low = |s: &str| s.to_ascii_lowercase();
            prop_assert_eq!(matches(TextPattern::Contains(p.as_str().into()), Case::Insensitive, &v), low(&v).contains(&low(&p)));
            prop_assert_eq!(matches(TextPattern::Prefix(p.as_str().into()), Case::Insensitive, &v), low(&v).starts_with(&low(&p)));
            prop_assert_eq!(matches(TextPattern::Suffix(p.as_str().into()), Case::Insensitive, &v), low(&v).ends_with(&low(&p)));
        }
    }
}
