use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::certificate::WorkloadCertificate;
use crate::csr::new_csr;

fn td() -> TrustDomain {
    TrustDomain::default()
}

fn id(name: &str) -> SpiffeId {
    SpiffeId::new(&td(), "test", name).unwrap()
}

fn now() -> SystemTime {
    SystemTime::now()
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::new_self_signed(td(), now()).unwrap()
}

fn signed(authority: &CertificateAuthority, ttl: Duration, at: SystemTime) -> WorkloadCertificate {
    let request = new_csr(&id("a")).unwrap();
    let answer = authority
        .sign_workload(request.csr_pem(), &id("a"), ttl, at)
        .unwrap();
    WorkloadCertificate::from_answer(&answer, &request, &id("a")).unwrap()
}

/// A request of our own making, with names, usages and a key chosen by the test.
fn request(params: &CertificateParams, key: &KeyPair) -> String {
    params.serialize_request(key).unwrap().pem().unwrap()
}

#[test]
fn signs_a_request_for_the_given_identity() {
    let certificate = signed(&authority(), Duration::ZERO, now());
    assert_eq!(*certificate.identity(), id("a"));
    assert!(certificate.is_valid_at(now()));
    assert_eq!(certificate.serial().len(), 32);
}

#[test]
fn the_life_is_what_was_asked_within_bounds() {
    let authority = authority();
    for (asked, given) in [
        (Duration::ZERO, MAX_WORKLOAD_TTL),
        (Duration::from_secs(1), MIN_WORKLOAD_TTL),
        (Duration::from_secs(3600), Duration::from_secs(3600)),
        (Duration::from_secs(u64::MAX), MAX_WORKLOAD_TTL),
    ] {
        let at = now();
        let certificate = signed(&authority, asked, at);
        let life = certificate.not_after().duration_since(at).unwrap();
        assert!(
            life <= given && life + Duration::from_secs(1) > given,
            "{asked:?}: {life:?}"
        );
        assert!(certificate.not_before() < at);
    }
}

#[test]
fn nothing_outlives_the_authority() {
    let authority = authority();
    let late = authority.not_after() - Duration::from_secs(600);
    assert!(signed(&authority, Duration::ZERO, late).not_after() <= authority.not_after());
    let request = new_csr(&id("a")).unwrap();
    let error = authority.sign_workload(request.csr_pem(), &id("a"), Duration::ZERO, authority.not_after());
    assert_eq!(error.unwrap_err(), SignRequestError::Expired);
}

#[test]
fn names_and_usages_of_the_request_are_ignored() {
    let key = KeyPair::generate().unwrap();
    let mut greedy = CertificateParams::default();
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    greedy.subject_alt_names = vec![
        SanType::URI(
            "spiffe://cluster.local/ns/istio-system/sa/admin"
                .try_into()
                .unwrap(),
        ),
        SanType::DnsName("istiod.istio-system.svc".try_into().unwrap()),
    ];
    greedy.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(
        &[1, 2, 3, 4],
        vec![5, 0],
    )];
    let answer = authority()
        .sign_workload(&request(&greedy, &key), &id("a"), Duration::ZERO, now())
        .unwrap();
    let leaf = pem::certificates(answer[0].as_bytes(), "leaf").unwrap().remove(0);
    let parsed = crate::peer::parse(&leaf).unwrap();
    assert_eq!(crate::peer::identity_of(&parsed).unwrap(), id("a"));
    assert!(!parsed.is_ca());
    assert_eq!(parsed.subject().iter().count(), 0);
    assert!(!parsed.key_usage().unwrap().unwrap().value.key_cert_sign());
    assert_eq!(
        parsed
            .subject_alternative_name()
            .unwrap()
            .unwrap()
            .value
            .general_names
            .len(),
        1
    );
}

#[test]
fn refuses_requests_that_prove_nothing() {
    let authority = authority();
    let refuse = |csr: &str| {
        authority
            .sign_workload(csr, &id("a"), Duration::ZERO, now())
            .unwrap_err()
            .to_string()
    };
    assert!(refuse("").contains("no PEM certificate request"));
    assert!(
        refuse("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")
            .contains("no PEM")
    );
    assert!(refuse(&"x".repeat(MAX_CSR + 1)).contains("at most"));
    let tampered = tamper(new_csr(&id("a")).unwrap().csr_pem());
    assert!(refuse(&tampered).contains("signature"), "{}", refuse(&tampered));
}

/// Flips a bit in the last byte of the request, which is part of the signature.
fn tamper(csr_pem: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let mut der = CertificateSigningRequestDer::from_pem_slice(csr_pem.as_bytes())
        .unwrap()
        .to_vec();
    *der.last_mut().unwrap() ^= 1;
    format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        STANDARD.encode(der)
    )
}

#[test]
fn refuses_identities_of_another_trust_domain() {
    let stranger = SpiffeId::parse("spiffe://other.example/ns/a/sa/b").unwrap();
    let request = new_csr(&stranger).unwrap();
    let error = authority()
        .sign_workload(request.csr_pem(), &stranger, Duration::ZERO, now())
        .unwrap_err();
    assert!(error.to_string().contains("cluster.local"), "{error}");
}

