//! What is wanted on the API server, what was seen there, and which differences are due to be written.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::compare::{contains, has_ours, keep_parents, keep_times, says};
use super::{has_status, is_told_by_events};
use crate::compile::waypoints::MANAGED_LABEL;
use crate::kubernetes::kinds::ROOT_CONFIG_MAP;
use crate::kubernetes::{MADE_BY, MADE_BY_LABEL};
use crate::objects::ObjectKey;

/// Written again only this long after the last time, where somebody else writes otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

/// An object, or its status alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Place {
    Object(ObjectKey),
    Status(ObjectKey),
}

/// Which replica may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Leader,
    Anyone,
}

/// What has to be done for a place to be as it is wanted.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Apply(Value),
    /// Only the object of this UID.
    Delete {
        uid: String,
    },
    /// The whole object with its new status, the UID where it is known, and what its status said before.
    Status {
        value: Value,
        uid: Option<String>,
        before: Value,
    },
}

struct Wanted {
    /// `None` where nothing of ours is to be there.
    value: Option<Value>,
    who: Who,
}

struct Seen {
    uid: Option<String>,
    version: Option<String>,
    ours: bool,
    /// The version that the API server serves it in.
    api_version: Option<String>,
    value: Value,
}

/// Shared by the watches, the pipeline and the writer. The lock is never held over an await.
#[derive(Default)]
pub struct Desk {
    inner: Mutex<Inner>,
    /// Something is due.
    work: Notify,
    /// Something is not due any more.
    settled: Notify,
}

#[derive(Default)]
struct Inner {
    root: Option<Arc<str>>,
    /// Namespaces that are not being deleted.
    namespaces: BTreeSet<Arc<str>>,
    wanted: BTreeMap<Place, Wanted>,
    seen: HashMap<Place, Seen>,
    /// Places to look at, and not before when.
    due: BTreeMap<Place, Option<Instant>>,
    written: HashMap<Place, Instant>,
    /// Places that are being written now.
    taken: BTreeSet<Place>,
    /// Whether everything that is there has been seen once: before, nothing can be said to be missing.
    complete: bool,
}

impl Desk {
    pub(super) fn want(&self, place: Place, value: Option<Value>, who: Who) {
        let mut inner = self.inner.lock();
        inner.wanted.insert(place.clone(), Wanted { value, who });
        inner.due.insert(place, None);
        drop(inner);
        self.work.notify_one();
    }

    /// The root certificate of every namespace from now on.
    pub fn publish_root(&self, pem: &str) {
        let mut inner = self.inner.lock();
        inner.root = Some(pem.into());
        for namespace in inner.namespaces.clone() {
            inner.want_root(&namespace);
        }
        drop(inner);
        self.work.notify_one();
    }

    /// Takes note of an object as a watch delivers it, whole; `None` where it is gone.
    pub fn saw(&self, key: &ObjectKey, value: Option<&Value>) {
        if matches!(&*key.kind, "Pod" | "EndpointSlice") {
            return;
        }
        let mut inner = self.inner.lock();
        if key.group.is_empty() && &*key.kind == "Namespace" {
            inner.saw_namespace(key, value);
        }
        if has_status(key) {
            let status = |whole: &Value| whole.get("status").cloned().unwrap_or_default();
            inner.saw(
                Place::Status(key.clone()),
                value.map(|whole| Seen::of(whole, status(whole))),
            );
        } else if is_told_by_events(key) {
            let place = Place::Status(key.clone());
            let said = inner.seen.get(&place).map(|seen| seen.value.clone());
            let seen = value.map(|whole| Seen::of(whole, said.unwrap_or_default()));
            inner.saw(place, seen);
        }
        let place = Place::Object(key.clone());
        let known = inner.wanted.contains_key(&place) || inner.seen.contains_key(&place);
        if known || is_root(key) || value.is_some_and(is_made) {
            let seen = value.map(|whole| Seen::of(whole, whole.clone()));
            inner.saw(place, seen);
        }
        drop(inner);
        self.work.notify_one();
    }

    /// Everything that is there has been seen.
    pub fn complete(&self) {
        self.inner.lock().complete = true;
        self.look_again();
    }

