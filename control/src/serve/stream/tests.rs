mod convergence;

use std::time::Instant;

use aquifer_xds::pb::envoy::service::discovery::v3::Resource;
use aquifer_xds::pb::google::rpc::Status;
use aquifer_xds::type_url::{ADDRESS, AUTHORIZATION, CLUSTER, ENDPOINTS, LISTENER, ROUTES};
use prost_types::Any;

use super::*;
use crate::serve::message::tests::read;

/// Type, name and version of every resource.
type Content<'a> = &'a [(&'static str, &'a str, &'a str)];

fn snapshot(generation: u64, content: Content) -> Arc<ResourceSnapshot> {
    let mut types: BTreeMap<&'static str, Resources> = BTreeMap::new();
    for (url, name, version) in content {
        let any = Any {
            type_url: (*url).into(),
            value: version.as_bytes().into(),
        };
        let resource = VersionedResource::new(name, any);
        types
            .entry(url)
            .or_default()
            .insert((*name).into(), Arc::new(resource));
    }
    Arc::new(ResourceSnapshot {
        generation,
        changed_at: Instant::now(),
        types,
    })
}

fn subscribe(url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: url.into(),
        resource_names_subscribe: names.iter().map(|name| (*name).into()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        response_nonce: response.nonce.clone(),
        ..subscribe(&response.type_url, &[])
    }
}

fn nack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    let status = Status {
        code: 3,
        message: "x: bad".into(),
        details: vec![],
    };
    DeltaDiscoveryRequest {
        error_detail: Some(status),
        ..ack(response)
    }
}

/// The version that the test gave it.
fn content(resource: &Resource) -> String {
    let any = resource.resource.clone().unwrap_or_default();
    String::from_utf8(any.value).unwrap()
}

/// `TYPE +name=version -name`, as one line.
fn describe(response: &DeltaDiscoveryResponse) -> String {
    let added = response
        .resources
        .iter()
        .map(|r| format!(" +{}={}", r.name, content(r)));
    let removed = response.removed_resources.iter().map(|name| format!(" -{name}"));
    let name = aquifer_xds::type_url::short_name(&response.type_url).to_owned();
    added.chain(removed).fold(name, |line, part| line + &part)
}

fn next(state: &mut StreamState) -> DeltaDiscoveryResponse {
    let outgoing = state.next().unwrap();
    read(&outgoing.response, outgoing.added)
}

struct Stream {
    state: StreamState,
    unanswered: Vec<DeltaDiscoveryResponse>,
}

impl Stream {
    fn new(content: Content, types: &[&str]) -> Self {
        let mut state = StreamState::new(snapshot(1, content));
        for url in types {
            state.request(subscribe(url, &[])).unwrap();
        }
        Self {
            state,
            unanswered: Vec::new(),
        }
    }

    /// A stream whose client has everything.
    fn settled(content: Content, types: &[&str]) -> Self {
        let mut stream = Self::new(content, types);
        while !stream.sends().is_empty() {
            stream.answer_all();
        }
        assert!(stream.state.settled());
        stream
    }

    /// Everything that may go out now, as lines.
    fn sends(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(outgoing) = self.state.next() {
            let response = read(&outgoing.response, outgoing.added);
            lines.push(describe(&response));
            self.unanswered.push(response);
        }
        lines
    }

    fn answer_all(&mut self) {
        for response in std::mem::take(&mut self.unanswered) {
            assert!(self.state.request(ack(&response)).unwrap().is_some());
        }
    }

    fn changes_to(&mut self, generation: u64, content: Content) {
        self.state.replace(snapshot(generation, content));
    }
}

#[test]
fn first_request_is_answered_with_everything_and_even_with_nothing() {
    let mut stream = Stream::new(
        &[(ADDRESS, "a", "1"), (ADDRESS, "b", "1")],
        &[AUTHORIZATION, ADDRESS],
    );
    assert_eq!(stream.sends(), ["WADS", "WDS +a=1 +b=1"]);
    assert!(stream.sends().is_empty());
    assert!(!stream.state.settled());
    stream.answer_all();
    assert!(stream.state.settled());
}

#[test]
fn only_differences_are_sent() {
    let mut stream = Stream::settled(
        &[(ADDRESS, "a", "1"), (ADDRESS, "b", "1"), (ADDRESS, "c", "1")],
        &[ADDRESS],
    );
    stream.changes_to(
        2,
        &[(ADDRESS, "a", "1"), (ADDRESS, "b", "2"), (ADDRESS, "d", "1")],
    );
    assert_eq!(stream.sends(), ["WDS +b=2 +d=1 -c"]);
    stream.answer_all();
    stream.changes_to(
        3,
        &[(ADDRESS, "a", "1"), (ADDRESS, "b", "2"), (ADDRESS, "d", "1")],
    );
    assert!(stream.sends().is_empty() && stream.state.settled());
}

#[test]
fn snapshots_coalesce_while_an_answer_is_awaited() {
    let mut stream = Stream::new(&[(ADDRESS, "a", "1")], &[ADDRESS]);
    assert_eq!(stream.sends(), ["WDS +a=1"]);
    for generation in 2..10 {
        stream.changes_to(
            generation,
            &[(ADDRESS, "a", "1"), (ADDRESS, "b", &generation.to_string())],
        );
        assert!(stream.sends().is_empty());
    }
    stream.answer_all();
    assert_eq!(stream.sends(), ["WDS +b=9"]);
}

#[test]
fn reconnecting_client_gets_what_differs_from_its_claim() {
    let mut state = StreamState::new(snapshot(
        1,
        &[
            (ADDRESS, "same", "1"),
            (ADDRESS, "changed", "2"),
            (ADDRESS, "new", "1"),
        ],
    ));
    let claim = [("same", "1"), ("changed", "1"), ("gone", "1")];
    let first = DeltaDiscoveryRequest {
        initial_resource_versions: claim.map(|(name, version)| (name.into(), version.into())).into(),
        ..subscribe(ADDRESS, &[])
    };
    state.request(first).unwrap();
    assert_eq!(describe(&next(&mut state)), "WDS +changed=2 +new=1 -gone");
}

#[test]
fn reconnecting_client_that_has_everything_gets_an_empty_answer() {
    let mut state = StreamState::new(snapshot(1, &[(ADDRESS, "a", "1")]));
    let first = DeltaDiscoveryRequest {
        initial_resource_versions: [("a".to_owned(), "1".to_owned())].into(),
        ..subscribe(ADDRESS, &[])
    };
    state.request(first).unwrap();
    assert_eq!(describe(&next(&mut state)), "WDS");
}

#[test]
fn rejection_is_reported_and_not_repeated_until_something_changes() {
    let mut stream = Stream::new(&[(ADDRESS, "x", "1")], &[ADDRESS]);
    stream.sends();
    let response = stream.unanswered.remove(0);
    let answered = stream.state.request(nack(&response)).unwrap().unwrap();
    assert_eq!(
        answered.answer,
        Answer::Rejected {
            message: "x: bad".into()
        }
    );
    assert!(stream.sends().is_empty());
    assert!(!stream.state.settled(), "a rejected resource is not in effect");
    stream.changes_to(2, &[(ADDRESS, "x", "2")]);
    assert_eq!(stream.sends(), ["WDS +x=2"]);
    stream.answer_all();
    assert!(stream.state.settled());
}

#[test]
fn what_was_rejected_is_not_in_effect_because_something_else_was_accepted() {
    let mut stream = Stream::new(&[(ADDRESS, "x", "1")], &[ADDRESS]);
    stream.sends();
    let response = stream.unanswered.remove(0);
    stream.state.request(nack(&response)).unwrap();
    stream.changes_to(2, &[(ADDRESS, "x", "1"), (ADDRESS, "y", "1")]);
    assert_eq!(stream.sends(), ["WDS +y=1"]);
    stream.answer_all();
    assert!(!stream.state.settled(), "x=1 was refused");
    stream.changes_to(3, &[(ADDRESS, "y", "1")]);
    stream.sends();
    stream.answer_all();
    assert!(stream.state.settled());
}

#[test]
fn names_asked_for_again_and_again_are_kept_once() {
    let mut stream = Stream::new(&[], &[]);
    stream.state.request(subscribe(ADDRESS, &["a"])).unwrap();
    stream.sends();
    for _ in 0..100 {
        stream.state.request(subscribe(ADDRESS, &["a", "b"])).unwrap();
    }
    let kept = stream
        .state
        .types
        .values()
        .map(|of| of.absent.len())
        .sum::<usize>();
    assert_eq!(kept, 2);
    stream.answer_all();
    assert_eq!(stream.sends(), ["WDS -a -b"]);
}

#[test]
fn stale_and_invented_nonces_answer_nothing() {
    let mut stream = Stream::new(&[(ADDRESS, "x", "1")], &[ADDRESS]);
    stream.sends();
    let invented = DeltaDiscoveryRequest {
        response_nonce: "nonsense".into(),
        ..subscribe(ADDRESS, &[])
    };
    assert_eq!(stream.state.request(invented).unwrap(), None);
    stream.changes_to(2, &[(ADDRESS, "x", "2")]);
    assert!(
        stream.sends().is_empty(),
        "the first response is still unanswered"
    );
    stream.answer_all();
    assert_eq!(stream.sends(), ["WDS +x=2"]);
}

#[test]
fn what_is_named_is_sent_before_what_names_it() {
    let content = [
        (ROUTES, "r", "1"),
        (LISTENER, "l", "1"),
        (CLUSTER, "c", "1"),
        (ENDPOINTS, "e", "1"),
    ];
    // Asked for in the wrong order on purpose.
    let mut stream = Stream::new(&content, &[ROUTES, LISTENER, ENDPOINTS, CLUSTER]);
    assert_eq!(stream.sends(), ["CDS +c=1", "EDS +e=1", "LDS +l=1", "RDS +r=1"]);
    let mut agent = Stream::new(
        &[(ADDRESS, "a", "1"), (AUTHORIZATION, "p", "1")],
        &[ADDRESS, AUTHORIZATION],
    );
    assert_eq!(agent.sends(), ["WADS +p=1", "WDS +a=1"]);
}

#[test]
fn a_replaced_cluster_is_made_before_it_is_broken() {
    let old = [
        (CLUSTER, "old", "1"),
        (ENDPOINTS, "old", "1"),
        (LISTENER, "l", "1"),
        (ROUTES, "r", "old"),
    ];
    let new = [
        (CLUSTER, "new", "1"),
        (ENDPOINTS, "new", "1"),
        (LISTENER, "l", "1"),
        (ROUTES, "r", "new"),
    ];
    let mut stream = Stream::settled(&old, &[CLUSTER, ENDPOINTS, LISTENER, ROUTES]);
    stream.changes_to(2, &new);
    assert_eq!(stream.sends(), ["CDS +new=1", "EDS +new=1", "RDS +r=new"]);
    let routes = stream.unanswered.pop().unwrap();
    stream.answer_all();
    assert!(
        stream.sends().is_empty(),
        "the old cluster stays while the routes may still name it"
    );
    stream.state.request(ack(&routes)).unwrap();
    assert_eq!(stream.sends(), ["EDS -old"]);
    stream.answer_all();
    assert_eq!(stream.sends(), ["CDS -old"]);
    stream.answer_all();
    assert!(stream.state.settled());
}

#[test]
fn later_types_wait_for_unsent_additions_of_earlier_ones() {
    let mut stream = Stream::settled(&[(CLUSTER, "a", "1"), (ROUTES, "r", "1")], &[CLUSTER, ROUTES]);
    stream.changes_to(2, &[(CLUSTER, "a", "2"), (ROUTES, "r", "1")]);
    assert_eq!(stream.sends(), ["CDS +a=2"]);
    stream.changes_to(3, &[(CLUSTER, "a", "2"), (CLUSTER, "b", "1"), (ROUTES, "r", "2")]);
    assert!(
        stream.sends().is_empty(),
        "the route names a cluster that was not sent yet"
    );
    stream.answer_all();
    assert_eq!(stream.sends(), ["CDS +b=1", "RDS +r=2"]);
}

#[test]
fn one_type_that_never_answers_does_not_hold_up_unrelated_ones() {
    let mut stream = Stream::new(&[(CLUSTER, "a", "1"), (ADDRESS, "x", "1")], &[CLUSTER, ADDRESS]);
    stream.sends();
    let address = stream.unanswered.pop().unwrap();
    stream.state.request(ack(&address)).unwrap();
    stream.changes_to(2, &[(CLUSTER, "a", "2"), (ADDRESS, "x", "2")]);
    assert_eq!(stream.sends(), ["WDS +x=2"]);
}

#[test]
fn explicit_names_get_only_those_and_learn_what_does_not_exist() {
    let content = [(ENDPOINTS, "a", "1"), (ENDPOINTS, "b", "1")];
    let mut stream = Stream::new(&content, &[]);
    stream
        .state
        .request(subscribe(ENDPOINTS, &["a", "ghost"]))
        .unwrap();
    assert_eq!(stream.sends(), ["EDS +a=1 -ghost"]);
    stream.answer_all();
    stream.changes_to(
        2,
        &[
            (ENDPOINTS, "a", "1"),
            (ENDPOINTS, "b", "2"),
            (ENDPOINTS, "ghost", "1"),
        ],
    );
    assert_eq!(stream.sends(), ["EDS +ghost=1"]);
    stream.answer_all();
    stream.state.request(subscribe(ENDPOINTS, &["b"])).unwrap();
    assert_eq!(stream.sends(), ["EDS +b=2"]);
    stream.answer_all();
    let unsubscribe = DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["a".into()],
        ..subscribe(ENDPOINTS, &[])
    };
    stream.state.request(unsubscribe).unwrap();
    stream.changes_to(
        3,
        &[
            (ENDPOINTS, "a", "9"),
            (ENDPOINTS, "b", "2"),
            (ENDPOINTS, "ghost", "1"),
        ],
    );
    assert!(stream.sends().is_empty());
}

