//! A signer of tokens, as an API server is one, and what becomes of its tokens.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use serde_json::{Value, json};

use super::jwks::JwksVerifier;
use super::*;
use crate::auth::node::{NodeError, identify};
use crate::serve::ProxyType;

/// Signs service account tokens with a key of its own.
pub(crate) struct Issuer {
    key: KeyPair,
    id: String,
}

impl Issuer {
    pub(crate) fn new(id: &str) -> Self {
        Self {
            key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            id: id.into(),
        }
    }

    pub(crate) fn jwks(&self) -> Value {
        // An uncompressed point: 0x04, then 32 bytes each.
        let point = self.key.der_bytes();
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id,
            "x": part(1..33), "y": part(33..65)}]})
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = Header {
            kid: Some(self.id.clone()),
            ..Header::new(Algorithm::ES256)
        };
        encode(
            &header,
            claims,
            &EncodingKey::from_ec_der(&self.key.serialize_der()),
        )
        .unwrap()
    }

    pub(crate) fn token(&self, caller: &Caller) -> String {
        self.sign(&claims(caller, SystemTime::now() + Duration::from_secs(3600)))
    }
}

pub(crate) fn claims(caller: &Caller, expiry: SystemTime) -> Value {
    json!({
        "iss": "https://kubernetes.default.svc.cluster.local",
        "aud": [AUDIENCE],
        "exp": expiry.duration_since(UNIX_EPOCH).unwrap().as_secs(),
        "sub": format!("system:serviceaccount:{}:{}", caller.namespace, caller.service_account),
        "kubernetes.io": {
            "namespace": &*caller.namespace,
            "serviceaccount": {"name": &*caller.service_account, "uid": "sa-uid"},
            "pod": {"name": &*caller.pod_name, "uid": &*caller.pod_uid},
            "node": {"name": &*caller.node_name, "uid": &*caller.node_uid},
        },
    })
}

pub(crate) fn caller(namespace: &str, service_account: &str, pod: &str, node: &str) -> Caller {
    Caller {
        namespace: namespace.into(),
        service_account: service_account.into(),
        pod_name: pod.into(),
        pod_uid: format!("uid-{pod}").into(),
        node_name: node.into(),
        node_uid: format!("uid-{node}").into(),
    }
}

/// Pod objects by hand.
#[derive(Default)]
pub(crate) struct FakePods(pub(crate) parking_lot::Mutex<BTreeMap<(String, String), (String, PodFacts)>>);

impl FakePods {
    pub(crate) fn add(&self, caller: &Caller, labels: &[(&str, &str)]) {
        let facts = PodFacts {
            service_account: caller.service_account.clone(),
            node: caller.node_name.clone(),
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
            phase: PodPhase::Running,
        };
        let key = (caller.namespace.to_string(), caller.pod_name.to_string());
        self.0.lock().insert(key, (caller.pod_uid.to_string(), facts));
    }

    pub(crate) fn set_phase(&self, caller: &Caller, phase: PodPhase) {
        let key = (caller.namespace.to_string(), caller.pod_name.to_string());
        self.0.lock().get_mut(&key).unwrap().1.phase = phase;
    }
}

impl Pods for FakePods {
    fn pod(&self, namespace: &str, name: &str, uid: &str) -> Option<PodFacts> {
        let pods = self.0.lock();
        let (known, facts) = pods.get(&(namespace.to_owned(), name.to_owned()))?;
        (known == uid).then(|| facts.clone())
    }

    fn service_account_on_node(&self, node: &str, namespace: &str, service_account: &str) -> bool {
        self.0.lock().iter().any(|((ns, _), (_, facts))| {
            ns == namespace
                && *facts.node == *node
                && *facts.service_account == *service_account
                && !matches!(facts.phase, PodPhase::Failed | PodPhase::Succeeded)
        })
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    issuer: Issuer,
    verifier: JwksVerifier,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::new("one");
        let path = folder.path().join("jwks.json");
        std::fs::write(&path, issuer.jwks().to_string()).unwrap();
        let verifier = JwksVerifier::open(path, None).unwrap();
        Self {
            folder,
            issuer,
            verifier,
        }
    }

