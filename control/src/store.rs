//! The objects as the sources deliver them: parsed when they change, and one per key.
//!
//! What a source holds ([`Store::objects`]) and what is in effect ([`Store::in_effect`]) differ where an object was
//! rejected: see [`StandIn`].

mod stand_in;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::objects::{ObjectKey, ParsedObject, RawObject};

pub use stand_in::{Origin, StandIn};

/// What a source says. `origin` is where an object stands, such as a file.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceEvent {
    Applied {
        origin: Arc<str>,
        object: Arc<RawObject>,
    },
    Deleted {
        origin: Arc<str>,
        key: ObjectKey,
    },
    /// What of an origin could not be read; empty where all of it could.
    Unreadable {
        origin: Arc<str>,
        problems: Vec<String>,
    },
    /// Everything that was there at the start has been delivered.
    Synced,
}

/// Problems kept per origin, and origins with problems; the rest is only logged.
const MAX_PROBLEMS: usize = 20;
const MAX_BROKEN_ORIGINS: usize = 1000;

#[derive(Debug, Default)]
pub struct Store {
    copies: BTreeMap<ObjectKey, BTreeMap<Arc<str>, Version>>,
    unreadable: BTreeMap<Arc<str>, Vec<String>>,
}

/// An object as it is, and what is in effect in its place where it was rejected.
#[derive(Debug)]
struct Version {
    latest: Arc<ParsedObject>,
    stand_in: Option<StandIn>,
}

/// An object that stands in more than one place; the first place in alphabetical order is in effect.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Duplicate {
    pub origin: Arc<str>,
    pub in_effect: Arc<str>,
}

impl Store {
    /// Takes an event; whether anything changed.
    pub fn apply(&mut self, event: SourceEvent) -> bool {
        match event {
            SourceEvent::Applied { origin, object } => self.put(origin, object),
            SourceEvent::Deleted { origin, key } => self.remove(&origin, &key),
            SourceEvent::Unreadable { origin, problems } => self.note(origin, problems),
            SourceEvent::Synced => false,
        }
    }

    fn put(&mut self, origin: Arc<str>, object: Arc<RawObject>) -> bool {
        let copies = self.copies.entry(object.key.clone()).or_default();
        let old = copies.get(&origin);
        if old.is_some_and(|old| *old.latest.raw == *object) {
            return false;
        }
        let version = Version::new(ParsedObject::parse(object), old);
        version.log(&origin);
        copies.insert(origin, version);
        true
    }

    fn remove(&mut self, origin: &str, key: &ObjectKey) -> bool {
        let Some(copies) = self.copies.get_mut(key) else {
            return false;
        };
        let removed = copies.remove(origin).is_some();
        if copies.is_empty() {
            self.copies.remove(key);
        }
        removed
    }

    fn note(&mut self, origin: Arc<str>, mut problems: Vec<String>) -> bool {
        problems.truncate(MAX_PROBLEMS);
        for problem in &problems {
            tracing::warn!(origin = %origin, reason = %problem, "cannot read a part of the objects");
        }
        if problems.is_empty() {
            return self.unreadable.remove(&origin).is_some();
        }
        if self.unreadable.len() >= MAX_BROKEN_ORIGINS && !self.unreadable.contains_key(&origin) {
            return false;
        }
        self.unreadable.insert(origin, problems.clone()).as_ref() != Some(&problems)
    }

    /// The objects as they are, with where they stand.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<str>, &Arc<ParsedObject>)> {
        self.copies
            .iter()
            .filter_map(|(key, copies)| copies.iter().next().map(|(origin, v)| (key, origin, &v.latest)))
    }

    pub fn object(&self, key: &ObjectKey) -> Option<&Arc<ParsedObject>> {
        Some(&self.first(key)?.latest)
    }

    /// The accepted objects, and what stands in for the others.
    pub fn in_effect(&self) -> impl Iterator<Item = &Arc<ParsedObject>> {
        let versions = self.copies.values().filter_map(|copies| copies.values().next());
        versions.map(|v| v.stand_in.as_ref().map_or(&v.latest, |s| &s.object))
    }

    /// What is in effect in the place of an object that was rejected.
    pub fn stand_in(&self, key: &ObjectKey) -> Option<&StandIn> {
        self.first(key)?.stand_in.as_ref()
    }

    fn first(&self, key: &ObjectKey) -> Option<&Version> {
        self.copies.get(key)?.values().next()
    }

    pub fn duplicates(&self) -> BTreeMap<ObjectKey, Vec<Duplicate>> {
        let several = self.copies.iter().filter(|(_, copies)| copies.len() > 1);
        let list = several.map(|(key, copies)| {
            let mut origins = copies.keys();
            let first = origins.next().cloned().unwrap_or_else(|| "".into());
            let rest = origins
                .map(|o| Duplicate {
                    origin: o.clone(),
                    in_effect: first.clone(),
                })
                .collect();
            (key.clone(), rest)
        });
        list.collect()
    }

    pub fn unreadable(&self) -> &BTreeMap<Arc<str>, Vec<String>> {
        &self.unreadable
    }
}

impl Version {
    fn new(latest: ParsedObject, old: Option<&Self>) -> Self {
        let old = old.map(|old| (&old.latest, old.stand_in.as_ref()));
        let rejected = latest.outcome.is_err();
        Self {
            stand_in: rejected.then(|| StandIn::of(&latest, old)).flatten(),
            latest: Arc::new(latest),
        }
    }

    fn log(&self, origin: &str) {
        let Err(rejection) = &self.latest.outcome else {
            return;
        };
        let instead = self.stand_in.as_ref().map(tracing::field::display);
        tracing::warn!(object = %self.latest.raw.key, origin, field = %rejection.field, reason = %rejection.reason, instead, "object rejected");
    }
}

#[cfg(test)]
mod tests;
