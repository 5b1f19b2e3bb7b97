use prost_types::Any;

use super::*;

const A: &str = "type.googleapis.com/test.A";
const B: &str = "type.googleapis.com/test.B";

fn state() -> DeltaState {
    DeltaState::new(
        Node {
            id: "ztunnel~1~p.n~d".into(),
            ..Node::default()
        },
        [A, B],
    )
}

fn resource(name: &str, version: &str) -> Resource {
    Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(Any {
            type_url: A.into(),
            value: name.into(),
        }),
        ..Resource::default()
    }
}

fn response(nonce: &str, resources: Vec<Resource>, removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: A.into(),
        nonce: nonce.into(),
        resources,
        removed_resources: removed.iter().map(|name| (*name).into()).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// Receives a response and has the named resources rejected.
fn step(state: &mut DeltaState, response: DeltaDiscoveryResponse, bad: &[&str]) -> DeltaDiscoveryRequest {
    let batch = state.received(response).unwrap();
    let rejected: Vec<Rejected> = bad.iter().map(|name| Rejected::new(*name, "bad port")).collect();
    state.applied(
        batch,
        if rejected.is_empty() {
            Ok(())
        } else {
            Err(rejected)
        },
    )
}

fn claimed(state: &mut DeltaState) -> Vec<String> {
    let first = state.connected().remove(0);
    first
        .initial_resource_versions
        .iter()
        .map(|(name, version)| format!("{name}={version}"))
        .collect()
}

#[test]
fn first_requests_subscribe_to_everything_and_name_the_node_once() {
    let requests = state().connected();
    assert_eq!(
        requests.iter().map(|r| r.type_url.as_str()).collect::<Vec<_>>(),
        [A, B]
    );
    assert_eq!(requests[0].node.as_ref().unwrap().id, "ztunnel~1~p.n~d");
    assert!(requests[1].node.is_none());
    assert!(
        requests
            .iter()
            .all(|r| r.resource_names_subscribe.is_empty() && r.response_nonce.is_empty())
    );
}

#[test]
fn good_response_is_acknowledged_with_its_nonce() {
    let mut state = state();
    state.connected();
    let ack = step(&mut state, response("n1", vec![resource("x", "1")], &[]), &[]);
    assert_eq!((ack.type_url.as_str(), ack.response_nonce.as_str()), (A, "n1"));
    assert!(ack.error_detail.is_none() && ack.node.is_none());
    let (_, a) = state.types().next().unwrap();
    assert!(a.synced && a.resources() == 1);
    assert!(!state.types().nth(1).unwrap().1.synced);
}

#[test]
fn empty_response_makes_a_type_synced() {
    let mut state = state();
    state.connected();
    step(&mut state, response("n1", vec![], &[]), &[]);
    assert!(state.types().next().unwrap().1.synced);
}

#[test]
fn rejected_resource_is_named_and_the_rest_kept() {
    let mut state = state();
    state.connected();
    let nack = step(
        &mut state,
        response("n1", vec![resource("x", "1"), resource("y", "1")], &[]),
        &["y"],
    );
    let detail = nack.error_detail.unwrap();
    assert_eq!(
        (detail.code, detail.message.as_str()),
        (INVALID_ARGUMENT, "y: bad port")
    );
    assert_eq!(nack.response_nonce, "n1");
    assert_eq!(claimed(&mut state), ["x=1"]);
}

#[test]
fn rejected_change_keeps_and_claims_the_last_good_version() {
    let mut state = state();
    state.connected();
    step(&mut state, response("n1", vec![resource("x", "1")], &[]), &[]);
    step(&mut state, response("n2", vec![resource("x", "2")], &[]), &["x"]);
    assert_eq!(state.types().next().unwrap().1.rejected["x"], "bad port");
    // Claiming version 1 makes the server send version 2 again, or the removal if it is gone by then.
    assert_eq!(claimed(&mut state), ["x=1"]);
    step(&mut state, response("n3", vec![resource("x", "3")], &[]), &[]);
    assert_eq!(claimed(&mut state), ["x=3"]);
    assert!(state.types().next().unwrap().1.rejected.is_empty());
}

#[test]
fn removals_are_forwarded_only_for_what_is_held() {
    let mut state = state();
    state.connected();
    step(
        &mut state,
        response("n1", vec![resource("x", "1"), resource("y", "1")], &[]),
        &["y"],
    );
    let batch = state.received(response("n2", vec![], &["x", "y", "z"])).unwrap();
    assert_eq!(batch.removals, ["x"]);
    state.applied(batch, Ok(()));
    let (_, a) = state.types().next().unwrap();
    assert_eq!((a.resources(), a.rejected.len()), (0, 0));
}

#[test]
fn a_name_both_sent_and_removed_is_kept() {
    let mut state = state();
    state.connected();
    step(&mut state, response("n1", vec![resource("x", "1")], &[]), &[]);
    let batch = state
        .received(response("n2", vec![resource("x", "2")], &["x"]))
        .unwrap();
    assert!(batch.removals.is_empty());
    state.applied(batch, Ok(()));
    assert_eq!(claimed(&mut state), ["x=2"]);
}

#[test]
fn malformed_resources_are_rejected_one_by_one() {
    let mut state = state();
    state.connected();
    let foreign = Resource {
        resource: Some(Any {
            type_url: B.into(),
            value: vec![],
        }),
        ..resource("foreign", "1")
    };
    let hollow = Resource {
        resource: None,
        ..resource("hollow", "1")
    };
    let resources = vec![foreign, hollow, resource("", "1"), resource("good", "1")];
    let batch = state.received(response("n1", resources, &[])).unwrap();
    assert_eq!(
        batch.updates.iter().map(|u| u.name.as_str()).collect::<Vec<_>>(),
        ["good"]
    );
    let message = state.applied(batch, Ok(())).error_detail.unwrap().message;
    for name in ["foreign: ", "hollow: ", "(unnamed): "] {
        assert!(message.contains(name), "{message}");
    }
    assert_eq!(claimed(&mut state), ["good=1"]);
}

#[test]
fn nonsense_changes_nothing() {
    let mut state = state();
    state.connected();
    step(&mut state, response("n1", vec![resource("x", "1")], &[]), &[]);
    let before = state.types().next().unwrap().1.clone();
    let unknown = DeltaDiscoveryResponse {
        type_url: "nonsense".into(),
        ..response("n2", vec![resource("x", "2")], &[])
    };
    assert_eq!(
        state.received(unknown).unwrap_err(),
        ProtocolError::UnknownType("nonsense".into())
    );
    let unsigned = response("", vec![resource("x", "2")], &["x"]);
    assert_eq!(
        state.received(unsigned).unwrap_err(),
        ProtocolError::NoNonce(A.into())
    );
    assert_eq!(*state.types().next().unwrap().1, before);
}

#[test]
fn error_detail_is_bounded() {
    let mut state = state();
    state.connected();
    let names: Vec<String> = (0..5000).map(|n| format!("resource-{n}")).collect();
    let resources = names.iter().map(|name| resource(name, "1")).collect();
    let bad: Vec<&str> = names.iter().map(String::as_str).collect();
    let message = step(&mut state, response("n1", resources, &[]), &bad)
        .error_detail
        .unwrap()
        .message;
    assert!(message.len() < MAX_ERROR_DETAIL + 50);
    assert!(message.contains(" more"), "{message}");
    assert_eq!(state.types().next().unwrap().1.rejected.len(), MAX_REJECTED);
}
