//! Who is let in, and what the others are told.

use std::time::{Duration, SystemTime};

use aquifer_xds::handler::ResourceHandler;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::fixture::{ControlFixture, DEADLINE, TestClient, ads_config, agent};
use crate::auth::tests::{Issuer, caller, claims};

async fn refused(fixture: &ControlFixture, token: &str, want: &str) {
    let config = ads_config(fixture.control_plane(), fixture.token_file(token), &agent());
    let mut client = TestClient::start(config);
    client.fails_with(want).await;
    assert!(!client.status.borrow().synced());
}

#[tokio::test]
async fn bad_tokens_are_refused_with_the_reason() {
    let fixture = ControlFixture::start().await;
    let hour = Duration::from_secs(3600);
    refused(
        &fixture,
        &Issuer::new("one").token(&agent()),
        "signature is wrong",
    )
    .await;
    refused(
        &fixture,
        &Issuer::new("two").token(&agent()),
        "not in the key set",
    )
    .await;
    let expired = claims(&agent(), SystemTime::now() - hour);
    refused(&fixture, &fixture.issuer.sign(&expired), "has expired").await;
    let mut audience = claims(&agent(), SystemTime::now() + hour);
    audience["aud"] = json!(["https://kubernetes.default.svc"]);
    refused(
        &fixture,
        &fixture.issuer.sign(&audience),
        "another audience than istio-ca",
    )
    .await;
    refused(&fixture, "garbage", "not a signed JWT").await;
    let stranger = caller("istio-system", "ztunnel", "ztunnel-1", "node-1");
    let mut recreated = stranger.clone();
    recreated.pod_uid = "another".into();
    refused(&fixture, &fixture.issuer.token(&recreated), "is not known here").await;
    assert!(fixture.registry.list().is_empty());
}

#[tokio::test]
async fn a_call_without_a_token_is_refused() {
    use aquifer_xds::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
    let fixture = ControlFixture::start().await;
    let channel = fixture.control_plane().connect().await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let status = client
        .delta_aggregated_resources(tokio_stream::empty())
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    assert!(status.message().contains("no service account token"), "{status}");
}

#[tokio::test]
async fn node_id_of_another_pod_and_a_denied_client_are_refused() {
    let fixture = ControlFixture::start().await;
    let mut config = fixture.config(&agent());
    config.node.id = "ztunnel~1.1.1.1~ztunnel-2.istio-system~d".into();
    TestClient::start(config)
        .fails_with("token is bound to ztunnel-1.istio-system")
        .await;
    let pod = caller("default", "default", "app", "node-1");
    fixture.pods.add(&pod, &[]);
    TestClient::start(fixture.config(&pod))
        .fails_with("is not a node agent's")
        .await;
    fixture.deny("no Gateway is named like this pod");
    fixture
        .client()
        .fails_with("no Gateway is named like this pod")
        .await;
}

#[tokio::test]
async fn a_pod_cannot_take_more_than_its_share_of_streams() {
    let fixture = ControlFixture::start().await;
    let mut clients: Vec<TestClient> = Vec::new();
    for _ in 0..4 {
        let mut client = fixture.client();
        client
            .wait("synced", aquifer_xds::client::AdsStatus::synced)
            .await;
        clients.push(client);
    }
    fixture
        .client()
        .fails_with("too many xDS streams of this pod")
        .await;
    assert!(clients.iter().all(|client| client.status.borrow().connected));
}

#[tokio::test]
async fn plaintext_gets_no_answer() {
    let fixture = ControlFixture::start().await;
    let mut tcp = tokio::net::TcpStream::connect(fixture.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut tcp, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // A TLS alert (content type 21) at most, never an HTTP/2 frame.
    let _ = timeout(DEADLINE, tcp.read_to_end(&mut answer))
        .await
        .expect("closed in time");
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
}

#[tokio::test]
async fn server_of_another_root_is_not_talked_to() {
    let fixture = ControlFixture::start().await;
    let other = ControlFixture::start().await;
    let root = other.folder.path().join("root-cert.pem");
    let plane = aquifer_xds::channel::ControlPlane::new(&fixture.address.to_string(), root).unwrap();
    let mut client = TestClient::start(ads_config(plane, fixture.token_of(&agent()), &agent()));
    client.fails_with("the root it was signed by").await;
}

#[tokio::test]
async fn client_waits_for_its_files_and_stops_when_cancelled() {
    let fixture = ControlFixture::start().await;
    let mut config = fixture.config(&agent());
    let late = fixture.folder.path().join("late-token");
    config.token = aquifer_xds::TokenFile::new(&late);
    let mut client = TestClient::start(config);
    client.fails_with("late-token").await;
    std::fs::write(&late, fixture.issuer.token(&agent())).unwrap();
    client
        .wait("synced", aquifer_xds::client::AdsStatus::synced)
        .await;

    let cancel = CancellationToken::new();
    let (stopped, _status) = aquifer_xds::AdsClient::new(fixture.config(&agent()));
    cancel.cancel();
    let handlers: Vec<Box<dyn ResourceHandler>> = Vec::new();
    timeout(DEADLINE, stopped.run(handlers, cancel))
        .await
        .expect("stops when cancelled");
}
