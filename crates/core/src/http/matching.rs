//! The conditions of one route; all of them must hold.

use super::request::{RequestView, Source};
use super::text::{Case, Pattern, TextMatch, TextPattern, has_prefix};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    Exact {
        path: Box<str>,
        case: Case,
    },
    /// A plain string prefix: `/foo` matches `/foobar`.
    Prefix {
        prefix: Box<str>,
        case: Case,
    },
    /// A prefix of whole segments: `/foo` matches `/foo` and `/foo/bar` only.
    SegmentPrefix {
        prefix: Box<str>,
        case: Case,
    },
    Regex(Pattern),
}

impl PathMatch {
    pub fn any() -> Self {
        Self::Prefix {
            prefix: "/".into(),
            case: Case::Sensitive,
        }
    }

    pub fn matches(&self, path: &str) -> bool {
        let bytes = path.as_bytes();
        match self {
            Self::Exact { path, case } => {
                bytes.len() == path.len() && has_prefix(bytes, path.as_bytes(), *case)
            }
            Self::Prefix { prefix, case } => has_prefix(bytes, prefix.as_bytes(), *case),
            Self::SegmentPrefix { prefix, case } => {
                has_prefix(bytes, prefix.as_bytes(), *case)
                    && matches!(bytes.get(prefix.len()), None | Some(b'/'))
            }
            Self::Regex(pattern) => pattern.matches(bytes),
        }
    }

    /// How much of a matching path a prefix rewrite replaces, in bytes.
    pub fn replaced_len(&self, path: &str) -> usize {
        match self {
            Self::Prefix { prefix, .. } | Self::SegmentPrefix { prefix, .. } => prefix.len(),
            Self::Exact { .. } | Self::Regex(_) => path.len(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderCondition {
    Present,
    Absent,
    Text(TextMatch),
    /// A decimal number in `start..end`.
    Range {
        start: i64,
        end: i64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower case; pseudo headers with their colon.
    pub name: Box<str>,
    pub condition: HeaderCondition,
    pub invert: bool,
    /// An absent header is compared as an empty one; otherwise no text or range condition holds for it, inverted or not.
    pub missing_as_empty: bool,
}

impl HeaderMatch {
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        let held = match (
            request.any_value(&self.name, |v| self.condition.holds(v)),
            self.missing_as_empty,
        ) {
            (Some(held), _) => held,
            (None, true) => self.condition.holds(b""),
            (None, false) => match self.condition {
                HeaderCondition::Present => false,
                HeaderCondition::Absent => true,
                HeaderCondition::Text(_) | HeaderCondition::Range { .. } => return false,
            },
        };
        held != self.invert
    }
}

impl HeaderCondition {
    /// For one value.
    fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Absent => false,
            Self::Text(text) => text.matches(value),
            Self::Range { start, end } => parse_i64(value).is_some_and(|n| (*start..*end).contains(&n)),
        }
    }
}

fn parse_i64(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    pub name: Box<str>,
    /// `None`: the parameter is there.
    pub value: Option<TextMatch>,
}

impl QueryMatch {
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        let Some(value) = request.query_value(&self.name) else {
            return false;
        };
        self.value.as_ref().is_none_or(|m| m.matches(value.as_bytes()))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceAttribute {
    Label(Box<str>),
    Namespace,
}

/// A condition on the sender; one that is unknown has no labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceMatch {
    pub attribute: SourceAttribute,
    /// `None`: the attribute is there.
    pub value: Option<TextMatch>,
    pub invert: bool,
}

impl SourceMatch {
    pub fn matches(&self, source: &Source<'_>) -> bool {
        let value = match &self.attribute {
            SourceAttribute::Label(name) => source.labels.and_then(|l| l.get(&**name)).map(|v| &**v),
            SourceAttribute::Namespace => source.namespace,
        };
        let held = value.is_some_and(|v| self.value.as_ref().is_none_or(|m| m.matches(v.as_bytes())));
        held != self.invert
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteMatch {
    pub path: PathMatch,
    pub headers: Vec<HeaderMatch>,
    pub query: Vec<QueryMatch>,
    pub source: Vec<SourceMatch>,
    /// Only requests with a gRPC content type.
    pub grpc: bool,
}

impl RouteMatch {
    pub fn any() -> Self {
        Self {
            path: PathMatch::any(),
            headers: Vec::new(),
            query: Vec::new(),
            source: Vec::new(),
            grpc: false,
        }
    }

    /// Cheapest conditions first.
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        self.path.matches(request.path)
            && (!self.grpc || request.is_grpc())
            && self.source.iter().all(|m| m.matches(&request.source))
            && self.headers.iter().all(|m| m.matches(request))
            && self.query.iter().all(|m| m.matches(request))
    }
}

impl From<TextPattern> for HeaderCondition {
    fn from(pattern: TextPattern) -> Self {
        Self::Text(TextMatch {
            pattern,
            case: Case::Sensitive,
        })
    }
}
