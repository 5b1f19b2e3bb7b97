//! Statuses as they are written: what the compiler says about an object, and at how many proxies it is in effect.

mod census;
mod refusal;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use aquifer_telemetry::timestamp::rfc3339;
use serde_json::{Value, json};

use crate::compile::Compiled;
use crate::compile::gateway_api::CONTROLLER;
use crate::compile::report::{
    self, Audience, Condition, ListenerReport, ObjectReport, ParentReport, PodName, Reports,
};
use crate::objects::{Meta, ObjectKey, ParsedObject};
use crate::peers::Elsewhere;
use crate::serve::ProxyType;
use crate::serve::registry::ProxyStatus;
use crate::store::Store;
use census::Census;
use refusal::Refusal;

/// Says that all proxies that need the object have it.
pub const PROGRAMMED: &str = "Programmed";

/// The statuses that were written last, and since which generation each object is as it is.
#[derive(Debug, Default)]
pub struct Statuses {
    written: BTreeMap<ObjectKey, Value>,
    since: BTreeMap<ObjectKey, Since>,
    elsewhere: Arc<Elsewhere>,
    reports: Reports,
    due: Due,
    /// The proxies that were there last time, in their order.
    proxies: Vec<(ProxyType, PodName)>,
}

/// Whose status may differ from what was written.
#[derive(Debug, Default)]
enum Due {
    /// Everybody's: proxies came or went, or another replica said something.
    #[default]
    All,
    /// Of objects that changed, or are not in effect everywhere yet.
    Some(BTreeSet<ObjectKey>),
}

#[derive(Debug)]
struct Since {
    object: Arc<ParsedObject>,
    report: Arc<ObjectReport>,
    generation: u64,
}

/// At how many of the proxies that need it an object is in effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reach {
    pub in_effect: usize,
    pub of: usize,
    /// Of one of the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Refusal>,
}

impl Reach {
    fn is_everywhere(&self) -> bool {
        self.in_effect >= self.of
    }
}

impl Statuses {
    /// Continues where an earlier run stopped.
    pub fn starting_with(written: BTreeMap<ObjectKey, Value>) -> Self {
        Self {
            written,
            ..Self::default()
        }
    }

    /// Notes which objects changed with this generation.
    pub fn observe(&mut self, store: &Store, compiled: &Compiled, generation: u64) {
        let before = std::mem::replace(&mut self.reports, compiled.reports.clone());
        let mut changed: BTreeSet<ObjectKey> = compiled.delta.objects.iter().cloned().collect();
        changed.extend(before.diff(&compiled.reports).map(|item| key_of(&item).clone()));
        for key in changed {
            self.note(store, &key, generation);
            if let Due::Some(due) = &mut self.due {
                due.insert(key);
            }
        }
    }

    fn note(&mut self, store: &Store, key: &ObjectKey, generation: u64) {
        let old = self.since.remove(key);
        let (Some(object), Some(report)) = (store.object(key), self.reports.get(key)) else {
            return;
        };
        let old = old.filter(|old| Arc::ptr_eq(&old.object, object) && old.report.says_the_same(report));
        let since = Since {
            object: object.clone(),
            report: report.clone(),
            generation: old.map_or(generation, |old| old.generation),
        };
        self.since.insert(key.clone(), since);
    }

    /// What the other replicas' proxies have, from now on.
    pub fn hear(&mut self, elsewhere: Arc<Elsewhere>) {
        self.elsewhere = elsewhere;
        self.due = Due::All;
    }