    async fn verify(&self, token: &str) -> Result<Caller, AuthError> {
        self.verifier.verify(token, SystemTime::now()).await
    }

    /// What becomes of a good token's claims after a change.
    async fn changed(&self, change: impl FnOnce(&mut Value)) -> Result<Caller, AuthError> {
        let mut claims = claims(&agent(), SystemTime::now() + Duration::from_secs(3600));
        change(&mut claims);
        self.verify(&self.issuer.sign(&claims)).await
    }
}

fn agent() -> Caller {
    caller("istio-system", "ztunnel", "ztunnel-1", "node-1")
}

#[tokio::test]
async fn good_token_names_its_bearer() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.verify(&fixture.issuer.token(&agent())).await.unwrap(),
        agent()
    );
    let one_audience = fixture.changed(|claims| claims["aud"] = json!(AUDIENCE)).await;
    assert_eq!(one_audience.unwrap(), agent());
}

#[tokio::test]
async fn claims_that_do_not_hold_are_refused() {
    let fixture = Fixture::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let long_ago = fixture.changed(|claims| claims["exp"] = json!(now - 3600)).await;
    assert_eq!(long_ago.unwrap_err(), AuthError::Expired);
    let future = fixture.changed(|claims| claims["nbf"] = json!(now + 3600)).await;
    assert_eq!(future.unwrap_err(), AuthError::NotYetValid);
    let audience = fixture.changed(|claims| claims["aud"] = json!(["vault"])).await;
    assert_eq!(audience.unwrap_err(), AuthError::Audience);
    for claim in ["exp", "aud", "sub", "kubernetes.io"] {
        let error = fixture
            .changed(|claims| _ = claims.as_object_mut().unwrap().remove(claim))
            .await
            .unwrap_err();
        assert!(
            matches!(error, AuthError::Claims(_) | AuthError::Audience),
            "{claim}: {error}"
        );
    }
    for claim in ["namespace", "serviceaccount", "pod"] {
        let remove = |claims: &mut Value| _ = claims["kubernetes.io"].as_object_mut().unwrap().remove(claim);
        let error = fixture.changed(remove).await.unwrap_err();
        assert!(matches!(error, AuthError::Claims(_)), "{claim}: {error}");
    }
    let other = fixture
        .changed(|claims| claims["sub"] = json!("system:serviceaccount:a:b"))
        .await;
    assert!(matches!(other.unwrap_err(), AuthError::Claims(_)));
}

#[tokio::test]
async fn forged_tokens_are_refused() {
    let fixture = Fixture::new();
    let good = fixture.issuer.token(&agent());
    assert_eq!(
        fixture
            .verify(&Issuer::new("one").token(&agent()))
            .await
            .unwrap_err(),
        AuthError::Signature
    );
    assert_eq!(
        fixture
            .verify(&Issuer::new("two").token(&agent()))
            .await
            .unwrap_err(),
        AuthError::UnknownKey
    );
    let mut parts: Vec<String> = good.split('.').map(str::to_owned).collect();
    parts[1] = URL_SAFE_NO_PAD.encode(claims(&caller("a", "b", "c", "d"), SystemTime::now()).to_string());
    assert_eq!(
        fixture.verify(&parts.join(".")).await.unwrap_err(),
        AuthError::Signature
    );
    for garbage in [
        "",
        "a",
        "a.b",
        "a.b.c",
        "....",
        &good[..good.len() / 2],
        &"x".repeat(10_000),
    ] {
        let error = fixture.verify(garbage).await.unwrap_err();
        assert!(matches!(error, AuthError::Malformed(_)), "{garbage}: {error}");
    }
}

