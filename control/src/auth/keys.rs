//! The keys that tokens are signed with, as a JSON Web Key Set (RFC 7517).

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Header};

use super::AuthError;

/// A key set rotates a handful of keys.
const MAX_KEYS: usize = 100;

#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    #[error("not a JSON Web Key Set: {0}")]
    Json(#[from] serde_json::Error),
    #[error("holds {0} keys; at most {MAX_KEYS} are read")]
    TooMany(usize),
    #[error("holds no key that tokens are signed with; ES256 (EC P-256) and RS256 (RSA) are supported")]
    Empty,
    #[error("key {id:?} cannot be used: {reason}")]
    Key { id: String, reason: String },
}

/// One key and the only algorithm that it may be used with.
///
/// The algorithm comes from the key and never from the token, or a token could name HMAC and use the public key as
/// its secret.
pub(super) struct VerificationKey {
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

pub(super) struct KeySet(Vec<VerificationKey>);

impl KeySet {
    /// Keys for other purposes or of other algorithms are skipped.
    pub(super) fn parse(json: &[u8]) -> Result<Self, KeySetError> {
        let set: JwkSet = serde_json::from_slice(json)?;
        if set.keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany(set.keys.len()));
        }
        let keys: Vec<_> = set
            .keys
            .iter()
            .filter_map(|jwk| verification_key(jwk).transpose())
            .collect::<Result<_, _>>()?;
        if keys.is_empty() {
            Err(KeySetError::Empty)
        } else {
            Ok(Self(keys))
        }
    }

    /// The key that a token's header names; without a key id, the only key of its algorithm.
    pub(super) fn find(&self, header: &Header) -> Result<&VerificationKey, AuthError> {
        let key = match &header.kid {
            Some(id) => self.0.iter().find(|key| key.id.as_ref() == Some(id)),
            None => self.only(header.alg),
        };
        let key = key.ok_or(AuthError::UnknownKey)?;
        if key.algorithm == header.alg {
            Ok(key)
        } else {
            Err(AuthError::Algorithm)
        }
    }

    fn only(&self, algorithm: Algorithm) -> Option<&VerificationKey> {
        let mut same = self.0.iter().filter(|key| key.algorithm == algorithm);
        let first = same.next();
        if same.next().is_some() { None } else { first }
    }
}

fn verification_key(jwk: &Jwk) -> Result<Option<VerificationKey>, KeySetError> {
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return Ok(None);
    }
    let Some(algorithm) = algorithm(jwk) else {
        return Ok(None);
    };
    let id = jwk.common.key_id.clone();
    let decoding = DecodingKey::from_jwk(jwk).map_err(|error| KeySetError::Key {
        id: id.clone().unwrap_or_default(),
        reason: error.to_string(),
    })?;
    Ok(Some(VerificationKey {
        id,
        algorithm,
        decoding,
    }))
}

fn algorithm(jwk: &Jwk) -> Option<Algorithm> {
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        _ => return None,
    };
    jwk.common
        .key_algorithm
        .is_none_or(|stated| stated == name)
        .then_some(algorithm)
}
