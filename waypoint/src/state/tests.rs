use std::sync::Arc;

use aquifer_core::authority::Authority;
use aquifer_core::http::listener::Binding;
use aquifer_xds::handler::Update;
use aquifer_xds::type_url;

use super::handlers::all;
use super::{Changes, Shared, StateWriter};
use crate::testing::model::http_listener;

#[test]
fn tunnels_find_their_listener_by_address_and_by_host() {
    let shared = Shared::new();
    let mut writer = StateWriter::new(shared.clone(), None);
    let name = "inbound-vip|9080|http|reviews.bookinfo.svc.cluster.local";
    let listener = http_listener(name, "10.96.0.1:9080", Binding::Tunnel);
    writer.listeners(Changes {
        put: vec![listener],
        remove: vec![],
    });
    let found = |authority: &str| {
        let authority = Authority::parse(authority).unwrap();
        shared
            .proxy()
            .tunnel_listener(&authority)
            .map(|l| l.name.to_string())
    };
    assert_eq!(found("10.96.0.1:9080").as_deref(), Some(name));
    assert_eq!(
        found("reviews.bookinfo.svc.cluster.local:9080").as_deref(),
        Some(name)
    );
    assert_eq!(found("10.96.0.1:9081"), None);
    writer.listeners(Changes {
        put: vec![],
        remove: vec![name.to_owned()],
    });
    assert_eq!(found("10.96.0.1:9080"), None);
}

#[test]
fn a_bad_resource_is_named_and_the_others_are_applied() {
    let shared = Shared::new();
    let mut handlers = all(&Arc::new(parking_lot::Mutex::new(StateWriter::new(
        shared.clone(),
        None,
    ))));
    let clusters = handlers
        .iter_mut()
        .find(|h| h.type_url() == type_url::CLUSTER)
        .unwrap();
    let update = |name: &str, value: Vec<u8>| Update {
        name: name.to_owned(),
        version: "1".to_owned(),
        resource: prost_any(value),
    };
    // Field 1 (name) and field 2 (type, EDS), as protobuf writes them.
    let good = [&[0x0a, 4][..], b"good", &[0x10, 3]].concat();
    let rejected = clusters
        .apply(vec![update("bad", vec![0xff]), update("good", good)], vec![])
        .unwrap_err();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].name, "bad");
    let state = shared.proxy();
    assert!(state.clusters.contains_key(&Arc::from("good")) && state.clusters.len() == 1);
}

fn prost_any(value: Vec<u8>) -> prost_types::Any {
    prost_types::Any {
        type_url: type_url::CLUSTER.to_owned(),
        value,
    }
}
