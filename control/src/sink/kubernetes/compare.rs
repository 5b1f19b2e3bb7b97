//! What is wanted against what is there. Pure, so that "never fighting" can be tested without an API server.

use serde_json::{Map, Value};

use crate::compile::gateway_api::CONTROLLER;
use crate::compile::report::WAYPOINT_BOUND;

/// Conditions that are the mesh's to set, and to take away.
const OURS: [&str; 7] = [
    "Accepted",
    "ResolvedRefs",
    "Programmed",
    "FullySupported",
    "Warning",
    "ZtunnelAccepted",
    WAYPOINT_BOUND,
];
/// The same for other fields of a status.
const OUR_FIELDS: [&str; 3] = ["addresses", "listeners", "supportedFeatures"];
/// The list in a route's status that controllers share, each with entries of its own.
const PARENTS: &str = "parents";
const TIME: &str = "lastTransitionTime";

/// Whether everything that is wanted is there; what the API server or others added does not matter.
pub(super) fn contains(seen: &Value, wanted: &Value) -> bool {
    match (seen, wanted) {
        (Value::Object(seen), Value::Object(wanted)) => wanted.iter().all(|(key, value)| {
            seen.get(key)
                .map_or_else(|| is_empty(value), |s| contains(s, value))
        }),
        (Value::Array(seen), Value::Array(wanted)) => {
            seen.len() == wanted.len() && seen.iter().zip(wanted).all(|(s, w)| contains(s, w))
        }
        _ => seen == wanted,
    }
}

/// What the API server leaves out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn conditions(status: &Value) -> impl Iterator<Item = &Map<String, Value>> {
    let list = status.get("conditions").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_object)
}

fn kind(condition: &Map<String, Value>) -> &str {
    condition.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// The condition of that type.
pub(super) fn condition<'a>(status: &'a Value, wanted: &str) -> Option<&'a Map<String, Value>> {
    conditions(status).find(|c| kind(c) == wanted)
}

/// Whether a status that is there says what is wanted, with nothing of ours that is wanted no more.
///
/// When a condition changed is left out: it is kept from what is there, or is nobody's business.
pub(super) fn says(seen: &Value, wanted: &Value) -> bool {
    let said = |w: &Map<String, Value>| {
        let without_time = w.iter().filter(|(key, _)| *key != TIME);
        condition(seen, kind(w))
            .is_some_and(|s| without_time.clone().all(|(key, value)| s.get(key) == Some(value)))
    };
    let left_over = |s: &Map<String, Value>| OURS.contains(&kind(s)) && condition(wanted, kind(s)).is_none();
    let field = |name: &&str| match (seen.get(*name), wanted.get(*name)) {
        (_, Some(wanted)) => seen
            .get(*name)
            .is_some_and(|seen| contains(seen, &timeless(wanted))),
        (seen, None) => seen.is_none(),
    };
    let parents: Vec<Value> = parents(wanted, true).map(timeless).collect();
    let there: Vec<Value> = self::parents(seen, true).cloned().collect();
    conditions(wanted).all(said)
        && !conditions(seen).any(left_over)
        && OUR_FIELDS.iter().all(field)
        && contains(&there.into(), &parents.into())
}

/// Without any time of a transition.
fn timeless(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, _)| *key != TIME);
            kept.map(|(key, value)| (key.clone(), timeless(value))).collect()
        }
        Value::Array(list) => list.iter().map(timeless).collect(),
        other => other.clone(),
    }
}

/// Entries for a route's parents: ours, or those of other controllers.
fn parents(status: &Value, ours: bool) -> impl Iterator<Item = &Value> {
    let list = status.get(PARENTS).and_then(Value::as_array);
    let is_wanted = move |entry: &&Value| (entry.get("controllerName") == Some(&CONTROLLER.into())) == ours;
    list.into_iter().flatten().filter(is_wanted)
}

/// Whether a status holds anything of ours.
pub(super) fn has_ours(seen: &Value) -> bool {
    conditions(seen).any(|c| OURS.contains(&kind(c)))
        || OUR_FIELDS.iter().any(|f| seen.get(*f).is_some())
        || parents(seen, true).next().is_some()
}

/// Puts what other controllers say about a route's parents beside what is ours; whether there is such a list at all.
pub(super) fn keep_parents(wanted: &mut Value, seen: &Value) -> bool {
    let others: Vec<Value> = parents(seen, false).cloned().collect();
    if wanted.get(PARENTS).is_none() && seen.get(PARENTS).is_none() {
        return false;
    }
    let ours = parents(wanted, true).cloned();
    wanted[PARENTS] = others.iter().cloned().chain(ours).collect();
    true
}

/// The refusal in a status, of the object or at one of a route's parents.
pub(super) fn refusal(status: &Value) -> Option<&Map<String, Value>> {
    let of_parents = parents(status, true).filter_map(|entry| condition(entry, "Accepted"));
    let all = condition(status, "Accepted").into_iter().chain(of_parents);
    all.into_iter()
        .find(|c| c.get("status").is_some_and(|s| s == "False"))
}

