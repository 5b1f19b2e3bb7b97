//! What a projected service account token says.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::{AUDIENCE, AuthError, Caller};

/// For clocks that disagree a little.
const LEEWAY: Duration = Duration::from_secs(60);

/// The claims of a token bound to a pod.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    aud: Audience,
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    exp: Option<u64>,
    nbf: Option<u64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
}

/// RFC 7519 section 4.1.3: one string or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Default for Audience {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Audience {
    fn contains(&self, wanted: &str) -> bool {
        match self {
            Self::One(audience) => audience == wanted,
            Self::Several(audiences) => audiences.iter().any(|audience| audience == wanted),
        }
    }
}

#[derive(Debug, Deserialize)]
struct Kubernetes {
    #[serde(default)]
    namespace: String,
    serviceaccount: Option<Reference>,
    pod: Option<Reference>,
    node: Option<Reference>,
}

#[derive(Debug, Default, Deserialize)]
struct Reference {
    #[serde(default)]
    name: String,
    #[serde(default)]
    uid: String,
}

impl Claims {
    /// The bearer, where every claim holds at `now`.
    pub(super) fn into_caller(self, issuer: Option<&str>, now: SystemTime) -> Result<Caller, AuthError> {
        self.check_times(now)?;
        if !self.aud.contains(AUDIENCE) {
            return Err(AuthError::Audience);
        }
        if issuer.is_some_and(|issuer| issuer != self.iss) {
            return Err(AuthError::Issuer);
        }
        let kubernetes = self.kubernetes.ok_or_else(|| missing("kubernetes.io"))?;
        caller(&self.sub, kubernetes)
    }

    fn check_times(&self, now: SystemTime) -> Result<(), AuthError> {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let expiry = self.exp.ok_or_else(|| missing("exp"))?;
        if now >= Duration::from_secs(expiry).saturating_add(LEEWAY) {
            return Err(AuthError::Expired);
        }
        if self
            .nbf
            .is_some_and(|start| now.saturating_add(LEEWAY) < Duration::from_secs(start))
        {
            return Err(AuthError::NotYetValid);
        }
        Ok(())
    }
}

/// What a token says of itself, for refusing what is plainly not for the mesh; the end of its life. It proves nothing.
pub(super) fn unverified(token: &str, now: SystemTime) -> Result<SystemTime, AuthError> {
    let malformed = |what: &str| AuthError::Malformed(what.to_owned());
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed("it has not the three parts of one"));
    };
    let json = URL_SAFE_NO_PAD
        .decode(payload)
        .map_err(|_| malformed("its claims are not base64url"))?;
    let claims: Claims =
        serde_json::from_slice(&json).map_err(|_| malformed("its claims are not the expected JSON"))?;
    claims.check_times(now)?;
    if !claims.aud.contains(AUDIENCE) {
        return Err(AuthError::Audience);
    }
    let expiry = Duration::from_secs(claims.exp.unwrap_or_default());
    Ok(SystemTime::UNIX_EPOCH.checked_add(expiry).unwrap_or(now))
}

fn caller(subject: &str, claims: Kubernetes) -> Result<Caller, AuthError> {
    let account = claims.serviceaccount.unwrap_or_default();
    let pod = claims.pod.unwrap_or_default();
    let node = claims.node.unwrap_or_default();
    if subject != format!("system:serviceaccount:{}:{}", claims.namespace, account.name) {
        return Err(AuthError::Claims(
            "its subject and its kubernetes.io claims disagree".to_owned(),
        ));
    }
    Ok(Caller {
        namespace: present("kubernetes.io.namespace", claims.namespace)?,
        service_account: present("kubernetes.io.serviceaccount.name", account.name)?,
        pod_name: present("kubernetes.io.pod.name", pod.name)?,
        pod_uid: present("kubernetes.io.pod.uid", pod.uid)?,
        node_name: node.name.into(),
        node_uid: node.uid.into(),
    })
}

fn present(claim: &str, value: String) -> Result<Arc<str>, AuthError> {
    if value.is_empty() {
        Err(missing(claim))
    } else {
        Ok(value.into())
    }
}

fn missing(claim: &str) -> AuthError {
    AuthError::Claims(format!("claim {claim} is missing"))
}
