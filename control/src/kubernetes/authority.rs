//! The certificate authority's key in a Secret: `cacerts` if somebody gave one, else `istio-ca-secret`, made once.
//!
//! Names and keys are Istio's, so that identities stay valid for those who come from there.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use aquifer_core::identity::TrustDomain;
use aquifer_identity::CertificateAuthority;
use aquifer_identity::authority::{AuthorityFiles, LoadError, SignRequestError};
use futures_util::{StreamExt, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, Patch, PatchParams};
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client};
use zeroize::Zeroizing;

use crate::kubernetes::backoff::Backoff;
use crate::kubernetes::{MADE_BY, MADE_BY_LABEL, code, explain};

const GIVEN: &str = "cacerts";
const MADE: &str = "istio-ca-secret";
const CA_CERT: &str = "ca-cert.pem";
const CA_KEY: &str = "ca-key.pem";
const CERT_CHAIN: &str = "cert-chain.pem";
const ROOT_CERT: &str = "root-cert.pem";

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum NotThere {
    #[error("cannot read or write secret {secret}: {}", explain(.source))]
    Api {
        secret: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("secret {secret} cannot be used: {source}")]
    Unusable {
        secret: String,
        #[source]
        source: UnusableSecret,
    },
    #[error("cannot make a certificate authority: {0}")]
    Make(#[from] SignRequestError),
    #[error("another replica has just made secret {secret}; reading it")]
    Overtaken { secret: String },
}

#[derive(Debug, thiserror::Error)]
pub enum UnusableSecret {
    #[error("it has no key {key}; Istio's are {CA_CERT}, {CA_KEY}, {CERT_CHAIN} and {ROOT_CERT}")]
    Missing { key: &'static str },
    #[error("its key {key} is not text")]
    NotText { key: &'static str },
    #[error(transparent)]
    Load(#[from] LoadError),
}

pub struct AuthoritySecrets {
    secrets: Api<Secret>,
    namespace: String,
    /// A name that no other replica has.
    replica: String,
    trust_domain: TrustDomain,
}

impl AuthoritySecrets {
    pub fn new(client: Client, namespace: &str, replica: &str, trust_domain: TrustDomain) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            replica: replica.to_owned(),
            trust_domain,
        }
    }

    pub async fn load_or_create(&self) -> Result<CertificateAuthority, NotThere> {
        for name in [GIVEN, MADE] {
            if let Some(secret) = self.find(name).await? {
                tracing::info!(secret = self.path(name), "certificate authority loaded");
                return self.load(name, &secret);
            }
        }
        self.create().await
    }

    /// Returns once the Secrets hold another authority than `current`, and one that can be used.
    pub async fn replaced(&self, current: &CertificateAuthority) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let named = |name: &str| Config::default().fields(&format!("metadata.name={name}"));
        let mut events = pin!(stream::select(
            watcher(self.secrets.clone(), named(GIVEN)),
            watcher(self.secrets.clone(), named(MADE)),
        ));
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::InitDone | Event::Apply(_)) => {
                    backoff.reset();
                    if self.differs(current).await {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(%error, "cannot watch the authority's secrets; trying again");
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
        }
    }

    /// A Secret that is gone or broken changes nothing: the authority in memory goes on.
    async fn differs(&self, current: &CertificateAuthority) -> bool {
        for name in [GIVEN, MADE] {
            match self.find(name).await {
                Ok(None) => {}
                Ok(Some(secret)) => return self.is_other(name, &secret, current),
                Err(error) => {
                    tracing::warn!(%error, "cannot look for a new authority");
                    return false;
                }
            }
        }
        false
    }

    fn is_other(&self, name: &str, secret: &Secret, current: &CertificateAuthority) -> bool {
        match self.load(name, secret) {
            Ok(new) => {
                let (new, old) = (new.files(), current.files());
                (&new.ca_cert, &new.cert_chain, &new.root_cert)
                    != (&old.ca_cert, &old.cert_chain, &old.root_cert)
            }
            Err(error) => {
                tracing::warn!(%error, "a new authority cannot be used; the old one stays in effect");
                false
            }
        }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.namespace)
    }

    fn api_error(&self, name: &str, source: kube::Error) -> NotThere {
        NotThere::Api {
            secret: self.path(name),
            source: Box::new(source),
        }
    }

    /// By a list of one name: the role allows no other way to read.
    async fn find(&self, name: &str) -> Result<Option<Secret>, NotThere> {
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = self.secrets.list(&named).await;
        let found = found.map_err(|error| self.api_error(name, error))?;
        Ok(found.items.into_iter().next())
    }

    fn load(&self, name: &str, secret: &Secret) -> Result<CertificateAuthority, NotThere> {
        let unusable = |source| NotThere::Unusable {
            secret: self.path(name),
            source,
        };
        let files = files(secret).map_err(unusable)?;
        CertificateAuthority::from_pem(&files, self.trust_domain.clone(), SystemTime::now())
            .map_err(|error| unusable(error.into()))
    }

    /// Two replicas may get here at once: the fields belong to whoever is first, and the other one is refused.
    async fn create(&self) -> Result<CertificateAuthority, NotThere> {
        let authority = CertificateAuthority::new_self_signed(self.trust_domain.clone(), SystemTime::now())?;
        let manager: String = format!("aquifer-ca-{}", self.replica).chars().take(128).collect();
        let secret = secret(&authority.files());
        let patch = Patch::Apply(&secret);
        match self
            .secrets
            .patch(MADE, &PatchParams::apply(&manager), &patch)
            .await
        {
            Ok(_) => {
                tracing::info!(secret = self.path(MADE), "certificate authority made");
                Ok(authority)
            }
            Err(error) if code(&error) == Some(409) => Err(NotThere::Overtaken {
                secret: self.path(MADE),
            }),
            Err(error) => Err(self.api_error(MADE, error)),
        }
    }
}