    /// Every object that proxies need, and which of these do not have it in effect, by index.
    pub fn here<'a>(
        &'a self,
        proxies: &'a [ProxyStatus],
    ) -> impl Iterator<Item = (&'a ObjectKey, &'a Meta, BTreeSet<usize>)> {
        let needed = self
            .since
            .iter()
            .filter(|(_, since)| since.report.audience != Audience::Nobody);
        let oldest = proxies.iter().map(|p| p.generation_in_effect).min().flatten();
        needed.map(move |(key, since)| {
            // Most objects are in effect everywhere.
            let somewhere = oldest.is_none_or(|oldest| oldest < since.generation);
            let some = if somewhere { proxies } else { &[] };
            let lacking = some.iter().enumerate().filter(|(_, p)| !since.is_in_effect_at(p));
            (
                key,
                &*since.object.meta,
                lacking.map(|(index, _)| index).collect(),
            )
        })
    }

    /// Where each object is in effect: one look at the proxies for all of them.
    pub fn reaches<'a>(&'a self, proxies: &'a [ProxyStatus]) -> impl Fn(&ObjectKey) -> Option<Reach> + 'a {
        let census = Census::of(proxies, &self.elsewhere);
        move |key| census.reach(key, self.since.get(key)?)
    }

    /// The statuses that differ from what was written last; they count as written from now on.
    pub fn changed(
        &mut self,
        proxies: &[ProxyStatus],
        now: SystemTime,
    ) -> BTreeMap<ObjectKey, Option<Value>> {
        let elsewhere = self.elsewhere.clone();
        let census = Census::of(proxies, &elsewhere);
        let mut changes = BTreeMap::new();
        let mut unsettled = BTreeSet::new();
        for key in self.take_due(proxies) {
            let since = self.since.get(&key);
            let reach = since.and_then(|since| census.reach(&key, since));
            if reach.as_ref().is_some_and(|r| !r.is_everywhere()) {
                unsettled.insert(key.clone());
            }
            if let Some(change) = self.change(&key, reach, now) {
                changes.insert(key, change);
            }
        }
        self.due = Due::Some(unsettled);
        changes
    }

    fn take_due(&mut self, proxies: &[ProxyStatus]) -> BTreeSet<ObjectKey> {
        let present = proxies
            .iter()
            .map(|p| (p.proxy_type, (p.namespace.clone(), p.pod.clone())));
        let present: Vec<_> = present.collect();
        let same = present == self.proxies;
        self.proxies = present;
        match std::mem::take(&mut self.due) {
            Due::Some(due) if same => due,
            _ => self.since.keys().chain(self.written.keys()).cloned().collect(),
        }
    }

    /// What is written of a rejected object before there is a model.
    pub fn before_all(&mut self, object: &ParsedObject, now: SystemTime) -> (ObjectKey, Option<Value>) {
        let key = &object.raw.key;
        let old = self.written.get(key);
        let value = status(object, &report::before_all(object), None, old, now);
        self.written.insert(key.clone(), value.clone());
        (key.clone(), Some(value))
    }

    /// What has to be written of an object, where anything has to be.
    fn change(&mut self, key: &ObjectKey, reach: Option<Reach>, now: SystemTime) -> Option<Option<Value>> {
        let Some(since) = self.since.get(key) else {
            return self.written.remove(key).map(|_| None);
        };
        let old = self.written.get(key);
        let value = status(&since.object, &since.report, reach, old, now);
        (old != Some(&value)).then(|| {
            self.written.insert(key.clone(), value.clone());
            Some(value)
        })
    }
}

fn key_of<'a>(item: &imbl::ordmap::DiffItem<'a, 'a, ObjectKey, Arc<ObjectReport>>) -> &'a ObjectKey {
    use imbl::ordmap::DiffItem;
    match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => key,
    }
}

impl Since {
    fn is_in_effect_at(&self, proxy: &ProxyStatus) -> bool {
        proxy.generation_in_effect.is_some_and(|g| g >= self.generation)
    }
}

