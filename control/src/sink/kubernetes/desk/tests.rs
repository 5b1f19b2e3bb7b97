use super::*;
use crate::objects::NETWORKING;

fn deployment() -> ObjectKey {
    ObjectKey::new("apps", "Deployment", "a", "waypoint")
}

fn made(replicas: u32) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": replicas}, "metadata": {
        "name": "waypoint", "namespace": "a", "uid": "u1", "labels": {MADE_BY_LABEL: MADE_BY, MANAGED_LABEL: "x"}}})
}

fn rules() -> ObjectKey {
    ObjectKey::new(NETWORKING, "VirtualService", "a", "b")
}

fn accepted(value: &str) -> Value {
    json!({"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "b", "namespace": "a", "uid": "u2"},
        "status": {"conditions": [{"type": "Accepted", "status": value, "lastTransitionTime": "t"}]}})
}

fn bare() -> Value {
    let mut value = accepted("True");
    value["status"] = Value::Null;
    value
}

fn desk() -> Desk {
    let desk = Desk::default();
    desk.saw(&rules(), Some(&bare()));
    desk.complete();
    desk
}

fn due(desk: &Desk, leads: bool, now: Instant) -> Vec<Action> {
    desk.due(leads, now, 10)
        .0
        .into_iter()
        .map(|(_, action)| action)
        .collect()
}

#[test]
fn what_somebody_deletes_comes_back() {
    let (desk, now) = (desk(), Instant::now());
    desk.want(Place::Object(deployment()), Some(made(1)), Who::Leader);
    assert_eq!(due(&desk, true, now), [Action::Apply(made(1))]);
    assert!(due(&desk, true, now).is_empty(), "while it is being written");
    desk.done(&Place::Object(deployment()), Some(&made(1)), now);
    desk.saw(&deployment(), Some(&made(1)));
    assert!(due(&desk, true, now + PATIENCE).is_empty());
    desk.saw(&deployment(), None);
    assert_eq!(due(&desk, true, now + PATIENCE), [Action::Apply(made(1))]);
}

#[test]
fn only_what_is_ours_is_deleted() {
    let (desk, now) = (desk(), Instant::now());
    let mut foreign = made(1);
    foreign["metadata"]["labels"] = json!({});
    for (there, expected) in [
        (foreign, vec![]),
        (made(1), vec![Action::Delete { uid: "u1".to_owned() }]),
    ] {
        desk.want(Place::Object(deployment()), Some(made(1)), Who::Leader);
        desk.saw(&deployment(), Some(&there));
        desk.want(Place::Object(deployment()), None, Who::Leader);
        assert_eq!(due(&desk, true, now + PATIENCE), expected);
    }
}

#[test]
fn nothing_is_written_without_the_lease() {
    let (desk, now) = (desk(), Instant::now());
    desk.want(Place::Object(deployment()), Some(made(1)), Who::Leader);
    assert!(due(&desk, false, now).is_empty());
    assert_eq!(due(&desk, true, now).len(), 1, "it stays due");
}

#[test]
fn nothing_is_missing_before_everything_was_seen() {
    let (desk, now) = (Desk::default(), Instant::now());
    desk.want(Place::Object(deployment()), Some(made(1)), Who::Leader);
    assert!(due(&desk, true, now).is_empty());
    desk.saw(&deployment(), Some(&made(1)));
    desk.complete();
    assert!(due(&desk, true, now).is_empty());
}

#[test]
fn a_status_that_is_there_is_not_written_again() {
    let (desk, now) = (desk(), Instant::now());
    desk.saw(&rules(), Some(&accepted("True")));
    desk.want(Place::Status(rules()), Some(accepted("True")), Who::Leader);
    assert!(due(&desk, true, now).is_empty());
    desk.want(Place::Status(rules()), Some(accepted("False")), Who::Leader);
    assert_eq!(due(&desk, true, now).len(), 1);
}

