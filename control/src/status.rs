//! Statuses as they are written: what the compiler says about an object, and at how many proxies it is in effect.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use aquifer_telemetry::timestamp::rfc3339;
use serde_json::{Value, json};

use crate::compile::Compiled;
use crate::compile::gateway_api::CONTROLLER;
use crate::compile::report::{Audience, Condition, ListenerReport, ObjectReport, ParentReport, PodName};
use crate::objects::{Meta, ObjectKey, ParsedObject};
use crate::peers::{Elsewhere, Standing};
use crate::serve::ProxyType;
use crate::serve::registry::ProxyStatus;
use crate::store::Store;

/// Says that all proxies that need the object have it.
pub const PROGRAMMED: &str = "Programmed";

/// The statuses that were written last, and since which generation each object is as it is.
#[derive(Debug, Default)]
pub struct Statuses {
    written: BTreeMap<ObjectKey, Value>,
    since: BTreeMap<ObjectKey, Since>,
    elsewhere: Arc<Elsewhere>,
}

#[derive(Debug)]
struct Since {
    object: Arc<ParsedObject>,
    report: ObjectReport,
    generation: u64,
}

/// At how many of the proxies that need it an object is in effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reach {
    pub in_effect: usize,
    pub of: usize,
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
        let mut since = BTreeMap::new();
        for (key, report) in &compiled.reports {
            let Some(object) = store.object(key) else { continue };
            let old = self
                .since
                .remove(key)
                .filter(|old| Arc::ptr_eq(&old.object, object) && old.report.says_the_same(report));
            let generation = old.map_or(generation, |old| old.generation);
            let kept = Since {
                object: object.clone(),
                report: report.clone(),
                generation,
            };
            since.insert(key.clone(), kept);
        }
        self.since = since;
    }

    /// What the other replicas' proxies have, from now on.
    pub fn hear(&mut self, elsewhere: Arc<Elsewhere>) {
        self.elsewhere = elsewhere;
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
        needed.map(|(key, since)| {
            let lacking = proxies
                .iter()
                .enumerate()
                .filter(|(_, p)| !since.is_in_effect_at(p));
            (
                key,
                &*since.object.meta,
                lacking.map(|(index, _)| index).collect(),
            )
        })
    }

    pub fn reach(&self, key: &ObjectKey, proxies: &[ProxyStatus]) -> Option<Reach> {
        let since = self.since.get(key)?;
        if since.report.audience == Audience::Nobody {
            return None;
        }
        let here = proxies.iter().map(|proxy| Standing {
            proxy_type: proxy.proxy_type,
            namespace: proxy.namespace.clone(),
            pod: proxy.pod.clone(),
            has: since.is_in_effect_at(proxy),
        });
        let there = self.elsewhere.standings(key, &since.object.meta);
        let standings: Vec<Standing> = here.chain(there).collect();
        Some(count(&since.report.audience, &standings))
    }

    /// The statuses that differ from what was written last; they count as written from now on.
    pub fn changed(
        &mut self,
        proxies: &[ProxyStatus],
        now: SystemTime,
    ) -> BTreeMap<ObjectKey, Option<Value>> {
        let mut changes = BTreeMap::new();
        let current: Vec<ObjectKey> = self.since.keys().cloned().collect();
        for key in current {
            let reach = self.reach(&key, proxies);
            let Some(since) = self.since.get(&key) else {
                continue;
            };
            let value = status(&since.object, &since.report, reach, self.written.get(&key), now);
            if self.written.get(&key) != Some(&value) {
                self.written.insert(key.clone(), value.clone());
                changes.insert(key, Some(value));
            }
        }
        let gone: Vec<ObjectKey> = self
            .written
            .keys()
            .filter(|key| !self.since.contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            self.written.remove(&key);
            changes.insert(key, None);
        }
        changes
    }
}

impl Since {
    fn is_in_effect_at(&self, proxy: &ProxyStatus) -> bool {
        proxy.generation_in_effect.is_some_and(|g| g >= self.generation)
    }
}

fn count(audience: &Audience, standings: &[Standing]) -> Reach {
    let connected = |concerned: fn(ProxyType) -> bool| {
        let (mut in_effect, mut of) = (0, 0);
        for standing in standings.iter().filter(|s| concerned(s.proxy_type)) {
            of += 1;
            in_effect += usize::from(standing.has);
        }
        Reach { in_effect, of }
    };
    match audience {
        Audience::Nobody => Reach { in_effect: 0, of: 0 },
        Audience::Agents => connected(|kind| kind == ProxyType::Agent),
        Audience::WaypointsAndGateways => connected(|kind| kind != ProxyType::Agent),
        Audience::Pods(pods) => {
            let has = standings.iter().filter(|s| s.has);
            let reached: BTreeSet<(&str, &str)> = has.map(|s| (&*s.namespace, &*s.pod)).collect();
            let is_reached = |(namespace, name): &&PodName| reached.contains(&(&**namespace, &**name));
            Reach {
                in_effect: pods.iter().filter(is_reached).count(),
                of: pods.len(),
            }
        }
    }
}

fn status(
    object: &ParsedObject,
    report: &ObjectReport,
    reach: Option<Reach>,
    old: Option<&Value>,
    now: SystemTime,
) -> Value {
    let programmed = reach.filter(|_| report.accepted).map(programmed);
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

pub fn programmed(reach: Reach) -> Condition {
    let message = format!("in effect at {} of {} proxies", reach.in_effect, reach.of);
    let (holds, reason) = match reach {
        Reach { of: 0, .. } => (false, "NoProxies"),
        Reach { in_effect, of } if in_effect == of => (true, PROGRAMMED),
        _ => (false, "Pending"),
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
