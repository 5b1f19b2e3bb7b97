//! What changed in the store, for those who know how it was before.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::objects::{ObjectKey, ParsedObject};

/// An object that changed.
#[derive(Clone, Debug)]
pub struct Change {
    pub key: ObjectKey,
    /// What was in effect in its place.
    pub before: Option<Arc<ParsedObject>>,
}

/// Changes since some moment: for each object what was in effect then.
#[derive(Clone, Debug, Default)]
pub struct Changes(BTreeMap<ObjectKey, Option<Arc<ParsedObject>>>);

impl Changes {
    /// Takes a change that came after all that are there.
    pub fn note(&mut self, change: Change) {
        self.0.entry(change.key).or_insert(change.before);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn contains(&self, key: &ObjectKey) -> bool {
        self.0.contains_key(key)
    }

    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.0.keys()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&ObjectKey, Option<&Arc<ParsedObject>>)> {
        self.0.iter().map(|(key, before)| (key, before.as_ref()))
    }
}

impl Extend<Change> for Changes {
    fn extend<I: IntoIterator<Item = Change>>(&mut self, list: I) {
        list.into_iter().for_each(|change| self.note(change));
    }
}

impl FromIterator<Change> for Changes {
    fn from_iter<I: IntoIterator<Item = Change>>(list: I) -> Self {
        let mut changes = Self::default();
        changes.extend(list);
        changes
    }
}