    /// Compares everything again, such as by a replica that has just become the one that writes.
    pub(super) fn look_again(&self) {
        let mut inner = self.inner.lock();
        let all: Vec<Place> = inner.wanted.keys().cloned().collect();
        inner.due.extend(all.into_iter().map(|place| (place, None)));
        drop(inner);
        self.work.notify_one();
    }

    /// Up to `limit` actions that are due, and when the next one will be.
    pub(super) fn due(
        &self,
        leads: bool,
        now: Instant,
        limit: usize,
    ) -> (Vec<(Place, Action)>, Option<Instant>) {
        let mut inner = self.inner.lock();
        let (actions, next) = inner.due(leads, now, limit);
        drop(inner);
        self.settled.notify_waiters();
        (actions, next)
    }

    /// The action was done; `seen` is what the API server answered.
    pub(super) fn done(&self, place: &Place, seen: Option<&Value>, now: Instant) {
        let mut inner = self.inner.lock();
        inner.taken.remove(place);
        inner.written.insert(place.clone(), now);
        match (place, seen) {
            (Place::Object(_), Some(whole)) => inner.remember(place, Seen::of(whole, whole.clone())),
            (Place::Status(_), Some(whole)) => {
                let status = whole.get("status").cloned().unwrap_or_default();
                inner.remember(place, Seen::of(whole, status));
            }
            (_, None) => drop(inner.seen.remove(place)),
        }
        drop(inner);
        self.work.notify_one();
        self.settled.notify_waiters();
    }

    /// The action failed, or was not begun; it is due again.
    pub(super) fn put_back(&self, place: Place, at: Option<Instant>) {
        let mut inner = self.inner.lock();
        inner.taken.remove(&place);
        inner.due.entry(place).or_insert(at);
        drop(inner);
        self.work.notify_one();
    }

    /// Waits for something to be due.
    pub(super) async fn work(&self) {
        self.work.notified().await;
    }

    /// Waits until nothing is due that any replica may write.
    pub(super) async fn settled(&self) {
        loop {
            let notified = self.settled.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if !self.inner.lock().is_unsettled() {
                return;
            }
            notified.await;
        }
    }
}

impl Seen {
    fn of(whole: &Value, value: Value) -> Self {
        let text = |path: &str| whole.pointer(path).and_then(Value::as_str).map(str::to_owned);
        Self {
            uid: text("/metadata/uid"),
            version: text("/metadata/resourceVersion"),
            ours: is_made(whole),
            api_version: text("/apiVersion"),
            value,
        }
    }
}

impl Inner {
    fn saw_namespace(&mut self, key: &ObjectKey, value: Option<&Value>) {
        let ends = |v: &Value| v.pointer("/metadata/deletionTimestamp").is_some();
        if value.is_none_or(ends) {
            self.namespaces.remove(&key.name);
            self.forget(&Place::Object(root_key(&key.name)));
        } else if self.namespaces.insert(key.name.clone()) {
            self.want_root(&key.name);
        }
    }

    fn want_root(&mut self, namespace: &str) {
        let Some(root) = &self.root else { return };
        let key = root_key(namespace);
        let value = Some(root_object(&key, root));
        let who = Who::Leader;
        self.wanted
            .insert(Place::Object(key.clone()), Wanted { value, who });
        self.due.insert(Place::Object(key), None);
    }

    fn forget(&mut self, place: &Place) {
        self.wanted.remove(place);
        self.due.remove(place);
        self.written.remove(place);
        self.seen.remove(place);
    }

    fn saw(&mut self, place: Place, seen: Option<Seen>) {
        match seen {
            Some(seen) => self.remember(&place, seen),
            None => drop(self.seen.remove(&place)),
        }
        if self.action(&place).is_some() {
            let again = self.written.get(&place).map(|at| *at + PATIENCE);
            self.due.entry(place).or_insert(again);
        }
    }

    fn remember(&mut self, place: &Place, seen: Seen) {
        self.seen.insert(place.clone(), seen);
    }

