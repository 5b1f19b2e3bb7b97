//! Events, for `kubectl describe` and whoever watches them: on an object that is refused, and about the authority.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use serde_json::Value;

use super::compare::refusal;
use crate::authority::Notice;
use crate::objects::ObjectKey;

const CONTROLLER: &str = "aquifer.io/control";
/// The API server's limit.
const LONGEST_NOTE: usize = 1000;

/// The Event for a status that refuses the object, where the status before did not say the same.
pub(super) fn of_refusal(
    key: &ObjectKey,
    value: &Value,
    uid: Option<&str>,
    before: &Value,
    instance: &str,
) -> Option<Event> {
    let accepted = refusal(value.get("status")?)?;
    let field = |name: &str| accepted.get(name).and_then(Value::as_str).unwrap_or_default();
    let said = refusal(before).is_some_and(|old| old.get("message") == accepted.get("message"));
    if said {
        return None;
    }
    let said = (field("reason"), field("message"));
    Some(event(
        reference(key, value, uid),
        "Validate",
        said,
        "Warning",
        instance,
    ))
}

/// An Event with a notice about the certificate authority.
pub(crate) fn about(object: ObjectReference, notice: &Notice, instance: &str) -> Event {
    let kind = if notice.warning { "Warning" } else { "Normal" };
    event(object, "Rotate", (notice.reason, &notice.text), kind, instance)
}

fn event(
    object: ObjectReference,
    action: &str,
    (reason, note): (&str, &str),
    kind: &str,
    instance: &str,
) -> Event {
    let now = Timestamp::now();
    Event {
        metadata: ObjectMeta {
            name: Some(name(object.name.as_deref().unwrap_or_default(), now)),
            namespace: object.namespace.clone(),
            ..ObjectMeta::default()
        },
        action: Some(action.to_owned()),
        event_time: Some(MicroTime(now)),
        note: Some(note.chars().take(LONGEST_NOTE).collect()),
        reason: Some(reason.to_owned()),
        regarding: Some(object),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.to_owned()),
        type_: Some(kind.to_owned()),
        ..Event::default()
    }
}

/// As the field's other clients name theirs: the object's name and the time.
fn name(object: &str, now: Timestamp) -> String {
    let short: String = object.chars().take(200).collect();
    format!("{}.{:x}", short.trim_end_matches(['.', '-']), now.as_nanosecond())
}

fn reference(key: &ObjectKey, value: &Value, uid: Option<&str>) -> ObjectReference {
    ObjectReference {
        api_version: value.get("apiVersion").and_then(Value::as_str).map(str::to_owned),
        kind: Some(key.kind.to_string()),
        name: Some(key.name.to_string()),
        namespace: Some(key.namespace.to_string()),
        uid: uid.map(str::to_owned),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(value: &str, message: &str) -> Value {
        json!({"apiVersion": "networking.istio.io/v1", "status": {"conditions": [
            {"type": "Accepted", "status": value, "reason": "Invalid", "message": message}]}})
    }

    #[test]
    fn a_refusal_is_told_once() {
        let key = ObjectKey::new("networking.istio.io", "VirtualService", "a", "b");
        let of = |now: &Value, before: &Value| of_refusal(&key, now, Some("u"), &before["status"], "i");
        let (bad, worse, good) = (status("False", "x"), status("False", "y"), status("True", ""));
        let event = of(&bad, &json!({})).unwrap();
        assert_eq!(event.regarding.unwrap().uid.as_deref(), Some("u"));
        assert_eq!(event.note.as_deref(), Some("x"));
        assert!(of(&bad, &bad).is_none());
        assert!(of(&worse, &bad).is_some());
        assert!(of(&good, &bad).is_none());
        let long = status("False", &"\u{e4}".repeat(5000));
        assert_eq!(
            of(&long, &good).unwrap().note.unwrap().chars().count(),
            LONGEST_NOTE
        );
    }
}
