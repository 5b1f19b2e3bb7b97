//! The objects as the sources deliver them: parsed when they change, and one per key.
//!
//! What a source holds ([`Store::objects`]) and what is in effect ([`Store::in_effect`]) differ where an object was
//! rejected: see [`StandIn`].

mod changes;
mod stand_in;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::compile::inputs::{GATEWAY_CLASSES, SECRETS_OF};
use crate::mesh_config;
use crate::objects::{GATEWAY_API, ObjectKey, ParsedObject, RawObject};

pub use changes::{Change, Changes};
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
    /// The object with the mesh's settings.
    settings: Option<ObjectKey>,
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
    /// Of a mesh whose control plane is in this namespace.
    pub fn of_mesh(namespace: &str) -> Self {
        Self {
            settings: Some(mesh_config::key(namespace)),
            ..Self::default()
        }
    }

    /// Takes an event; gives what it changed.
    pub fn apply(&mut self, event: SourceEvent) -> Option<Change> {
        match event {
            SourceEvent::Applied { origin, object } => self.put(origin, object),
            SourceEvent::Deleted { origin, key } => self.remove(&origin, key),
            SourceEvent::Unreadable { origin, problems } => self.note(origin, problems),
            SourceEvent::Synced => None,
        }
    }

    fn put(&mut self, origin: Arc<str>, object: Arc<RawObject>) -> Option<Change> {
        let key = object.key.clone();
        let before = self.in_effect_of(&key).cloned();
        let is_settings = self.settings.as_ref() == Some(&key);
        let copies = self.copies.entry(key.clone()).or_default();
        let old = copies.get(&origin);
        if old.is_some_and(|old| *old.latest.raw == *object) {
            return None;
        }
        let parsed = match is_settings {
            true => mesh_config::read(ParsedObject::parse(object)),
            false => ParsedObject::parse(object),
        };
        if old.is_some_and(|old| old.latest.says_the_same(&parsed)) {
            return None;
        }
        let version = Version::new(parsed, old);
        version.log(&origin);
        copies.insert(origin, version);
        Some(Change { key, before })
    }

    fn remove(&mut self, origin: &str, key: ObjectKey) -> Option<Change> {
        let before = self.in_effect_of(&key).cloned();
        let copies = self.copies.get_mut(&key)?;
        copies.remove(origin)?;
        if copies.is_empty() {
            self.copies.remove(&key);
        }
        Some(Change { key, before })
    }

    /// Of Secrets something is said in the status of others; of classes those are made that lack.
    fn note(&mut self, origin: Arc<str>, mut problems: Vec<String>) -> Option<Change> {
        let of_secrets = origin.strip_prefix(SECRETS_OF);
        let of_classes =
            (&*origin == GATEWAY_CLASSES).then(|| ObjectKey::new(GATEWAY_API, "GatewayClass", "", ""));
        let key = of_secrets.map(|namespace| ObjectKey::new("", "Secret", namespace, ""));
        let change = key.or(of_classes).map(|key| Change { key, before: None });
        problems.truncate(MAX_PROBLEMS);
        for problem in &problems {
            tracing::warn!(origin = %origin, reason = %problem, "cannot read a part of the objects");
        }
        if problems.is_empty() {
            self.unreadable.remove(&origin);
        } else if self.unreadable.len() < MAX_BROKEN_ORIGINS || self.unreadable.contains_key(&origin) {
            self.unreadable.insert(origin, problems);
        }
        change
    }

    /// The objects as they are, with where they stand.
    pub fn objects(&self) -> impl Iterator<Item = (&ObjectKey, &Arc<str>, &Arc<ParsedObject>)> {
        self.copies
            .iter()
            .filter_map(|(key, copies)| copies.iter().next().map(|(origin, v)| (key, origin, &v.latest)))
    }

    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.copies.keys()
    }

    pub fn object(&self, key: &ObjectKey) -> Option<&Arc<ParsedObject>> {
        Some(&self.first(key)?.latest)
    }

    /// The object where it is accepted, or what stands in for it; it may be one that was rejected.
    pub fn in_effect_of(&self, key: &ObjectKey) -> Option<&Arc<ParsedObject>> {
        let version = self.first(key)?;
        Some(version.stand_in.as_ref().map_or(&version.latest, |s| &s.object))
    }

    /// Everything that is there, as changes of a store that was empty.
    pub fn as_changes(&self) -> Changes {
        let change = |key: &ObjectKey| Change {
            key: key.clone(),
            before: None,
        };
        self.keys().map(change).collect()
    }

    /// What is in effect in the place of an object that was rejected.
    pub fn stand_in(&self, key: &ObjectKey) -> Option<&StandIn> {
        self.first(key)?.stand_in.as_ref()
    }

    /// The mesh's settings where they are rejected and nothing stands in for them: none were accepted before.
    pub fn refused_settings(&self) -> Option<&Arc<ParsedObject>> {
        let version = self.first(self.settings.as_ref()?)?;
        let refused = version.latest.outcome.is_err() && version.stand_in.is_none();
        refused.then_some(&version.latest)
    }

    fn first(&self, key: &ObjectKey) -> Option<&Version> {
        self.copies.get(key)?.values().next()
    }

    /// Copies of the object in other places than the one in effect.
    pub fn duplicates(&self, key: &ObjectKey) -> Vec<Duplicate> {
        let mut origins = self.copies.get(key).into_iter().flat_map(BTreeMap::keys);
        let Some(first) = origins.next() else {
            return Vec::new();
        };
        let duplicate = |origin: &Arc<str>| Duplicate {
            origin: origin.clone(),
            in_effect: first.clone(),
        };
        origins.map(duplicate).collect()
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