    fn due(&mut self, leads: bool, now: Instant, limit: usize) -> (Vec<(Place, Action)>, Option<Instant>) {
        let mut actions = Vec::new();
        let mut next: Option<Instant> = None;
        if !self.complete {
            return (actions, next);
        }
        let places: Vec<(Place, Option<Instant>)> = self.due.iter().map(|(p, at)| (p.clone(), *at)).collect();
        for (place, at) in places {
            if let Some(at) = at.filter(|at| *at > now) {
                next = Some(next.map_or(at, |n| n.min(at)));
            } else if actions.len() < limit
                && !self.taken.contains(&place)
                && (leads || self.is_anyones(&place))
            {
                self.due.remove(&place);
                match self.action(&place) {
                    None => self.tidy(&place),
                    Some(action) => {
                        self.taken.insert(place.clone());
                        actions.push((place, action));
                    }
                }
            }
        }
        (actions, next)
    }

    fn is_anyones(&self, place: &Place) -> bool {
        self.wanted.get(place).is_some_and(|w| w.who == Who::Anyone)
    }

    fn is_unsettled(&self) -> bool {
        let due = self.due.keys().chain(&self.taken);
        due.into_iter()
            .any(|place| self.is_anyones(place) && self.action(place).is_some())
    }

    /// Drops the wish for nothing once there is nothing.
    fn tidy(&mut self, place: &Place) {
        if self.wanted.get(place).is_some_and(|w| w.value.is_none()) {
            self.wanted.remove(place);
            self.written.remove(place);
        }
    }

    fn action(&self, place: &Place) -> Option<Action> {
        let wanted = self.wanted.get(place)?;
        let seen = self.seen.get(place);
        match (place, &wanted.value) {
            (Place::Object(_), Some(value)) => {
                let there = seen.is_some_and(|s| contains(&s.value, value));
                (!there).then(|| Action::Apply(value.clone()))
            }
            (Place::Object(_), None) => {
                let uid = seen.filter(|s| s.ours)?.uid.clone()?;
                Some(Action::Delete { uid })
            }
            (Place::Status(key), value) => status_action(key, value.as_ref(), seen),
        }
    }
}

/// None for an object that is not there: everything with a status is watched.
fn status_action(key: &ObjectKey, wanted: Option<&Value>, seen: Option<&Seen>) -> Option<Action> {
    let seen = seen?;
    let (uid, version, before) = (seen.uid.clone(), &seen.version, seen.value.clone());
    let mut value = match wanted {
        Some(value) => value.clone(),
        None if has_ours(&before) => empty_status(key, seen)?,
        None => return None,
    };
    let status = value.get_mut("status")?;
    if says(&before, status) {
        return None;
    }
    keep_times(status, &before);
    if keep_parents(status, &before) {
        // The list is replaced as a whole: nobody may have written to it meanwhile.
        value["metadata"]["resourceVersion"] = json!(version);
    }
    Some(Action::Status { value, uid, before })
}

/// What takes back everything that was said.
fn empty_status(key: &ObjectKey, seen: &Seen) -> Option<Value> {
    let version = seen.api_version.as_ref()?;
    Some(json!({
        "apiVersion": version,
        "kind": *key.kind,
        "metadata": { "name": *key.name, "namespace": *key.namespace },
        "status": {},
    }))
}

/// Whether an object carries the labels of what the control plane made.
fn is_made(value: &Value) -> bool {
    let label = |name: &str| value.get("metadata")?.get("labels")?.get(name)?.as_str();
    label(MADE_BY_LABEL) == Some(MADE_BY) && label(MANAGED_LABEL).is_some()
}

fn is_root(key: &ObjectKey) -> bool {
    key.group.is_empty() && &*key.kind == "ConfigMap" && &*key.name == ROOT_CONFIG_MAP
}

fn root_key(namespace: &str) -> ObjectKey {
    ObjectKey::new("", "ConfigMap", namespace, ROOT_CONFIG_MAP)
}

fn root_object(key: &ObjectKey, pem: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": *key.name,
            "namespace": *key.namespace,
            "labels": { MADE_BY_LABEL: MADE_BY, "istio.io/config": "true" },
        },
        "data": { "root-cert.pem": pem },
    })
}

#[cfg(test)]
mod tests;
