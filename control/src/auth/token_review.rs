//! Token verification by asking the API server (TokenReview).
//!
//! The API server alone knows whether a token's pod and service account still exist, and its word counts. Its answers
//! are remembered for a short while, by a hash of the token and never the token; what cannot be a token for the mesh is
//! refused without asking.

mod cache;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;

use super::claims::unverified;
use super::{AUDIENCE, AuthError, Caller, TokenVerifier};
use crate::kubernetes::explain;
use cache::{Cache, Key};

/// Questions under way at once: a flood of made-up tokens must not become one at the API server.
const AT_ONCE: usize = 16;
const TIMEOUT: Duration = Duration::from_secs(5);
const EXTRA: &str = "authentication.kubernetes.io/";

pub struct TokenReviewVerifier {
    reviews: Api<TokenReview>,
    cache: Cache,
    under_way: Semaphore,
}

impl TokenReviewVerifier {
    pub fn new(client: Client) -> Self {
        Self {
            reviews: Api::all(client),
            cache: Cache::default(),
            under_way: Semaphore::new(AT_ONCE),
        }
    }

    async fn ask(&self, token: &str) -> Result<Caller, AuthError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![AUDIENCE.to_owned()]),
            },
            ..TokenReview::default()
        };
        let parameters = PostParams::default();
        let asked = tokio::time::timeout(TIMEOUT, self.reviews.create(&parameters, &review)).await;
        let answer = match asked {
            Err(_) => {
                return Err(AuthError::Unavailable(
                    "the API server does not answer".to_owned(),
                ));
            }
            Ok(Err(error)) => return Err(AuthError::Unavailable(explain(&error))),
            Ok(Ok(answer)) => answer,
        };
        caller(answer.status.unwrap_or_default())
    }
}

#[async_trait]
impl TokenVerifier for TokenReviewVerifier {
    async fn verify(&self, token: &str, now: SystemTime) -> Result<Caller, AuthError> {
        let expiry = unverified(token, now)?;
        let key = Key::of(token);
        if let Some(known) = self.cache.get(&key, now) {
            return known;
        }
        let ended = |_| AuthError::Unavailable("the control plane is ending".to_owned());
        let _permit = self.under_way.acquire().await.map_err(ended)?;
        // Another call with the same token may have asked meanwhile.
        if let Some(known) = self.cache.get(&key, now) {
            return known;
        }
        let answer = self.ask(token).await;
        self.cache.put(key, &answer, expiry, now);
        answer
    }
}

fn caller(status: TokenReviewStatus) -> Result<Caller, AuthError> {
    if status.authenticated != Some(true) {
        return Err(AuthError::NotAuthenticated);
    }
    // An API server that knows no audiences answers without any: then the token may be for anybody.
    if !status.audiences.unwrap_or_default().iter().any(|a| a == AUDIENCE) {
        return Err(AuthError::Audience);
    }
    from_user(status.user.unwrap_or_default())
}

fn from_user(user: UserInfo) -> Result<Caller, AuthError> {
    let name = user.username.unwrap_or_default();
    let account = name
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
        .filter(|(namespace, account)| !namespace.is_empty() && !account.is_empty());
    let Some((namespace, service_account)) = account else {
        return Err(AuthError::Claims("it is not one of a service account".to_owned()));
    };
    let extra = user.extra.unwrap_or_default();
    Ok(Caller {
        namespace: namespace.into(),
        service_account: service_account.into(),
        pod_name: required(&extra, "pod-name")?,
        pod_uid: required(&extra, "pod-uid")?,
        node_name: optional(&extra, "node-name"),
        node_uid: optional(&extra, "node-uid"),
    })
}

fn optional(extra: &BTreeMap<String, Vec<String>>, name: &str) -> Arc<str> {
    let values = extra.get(&format!("{EXTRA}{name}"));
    values
        .and_then(|v| v.first())
        .map_or_else(|| "".into(), |v| v.as_str().into())
}

fn required(extra: &BTreeMap<String, Vec<String>>, name: &str) -> Result<Arc<str>, AuthError> {
    let value = optional(extra, name);
    if value.is_empty() {
        return Err(AuthError::Claims(format!(
            "it is not bound to a pod: no {EXTRA}{name}"
        )));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> TokenReviewStatus {
        let extra = [
            ("pod-name", "p"),
            ("pod-uid", "u"),
            ("node-name", "n"),
            ("node-uid", "m"),
        ];
        let extra = extra.map(|(k, v)| (format!("{EXTRA}{k}"), vec![v.to_owned()]));
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![AUDIENCE.to_owned()]),
            user: Some(UserInfo {
                username: Some("system:serviceaccount:ns:sa".to_owned()),
                extra: Some(extra.into()),
                ..UserInfo::default()
            }),
            ..TokenReviewStatus::default()
        }
    }

    #[test]
    fn the_answer_gives_what_the_claims_would() {
        let caller = caller(status()).unwrap();
        assert_eq!((&*caller.namespace, &*caller.service_account), ("ns", "sa"));
        assert_eq!((&*caller.pod_name, &*caller.pod_uid), ("p", "u"));
        assert_eq!((&*caller.node_name, &*caller.node_uid), ("n", "m"));
    }

    #[test]
    fn every_gap_is_a_refusal() {
        let refused = |change: fn(&mut TokenReviewStatus)| {
            let mut status = status();
            change(&mut status);
            caller(status).unwrap_err()
        };
        assert_eq!(refused(|s| s.authenticated = None), AuthError::NotAuthenticated);
        assert_eq!(refused(|s| s.audiences = None), AuthError::Audience);
        assert_eq!(
            refused(|s| s.audiences = Some(vec!["api".to_owned()])),
            AuthError::Audience
        );
        assert!(matches!(refused(|s| s.user = None), AuthError::Claims(_)));
        assert!(matches!(
            refused(|s| s.user.as_mut().unwrap().extra = None),
            AuthError::Claims(_)
        ));
        let admin = |s: &mut TokenReviewStatus| s.user.as_mut().unwrap().username = Some("admin".to_owned());
        assert!(matches!(refused(admin), AuthError::Claims(_)));
        let half = |s: &mut TokenReviewStatus| {
            s.user.as_mut().unwrap().username = Some("system:serviceaccount:ns:".to_owned());
        };
        assert!(matches!(refused(half), AuthError::Claims(_)));
    }
}