fn status(
    object: &ParsedObject,
    report: &ObjectReport,
    reach: Option<Reach>,
    old: Option<&Value>,
    now: SystemTime,
) -> Value {
    let programmed = reach.filter(|_| report.accepted).map(|reach| programmed(&reach));
    let stamp = Stamp {
        generation: object.meta.generation,
        now,
    };
    let old = old.and_then(|old| old.get("status"));
    let mut fields = serde_json::Map::new();
    if let Some(parents) = &report.parents {
        let list = parents.iter().map(|p| stamp.parent(p, programmed.as_ref(), old));
        fields.insert("parents".to_owned(), list.collect());
    } else {
        let conditions = report.conditions.iter().chain(&programmed);
        fields.insert("conditions".to_owned(), stamp.conditions(conditions, old));
    }
    if !report.listeners.is_empty() {
        let list = report.listeners.iter().map(|l| stamp.listener(l, old));
        fields.insert("listeners".to_owned(), list.collect());
    }
    fields.extend(
        report
            .fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone())),
    );
    let key = &object.raw.key;
    let mut metadata = json!({ "name": *key.name });
    if !key.namespace.is_empty() {
        metadata["namespace"] = json!(*key.namespace);
    }
    json!({ "apiVersion": *object.raw.api_version, "kind": *key.kind, "metadata": metadata, "status": fields })
}

pub fn programmed(reach: &Reach) -> Condition {
    let mut message = format!("in effect at {} of {} proxies", reach.in_effect, reach.of);
    if let Some(refusal) = &reach.refusal {
        message = format!("{message}; {refusal}");
    }
    let (holds, reason) = match reach {
        Reach { of: 0, .. } => (false, "NoProxies"),
        reach if reach.is_everywhere() => (true, PROGRAMMED),
        Reach { refusal: Some(_), .. } => (false, "Refused"),
        Reach { refusal: None, .. } => (false, "Pending"),
    };
    Condition::new(PROGRAMMED, holds, reason, message)
}

/// What is the same for all conditions of a status that is written.
struct Stamp {
    generation: Option<i64>,
    now: SystemTime,
}

impl Stamp {
    /// `old` is what had the conditions before.
    fn conditions<'c>(&self, conditions: impl Iterator<Item = &'c Condition>, old: Option<&Value>) -> Value {
        conditions.map(|c| self.condition(c, old)).collect()
    }

    /// The time of the last transition stays as it was where the condition's status did.
    fn condition(&self, condition: &Condition, old: Option<&Value>) -> Value {
        let mut value = serde_json::to_value(condition).unwrap_or_default();
        if let Some(generation) = self.generation {
            value["observedGeneration"] = json!(generation);
        }
        let before = old.and_then(|old| {
            old.get("conditions")?.as_array()?.iter().find(|c| {
                c.get("type") == Some(&json!(condition.kind))
                    && c.get("status") == Some(&json!(condition.status))
            })
        });
        let since = before.and_then(|b| b.get("lastTransitionTime")).cloned();
        value["lastTransitionTime"] = since.unwrap_or_else(|| json!(rfc3339(self.now)));
        value
    }

    fn parent(&self, report: &ParentReport, programmed: Option<&Condition>, old: Option<&Value>) -> Value {
        let before = entry(old, "parents", "parentRef", &report.parent_ref);
        let programmed = programmed.filter(|_| report.is_accepted());
        json!({
            "parentRef": report.parent_ref,
            "controllerName": CONTROLLER,
            "conditions": self.conditions(report.conditions.iter().chain(programmed), before),
        })
    }

    fn listener(&self, report: &ListenerReport, old: Option<&Value>) -> Value {
        let before = entry(old, "listeners", "name", &json!(*report.name));
        json!({
            "name": *report.name,
            "supportedKinds": report.supported_kinds,
            "attachedRoutes": report.attached_routes,
            "conditions": self.conditions(report.conditions.iter(), before),
        })
    }
}

/// The entry of a list of the status with that value in that field.
fn entry<'v>(status: Option<&'v Value>, list: &str, field: &str, value: &Value) -> Option<&'v Value> {
    let list = status?.get(list)?.as_array()?;
    list.iter().find(|entry| entry.get(field) == Some(value))
}
