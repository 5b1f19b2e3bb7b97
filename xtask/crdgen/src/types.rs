//! Types of fields, as the tables write them.
//!
//! | written | meaning |
//! |---|---|
//! | `string`, `bool`, `bytes` (base64), `any` (kept as it is) | |
//! | `int`, `count` (from 0), `uint`, `uint16`, `uint64`, `port` (from 1), `status` (100 to 599) | integers |
//! | `percent` (0 to 100), `weight` (0 to 1,000,000), `redirectCode` (301, 302, 303, 307, 308) | integers |
//! | `number`, `nonnegative`, `percentage` (0 to 100) | fractions |
//! | `duration`, `gep2257` | such as `1h30m` or `0.5s`; the Gateway API's narrower form, without fractions |
//! | `time` | RFC 3339 |
//! | `A\|B\|C` | one of these texts |
//! | `Name` | a type of the tables |
//! | `[]T`, `[1..2]T`, `[@name]T` | list; with bounds; whose entries differ in a field |
//! | `{}T`, `{..256}T` | map from text; with bounds |
//! | `string(1..256)` | bounds of a text's length |
//! | `T!`, `T?` | required; may be null |

use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};

#[derive(Clone)]
pub(crate) struct FieldType {
    pub(crate) shape: Shape,
    pub(crate) required: bool,
    pub(crate) nullable: bool,
}

#[derive(Clone)]
pub(crate) enum Shape {
    Scalar(Scalar),
    Text(Bounds),
    Choice(Vec<String>),
    Message(String),
    List {
        item: Box<Self>,
        bounds: Bounds,
        key: Option<String>,
    },
    Map {
        value: Box<Self>,
        bounds: Bounds,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scalar {
    Any,
    Bool,
    Bytes,
    Duration,
    Gep2257,
    Time,
    Int,
    Count,
    Uint,
    Uint16,
    Uint64,
    Port,
    Status,
    Percent,
    Weight,
    RedirectCode,
    Number,
    Nonnegative,
    Percentage,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Bounds {
    pub(crate) least: Option<u64>,
    pub(crate) most: Option<u64>,
}

const SCALARS: &[(&str, Scalar)] = &[
    ("any", Scalar::Any),
    ("bool", Scalar::Bool),
    ("bytes", Scalar::Bytes),
    ("duration", Scalar::Duration),
    ("gep2257", Scalar::Gep2257),
    ("time", Scalar::Time),
    ("int", Scalar::Int),
    ("count", Scalar::Count),
    ("uint", Scalar::Uint),
    ("uint16", Scalar::Uint16),
    ("uint64", Scalar::Uint64),
    ("port", Scalar::Port),
    ("status", Scalar::Status),
    ("percent", Scalar::Percent),
    ("weight", Scalar::Weight),
    ("redirectCode", Scalar::RedirectCode),
    ("number", Scalar::Number),
    ("nonnegative", Scalar::Nonnegative),
    ("percentage", Scalar::Percentage),
];

impl FieldType {
    /// The type of the tables that is named, at whatever depth of lists and maps.
    pub(crate) fn message(&self) -> Option<&str> {
        let mut shape = &self.shape;
        loop {
            shape = match shape {
                Shape::List { item, .. } => item,
                Shape::Map { value, .. } => value,
                Shape::Message(name) => return Some(name),
                Shape::Scalar(_) | Shape::Text(_) | Shape::Choice(_) => return None,
            };
        }
    }
}

impl FromStr for FieldType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (text, required) = strip(text, '!');
        let (text, nullable) = strip(text, '?');
        Ok(Self {
            shape: text.parse()?,
            required,
            nullable,
        })
    }
}

fn strip(text: &str, mark: char) -> (&str, bool) {
    match text.strip_suffix(mark) {
        Some(rest) => (rest, true),
        None => (text, false),
    }
}

impl FromStr for Shape {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (head, item) = rest.split_once(']').context("expected `]`")?;
            return Self::list(head, item);
        }
        if let Some(rest) = text.strip_prefix('{') {
            let (bounds, value) = rest.split_once('}').context("expected `}`")?;
            return Ok(Self::Map {
                value: Box::new(value.parse()?),
                bounds: bounds.parse()?,
            });
        }
        if let Some(&(_, scalar)) = SCALARS.iter().find(|(name, _)| *name == text) {
            return Ok(Self::Scalar(scalar));
        }
        Self::named(text)
    }
}

impl Shape {
    fn list(head: &str, item: &str) -> Result<Self> {
        let (key, bounds) = match head.strip_prefix('@') {
            None => (None, head),
            Some(rest) => {
                // Bounds begin with a digit or dots; no key has either.
                let bounds = |c: char| c == '.' || c.is_ascii_digit();
                let end = rest.find(bounds).unwrap_or(rest.len());
                (Some(rest[..end].to_owned()), &rest[end..])
            }
        };
        Ok(Self::List {
            item: Box::new(item.parse()?),
            bounds: bounds.parse()?,
            key,
        })
    }

    fn named(text: &str) -> Result<Self> {
        if text.contains('|') {
            return Ok(Self::Choice(text.split('|').map(str::to_owned).collect()));
        }
        if let Some(rest) = text.strip_prefix("string") {
            return Ok(Self::Text(rest.trim_matches(['(', ')']).parse()?));
        }
        if text.starts_with(|first: char| first.is_ascii_uppercase()) {
            return Ok(Self::Message(text.to_owned()));
        }
        bail!("there is no such type")
    }
}

impl FromStr for Bounds {
    type Err = Error;

    /// `1..2`, `..2`, `1..` or nothing.
    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let (least, most) = text.split_once("..").context("expected bounds such as 1..2")?;
        let number = |text: &str| -> Result<Option<u64>> {
            if text.is_empty() {
                return Ok(None);
            }
            Ok(Some(text.parse().context("a bound is no number")?))
        };
        Ok(Self {
            least: number(least)?,
            most: number(most)?,
        })
    }
}