#[tokio::test]
async fn the_key_decides_the_algorithm() {
    let fixture = Fixture::new();
    let good = fixture.issuer.token(&agent());
    let payload = good.split('.').nth(1).unwrap();
    // The public key as an HMAC secret: the classic confusion.
    let secret = EncodingKey::from_secret(fixture.issuer.key.der_bytes());
    let header = Header {
        kid: Some("one".into()),
        ..Header::new(Algorithm::HS256)
    };
    let claims = claims(&agent(), SystemTime::now() + Duration::from_secs(60));
    let confused = encode(&header, &claims, &secret).unwrap();
    assert_eq!(fixture.verify(&confused).await.unwrap_err(), AuthError::Algorithm);
    for header in [
        json!({"alg": "none", "kid": "one"}),
        json!({"alg": "RS256", "kid": "one"}),
    ] {
        let unsigned = format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(header.to_string()));
        let error = fixture.verify(&unsigned).await.unwrap_err();
        assert!(
            matches!(error, AuthError::Algorithm | AuthError::Malformed(_)),
            "{header}: {error}"
        );
    }
}

#[tokio::test]
async fn rsa_keys_sign_with_rs256_only() {
    let key = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let signing = EncodingKey::from_rsa_pem(key.serialize_pem().as_bytes()).unwrap();
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&signing, Algorithm::RS256).unwrap();
    let mut jwk = serde_json::to_value(jwk).unwrap();
    jwk["kid"] = json!("rsa");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    std::fs::write(&path, json!({"keys": [jwk]}).to_string()).unwrap();
    let verifier = JwksVerifier::open(path, None).unwrap();
    let claims = claims(&agent(), SystemTime::now() + Duration::from_secs(60));
    let sign = |algorithm: Algorithm, id: Option<&str>| {
        let header = Header {
            kid: id.map(str::to_owned),
            ..Header::new(algorithm)
        };
        encode(&header, &claims, &signing).unwrap()
    };
    let verify = async |token: String| verifier.verify(&token, SystemTime::now()).await;
    assert_eq!(
        verify(sign(Algorithm::RS256, Some("rsa"))).await.unwrap(),
        agent()
    );
    // Without a key id, the only key of the algorithm is meant.
    assert_eq!(verify(sign(Algorithm::RS256, None)).await.unwrap(), agent());
    assert_eq!(
        verify(sign(Algorithm::RS512, Some("rsa"))).await.unwrap_err(),
        AuthError::Algorithm
    );
}

#[tokio::test]
async fn replaced_keys_are_read_again_and_bad_ones_are_not_taken() {
    let fixture = Fixture::new();
    let path = fixture.folder.path().join("jwks.json");
    let replace = |text: &str| {
        let next = fixture.folder.path().join("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, &path).unwrap();
    };
    replace("{\"keys\": [");
    assert!(fixture.verify(&fixture.issuer.token(&agent())).await.is_ok());
    let second = Issuer::new("two");
    replace(&second.jwks().to_string());
    assert!(fixture.verify(&second.token(&agent())).await.is_ok());
    assert_eq!(
        fixture.verify(&fixture.issuer.token(&agent())).await.unwrap_err(),
        AuthError::UnknownKey
    );
}

#[test]
fn key_files_without_a_usable_key_are_refused_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let check = |text: &str, want: &str| {
        let path = folder.path().join("jwks.json");
        std::fs::write(&path, text).unwrap();
        let Err(error) = JwksVerifier::open(path, None) else {
            panic!("{text} was taken")
        };
        assert!(
            error.to_string().contains(want) || std::error::Error::source(&error).is_some(),
            "{error}"
        );
    };
    check("", "not a JSON Web Key Set");
    check("{\"keys\": []}", "holds no key");
    check(
        "{\"keys\": [{\"kty\": \"oct\", \"k\": \"AAAA\"}]}",
        "holds no key",
    );
    assert!(JwksVerifier::open(folder.path().join("absent"), None).is_err());
}

async fn authenticate(values: &[&str], pods: FakePods) -> Result<Authenticated, AuthError> {
    let fixture = Fixture::new();
    let good = fixture.issuer.token(&agent());
    let mut metadata = MetadataMap::new();
    for value in values {
        metadata.append("authorization", value.replace("TOKEN", &good).parse().unwrap());
    }
    let authenticator = Authenticator::new(
        Arc::new(fixture.verifier),
        Arc::new(pods),
        TrustedNodeAccounts::default(),
    );
    authenticator.authenticate(&metadata, SystemTime::now()).await
}

