//! SPDX licence expressions, as far as they occur.

use std::collections::BTreeSet;

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expression {
    Licence(String),
    All(Vec<Self>),
    Any(Vec<Self>),
}

impl Expression {
    /// None for what is not an expression, the empty text included.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // Old packages write a slash for "or".
        let spaced = text.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
        let words: Vec<&str> = spaced.split_whitespace().collect();
        let mut rest = words.as_slice();
        let expression = any(&mut rest)?;
        rest.is_empty().then_some(expression)
    }

    pub(crate) fn is_satisfied_by(&self, allowed: &BTreeSet<String>) -> bool {
        match self {
            Self::Licence(name) => allowed.contains(name),
            Self::All(parts) => parts.iter().all(|part| part.is_satisfied_by(allowed)),
            Self::Any(parts) => parts.iter().any(|part| part.is_satisfied_by(allowed)),
        }
    }
}

fn any(rest: &mut &[&str]) -> Option<Expression> {
    let mut parts = vec![all(rest)?];
    while take(rest, "OR") {
        parts.push(all(rest)?);
    }
    Some(if parts.len() == 1 {
        parts.remove(0)
    } else {
        Expression::Any(parts)
    })
}

fn all(rest: &mut &[&str]) -> Option<Expression> {
    let mut parts = vec![one(rest)?];
    while take(rest, "AND") {
        parts.push(one(rest)?);
    }
    Some(if parts.len() == 1 {
        parts.remove(0)
    } else {
        Expression::All(parts)
    })
}

fn one(rest: &mut &[&str]) -> Option<Expression> {
    if take(rest, "(") {
        let inner = any(rest)?;
        return take(rest, ")").then_some(inner);
    }
    let mut name = word(rest)?.to_owned();
    if take(rest, "WITH") {
        name = format!("{name} WITH {}", word(rest)?);
    }
    Some(Expression::Licence(name))
}

fn take(rest: &mut &[&str], wanted: &str) -> bool {
    let found = rest.first() == Some(&wanted);
    if found {
        *rest = &rest[1..];
    }
    found
}

fn word<'a>(rest: &mut &[&'a str]) -> Option<&'a str> {
    let (first, others) = rest.split_first()?;
    *rest = others;
    (!["OR", "AND", "WITH", "(", ")"].contains(first)).then_some(*first)
}

#[test]
fn expressions_are_read_with_their_precedence() {
    let allowed: BTreeSet<String> = ["MIT", "ISC", "A WITH e"].map(str::to_owned).into();
    for (text, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("GPL-3.0/MIT", true),
        ("ISC AND (GPL-3.0 OR MIT)", true),
        ("ISC AND GPL-3.0 OR MIT", true),
        ("A WITH e", true),
        ("A", false),
    ] {
        assert_eq!(
            Expression::parse(text).unwrap().is_satisfied_by(&allowed),
            expected,
            "{text}"
        );
    }
    for broken in ["", "MIT OR", "(MIT", "MIT)", "AND"] {
        assert_eq!(Expression::parse(broken), None, "{broken}");
    }
}
