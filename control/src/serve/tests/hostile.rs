//! Peers that send nonsense, on either side.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use aquifer_core::identity::TrustDomain;
use aquifer_identity::{CertificateAuthority, control_server_config};
use aquifer_xds::TokenFile;
use aquifer_xds::channel::ControlPlane;
use aquifer_xds::pb::envoy::config::core::v3::Node;
use aquifer_xds::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use aquifer_xds::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use aquifer_xds::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use aquifer_xds::type_url::ADDRESS;
use async_trait::async_trait;
use futures_util::{Stream, stream};
use parking_lot::Mutex;
use prost_types::Any;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::fixture::{ControlFixture, DEADLINE, TestClient, ads_config, agent, workload};

type Responses = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

/// Plays one script of responses per stream and passes on what the client says.
struct Scripted {
    scripts: Mutex<std::vec::IntoIter<Vec<DeltaDiscoveryResponse>>>,
    heard: mpsc::Sender<DeltaDiscoveryRequest>,
}

#[async_trait]
impl AggregatedDiscoveryService for Scripted {
    type DeltaAggregatedResourcesStream = Responses;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let script = self
            .scripts
            .lock()
            .next()
            .ok_or_else(|| Status::unavailable("the script is over"))?;
        let play = Play {
            script: script.into_iter(),
            inbound: request.into_inner(),
            heard: self.heard.clone(),
            awaited: None,
        };
        let responses = stream::unfold(play, |mut play| async {
            play.next().await.map(|response| (Ok(response), play))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

/// One stream of a [`Scripted`] server: each response waits for the answer to the one before.
struct Play {
    script: std::vec::IntoIter<DeltaDiscoveryResponse>,
    inbound: Streaming<DeltaDiscoveryRequest>,
    heard: mpsc::Sender<DeltaDiscoveryRequest>,
    awaited: Option<String>,
}

impl Play {
    async fn next(&mut self) -> Option<DeltaDiscoveryResponse> {
        loop {
            if self.awaited.is_none()
                && let Some(response) = self.script.next()
            {
                self.awaited = Some(response.nonce.clone());
                return Some(response);
            }
            let request = self.inbound.message().await.ok()??;
            if self.awaited.as_ref() == Some(&request.response_nonce) {
                self.awaited = None;
            }
            self.heard.send(request).await.ok()?;
        }
    }
}

struct ScriptedServer {
    folder: tempfile::TempDir,
    address: String,
    heard: mpsc::Receiver<DeltaDiscoveryRequest>,
    _tasks: JoinSet<()>,
}

impl ScriptedServer {
    async fn start(scripts: Vec<Vec<DeltaDiscoveryResponse>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority =
            CertificateAuthority::new_self_signed(TrustDomain::default(), SystemTime::now()).unwrap();
        std::fs::write(folder.path().join("root.pem"), authority.roots_pem()).unwrap();
        std::fs::write(folder.path().join("token"), "a.b.c").unwrap();
        let serving = authority
            .issue_server(&["127.0.0.1".to_owned()], SystemTime::now())
            .unwrap();
        let acceptor = TlsAcceptor::from(control_server_config(&serving).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, heard) = mpsc::channel(1000);
        let service = Scripted {
            scripts: Mutex::new(scripts.into_iter()),
            heard: sender,
        };
        let service = Arc::new(service);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, service) = (acceptor.clone(), service.clone());
                connections.spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let one = stream::iter([Ok::<_, std::io::Error>(TestConnection(tls))]);
                    let ads = AggregatedDiscoveryServiceServer::from_arc(service);
                    let _ = tonic::transport::Server::builder()
                        .add_service(ads)
                        .serve_with_incoming(one)
                        .await;
                });
            }
        });
        Self {
            folder,
            address,
            heard,
            _tasks: tasks,
        }
    }

    fn client(&self) -> TestClient {
        let plane = ControlPlane::new(&self.address, self.folder.path().join("root.pem")).unwrap();
        TestClient::start(ads_config(
            plane,
            TokenFile::new(self.folder.path().join("token")),
            &agent(),
        ))
    }

    /// The next request that is an answer to `nonce`.
    async fn answer(&mut self, nonce: &str) -> DeltaDiscoveryRequest {
        loop {
            let request = timeout(DEADLINE, self.heard.recv())
                .await
                .expect("an answer in time")
                .unwrap();
            if request.response_nonce == nonce {
                return request;
            }
        }
    }
}

