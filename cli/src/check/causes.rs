//! What is found on many nodes: a line for each cause, and not for each node.

use std::collections::HashMap;

use crate::check::report::{Line, Outcome, Report, names_shown};

/// What a line is about: one thing of one node, and of several.
#[derive(Clone, Copy)]
pub(super) struct Subject {
    pub(super) one: &'static str,
    pub(super) several: &'static str,
}

pub(super) const NODES: Subject = Subject {
    one: "node",
    several: "nodes",
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Cause {
    outcome: Outcome,
    /// Of the node, such as its kernel; empty for the node as such.
    part: String,
    detail: String,
    remedy: String,
}

/// Causes with the nodes of each, in the order in which they were found.
#[derive(Default)]
pub(super) struct Causes<'n> {
    nodes: Vec<(Cause, Vec<&'n str>)>,
    places: HashMap<Cause, usize>,
}

impl<'n> Causes<'n> {
    pub(super) fn ok(&mut self, node: &'n str, part: &str, detail: impl Into<String>) {
        self.add(node, Outcome::Ok, part, detail.into(), "");
    }

    pub(super) fn warn(&mut self, node: &'n str, part: &str, detail: impl Into<String>, remedy: &str) {
        self.add(node, Outcome::Warn, part, detail.into(), remedy);
    }

    pub(super) fn fail(&mut self, node: &'n str, part: &str, detail: impl Into<String>, remedy: &str) {
        self.add(node, Outcome::Fail, part, detail.into(), remedy);
    }

    fn add(&mut self, node: &'n str, outcome: Outcome, part: &str, detail: String, remedy: &str) {
        let cause = Cause {
            outcome,
            part: part.to_owned(),
            detail,
            remedy: remedy.to_owned(),
        };
        let next = self.nodes.len();
        let place = *self.places.entry(cause.clone()).or_insert(next);
        match self.nodes.get_mut(place) {
            Some((_, nodes)) => nodes.push(node),
            None => self.nodes.push((cause, vec![node])),
        }
    }

    pub(super) fn tell(self, subject: Subject, report: &mut Report) {
        let lines = self.nodes.into_iter();
        report
            .lines
            .extend(lines.map(|(cause, nodes)| cause.line(subject, &nodes)));
    }
}

impl Cause {
    fn line(self, subject: Subject, nodes: &[&str]) -> Line {
        let whose = match nodes {
            [node] => format!("{} {node}", subject.one),
            nodes => format!("{} {}", nodes.len(), subject.several),
        };
        let named = match nodes.len() {
            1 => String::new(),
            _ => format!(" ({})", names_shown(nodes)),
        };
        Line {
            outcome: self.outcome,
            subject: match self.part.is_empty() {
                true => whose,
                false => format!("{whose}: {}", self.part),
            },
            detail: format!("{}{named}", self.detail),
            remedy: self.remedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_with_one_cause_share_a_line_that_names_the_first() {
        let names: Vec<String> = (1..=7).map(|n| format!("n{n}")).collect();
        let mut causes = Causes::default();
        for name in &names {
            causes.fail(name, "kernel", "5.15 is too old", "upgrade it");
        }
        causes.warn("n1", "kernel", "5.15 is too old", "upgrade it");
        causes.fail("n2", "kernel", "5.10 is too old", "upgrade it");
        causes.ok("n3", "", "kernel 6.8");
        let mut report = Report::default();
        causes.tell(NODES, &mut report);
        let lines: Vec<String> = report.lines.iter().map(Line::to_string).collect();
        assert_eq!(
            lines,
            [
                "FAIL  7 nodes: kernel: 5.15 is too old (n1, n2, n3, n4, n5 and 2 more); remedy: upgrade it",
                "warn  node n1: kernel: 5.15 is too old; remedy: upgrade it",
                "FAIL  node n2: kernel: 5.10 is too old; remedy: upgrade it",
                "ok    node n3: kernel 6.8",
            ]
        );
    }
}
