//! Handshakes in memory: both sides are real rustls connections, without sockets.

use std::io::{Read, Write};
use std::time::{Duration, SystemTime};

use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::*;
use crate::authority::CertificateAuthority;
use crate::certificate::WorkloadCertificate;
use crate::csr::new_csr;
use crate::peer::peer_identity;
use crate::tls::{control_client_config, control_server_config, tunnel_client_config, tunnel_server_config};

fn authority(trust_domain: &str) -> CertificateAuthority {
    CertificateAuthority::new_self_signed(TrustDomain::parse(trust_domain).unwrap(), SystemTime::now())
        .unwrap()
}

fn workload(authority: &CertificateAuthority, name: &str, at: SystemTime) -> WorkloadCertificate {
    let id = SpiffeId::new(authority.trust_domain(), "test", name).unwrap();
    let request = new_csr(&id).unwrap();
    let answer = authority
        .sign_workload(request.csr_pem(), &id, Duration::ZERO, at)
        .unwrap();
    WorkloadCertificate::from_answer(&answer, &request, &id).unwrap()
}

fn client_of(from: &WorkloadCertificate, expected: &[&SpiffeId]) -> Arc<ClientConfig> {
    tunnel_client_config(
        from,
        ExpectedPeers::any_of(expected.iter().map(|id| (*id).clone())),
    )
}

fn server_of(certificate: &WorkloadCertificate) -> Arc<ServerConfig> {
    tunnel_server_config(certificate, certificate.identity().trust_domain())
}

/// Runs a handshake until both are done or one refuses; the first error is the refusal.
fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), Error> {
    let mut client = ClientConnection::new(client, "istiod.istio-system.svc".try_into().unwrap())?;
    let mut server = ServerConnection::new(server)?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut &wire[..]).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut &wire[..]).unwrap();
        client.process_new_packets()?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok((client, server))
}