struct TestConnection(tokio_rustls::server::TlsStream<tokio::net::TcpStream>);

impl tonic::transport::server::Connected for TestConnection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl tokio::io::AsyncRead for TestConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl tokio::io::AsyncWrite for TestConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

fn resource(name: &str, node: &str) -> Resource {
    let address = workload(name, node);
    Resource {
        name: address.resource_name(),
        version: node.into(),
        resource: Some(address.to_any()),
        ..Resource::default()
    }
}

fn response(nonce: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: ADDRESS.into(),
        nonce: nonce.into(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

#[tokio::test]
async fn nonsense_from_the_server_leaves_the_clients_state_intact() {
    let garbage = |name: &str| Resource {
        resource: Some(Any {
            type_url: ADDRESS.into(),
            value: vec![0xff; 64],
        }),
        ..resource(name, "n2")
    };
    let foreign = Resource {
        resource: Some(Any {
            type_url: "type.googleapis.com/x.Y".into(),
            value: vec![],
        }),
        ..resource("a", "n3")
    };
    let misnamed = Resource {
        name: "Kubernetes//Pod/default/b".into(),
        ..resource("a", "n4")
    };
    let unknown = DeltaDiscoveryResponse {
        type_url: "type.googleapis.com/x.Y".into(),
        ..response("n6", vec![])
    };
    let mut server = ScriptedServer::start(vec![
        vec![
            response("n1", vec![resource("a", "n1"), resource("b", "n1")]),
            response("n2", vec![garbage("a")]),
            response("n3", vec![foreign]),
            response("n4", vec![misnamed]),
            response("n5", vec![resource("c", "n1"), garbage("b")]),
            // Removes what nobody has, and then a type that nobody asked for ends the stream.
            DeltaDiscoveryResponse {
                removed_resources: vec!["ghost".into(), String::new()],
                ..response("n5b", vec![])
            },
            unknown,
        ],
        vec![response("", vec![resource("a", "n9")])],
        vec![response("n7", vec![resource("d", "n1")])],
    ])
    .await;
    let mut client = server.client();
    assert!(server.answer("n1").await.error_detail.is_none());
    for nonce in ["n2", "n3", "n4", "n5"] {
        let answer = server.answer(nonce).await;
        assert!(answer.error_detail.is_some(), "{nonce}: {answer:?}");
    }
    assert!(server.answer("n5b").await.error_detail.is_none());
    // Two streams that cannot be answered are given up; the third goes on from what is held.
    client.holds(&["a@n1", "b@n1", "c@n1", "d@n1"]).await;
    assert!(server.answer("n7").await.error_detail.is_none());
    assert_eq!(client.status.borrow().streams, 3);
}

#[tokio::test]
async fn what_was_rejected_is_not_claimed_at_the_next_connection() {
    let mut server = ScriptedServer::start(vec![
        vec![
            response("n1", vec![resource("a", "n1"), resource("bad-new", "n1")]),
            DeltaDiscoveryResponse {
                type_url: "nonsense".into(),
                ..response("n2", vec![])
            },
        ],
        vec![response("n3", vec![])],
    ])
    .await;
    let _client = server.client();
    server.answer("n1").await;
    loop {
        let request = timeout(DEADLINE, server.heard.recv()).await.unwrap().unwrap();
        if request.type_url == ADDRESS && !request.initial_resource_versions.is_empty() {
            let claimed: Vec<&String> = request.initial_resource_versions.keys().collect();
            assert_eq!(claimed, ["Kubernetes//Pod/default/a"]);
            break;
        }
    }
}

/// A stream to the real server by hand, as this test's own pod.
async fn raw(
    fixture: &ControlFixture,
    first: Vec<DeltaDiscoveryRequest>,
) -> (
    mpsc::Sender<DeltaDiscoveryRequest>,
    Result<Streaming<DeltaDiscoveryResponse>, Status>,
) {
    let channel = fixture.control_plane().connect().await.unwrap();
    let (sender, outgoing) = mpsc::channel(100);
    for request in first {
        sender.send(request).await.unwrap();
    }
    let mut request = Request::new(ReceiverStream::new(outgoing));
    let bearer = fixture.token_of(&agent()).bearer().await.unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let answer = timeout(DEADLINE, client.delta_aggregated_resources(request))
        .await
        .unwrap();
    (sender, answer.map(Response::into_inner))
}

fn first(type_url: &str) -> DeltaDiscoveryRequest {
    let node = Node {
        id: "ztunnel~1.1.1.1~ztunnel-1.istio-system~d".into(),
        ..Node::default()
    };
    DeltaDiscoveryRequest {
        node: Some(node),
        type_url: type_url.into(),
        ..DeltaDiscoveryRequest::default()
    }
}

#[tokio::test]
async fn garbage_from_a_client_gets_a_clean_error() {
    let fixture = ControlFixture::start().await;
    let (_sender, nameless) = raw(&fixture, vec![DeltaDiscoveryRequest::default()]).await;
    let status = nameless.unwrap_err();
    assert_eq!(
        (status.code(), status.message().contains("has no node")),
        (Code::InvalidArgument, true)
    );
    let (_sender, untyped) = raw(&fixture, vec![first("nonsense")]).await;
    assert_eq!(untyped.unwrap_err().code(), Code::InvalidArgument);
    let (sender, good) = raw(&fixture, vec![first(ADDRESS)]).await;
    let mut responses = good.unwrap();
    assert!(
        timeout(DEADLINE, responses.message())
            .await
            .unwrap()
            .unwrap()
            .is_some()
    );
    sender.send(first("nonsense")).await.unwrap();
    let status = timeout(DEADLINE, responses.message()).await.unwrap().unwrap_err();
    assert!(status.message().contains("type_url"), "{status}");
    // Others are served as before.
    fixture
        .client()
        .wait("synced", aquifer_xds::client::AdsStatus::synced)
        .await;
}

#[tokio::test]
async fn a_huge_request_is_refused() {
    let fixture = ControlFixture::start().await;
    let mut huge = first(ADDRESS);
    huge.resource_names_subscribe = vec!["x".repeat(33 * 1024 * 1024)];
    let (_sender, answer) = raw(&fixture, vec![huge]).await;
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    fixture
        .client()
        .wait("synced", aquifer_xds::client::AdsStatus::synced)
        .await;
}

#[tokio::test]
async fn client_that_never_answers_delays_nobody_else() {
    let fixture = ControlFixture::start().await;
    fixture.publish(2, &[("a", "n1")]);
    let (_sender, silent) = raw(&fixture, vec![first(ADDRESS)]).await;
    let mut silent = silent.unwrap();
    assert!(
        timeout(DEADLINE, silent.message())
            .await
            .unwrap()
            .unwrap()
            .is_some()
    );
    let mut client = fixture.client();
    for generation in 3..50 {
        let node = format!("n{generation}");
        fixture.publish(generation, &[("a", &node)]);
        client.holds(&[&format!("a@{node}")]).await;
    }
    assert_eq!(fixture.registry.in_effect(49).1, 2);
    let (done, mut quiet) = oneshot::channel::<()>();
    drop(done);
    // Nothing more was sent to the silent one.
    tokio::select! {
        biased;
        response = silent.message() => panic!("unexpected {response:?}"),
        _ = &mut quiet => {}
    }
}