#[test]
fn one_who_writes_otherwise_is_not_fought() {
    let (desk, now) = (desk(), Instant::now());
    desk.want(Place::Status(rules()), Some(accepted("True")), Who::Leader);
    assert_eq!(due(&desk, true, now).len(), 1);
    desk.done(&Place::Status(rules()), Some(&accepted("True")), now);
    desk.saw(&rules(), Some(&accepted("False")));
    assert!(due(&desk, true, now).is_empty());
    let (_, next) = desk.due(true, now, 10);
    assert_eq!(next, Some(now + PATIENCE));
    assert_eq!(due(&desk, true, now + PATIENCE).len(), 1);
}

#[test]
fn what_was_said_is_taken_back() {
    let (desk, now) = (desk(), Instant::now());
    desk.saw(&rules(), Some(&accepted("True")));
    desk.want(Place::Status(rules()), None, Who::Leader);
    let actions = due(&desk, true, now);
    assert!(
        matches!(&actions[..], [Action::Status { value, .. }] if value["status"] == json!({})),
        "{actions:?}"
    );
    desk.want(Place::Status(rules()), None, Who::Leader);
    desk.saw(&rules(), None);
    assert!(due(&desk, true, now).is_empty());
}

#[test]
fn every_namespace_gets_the_root_until_it_ends() {
    let (desk, now) = (desk(), Instant::now());
    let namespace = |name: &str| ObjectKey::new("", "Namespace", "", name);
    desk.saw(&namespace("a"), Some(&json!({"metadata": {"name": "a"}})));
    desk.publish_root("PEM");
    desk.saw(&namespace("b"), Some(&json!({"metadata": {"name": "b"}})));
    let actions = due(&desk, true, now);
    assert_eq!(actions.len(), 2);
    assert!(
        actions
            .iter()
            .all(|a| matches!(a, Action::Apply(v) if v["data"]["root-cert.pem"] == "PEM"))
    );
    desk.saw(
        &root_key("b"),
        Some(&json!({"metadata": {"name": ROOT_CONFIG_MAP}, "data": {}})),
    );
    desk.saw(
        &namespace("b"),
        Some(&json!({"metadata": {"name": "b", "deletionTimestamp": "t"}})),
    );
    assert!(due(&desk, true, now).is_empty());
}

#[tokio::test]
async fn settles_once_what_anyone_may_write_is_written() {
    let (desk, now) = (desk(), Instant::now());
    desk.want(Place::Status(rules()), Some(accepted("True")), Who::Anyone);
    let wait = desk.settled();
    tokio::pin!(wait);
    assert!(futures_util::poll!(&mut wait).is_pending());
    let actions = desk.due(false, now, 10).0;
    assert_eq!(actions.len(), 1);
    desk.done(&actions[0].0, Some(&accepted("True")), now);
    wait.await;
}

#[test]
fn what_was_told_of_the_settings_is_not_told_again() {
    let (key, now) = (crate::mesh_config::key("mesh"), Instant::now());
    let place = Place::Status(key.clone());
    let edited = |version: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "mesh", "uid": "u3", "resourceVersion": version}});
    let rejected = |message: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "mesh", "uid": "u3"},
        "status": {"conditions": [{"type": "Accepted", "status": "False", "message": message}]}})
    };
    let desk = desk();
    let tells = |message: &str| {
        desk.want(place.clone(), Some(rejected(message)), Who::Leader);
        let told = due(&desk, true, now).len();
        desk.done(&place, Some(&rejected(message)), now);
        told
    };
    desk.saw(&key, Some(&edited("1")));
    assert_eq!(tells("x"), 1);
    // Another edit, or a watch that begins anew.
    desk.saw(&key, Some(&edited("2")));
    assert!(due(&desk, true, now + PATIENCE).is_empty());
    assert_eq!(tells("y"), 1);
    desk.want(place.clone(), None, Who::Leader);
    assert_eq!(due(&desk, true, now).len(), 1, "mended: nothing is told any more");
    desk.done(
        &place,
        Some(&json!({"metadata": {"uid": "u3"}, "status": {}})),
        now,
    );
    desk.saw(&key, Some(&edited("3")));
    assert!(due(&desk, true, now + PATIENCE).is_empty());
    assert_eq!(tells("y"), 1, "wrong again");
}