#[tokio::test]
async fn one_bearer_token_is_wanted() {
    let pods = || {
        let pods = FakePods::default();
        pods.add(&agent(), &[]);
        pods
    };
    assert!(authenticate(&["Bearer TOKEN"], pods()).await.is_ok());
    assert!(authenticate(&["bearer TOKEN"], pods()).await.is_ok());
    assert_eq!(authenticate(&[], pods()).await.unwrap_err(), AuthError::NoToken);
    for bad in [
        &["TOKEN"][..],
        &["Basic TOKEN"],
        &["Bearer "],
        &["Bearer TOKEN", "Bearer TOKEN"],
    ] {
        assert_eq!(
            authenticate(bad, pods()).await.unwrap_err(),
            AuthError::NotBearer,
            "{bad:?}"
        );
    }
}

#[tokio::test]
async fn the_pod_object_outweighs_the_token() {
    let check = async |change: fn(&mut Caller), phase: PodPhase, want: &str| {
        let mut object = agent();
        change(&mut object);
        let pods = FakePods::default();
        pods.add(&object, &[]);
        pods.set_phase(&object, phase);
        let error = authenticate(&["Bearer TOKEN"], pods)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(want), "{error}");
    };
    check(
        |pod| pod.pod_uid = "another".into(),
        PodPhase::Running,
        "is not known here",
    )
    .await;
    check(
        |pod| pod.service_account = "other".into(),
        PodPhase::Running,
        "service account",
    )
    .await;
    check(
        |pod| pod.node_name = "node-2".into(),
        PodPhase::Running,
        "not on the node",
    )
    .await;
    check(|_| {}, PodPhase::Failed, "has ended").await;
}

#[test]
fn node_ids_must_agree_with_the_pod() {
    let trusted = TrustedNodeAccounts::new(["istio-system/ztunnel".to_owned()]);
    let check = |account: &str, labels: &[(&str, &str)], id: &str| {
        let caller = caller("istio-system", account, "p", "node-1");
        let pods = FakePods::default();
        pods.add(&caller, labels);
        let pod = pods.pod("istio-system", "p", "uid-p").unwrap();
        identify(&Authenticated { caller, pod }, id, &trusted).map(|client| client.proxy_type)
    };
    let waypoint = [("gateway.networking.k8s.io/gateway-class-name", "istio-waypoint")];
    assert_eq!(
        check("ztunnel", &[], "ztunnel~1.1.1.1~p.istio-system~d"),
        Ok(ProxyType::Agent)
    );
    assert_eq!(
        check("w", &waypoint, "waypoint~1.1.1.1~p.istio-system~d"),
        Ok(ProxyType::Waypoint)
    );
    assert_eq!(
        check("g", &[], "router~1.1.1.1~p.istio-system~d"),
        Ok(ProxyType::Gateway)
    );
    let refused = |result: Result<ProxyType, NodeError>| result.unwrap_err();
    assert_eq!(refused(check("ztunnel", &[], "")), NodeError::Missing);
    assert!(matches!(
        refused(check("ztunnel", &[], "ztunnel")),
        NodeError::Form(_)
    ));
    assert!(matches!(
        refused(check("ztunnel", &[], "sidecar~1~p.istio-system~d")),
        NodeError::Form(_)
    ));
    assert!(matches!(
        refused(check("ztunnel", &[], "ztunnel~1~q.istio-system~d")),
        NodeError::OtherPod { .. }
    ));
    assert!(matches!(
        refused(check("default", &[], "ztunnel~1~p.istio-system~d")),
        NodeError::NotAgent(_)
    ));
    assert!(matches!(
        refused(check("w", &[], "waypoint~1~p.istio-system~d")),
        NodeError::NotWaypoint(_)
    ));
    assert!(matches!(
        refused(check("w", &waypoint, "router~1~p.istio-system~d")),
        NodeError::IsWaypoint(_)
    ));
}
