//! The lines of a check.

use std::fmt;

use serde::Serialize;

/// Characters of a detail that are shown: it names more than a screen of nodes at most.
const LONGEST: usize = 2000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Ok,
    Warn,
    Fail,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    pub(crate) outcome: Outcome,
    /// What was looked at, such as `node a: kernel`.
    pub(crate) subject: String,
    pub(crate) detail: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) remedy: String,
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) lines: Vec<Line>,
}

impl Line {
    pub(crate) fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.outcome {
            Outcome::Ok => "ok  ",
            Outcome::Warn => "warn",
            Outcome::Fail => "FAIL",
        };
        write!(f, "{mark}  {}: {}", self.subject, one_line(&self.detail))?;
        if self.remedy.is_empty() {
            return Ok(());
        }
        write!(f, "; remedy: {}", self.remedy)
    }
}

/// What nodes and pods say of themselves is a part of some lines, and must not look like others.
fn one_line(text: &str) -> String {
    let escaped = |c: char| match c {
        '\n' => " ".to_owned(),
        c if c.is_control() => c.escape_default().to_string(),
        c => c.to_string(),
    };
    let mut line: String = text.chars().take(LONGEST).map(escaped).collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

impl Report {
    pub(crate) fn ok(&mut self, subject: impl Into<String>, detail: impl Into<String>) {
        self.add(Outcome::Ok, subject, detail, "");
    }

    pub(crate) fn warn(
        &mut self,
        subject: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Outcome::Warn, subject, detail, remedy);
    }

    pub(crate) fn fail(
        &mut self,
        subject: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(Outcome::Fail, subject, detail, remedy);
    }

    fn add(
        &mut self,
        outcome: Outcome,
        subject: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.lines.push(Line {
            outcome,
            subject: subject.into(),
            detail: detail.into(),
            remedy: remedy.into(),
        });
    }

    pub(crate) fn failed(&self) -> bool {
        self.lines.iter().any(|line| line.outcome == Outcome::Fail)
    }

    pub(crate) fn summary(&self) -> String {
        let count = |outcome| self.lines.iter().filter(|line| line.outcome == outcome).count();
        format!(
            "{} ok, {} to look at, {} failed",
            count(Outcome::Ok),
            count(Outcome::Warn),
            count(Outcome::Fail)
        )
    }
}

/// Names that a line shows.
const SHOWN: usize = 5;

/// The first of the names, and how many there are beside.
pub(super) fn names_shown(names: &[&str]) -> String {
    let more = names.len().saturating_sub(SHOWN);
    let first = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match more {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_said_makes_another_line_or_moves_the_cursor() {
        let mut report = Report::default();
        report.warn("node a", "gone\nok    certificates: good\u{1b}[2K", "");
        let long = "x".repeat(2 * LONGEST);
        report.warn("node b", long.as_str(), "look");
        let lines: Vec<String> = report.lines.iter().map(Line::to_string).collect();
        assert_eq!(lines[0], "warn  node a: gone ok    certificates: good\\u{1b}[2K");
        assert!(lines[1].ends_with("x…; remedy: look"), "{}", lines[1]);
    }
}