fn files(secret: &Secret) -> Result<AuthorityFiles, UnusableSecret> {
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let text = |key: &'static str| match data.get(key) {
        None => Err(UnusableSecret::Missing { key }),
        Some(ByteString(bytes)) => {
            String::from_utf8(bytes.clone()).map_err(|_| UnusableSecret::NotText { key })
        }
    };
    let ca_cert = text(CA_CERT)?;
    // Istio's own secret has neither: its certificate is its root.
    let or_none = |found: Result<String, UnusableSecret>| match found {
        Err(UnusableSecret::Missing { .. }) => Ok(String::new()),
        other => other,
    };
    let (cert_chain, root) = (or_none(text(CERT_CHAIN))?, or_none(text(ROOT_CERT))?);
    let root_cert = if root.trim().is_empty() {
        ca_cert.clone()
    } else {
        root
    };
    let ca_key = Zeroizing::new(text(CA_KEY)?);
    Ok(AuthorityFiles {
        ca_cert,
        ca_key,
        cert_chain,
        root_cert,
    })
}

fn secret(files: &AuthorityFiles) -> Secret {
    let entries = [
        (CA_CERT, &files.ca_cert),
        (CA_KEY, &*files.ca_key),
        (CERT_CHAIN, &files.cert_chain),
        (ROOT_CERT, &files.root_cert),
    ];
    let data = entries.map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())));
    Secret {
        metadata: ObjectMeta {
            name: Some(MADE.to_owned()),
            labels: Some([(MADE_BY_LABEL.to_owned(), MADE_BY.to_owned())].into()),
            ..ObjectMeta::default()
        },
        type_: Some("istio.io/ca-root".to_owned()),
        data: Some(data.into()),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> TrustDomain {
        "cluster.local".parse().unwrap()
    }

    #[test]
    fn what_is_made_can_be_loaded() {
        let now = SystemTime::now();
        let authority = CertificateAuthority::new_self_signed(domain(), now).unwrap();
        let mut secret = secret(&authority.files());
        let again = CertificateAuthority::from_pem(&files(&secret).unwrap(), domain(), now).unwrap();
        assert_eq!(again.roots_pem(), authority.roots_pem());
        // As Istio's own has it.
        secret.data.as_mut().unwrap().remove(ROOT_CERT);
        secret.data.as_mut().unwrap().remove(CERT_CHAIN);
        let again = CertificateAuthority::from_pem(&files(&secret).unwrap(), domain(), now).unwrap();
        assert_eq!(again.roots_pem(), authority.roots_pem());
    }

    #[test]
    fn says_which_key_is_missing() {
        let authority = CertificateAuthority::new_self_signed(domain(), SystemTime::now()).unwrap();
        let mut secret = secret(&authority.files());
        secret
            .data
            .as_mut()
            .unwrap()
            .insert(CA_KEY.to_owned(), ByteString(vec![0xff]));
        assert!(matches!(
            files(&secret),
            Err(UnusableSecret::NotText { key: CA_KEY })
        ));
        secret.data.as_mut().unwrap().remove(CA_KEY);
        assert!(matches!(
            files(&secret),
            Err(UnusableSecret::Missing { key: CA_KEY })
        ));
        assert!(matches!(
            files(&Secret::default()),
            Err(UnusableSecret::Missing { key: CA_CERT })
        ));
    }
}
