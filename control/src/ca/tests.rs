//! Certificates over the real port: whose are given to whom.

use aquifer_core::identity::SpiffeId;
use aquifer_identity::{CertificateSource, SignError, WorkloadCertificate, new_csr};
use aquifer_xds::CaClient;
use aquifer_xds::ca::Asking;

use crate::auth::Caller;
use crate::auth::pods::PodPhase;
use crate::auth::tests::caller;
use crate::serve::tests::fixture::{ControlFixture, agent};

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).unwrap()
}

const REVIEWS: &str = "spiffe://cluster.local/ns/bookinfo/sa/reviews";

fn reviews(node: &str) -> Caller {
    caller("bookinfo", "reviews", "reviews-1", node)
}

async fn ask(
    fixture: &ControlFixture,
    as_whom: &Caller,
    asking: Asking,
    wanted: &str,
) -> Result<Vec<String>, SignError> {
    let client = CaClient::new(
        &fixture.control_plane(),
        fixture.token_of(as_whom),
        "Kubernetes",
        asking,
    );
    let request = new_csr(&id(wanted)).unwrap();
    client.sign(&id(wanted), request.csr_pem()).await
}

async fn refused(fixture: &ControlFixture, as_whom: &Caller, asking: Asking, wanted: &str, reason: &str) {
    match ask(fixture, as_whom, asking, wanted).await {
        Err(SignError::Refused(text)) => assert!(text.contains(reason), "{text}"),
        other => panic!("{wanted} was not refused: {other:?}"),
    }
}

#[tokio::test]
async fn node_agent_gets_the_identity_of_a_pod_on_its_node() {
    let fixture = ControlFixture::start().await;
    fixture.pods.add(&reviews("node-1"), &[]);
    let client = CaClient::new(
        &fixture.control_plane(),
        fixture.token_of(&agent()),
        "Kubernetes",
        Asking::ForPods,
    );
    let request = new_csr(&id(REVIEWS)).unwrap();
    let chain = client.sign(&id(REVIEWS), request.csr_pem()).await.unwrap();
    let certificate = WorkloadCertificate::from_answer(&chain, &request, &id(REVIEWS)).unwrap();
    assert_eq!(certificate.identity(), &id(REVIEWS));
    let text = fixture.metrics.render();
    assert!(
        text.contains("citadel_server_success_cert_issuance_count 1"),
        "{text}"
    );
    assert!(text.contains("citadel_server_csr_count 1"), "{text}");
}

#[tokio::test]
async fn identities_of_other_nodes_and_of_nobody_are_refused() {
    let fixture = ControlFixture::start().await;
    fixture.pods.add(&reviews("node-2"), &[]);
    refused(
        &fixture,
        &agent(),
        Asking::ForPods,
        REVIEWS,
        "no running pod of node node-1",
    )
    .await;
    let nobody = "spiffe://cluster.local/ns/bookinfo/sa/nobody";
    refused(
        &fixture,
        &agent(),
        Asking::ForPods,
        nobody,
        "no running pod of node node-1",
    )
    .await;
    let foreign = "spiffe://example.org/ns/bookinfo/sa/reviews";
    refused(
        &fixture,
        &agent(),
        Asking::ForPods,
        foreign,
        "not of trust domain",
    )
    .await;
    fixture.pods.add(&reviews("node-1"), &[]);
    fixture.pods.set_phase(&reviews("node-1"), PodPhase::Failed);
    refused(
        &fixture,
        &agent(),
        Asking::ForPods,
        REVIEWS,
        "no running pod of node node-1",
    )
    .await;
}

#[tokio::test]
async fn other_pods_get_their_own_identity_only() {
    let fixture = ControlFixture::start().await;
    fixture.pods.add(&reviews("node-1"), &[]);
    fixture
        .pods
        .add(&caller("bookinfo", "ratings", "ratings-1", "node-1"), &[]);
    let own = ask(&fixture, &reviews("node-1"), Asking::ForItself, REVIEWS)
        .await
        .unwrap();
    assert!(own.len() >= 2, "a leaf and a root");
    ask(&fixture, &reviews("node-1"), Asking::ForPods, REVIEWS)
        .await
        .expect("its own, by name");
    let ratings = "spiffe://cluster.local/ns/bookinfo/sa/ratings";
    refused(
        &fixture,
        &reviews("node-1"),
        Asking::ForPods,
        ratings,
        "only node agents ask",
    )
    .await;
}

#[tokio::test]
async fn the_csr_decides_nothing_but_the_key() {
    let fixture = ControlFixture::start().await;
    fixture.pods.add(&reviews("node-1"), &[]);
    // Asks for itself, with another's name in the request.
    let client = CaClient::new(
        &fixture.control_plane(),
        fixture.token_of(&reviews("node-1")),
        "",
        Asking::ForItself,
    );
    let request = new_csr(&id("spiffe://cluster.local/ns/istio-system/sa/istiod")).unwrap();
    let chain = client.sign(&id(REVIEWS), request.csr_pem()).await.unwrap();
    let certificate = WorkloadCertificate::from_answer(&chain, &request, &id(REVIEWS)).unwrap();
    assert_eq!(certificate.identity(), &id(REVIEWS));
    for garbage in [
        "",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
    ] {
        let error = client.sign(&id(REVIEWS), garbage).await.unwrap_err();
        assert!(matches!(error, SignError::Refused(_)), "{error}");
    }
}

#[tokio::test]
async fn no_certificate_without_a_good_token() {
    let fixture = ControlFixture::start().await;
    let token = fixture.token_file("a.b.c");
    let client = CaClient::new(&fixture.control_plane(), token, "", Asking::ForItself);
    let request = new_csr(&id(REVIEWS)).unwrap();
    let error = client.sign(&id(REVIEWS), request.csr_pem()).await.unwrap_err();
    assert!(
        matches!(&error, SignError::Refused(text) if text.contains("not a signed JWT")),
        "{error}"
    );
}

#[tokio::test]
async fn an_absent_control_plane_is_unavailable_and_says_why() {
    let mut fixture = ControlFixture::start().await;
    fixture.stop().await;
    let error = ask(&fixture, &agent(), Asking::ForItself, REVIEWS)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, SignError::Unavailable(text) if text.contains("cannot connect")),
        "{error}"
    );
}
