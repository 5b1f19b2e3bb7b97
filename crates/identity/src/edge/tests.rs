use std::io::Cursor;
use std::time::{Duration, SystemTime};

use aquifer_core::http::server_tls::TlsVersions;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::*;

struct Pair {
    chain: String,
    key: String,
}

/// An authority that people run themselves.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(
        &self,
        change: impl FnOnce(&mut CertificateParams),
        algorithm: &'static rcgen::SignatureAlgorithm,
    ) -> Pair {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        change(&mut params);
        Pair {
            chain: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    fn server(&self, name: &str) -> Pair {
        let name = name.to_owned();
        self.issue(
            |p| p.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())],
            &rcgen::PKCS_ECDSA_P256_SHA256,
        )
    }

    fn client(&self, name: &str) -> Pair {
        let name = name.to_owned();
        self.issue(
            |p| {
                p.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
                p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            },
            &rcgen::PKCS_ECDSA_P256_SHA256,
        )
    }

    fn roots(&self) -> EdgeSecret {
        EdgeSecret::Roots(Arc::new(ClientRoots::from_pem(self.pem.as_bytes()).unwrap()))
    }
}

impl Pair {
    fn secret(&self) -> EdgeSecret {
        let pair = ServerKeyPair::from_pem(self.chain.as_bytes(), self.key.as_bytes());
        EdgeSecret::KeyPair(Arc::new(pair.unwrap()))
    }
}

fn tls(clients: ClientCertificates) -> ServerTls {
    ServerTls {
        certificates: vec!["cert".into()],
        clients,
        versions: TlsVersions::default(),
        cipher_suites: Vec::new(),
        alpn: vec!["h2".into(), "http/1.1".into()],
    }
}

fn required(names: &[&str]) -> ClientCertificates {
    ClientCertificates::Required(check(names))
}

fn check(names: &[&str]) -> ClientCheck {
    ClientCheck {
        authorities: "ca".into(),
        names: names.iter().map(|n| (*n).into()).collect(),
    }
}

/// A client that trusts the authority, with the versions and certificate it is given.
fn client(
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
    own: Option<&Pair>,
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap())
        .unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    match own {
        None => builder.with_no_client_auth(),
        Some(pair) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    }
}

/// Runs a handshake in memory; the server's view of it.
fn handshake(
    server: Arc<ServerConfig>,
    client: ClientConfig,
    name: &'static str,
) -> Result<ServerConnection, String> {
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut sent = Vec::new();
        client.write_tls(&mut sent).unwrap();
        let mut reader = Cursor::new(sent);
        while (reader.position() as usize) < reader.get_ref().len() {
            server.read_tls(&mut reader).unwrap();
            server.process_new_packets().map_err(|e| format!("server: {e}"))?;
        }
        let mut answer = Vec::new();
        server.write_tls(&mut answer).unwrap();
        let mut reader = Cursor::new(answer);
        while (reader.position() as usize) < reader.get_ref().len() {
            client.read_tls(&mut reader).unwrap();
            client.process_new_packets().map_err(|e| format!("client: {e}"))?;
        }
    }
    Ok(server)
}

#[test]
fn speaks_both_versions_unless_one_is_ruled_out() {
    let authority = Authority::new("a");
    let secret = authority.server("shop.example").secret();
    let config = |versions| {
        let tls = ServerTls {
            versions,
            ..tls(ClientCertificates::NotAsked)
        };
        edge_server_config(&tls, |_| Some(secret.clone())).unwrap()
    };
    for (versions, twelve) in [
        (TlsVersions::default(), true),
        (
            TlsVersions::new(TlsVersion::V1_3, TlsVersion::V1_3).unwrap(),
            false,
        ),
    ] {
        let old = handshake(
            config(versions),
            client(&authority, &[&TLS12], None),
            "shop.example",
        );
        assert_eq!(old.is_ok(), twelve);
        assert!(
            handshake(
                config(versions),
                client(&authority, &[&TLS13], None),
                "shop.example"
            )
            .is_ok()
        );
    }
}

#[test]
fn only_the_suites_asked_for_are_spoken_in_tls_12() {
    let authority = Authority::new("a");
    let secret = authority.server("shop.example").secret();
    let tls = ServerTls {
        cipher_suites: vec![CipherSuite::EcdsaChacha20],
        ..tls(ClientCertificates::NotAsked)
    };
    let config = edge_server_config(&tls, |_| Some(secret.clone())).unwrap();
    let server = handshake(config, client(&authority, &[&TLS12], None), "shop.example").unwrap();
    let suite = server.negotiated_cipher_suite().unwrap();
    assert_eq!(suite, cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256);
}

#[test]
fn a_client_needs_a_certificate_of_the_authority_with_the_name() {
    let (authority, other) = (Authority::new("a"), Authority::new("b"));
    let server = authority.server("shop.example").secret();
    let attempt = |clients: ClientCertificates, own: Option<&Pair>| {
        let secret = |name: &str| {
            Some(if name == "ca" {
                authority.roots()
            } else {
                server.clone()
            })
        };
        let config = edge_server_config(&tls(clients), secret).unwrap();
        handshake(config, client(&authority, &[&TLS13], own), "shop.example")
            .map(|s| s.peer_certificates().is_some())
    };
    let (good, foreign) = (authority.client("good.example"), other.client("good.example"));
    assert_eq!(attempt(required(&[]), Some(&good)), Ok(true));
    assert_eq!(attempt(required(&["good.example"]), Some(&good)), Ok(true));
    assert!(attempt(required(&["other.example"]), Some(&good)).is_err());
    assert!(attempt(required(&[]), Some(&foreign)).is_err());
    assert!(attempt(required(&[]), None).is_err());
    assert_eq!(attempt(ClientCertificates::Optional(check(&[])), None), Ok(false));
    assert!(attempt(ClientCertificates::Optional(check(&[])), Some(&foreign)).is_err());
}