/// Takes over the time of the last transition of every condition whose status stays.
pub(super) fn keep_times(wanted: &mut Value, seen: &Value) {
    keep_times_of(wanted, seen);
    for (list, key) in [(PARENTS, "parentRef"), ("listeners", "name")] {
        let before = seen.get(list).and_then(Value::as_array);
        let entries = wanted.get_mut(list).and_then(Value::as_array_mut);
        for entry in entries.into_iter().flatten() {
            let is_it = |old: &&Value| {
                old.get(key)
                    .is_some_and(|o| entry.get(key).is_some_and(|e| contains(o, e)))
            };
            if let Some(old) = before.into_iter().flatten().find(is_it) {
                keep_times_of(entry, old);
            }
        }
    }
}

fn keep_times_of(wanted: &mut Value, seen: &Value) {
    let Some(list) = wanted.get_mut("conditions").and_then(Value::as_array_mut) else {
        return;
    };
    for condition_wanted in list.iter_mut().filter_map(Value::as_object_mut) {
        let Some(old) = condition(seen, kind(condition_wanted)) else {
            continue;
        };
        let stays = old.get("status") == condition_wanted.get("status");
        if let Some(time) = old.get(TIME).filter(|_| stays) {
            condition_wanted.insert(TIME.to_owned(), time.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(kind: &str, value: &str, time: &str) -> Value {
        json!({"conditions": [{"type": kind, "status": value, "reason": "R", "message": "m", "lastTransitionTime": time}]})
    }

    #[test]
    fn defaults_of_the_api_server_are_no_difference() {
        let wanted = json!({"spec": {"ports": [{"port": 80}], "replicas": 1}});
        let seen = json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}], "replicas": 1, "paused": false}, "status": {}});
        assert!(contains(&seen, &wanted));
        assert!(contains(
            &json!({"name": "A"}),
            &json!({"name": "A", "value": "", "list": []})
        ));
        assert!(!contains(
            &json!({"name": "A"}),
            &json!({"name": "A", "value": "b"})
        ));
        assert!(!contains(&json!({"spec": {"ports": [], "replicas": 1}}), &wanted));
        assert!(!contains(
            &json!({"spec": {"ports": [{"port": 80}], "replicas": 2}}),
            &wanted
        ));
    }

    #[test]
    fn another_replicas_time_is_no_difference() {
        let (theirs, ours) = (
            status("Accepted", "True", "then"),
            status("Accepted", "True", "now"),
        );
        assert!(says(&theirs, &ours));
        assert!(!says(&status("Accepted", "False", "then"), &ours));
        assert!(!says(&json!({}), &ours));
    }

    #[test]
    fn what_is_said_no_more_is_taken_away_and_others_is_left() {
        let mut seen = status("Accepted", "True", "t");
        let wanted = seen.clone();
        let list = seen["conditions"].as_array_mut().unwrap();
        list.push(json!({"type": "Reconciled", "status": "True"}));
        assert!(says(&seen, &wanted), "another controller's condition");
        seen["conditions"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "Warning", "status": "True"}));
        assert!(!says(&seen, &wanted));
        assert!(has_ours(&seen));
        assert!(!has_ours(
            &json!({"conditions": [{"type": "Reconciled"}], "loadBalancer": {}})
        ));
        assert!(!says(
            &json!({"addresses": [1], "conditions": wanted["conditions"]}),
            &wanted
        ));
    }

    fn route(controller: &str, time: &str) -> Value {
        let mut entry = status("Accepted", "False", time);
        entry["parentRef"] = json!({"name": "g", "kind": "Gateway"});
        entry["controllerName"] = json!(controller);
        entry
    }

    #[test]
    fn other_controllers_words_on_a_route_are_kept() {
        let seen = json!({"parents": [route("other", "a"), route(CONTROLLER, "a")]});
        let mut wanted = json!({"parents": [route(CONTROLLER, "b")]});
        wanted["parents"][0]["parentRef"] = json!({"name": "g"});
        assert!(says(&seen, &wanted), "defaults and times are no difference");
        assert!(!says(&json!({"parents": [route("other", "a")]}), &wanted));
        assert!(has_ours(&seen) && !has_ours(&json!({"parents": [route("other", "a")]})));
        assert_eq!(refusal(&wanted).unwrap()["message"], "m");
        keep_times(&mut wanted, &seen);
        assert!(keep_parents(&mut wanted, &seen));
        assert_eq!(wanted["parents"][0], route("other", "a"));
        assert_eq!(wanted["parents"][1]["conditions"], route("", "a")["conditions"]);
        let mut nothing = json!({});
        assert!(keep_parents(&mut nothing, &seen));
        assert_eq!(nothing, json!({"parents": [route("other", "a")]}));
        assert!(!keep_parents(&mut json!({}), &json!({})));
    }

    #[test]
    fn the_time_of_a_transition_is_kept_until_there_is_one() {
        let mut wanted = status("Accepted", "True", "now");
        keep_times(&mut wanted, &status("Accepted", "True", "then"));
        assert_eq!(wanted, status("Accepted", "True", "then"));
        let mut wanted = status("Accepted", "False", "now");
        keep_times(&mut wanted, &status("Accepted", "True", "then"));
        assert_eq!(wanted, status("Accepted", "False", "now"));
        keep_times(&mut json!({"conditions": "odd"}), &json!(null));
    }
}
