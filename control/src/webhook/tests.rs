//! What the API server sends is judged; anything else is answered clearly and costs little.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer_identity::{CertificateAuthority, control_client_config};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use super::body::MAX_BODY;
use super::review::answer;
use super::server::serve;
use crate::serve::grpc::ServingCertificate;
use crate::snapshots::Snapshots;

fn review(operation: &str, object: &Value, old: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u-1",
            "kind": { "group": "networking.istio.io", "version": "v1", "kind": "VirtualService" },
            "name": "r", "namespace": "shop", "operation": operation, "object": object, "oldObject": old,
        },
    })
}

fn rules(spec: &Value) -> Value {
    json!({ "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": { "name": "r" }, "spec": spec })
}

fn wrong() -> Value {
    rules(&json!({ "hosts": ["a"], "htp": [] }))
}

fn allowed(review: &Value) -> bool {
    let answer = answer(review.to_string().as_bytes(), None).unwrap();
    assert_eq!(answer["response"]["uid"], "u-1");
    answer["response"]["allowed"] == true
}

#[test]
fn what_is_wrong_is_refused_with_its_field() {
    let answer = answer(
        review("CREATE", &wrong(), &Value::Null).to_string().as_bytes(),
        None,
    )
    .unwrap();
    assert_eq!(answer["response"]["allowed"], false);
    assert_eq!(answer["response"]["status"]["code"], 422);
    let message = answer["response"]["status"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("VirtualService shop/r: spec.htp: unknown field"),
        "{message}"
    );
}

#[test]
fn what_was_stored_before_can_be_labelled_and_removed() {
    assert!(!allowed(&review(
        "UPDATE",
        &wrong(),
        &rules(&json!({ "hosts": ["a"] }))
    )));
    assert!(allowed(&review("UPDATE", &wrong(), &wrong())));
    let mut leaving = wrong();
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert!(allowed(&review("UPDATE", &leaving, &rules(&json!({})))));
    assert!(allowed(&review("DELETE", &Value::Null, &wrong())));
}

#[test]
fn what_is_not_supported_is_let_in_with_a_warning() {
    let object = rules(&json!({ "hosts": ["a"], "tls": [{}] }));
    let answer = answer(
        review("CREATE", &object, &Value::Null).to_string().as_bytes(),
        None,
    )
    .unwrap();
    assert_eq!(answer["response"]["allowed"], true);
    assert!(
        answer["response"]["warnings"][0]
            .as_str()
            .unwrap()
            .contains("SNI")
    );
}

#[test]
fn garbage_asks_nothing() {
    for body in [
        "",
        "{",
        "[]",
        "{}",
        "null",
        "\u{0}",
        r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview"}"#,
    ] {
        assert!(answer(body.as_bytes(), None).is_err(), "{body:?}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(answer(deep.as_bytes(), None).is_err());
}

proptest::proptest! {
    #[test]
    fn no_body_makes_it_panic(body: Vec<u8>) {
        let _ = answer(&body, None);
    }
}

/// The running server, and how to call it.
struct Running {
    address: std::net::SocketAddr,
    authority: Arc<CertificateAuthority>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority =
            CertificateAuthority::load_or_create(folder.path(), Default::default(), SystemTime::now())
                .unwrap();
        let authority = Arc::new(authority);
        let names = vec!["istiod.istio-system.svc".to_owned()];
        let certificate =
            ServingCertificate::new(watch::channel(authority.clone()).1, names, SystemTime::now()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, cancel) = (listener.local_addr().unwrap(), CancellationToken::new());
        let snapshots = Arc::new(Snapshots::default());
        let task = tokio::spawn(serve(listener, Arc::new(certificate), snapshots, cancel.clone()));
        Self {
            address,
            authority,
            cancel,
            task,
        }
    }

    /// A connection as the API server opens it.
    async fn connect(&self) -> TlsStream<TcpStream> {
        let mut config = (*control_client_config(self.authority.roots_pem().as_bytes()).unwrap()).clone();
        // As the API server does, and nothing else.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let config = Arc::new(config);
        let name = "istiod.istio-system.svc".try_into().unwrap();
        let tcp = TcpStream::connect(self.address).await.unwrap();
        TlsConnector::from(config).connect(name, tcp).await.unwrap()
    }

    async fn call(&self, request: &[u8]) -> (StatusCode, String) {
        let mut tls = self.connect().await;
        // The server may answer and close before it has read all.
        let _ = tls.write_all(request).await;
        let mut text = Vec::new();
        let read = tls.read_to_end(&mut text);
        let _ = tokio::time::timeout(Duration::from_secs(30), read).await.unwrap();
        let text = String::from_utf8_lossy(&text).into_owned();
        let status = text
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("{text:?}"));
        let body = text
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned())
            .unwrap_or_default();
        (status, body)
    }

    async fn post(&self, path: &str, body: &str) -> (StatusCode, String) {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: istiod\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        self.call(format!("{head}{body}").as_bytes()).await
    }
}

#[tokio::test]
async fn the_port_answers_the_api_server_and_refuses_the_rest() {
    let server = Running::start().await;
    let good = review("CREATE", &wrong(), &Value::Null).to_string();
    let (status, body) = server.post("/validate?timeout=5s", &good).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains("unknown field"), "{body}");
    let (status, body) = server.post("/validate", "garbage").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("not JSON of an AdmissionReview"), "{body}");
    assert_eq!(server.post("/", &good).await.0, StatusCode::NOT_FOUND);
    let get = server
        .call(b"GET /validate HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await;
    assert_eq!(get.0, StatusCode::METHOD_NOT_ALLOWED);
    let large = " ".repeat(MAX_BODY + 1);
    assert_eq!(
        server.post("/validate", &large).await.0,
        StatusCode::PAYLOAD_TOO_LARGE
    );
    server.cancel.cancel();
    tokio::time::timeout(Duration::from_secs(30), server.task)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn who_sends_slowly_keeps_nobody_waiting_and_without_tls_there_is_nothing() {
    let server = Running::start().await;
    let mut slow = Vec::new();
    for sent in [
        &b"POST /validate HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{"[..],
        b"POST /val",
    ] {
        for _ in 0..50 {
            let mut tls = server.connect().await;
            tls.write_all(sent).await.unwrap();
            tls.flush().await.unwrap();
            slow.push(tls);
        }
    }
    let good = review("CREATE", &wrong(), &Value::Null).to_string();
    let (status, body) = server.post("/validate", &good).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.contains("unknown field"), "{body}");
    // None of them was turned away to make room: a slow one that goes on is answered.
    let mut rest = slow.swap_remove(0);
    rest.write_all(&vec![b' '; 999_999]).await.unwrap();
    let mut answer = [0; 12];
    rest.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400");
    let mut plain = TcpStream::connect(server.address).await.unwrap();
    plain
        .write_all(b"POST /validate HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said).await;
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    server.cancel.cancel();
}
