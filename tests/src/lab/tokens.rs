//! Service account tokens: the lab plays the API server's token issuer with a key of its own.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;
use thiserror::Error;

/// Lifetime of a token; refreshed when four fifths of it are over.
pub(super) const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
pub(super) const REFRESH_AFTER: Duration = Duration::from_secs(2880);
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// What the control plane wants to see.
pub(super) const MESH_AUDIENCE: &str = "istio-ca";
pub(super) const API_AUDIENCE: &str = ISSUER;

#[derive(Debug, Error)]
pub(super) enum TokenError {
    #[error("cannot make a P-256 key for service account tokens")]
    Key,
    #[error("cannot sign a service account token: {0}")]
    Sign(#[from] jsonwebtoken::errors::Error),
    #[error("cannot write the token keys: {0}")]
    Write(#[from] std::io::Error),
}

/// The signing key of one lab.
pub(super) struct TokenIssuer {
    key: EncodingKey,
    key_set: String,
}

const KEY_ID: &str = "lab";

/// Whom a token speaks for: a pod on a node under a service account.
pub(super) struct TokenSubject<'a> {
    pub(super) namespace: &'a str,
    pub(super) pod: (&'a str, &'a str),
    pub(super) service_account: (&'a str, &'a str),
    pub(super) node: (&'a str, &'a str),
}

impl TokenIssuer {
    pub(super) fn generate() -> Result<Self, TokenError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| TokenError::Key)?;
        let private = pair.to_pkcs8v1().map_err(|_| TokenError::Key)?;
        // Uncompressed point: 0x04, then 32 bytes each of x and y.
        let point = pair.public_key().as_ref();
        let (x, y) = (point.get(1..33), point.get(33..65));
        let (Some(x), Some(y)) = (x, y) else {
            return Err(TokenError::Key);
        };
        Ok(Self {
            key: EncodingKey::from_ec_der(private.as_ref()),
            key_set: key_set(x, y),
        })
    }

    /// Writes the public half as a JSON Web Key Set.
    pub(super) fn write_key_set(&self, path: &Path) -> Result<(), TokenError> {
        Ok(super::store::replace_file(path, self.key_set.as_bytes())?)
    }

    pub(super) fn sign(
        &self,
        subject: &TokenSubject<'_>,
        audience: &str,
        now: SystemTime,
    ) -> Result<String, TokenError> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(KEY_ID.to_owned());
        Ok(jsonwebtoken::encode(
            &header,
            &claims(subject, audience, now),
            &self.key,
        )?)
    }
}

fn key_set(x: &[u8], y: &[u8]) -> String {
    let key = json!({
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    });
    json!({ "keys": [key] }).to_string()
}

fn claims(subject: &TokenSubject<'_>, audience: &str, now: SystemTime) -> serde_json::Value {
    let issued = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| passed.as_secs());
    let named = |(name, uid): (&str, &str)| json!({ "name": name, "uid": uid });
    json!({
        "aud": [audience],
        "iss": ISSUER,
        "iat": issued,
        "nbf": issued,
        "exp": issued + TOKEN_LIFETIME.as_secs(),
        "sub": format!("system:serviceaccount:{}:{}", subject.namespace, subject.service_account.0),
        "kubernetes.io": {
            "namespace": subject.namespace,
            "node": named(subject.node),
            "pod": named(subject.pod),
            "serviceaccount": named(subject.service_account),
        },
    })
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;

    #[test]
    fn tokens_verify_against_the_key_set() {
        let issuer = TokenIssuer::generate().unwrap();
        let subject = TokenSubject {
            namespace: "default",
            pod: ("web-1", "pod-uid"),
            service_account: ("web", "sa-uid"),
            node: ("node-1", "node-uid"),
        };
        let token = issuer.sign(&subject, MESH_AUDIENCE, SystemTime::now()).unwrap();
        let set: JwkSet = serde_json::from_str(&issuer.key_set).unwrap();
        let key = DecodingKey::from_jwk(set.find(KEY_ID).unwrap()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[MESH_AUDIENCE]);
        let decoded = jsonwebtoken::decode::<serde_json::Value>(&token, &key, &validation).unwrap();
        assert_eq!(decoded.claims["sub"], "system:serviceaccount:default:web");
        assert_eq!(decoded.claims["kubernetes.io"]["pod"]["uid"], "pod-uid");
    }
}
