//! What a well-behaved client and server do with each other.

use aquifer_xds::type_url::ADDRESS;
use tokio::time::timeout;

use super::fixture::{Batch, ControlFixture, DEADLINE};
use crate::serve::registry::SyncState;

#[tokio::test]
async fn first_sync_then_additions_changes_and_removals() {
    let fixture = ControlFixture::start().await;
    fixture.publish(2, &[("a", "n1"), ("b", "n1")]);
    let mut client = fixture.client();
    client.holds(&["a@n1", "b@n1"]).await;
    client
        .wait("synced", aquifer_xds::client::AdsStatus::synced)
        .await;
    fixture.publish(3, &[("a", "n1"), ("b", "n2"), ("c", "n1")]);
    client.holds(&["a@n1", "b@n2", "c@n1"]).await;
    assert_eq!(client.last_batch().updates, ["b", "c"]);
    fixture.publish(4, &[("c", "n1")]);
    client.holds(&["c@n1"]).await;
    assert_eq!(
        client.last_batch(),
        Batch {
            updates: vec![],
            removals: vec!["a".into(), "b".into()]
        }
    );
}

#[tokio::test]
async fn rejected_resource_leaves_the_good_ones_and_is_named_on_both_sides() {
    let fixture = ControlFixture::start().await;
    fixture.publish(2, &[("a", "n1"), ("bad-1", "n1"), ("c", "n1")]);
    let mut client = fixture.client();
    client.holds(&["a@n1", "c@n1"]).await;
    let status = client
        .wait("rejected", |s| {
            s.types.get(ADDRESS).is_some_and(|t| t.rejected.len() == 1)
        })
        .await;
    assert_eq!(
        status.types[ADDRESS].rejected["Kubernetes//Pod/default/bad-1"],
        "is bad"
    );
    let mut changes = fixture.registry.changes();
    let sync = loop {
        let proxy = fixture.registry.find("ztunnel-1.istio-system").unwrap().0;
        if proxy
            .types
            .get(ADDRESS)
            .is_some_and(|sync| sync.state == SyncState::Rejected)
        {
            assert_eq!(proxy.generation_in_effect, None);
            let refusal = proxy.refusal.as_deref();
            assert_eq!(refusal, Some("Kubernetes//Pod/default/bad-1: is bad"));
            break proxy.types[ADDRESS].clone();
        }
        timeout(DEADLINE, changes.changed()).await.unwrap().unwrap();
    };
    assert_eq!(
        sync.last_error.as_deref(),
        Some("Kubernetes//Pod/default/bad-1: is bad")
    );
    assert!(
        fixture
            .metrics
            .render()
            .contains("pilot_total_xds_rejects{type=\"wds\"} 1")
    );
    // The server goes on with what changes.
    fixture.publish(3, &[("a", "n2"), ("c", "n1")]);
    client.holds(&["a@n2", "c@n1"]).await;
    assert_eq!(client.last_batch().updates, ["a"]);
    // The refused one is gone, and with it the refusal.
    while fixture.registry.present()[0].generation_in_effect != Some(3) {
        timeout(DEADLINE, changes.changed()).await.unwrap().unwrap();
    }
    assert_eq!(fixture.registry.present()[0].refusal, None);
}

#[tokio::test]
async fn reconnect_sends_only_differences_and_keeps_what_is_held_meanwhile() {
    let mut fixture = ControlFixture::start().await;
    fixture.publish(2, &[("a", "n1"), ("b", "n1"), ("c", "n1")]);
    let mut client = fixture.client();
    client.holds(&["a@n1", "b@n1", "c@n1"]).await;
    fixture.stop().await;
    client.wait("lost", |status| !status.connected).await;
    assert_eq!(client.held(), "a@n1 b@n1 c@n1");
    fixture.publish(3, &[("a", "n1"), ("b", "n2"), ("d", "n1")]);
    fixture.serve().await;
    client.holds(&["a@n1", "b@n2", "d@n1"]).await;
    let last = client.last_batch();
    assert_eq!(
        (last.updates, last.removals),
        (vec!["b".to_owned(), "d".to_owned()], vec!["c".to_owned()])
    );
    assert!(client.status.borrow().streams >= 2);
}

#[tokio::test]
async fn registry_tells_which_generation_is_in_effect_where() {
    let fixture = ControlFixture::start().await;
    fixture.publish(7, &[("a", "n1")]);
    let mut changes = fixture.registry.changes();
    let reach =
        async |generation: u64, want: (usize, usize), changes: &mut tokio::sync::watch::Receiver<u64>| {
            while fixture.registry.in_effect(generation) != want {
                timeout(DEADLINE, changes.changed())
                    .await
                    .expect("in effect in time")
                    .unwrap();
            }
        };
    assert_eq!(fixture.registry.in_effect(7), (0, 0));
    let client = fixture.client();
    reach(7, (1, 1), &mut changes).await;
    assert_eq!(fixture.registry.in_effect(8), (0, 1));
    fixture.publish(8, &[("a", "n2")]);
    reach(8, (1, 1), &mut changes).await;
    let (proxy, snapshot) = fixture.registry.find("ztunnel-1.istio-system").unwrap();
    assert_eq!(
        (proxy.types[ADDRESS].acked_version.as_str(), snapshot.generation),
        ("8", 8)
    );
    // A generation that changes nothing for a proxy is in effect at once.
    fixture
        .snapshots
        .sender
        .send_replace(super::fixture::snapshot(9, &[("a", "n2")]));
    reach(9, (1, 1), &mut changes).await;
    let text = fixture.metrics.render();
    assert!(text.contains("pilot_xds 1"), "{text}");
    assert!(text.contains("pilot_proxy_convergence_time_count 1"), "{text}");
    drop(client);
    reach(9, (0, 0), &mut changes).await;
}

#[tokio::test]
async fn many_workloads_fit_into_one_response() {
    let fixture = ControlFixture::start().await;
    let names: Vec<String> = (0..60_000)
        .map(|n| format!("a-rather-long-name-of-a-pod-that-is-number-{n:06}"))
        .collect();
    let pods: Vec<(&str, &str)> = names
        .iter()
        .map(|name| (name.as_str(), "node-with-a-long-name-too"))
        .collect();
    fixture.publish(2, &pods);
    let mut client = fixture.client();
    let status = client
        .wait("synced", |status| {
            status.types.get(ADDRESS).is_some_and(|t| t.resources == 60_000)
        })
        .await;
    assert!(
        status.types[ADDRESS].bytes > 4 * 1024 * 1024,
        "past tonic's default limit"
    );
}
