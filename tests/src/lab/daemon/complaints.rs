//! What goes wrong outside any request, until it goes right: shown in the status and told once in the log.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::store::Key;

/// Beyond this only the log tells: a status that long helps nobody.
const MAX: usize = 64;

/// What is in trouble; one trouble each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// A pod that cannot be placed, by namespace and name of its workload.
    Placing(String, String),
    /// A pod whose place cannot be made, by uid.
    Pod(String),
    /// A file that the control plane wrote.
    Rendered(PathBuf),
    Object(Key),
    /// A node's NodePods folder.
    NodePods(String),
}

#[derive(Debug, Default)]
pub(super) struct Complaints(BTreeMap<Subject, String>);

impl Complaints {
    pub(super) fn raise(&mut self, subject: Subject, message: String) {
        if self.0.get(&subject) == Some(&message) {
            return;
        }
        tracing::error!("{message}");
        if self.0.len() < MAX || self.0.contains_key(&subject) {
            self.0.insert(subject, message);
        }
    }

    pub(super) fn settle(&mut self, subject: &Subject) {
        self.0.remove(subject);
    }

    /// Keeps the complaints about rendered files that are still there.
    pub(super) fn retain_rendered(&mut self, paths: &[PathBuf]) {
        self.0
            .retain(|subject, _| !matches!(subject, Subject::Rendered(path) if !paths.contains(path)));
    }

    /// Keeps the complaints about workloads that still are.
    pub(super) fn retain_placing(&mut self, exists: impl Fn(&str, &str) -> bool) {
        self.0.retain(|subject, _| match subject {
            Subject::Placing(namespace, name) => exists(namespace, name),
            _ => true,
        });
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &String> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_lasts_until_it_is_settled() {
        let mut complaints = Complaints::default();
        let subject = Subject::Pod("uid".to_owned());
        complaints.raise(subject.clone(), "first".to_owned());
        complaints.raise(subject.clone(), "second".to_owned());
        assert_eq!(complaints.iter().collect::<Vec<_>>(), ["second"]);
        complaints.settle(&subject);
        assert_eq!(complaints.iter().count(), 0);
    }
}