#[test]
fn the_certificate_that_the_client_can_check_is_chosen() {
    let authority = Authority::new("a");
    let ed25519 = authority.issue(
        |p| p.subject_alt_names = vec![SanType::DnsName("shop.example".try_into().unwrap())],
        &rcgen::PKCS_ED25519,
    );
    let ecdsa = authority.server("shop.example");
    let both = ServerTls {
        certificates: vec!["ed25519".into(), "ecdsa".into()],
        ..tls(ClientCertificates::NotAsked)
    };
    let secret = |name: &str| {
        Some(if name == "ecdsa" {
            ecdsa.secret()
        } else {
            ed25519.secret()
        })
    };
    let config = edge_server_config(&both, secret).unwrap();
    assert!(handshake(config, client(&authority, &[&TLS13], None), "shop.example").is_ok());
}

#[test]
fn what_is_missing_or_mixed_up_is_named() {
    let authority = Authority::new("a");
    let server = authority.server("shop.example").secret();
    let none = edge_server_config(&tls(ClientCertificates::NotAsked), |_| None).unwrap_err();
    assert_eq!(none, EdgeError::Missing("cert".to_owned()));
    let mixed = edge_server_config(&tls(required(&[])), |_| Some(server.clone())).unwrap_err();
    assert_eq!(mixed, EdgeError::Kind("ca".to_owned()));
}

#[test]
fn a_pair_must_belong_together_and_says_nothing_of_its_key() {
    let authority = Authority::new("a");
    let (one, two) = (authority.server("a.example"), authority.server("b.example"));
    let pair = |chain: &str, key: &str| ServerKeyPair::from_pem(chain.as_bytes(), key.as_bytes());
    assert_eq!(pair(&one.chain, &two.key).unwrap_err(), KeyPairError::Mismatch);
    assert_eq!(pair(&one.chain, "nonsense").unwrap_err(), KeyPairError::Key);
    assert!(matches!(pair("", &one.key), Err(KeyPairError::Pem(_))));
    let good = pair(&one.chain, &one.key).unwrap();
    let line = one.key.lines().nth(1).unwrap();
    assert!(!format!("{good:?}").contains(line));
    assert!(good.not_after() > SystemTime::now() + Duration::from_secs(3600));
}

#[test]
fn names_cover_hosts_label_by_label() {
    let authority = Authority::new("a");
    let wild = authority.server("*.example.com");
    let pair = ServerKeyPair::from_pem(wild.chain.as_bytes(), wild.key.as_bytes()).unwrap();
    for (host, covered) in [
        ("a.example.com", true),
        ("A.Example.COM", true),
        ("*.example.com", true),
        ("a.b.example.com", false),
        ("example.com", false),
        ("*.b.example.com", false),
        ("10.0.0.1", false),
    ] {
        assert_eq!(pair.covers(host), covered, "{host}");
    }
}

#[test]
fn an_upstream_is_told_of_the_client() {
    let authority = Authority::new("a");
    let pair = authority.issue(
        |p| {
            p.distinguished_name = rcgen::DistinguishedName::new();
            p.distinguished_name.push(DnType::CommonName, "one");
            p.distinguished_name
                .push(DnType::OrganizationName, "Curious, Inc.");
            p.subject_alt_names = vec![
                SanType::DnsName("one.example".try_into().unwrap()),
                SanType::URI("spiffe://a/b".try_into().unwrap()),
                SanType::URI("x://evil;Subject=root".try_into().unwrap()),
            ];
        },
        &rcgen::PKCS_ECDSA_P256_SHA256,
    );
    let der = CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap();
    let told = forwarded_client_certificate(&der).unwrap();
    let parts: Vec<&str> = told.split(';').collect();
    assert!(
        parts[0].starts_with("Hash=") && parts[0].len() == 5 + 64,
        "{told}"
    );
    assert!(
        parts[1].starts_with("Cert=\"-----BEGIN%20CERTIFICATE-----%0A"),
        "{told}"
    );
    assert_eq!(parts[2], "Subject=\"O=Curious\\, Inc.,CN=one\"");
    assert_eq!(parts[3..], ["URI=spiffe://a/b", "DNS=one.example"]);
}

#[test]
fn reads_a_hello_in_any_pieces() {
    let authority = Authority::new("a");
    let name = ServerName::try_from("Shop.Example").unwrap();
    let mut client = ClientConnection::new(Arc::new(client(&authority, &[&TLS13], None)), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    for size in [1, 7, bytes.len()] {
        let mut reader = HelloReader::default();
        let mut seen = None;
        for piece in bytes.chunks(size) {
            seen = reader.read(piece).unwrap();
        }
        assert_eq!(seen.unwrap().server_name.as_deref(), Some("shop.example"));
    }
    assert!(HelloReader::default().read(b"GET / HTTP/1.1\r\n\r\n").is_err());
}

proptest::proptest! {
    #[test]
    fn a_hello_never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
        let _ = HelloReader::default().read(&bytes);
    }

    #[test]
    fn pems_never_panic(chain in "\\PC{0,200}", key in "\\PC{0,200}") {
        let _ = ServerKeyPair::from_pem(chain.as_bytes(), key.as_bytes());
        let _ = ClientRoots::from_pem(chain.as_bytes());
    }
}
