//! Who may talk to whom: both sides refuse a wrong certificate, and the message names both identities.

use std::sync::Arc;

use aquifer_hbone::{ConnectError, ServeError};
use aquifer_identity::PeerRejected;
use rustls::SignatureScheme;
use rustls::sign::CertifiedKey;
use tokio::io::AsyncReadExt;

use crate::mesh::{Client, Echo, Mesh, Server, tls};

#[tokio::test]
async fn the_client_refuses_another_service_account() {
    let mesh = Mesh::new();
    let mut server = mesh.server("b", Echo).await;
    let client = Client::new(mesh.certificate("a"));
    let error = client.open(server.address, mesh.id("c")).await.err().unwrap();
    assert!(matches!(error, ConnectError::Rejected { .. }), "{error:?}");
    let message = error.to_string();
    for name in ["sa/a", "sa/b but", "sa/c was expected"] {
        assert!(message.contains(name), "{message}");
    }
    assert!(matches!(
        server.ended().await,
        Err(ServeError::Tls { .. } | ServeError::Lost { .. })
    ));
    assert_eq!(
        client.pool.stats(),
        Default::default(),
        "nothing is left in the pool"
    );
}

#[tokio::test]
async fn the_server_refuses_another_trust_domain() {
    // The same root, so that only the name differs: a foreign mesh that shares our authority.
    let mesh = Mesh::new();
    let server_certificate = mesh.certificate("b");
    let stranger = Client::new(mesh.certificate("a"));
    let mut server = Server::of_trust_domain(&server_certificate, "other.example").await;
    let error = stranger.open(server.address, mesh.id("b")).await.err().unwrap();
    assert!(matches!(error, ConnectError::Lost { .. }), "{error:?}");
    assert!(
        error.to_string().contains("did not accept our certificate"),
        "{error}"
    );
    match server.ended().await.unwrap_err() {
        ServeError::Rejected { rejected, .. } => {
            assert!(matches!(*rejected, PeerRejected::WrongTrustDomain { .. }));
            let message = rejected.to_string();
            assert!(message.contains("cluster.local/ns/test/sa/a") && message.contains("other.example"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn both_sides_refuse_another_authority() {
    let (ours, theirs) = (Mesh::new(), Mesh::new());
    let server = theirs.server("b", Echo).await;
    let client = Client::new(ours.certificate("a"));
    let message = client
        .open(server.address, ours.id("b"))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("does not chain to our roots"), "{message}");
    assert!(message.contains("sa/a") && message.contains("sa/b"), "{message}");
    // A client that would accept our server but has its certificate from elsewhere.
    let mut server = ours.server("b", Echo).await;
    let mut config = ours.client_config("a", "b");
    config.client_auth_cert_resolver = theirs.client_config("a", "b").client_auth_cert_resolver;
    let mut stream = tls(config, server.address).await.unwrap();
    let alert = stream.read(&mut [0; 10]).await.unwrap_err();
    assert!(alert.to_string().contains("alert"), "{alert}");
    let message = server.failure().await;
    assert!(message.contains("does not chain to our roots"), "{message}");
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn the_server_refuses_a_client_without_a_certificate() {
    let mesh = Mesh::new();
    let mut server = mesh.server("b", Echo).await;
    let mut config = mesh.client_config("a", "b");
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    let mut stream = tls(config, server.address).await.unwrap();
    assert!(stream.read(&mut [0; 10]).await.is_err());
    let message = server.failure().await;
    assert!(message.contains("no certificate"), "{message}");
}

#[tokio::test]
async fn any_of_several_expected_identities_will_do() {
    let mesh = Mesh::new();
    let server = mesh.server("b", Echo).await;
    let client = Client::new(mesh.certificate("a"));
    let mut key = client.key(server.address, mesh.id("c"));
    key.expected.push(mesh.id("b"));
    let dial = async || tokio::net::TcpStream::connect(server.address).await;
    let request = crate::mesh::request(http::HeaderMap::new());
    client.pool.connect(key, request, dial).await.map(drop).unwrap();
}