#[test]
fn survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let first = CertificateAuthority::load_or_create(&state, td(), now()).unwrap();
    let again = CertificateAuthority::load_or_create(&state, td(), now()).unwrap();
    assert_eq!(first.roots_pem(), again.roots_pem());
    assert_eq!(
        fs::metadata(state.join("ca-key.pem"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    let certificate = signed(&again, Duration::ZERO, now());
    assert_eq!(certificate.roots_pem(), first.roots_pem());
    let leftovers = fs::read_dir(&state).unwrap().count();
    assert_eq!(leftovers, 4, "only the four files of cacerts");
}

#[test]
fn a_crash_before_the_last_file_starts_over() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("ca-key.pem"), "half").unwrap();
    fs::write(directory.path().join("root-cert.tmp"), "half").unwrap();
    CertificateAuthority::load_or_create(directory.path(), td(), now()).unwrap();
    CertificateAuthority::load(directory.path(), td(), now()).unwrap();
}

/// An intermediate under a root that is not on this machine, in the four files of `cacerts`.
fn cacerts() -> AuthorityFiles {
    let root = authority();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let mut params = params(now(), now() + Duration::from_secs(30 * 24 * 3600));
    params.distinguished_name.push(DnType::CommonName, "intermediate");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.signed_by(&key, &root.signer.issuer).unwrap().pem();
    AuthorityFiles {
        cert_chain: format!("{certificate}\n{}", root.roots_pem()),
        ca_cert: certificate,
        ca_key: Zeroizing::new(key.serialize_pem()),
        root_cert: root.roots_pem(),
    }
}

#[test]
fn an_intermediate_from_cacerts_signs_with_its_chain() {
    let files = cacerts();
    let authority = CertificateAuthority::from_pem(&files, td(), now()).unwrap();
    let request = new_csr(&id("a")).unwrap();
    let answer = authority
        .sign_workload(request.csr_pem(), &id("a"), Duration::ZERO, now())
        .unwrap();
    assert_eq!(answer.len(), 3, "leaf, intermediate, root");
    assert_eq!(answer[2], files.root_cert);
    let directory = tempfile::tempdir().unwrap();
    authority.save(directory.path()).unwrap();
    let loaded = CertificateAuthority::load(directory.path(), td(), now()).unwrap();
    assert_eq!(loaded.signer.intermediates, authority.signer.intermediates);
}

#[test]
fn an_rsa_authority_as_istios_documentation_makes_one_signs() {
    let rsa = || KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let key = rsa();
    let mut params = params(now(), now() + Duration::from_secs(24 * 3600));
    params.distinguished_name.push(DnType::OrganizationName, "Istio");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = params.self_signed(&key).unwrap().pem();
    let files = AuthorityFiles {
        ca_cert: root.clone(),
        ca_key: Zeroizing::new(key.serialize_pem()),
        cert_chain: root.clone(),
        root_cert: root,
    };
    let authority = CertificateAuthority::from_pem(&files, td(), now()).unwrap();
    assert!(
        authority.signer.intermediates.is_empty(),
        "the root is not sent twice"
    );
    signed(&authority, Duration::ZERO, now());
    // Istio's agent may ask with an RSA key.
    let csr = request(&CertificateParams::default(), &rsa());
    authority
        .sign_workload(&csr, &id("a"), Duration::ZERO, now())
        .map(drop)
        .unwrap();
}

#[test]
fn files_that_do_not_belong_together_are_refused_at_once() {
    let load = |files: AuthorityFiles| match CertificateAuthority::from_pem(&files, td(), now()) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    };
    let foreign_key = AuthorityFiles {
        ca_key: cacerts().ca_key,
        ..cacerts()
    };
    assert!(load(foreign_key).contains("belong together"));
    let foreign_root = AuthorityFiles {
        root_cert: authority().roots_pem(),
        ..cacerts()
    };
    assert!(load(foreign_root).contains("belong together"));
    let no_key = AuthorityFiles {
        ca_key: Zeroizing::new("no".into()),
        ..cacerts()
    };
    assert!(load(no_key).starts_with("ca-key.pem"));
    let no_root = AuthorityFiles {
        root_cert: String::new(),
        ..cacerts()
    };
    assert!(load(no_root).starts_with("root-cert.pem"));
}

#[test]
fn a_missing_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = CertificateAuthority::load(directory.path(), td(), now())
        .err()
        .unwrap();
    assert!(error.to_string().contains("ca-cert.pem"), "{error}");
}

#[test]
fn serving_certificate_has_the_names_and_ends_before_the_authority() {
    let authority = authority();
    let issued = authority
        .issue_server(&["istiod.istio-system.svc".into()], now())
        .unwrap();
    assert!(issued.not_after() <= authority.not_after());
    assert!(crate::tls::control_server_config(&issued).is_ok());
}