#[test]
fn asked_for_again_it_is_sent_again() {
    let mut stream = Stream::new(&[(ENDPOINTS, "a", "1")], &[]);
    for _ in 0..2 {
        stream.state.request(subscribe(ENDPOINTS, &["a"])).unwrap();
        assert_eq!(stream.sends(), ["EDS +a=1"]);
        stream.answer_all();
    }
}

#[test]
fn wildcard_can_be_given_up_for_names() {
    let content = [(ADDRESS, "a", "1"), (ADDRESS, "b", "1")];
    let mut stream = Stream::new(&content, &[]);
    stream.state.request(subscribe(ADDRESS, &["*"])).unwrap();
    assert_eq!(stream.sends(), ["WDS +a=1 +b=1"]);
    stream.answer_all();
    let narrow = DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["*".into()],
        ..subscribe(ADDRESS, &["b"])
    };
    stream.state.request(narrow).unwrap();
    assert_eq!(stream.sends(), ["WDS +b=1"]);
    stream.answer_all();
    stream.changes_to(2, &[(ADDRESS, "a", "2"), (ADDRESS, "b", "1")]);
    assert!(stream.sends().is_empty());
}

#[test]
fn types_without_resources_are_answered_once() {
    let mut stream = Stream::new(&[], &["type.googleapis.com/istio.networking.nds.v1.NameTable"]);
    assert_eq!(stream.sends(), ["NameTable"]);
    stream.answer_all();
    stream.changes_to(2, &[]);
    assert!(stream.sends().is_empty());
}

#[test]
fn what_a_client_can_make_the_server_hold_is_bounded() {
    let mut state = StreamState::new(snapshot(1, &[]));
    for bad in [
        "",
        "nonsense",
        "type.googleapis.com/",
        &format!("type.googleapis.com/{}", "x".repeat(300)),
    ] {
        assert!(
            matches!(state.request(subscribe(bad, &[])), Err(Violation::TypeUrl(_))),
            "{bad}"
        );
    }
    for n in 0..MAX_TYPES {
        state
            .request(subscribe(&format!("type.googleapis.com/t{n}"), &[]))
            .unwrap();
    }
    assert_eq!(
        state.request(subscribe("type.googleapis.com/more", &[])),
        Err(Violation::Types)
    );
    let names: Vec<String> = (0..=MAX_NAMES).map(|n| n.to_string()).collect();
    let greedy = DeltaDiscoveryRequest {
        resource_names_subscribe: names,
        ..subscribe("type.googleapis.com/t0", &[])
    };
    assert_eq!(state.request(greedy), Err(Violation::Names));
}