fn refused(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> String {
    match handshake(client, server) {
        Ok(_) => panic!("the handshake succeeded"),
        Err(error) => PeerRejected::find(&error).map_or_else(|| error.to_string(), ToString::to_string),
    }
}

#[test]
fn workloads_of_one_mesh_prove_their_identities_to_each_other() {
    let ca = authority("cluster.local");
    let (a, b) = (
        workload(&ca, "a", SystemTime::now()),
        workload(&ca, "b", SystemTime::now()),
    );
    let expected = [a.identity(), b.identity()];
    let (mut client, mut server) = handshake(client_of(&a, &expected), server_of(&b)).unwrap();
    assert_eq!(peer_identity(client.peer_certificates()).unwrap(), *b.identity());
    assert_eq!(peer_identity(server.peer_certificates()).unwrap(), *a.identity());
    assert_eq!(client.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(server.server_name(), None, "no SNI between workloads");
    assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    client.writer().write_all(b"hello").unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    server.read_tls(&mut &wire[..]).unwrap();
    server.process_new_packets().unwrap();
    let mut heard = [0; 5];
    server.reader().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
}

#[test]
fn a_second_connection_is_not_resumed() {
    let ca = authority("cluster.local");
    let (a, b) = (
        workload(&ca, "a", SystemTime::now()),
        workload(&ca, "b", SystemTime::now()),
    );
    let (client, server) = (client_of(&a, &[b.identity()]), server_of(&b));
    for _ in 0..2 {
        let (client, _) = handshake(client.clone(), server.clone()).unwrap();
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

#[test]
fn the_wrong_service_account_is_refused_with_both_names() {
    let ca = authority("cluster.local");
    let (a, b) = (
        workload(&ca, "a", SystemTime::now()),
        workload(&ca, "b", SystemTime::now()),
    );
    let c = workload(&ca, "c", SystemTime::now());
    let message = refused(client_of(&a, &[c.identity()]), server_of(&b));
    assert_eq!(
        message,
        "the peer is spiffe://cluster.local/ns/test/sa/b but spiffe://cluster.local/ns/test/sa/c was expected"
    );
    let message = refused(client_of(&a, &[]), server_of(&b));
    assert!(message.ends_with("but nobody was expected"), "{message}");
    let message = refused(client_of(&a, &[c.identity(), a.identity()]), server_of(&b));
    assert!(
        message.contains("one of spiffe://cluster.local/ns/test/sa/c spiffe"),
        "{message}"
    );
}

#[test]
fn a_client_of_another_trust_domain_is_refused_even_if_its_root_is_trusted() {
    let ca = authority("cluster.local");
    let (a, b) = (
        workload(&ca, "a", SystemTime::now()),
        workload(&ca, "b", SystemTime::now()),
    );
    let ours = TrustDomain::parse("other.example").unwrap();
    let message = refused(client_of(&a, &[b.identity()]), tunnel_server_config(&b, &ours));
    assert!(
        message.contains("spiffe://cluster.local/ns/test/sa/a"),
        "{message}"
    );
    assert!(message.contains("other.example"), "{message}");
}

#[test]
fn a_forged_root_is_refused_on_both_sides() {
    let (ca, forged) = (authority("cluster.local"), authority("cluster.local"));
    let (a, b) = (
        workload(&ca, "a", SystemTime::now()),
        workload(&ca, "b", SystemTime::now()),
    );
    let fake = workload(&forged, "b", SystemTime::now());
    let message = refused(client_of(&a, &[b.identity()]), server_of(&fake));
    assert!(message.contains("does not chain to our roots"), "{message}");
    assert!(message.contains("sa/b"), "{message}");
    // The forger trusts our root and presents what it has made itself.
    let mut config = (*client_of(&a, &[b.identity()])).clone();
    config.client_auth_cert_resolver =
        Arc::new(rustls::sign::SingleCertAndKey::from(fake.certified().clone()));
    let message = refused(Arc::new(config), server_of(&b));
    assert!(message.contains("does not chain to our roots"), "{message}");
}

#[test]
fn an_expired_certificate_is_refused() {
    let ca = authority("cluster.local");
    let (a, b) = (
        workload(&ca, "a", SystemTime::now()),
        workload(&ca, "b", SystemTime::now()),
    );
    let old = workload(&ca, "b", SystemTime::now() - Duration::from_secs(25 * 3600));
    assert!(!old.is_valid_at(SystemTime::now()));
    let message = refused(client_of(&a, &[b.identity()]), server_of(&old));
    assert!(
        message.contains("does not chain to our roots: CertExpired"),
        "{message}"
    );
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let ca = authority("cluster.local");
    let b = workload(&ca, "b", SystemTime::now());
    let mut config = (*client_of(&b, &[b.identity()])).clone();
    config.client_auth_cert_resolver = Arc::new(NoCertificate);
    let message = refused(Arc::new(config), server_of(&b));
    assert!(message.contains("no certificate"), "{message}");
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn another_protocol_is_refused() {
    let ca = authority("cluster.local");
    let (a, b) = (
        workload(&ca, "a", SystemTime::now()),
        workload(&ca, "b", SystemTime::now()),
    );
    let mut config = (*client_of(&a, &[b.identity()])).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let message = refused(Arc::new(config), server_of(&b));
    assert!(message.contains("known protocol"), "{message}");
}

#[test]
fn the_server_configuration_is_shared_by_the_connections_of_a_certificate() {
    let ca = authority("cluster.local");
    let a = workload(&ca, "a", SystemTime::now());
    assert!(Arc::ptr_eq(&server_of(&a), &server_of(&a)));
}

#[test]
fn the_control_plane_proves_its_name() {
    let ca = authority("cluster.local");
    let now = SystemTime::now();
    let issued = ca.issue_server(&["istiod.istio-system.svc".into()], now).unwrap();
    let server = control_server_config(&issued).unwrap();
    let client = control_client_config(ca.roots_pem().as_bytes()).unwrap();
    handshake(client.clone(), server).unwrap();
    let other = ca.issue_server(&["elsewhere.svc".into()], now).unwrap();
    let message = refused(client, control_server_config(&other).unwrap());
    assert!(message.contains("istiod.istio-system.svc"), "{message}");
    let foreign = control_client_config(authority("cluster.local").roots_pem().as_bytes()).unwrap();
    refused(foreign, control_server_config(&issued).unwrap());
}

#[test]
fn a_certificate_never_shows_its_key() {
    let ca = authority("cluster.local");
    let a = workload(&ca, "a", SystemTime::now());
    let text = format!("{a:?}");
    assert!(
        text.contains("sa/a") && !text.to_lowercase().contains("key"),
        "{text}"
    );
}

#[test]
fn parts_of_different_requests_do_not_fit() {
    let ca = authority("cluster.local");
    let id = SpiffeId::new(ca.trust_domain(), "test", "a").unwrap();
    let other = SpiffeId::new(ca.trust_domain(), "test", "b").unwrap();
    let (request, unrelated) = (new_csr(&id).unwrap(), new_csr(&id).unwrap());
    let answer = ca
        .sign_workload(request.csr_pem(), &id, Duration::ZERO, SystemTime::now())
        .unwrap();
    let message = |error: crate::CertificateError| error.to_string();
    let wrong_key = WorkloadCertificate::from_answer(&answer, &unrelated, &id).map_err(message);
    assert!(wrong_key.unwrap_err().contains("private key does not belong"));
    let wrong_name = WorkloadCertificate::from_answer(&answer, &request, &other).map_err(message);
    let wrong_name = wrong_name.unwrap_err();
    assert!(
        wrong_name.contains("sa/a") && wrong_name.contains("sa/b"),
        "{wrong_name}"
    );
    let foreign = authority("cluster.local").roots_pem();
    let wrong_root =
        WorkloadCertificate::from_answer(&[answer[0].clone(), foreign], &request, &id).map_err(message);
    assert!(wrong_root.unwrap_err().contains("does not lead to the roots"));
    let no_roots = WorkloadCertificate::from_answer(&answer[..1], &request, &id).map_err(message);
    assert!(no_roots.unwrap_err().contains("no roots"));
    assert!(WorkloadCertificate::from_answer(&[], &request, &id).is_err());
}
