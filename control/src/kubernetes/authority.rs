//! The certificate authority's key in a Secret: `cacerts` if somebody gave one, else `istio-ca-secret`, made once.
//!
//! Names and keys are Istio's, so that identities stay valid for those who come from there. Who signs and what is trusted
//! meanwhile stands in a Secret of the mesh's own, with the key of an authority that was replaced for as long as it signs.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer_core::identity::TrustDomain;
use aquifer_identity::CertificateAuthority;
use aquifer_identity::authority::{AuthorityFiles, LoadError};
use aquifer_identity::succession::Succession;
use async_trait::async_trait;
use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use k8s_openapi::api::events::v1::Event as K8sEvent;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Config, Event, watcher};
use kube::{Api, Client};
use serde::Serialize;
use serde_json::json;
use zeroize::Zeroizing;

use crate::authority::{AuthorityStore, Notice, StoreError, Stored, Wanted, decode, encode};
use crate::kubernetes::backoff::Backoff;
use crate::kubernetes::{FIELD_MANAGER, MADE_BY, MADE_BY_LABEL, code, explain};
use crate::sink::kubernetes::{Desk, event};

const GIVEN: &str = "cacerts";
const MADE: &str = "istio-ca-secret";
const CA_CERT: &str = "ca-cert.pem";
const CA_KEY: &str = "ca-key.pem";
const CERT_CHAIN: &str = "cert-chain.pem";
const ROOT_CERT: &str = "root-cert.pem";

const STATE: &str = "aquifer-ca-state";
/// In the state's Secret: who signs and what is trusted.
const SUCCESSION: &str = "succession.json";
/// On the Secret of an authority that the mesh made: somebody asks for the next one.
pub const RENEW: &str = "aquifer.io/renew";

#[derive(Debug, thiserror::Error)]
pub enum UnusableSecret {
    #[error("it has no key {key}; Istio's are {CA_CERT}, {CA_KEY}, {CERT_CHAIN} and {ROOT_CERT}")]
    Missing { key: &'static str },
    #[error("its key {key} is not text")]
    NotText { key: &'static str },
    #[error(transparent)]
    Load(#[from] LoadError),
}

type Watches = Pin<Box<dyn Stream<Item = Result<Event<Secret>, watcher::Error>> + Send>>;

pub struct AuthoritySecrets {
    secrets: Secrets,
    client: Client,
    desk: Arc<Desk>,
    watches: Watches,
    backoff: Backoff,
}

/// The Secrets, as they are read and written.
struct Secrets {
    api: Api<Secret>,
    namespace: String,
    /// A name that no other replica has.
    replica: String,
    trust_domain: TrustDomain,
}

impl AuthoritySecrets {
    /// Roots are published through `desk`.
    pub fn new(
        client: Client,
        namespace: &str,
        replica: &str,
        trust_domain: TrustDomain,
        desk: Arc<Desk>,
    ) -> Self {
        let api = Api::namespaced(client.clone(), namespace);
        Self {
            watches: watches(&api),
            secrets: Secrets {
                api,
                namespace: namespace.to_owned(),
                replica: replica.to_owned(),
                trust_domain,
            },
            client,
            desk,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
        }
    }

    /// Makes an authority where there is none, neither wanted nor in effect.
    pub async fn make_first(&self) -> Result<(), StoreError> {
        for name in [GIVEN, MADE] {
            if self.secrets.find(name).await?.is_some() {
                return Ok(());
            }
        }
        // Somebody has deleted the Secret of an authority that signs on.
        let state = self.secrets.find(STATE).await?;
        if state.is_some_and(|secret| has(&secret, CA_KEY)) {
            return Ok(());
        }
        self.secrets.create().await
    }
}

impl Secrets {
    fn path(&self, name: &str) -> String {
        format!("secret {}/{name}", self.namespace)
    }

    fn failed(&self, name: &str, error: &kube::Error) -> StoreError {
        StoreError {
            place: self.path(name),
            cause: explain(error),
        }
    }

    /// By a list of one name: the role allows no other way to read.
    async fn find(&self, name: &str) -> Result<Option<Secret>, StoreError> {
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let found = self.api.list(&named).await;
        let found = found.map_err(|error| self.failed(name, &error))?;
        Ok(found.items.into_iter().next())
    }

    async fn patch<P: Serialize + Debug + Sync>(
        &self,
        name: &str,
        parameters: &PatchParams,
        patch: &Patch<P>,
    ) -> Result<(), StoreError> {
        let written = self.api.patch(name, parameters, patch).await;
        written.map(drop).map_err(|error| self.failed(name, &error))
    }

    fn load(&self, secret: &Secret) -> Result<CertificateAuthority, UnusableSecret> {
        let files = files(secret)?;
        let authority = CertificateAuthority::from_pem(&files, self.trust_domain.clone(), SystemTime::now())?;
        Ok(authority)
    }

    /// The first Secret that is there decides, also where it cannot be used: nobody falls back in silence.
    async fn wanted(&self) -> Result<Result<Wanted, String>, StoreError> {
        for name in [GIVEN, MADE] {
            let Some(secret) = self.find(name).await? else {
                continue;
            };
            return Ok(match self.load(&secret) {
                Ok(authority) => Ok(Wanted {
                    made: name == MADE && authority.is_self_signed(),
                    renew: asks_for_renewal(&secret),
                    authority,
                    origin: self.path(name),
                }),
                Err(error) => Err(format!("{} cannot be used: {error}", self.path(name))),
            });
        }
        Ok(Err(format!(
            "there is neither {} nor {}",
            self.path(GIVEN),
            self.path(MADE)
        )))
    }

    fn succession(&self, secret: &Secret) -> Option<Succession> {
        let text = secret.data.as_ref()?.get(SUCCESSION)?;
        match decode(&String::from_utf8_lossy(&text.0)) {
            Ok(succession) => Some(succession),
            Err(error) => {
                tracing::warn!(secret = self.path(STATE), %error, "the state of the authority's succession is not usable; starting anew");
                None
            }
        }
    }

    fn outgoing(&self, secret: &Secret) -> Option<CertificateAuthority> {
        if !has(secret, CA_KEY) {
            return None;
        }
        let loaded = self.load(secret);
        let complain = |error: &UnusableSecret| {
            tracing::warn!(secret = self.path(STATE), %error, "the authority that signs cannot be read back");
        };
        loaded.inspect_err(complain).ok()
    }

    /// Two replicas may get here at once: the fields belong to whoever is first, and the other one is refused.
    async fn create(&self) -> Result<(), StoreError> {
        let authority = CertificateAuthority::new_self_signed(self.trust_domain.clone(), SystemTime::now());
        let authority = authority.map_err(|error| StoreError {
            place: self.path(MADE),
            cause: error.to_string(),
        })?;
        let manager: String = format!("aquifer-ca-{}", self.replica).chars().take(128).collect();
        let secret = secret(MADE, Some("istio.io/ca-root"), authority_data(&authority));
        let parameters = PatchParams::apply(&manager);
        match self.api.patch(MADE, &parameters, &Patch::Apply(&secret)).await {
            Ok(_) => {
                tracing::info!(secret = self.path(MADE), "certificate authority made");
                Ok(())
            }
            // Another replica was quicker: its authority is read.
            Err(error) if code(&error) == Some(409) => Ok(()),
            Err(error) => Err(self.failed(MADE, &error)),
        }
    }
}

#[async_trait]
impl AuthorityStore for AuthoritySecrets {
    async fn read(&mut self) -> Result<Stored, StoreError> {
        let secrets = &self.secrets;
        let state = secrets.find(STATE).await?;
        Ok(Stored {
            wanted: secrets.wanted().await?,
            succession: state.as_ref().and_then(|secret| secrets.succession(secret)),
            outgoing: state.as_ref().and_then(|secret| secrets.outgoing(secret)),
        })
    }

    async fn changed(&mut self) {
        loop {
            match self.watches.next().await {
                Some(Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone)) => {
                    self.backoff.reset();
                    return;
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    tracing::debug!(%error, "cannot watch the authority's secrets; trying again");
                    tokio::time::sleep(self.backoff.pause()).await;
                }
                None => self.watches = watches(&self.secrets.api),
            }
        }
    }

    async fn keep(
        &mut self,
        succession: &Succession,
        outgoing: Option<&CertificateAuthority>,
    ) -> Result<(), StoreError> {
        let mut data = outgoing.map(authority_data).unwrap_or_default();
        data.insert(SUCCESSION.to_owned(), ByteString(encode(succession).into_bytes()));
        let secret = secret(STATE, None, data);
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        self.secrets
            .patch(STATE, &parameters, &Patch::Apply(&secret))
            .await
    }

    /// A merge: the request, which is another one's field, goes with the authority that it asked to replace.
    async fn renew(&mut self, authority: &CertificateAuthority) -> Result<(), StoreError> {
        let patch = json!({
            "metadata": { "annotations": { RENEW: null } },
            "data": authority_data(authority),
        });
        let parameters = PatchParams::default();
        self.secrets.patch(MADE, &parameters, &Patch::Merge(&patch)).await
    }

    async fn publish(&mut self, roots_pem: &str) -> Result<(), StoreError> {
        self.desk.publish_root(roots_pem);
        Ok(())
    }

    async fn tell(&mut self, notice: &Notice) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Secret".to_owned()),
            name: Some(STATE.to_owned()),
            namespace: Some(self.secrets.namespace.clone()),
            ..ObjectReference::default()
        };
        let event = event::about(about, notice, &self.secrets.replica);
        let events: Api<K8sEvent> = Api::namespaced(self.client.clone(), &self.secrets.namespace);
        if let Err(error) = events.create(&PostParams::default(), &event).await {
            tracing::debug!(reason = explain(&error), "event not written");
        }
    }
}

fn watches(secrets: &Api<Secret>) -> Watches {
    let one = |name: &str| {
        let named = Config::default().fields(&format!("metadata.name={name}"));
        watcher(secrets.clone(), named).boxed()
    };
    stream::select_all([GIVEN, MADE, STATE].map(one)).boxed()
}

fn has(secret: &Secret, key: &str) -> bool {
    secret.data.as_ref().is_some_and(|data| data.contains_key(key))
}

fn asks_for_renewal(secret: &Secret) -> bool {
    let annotations = secret.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(RENEW))
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

fn authority_data(authority: &CertificateAuthority) -> BTreeMap<String, ByteString> {
    let files = authority.files();
    let entries = [
        (CA_CERT, &files.ca_cert),
        (CA_KEY, &*files.ca_key),
        (CERT_CHAIN, &files.cert_chain),
        (ROOT_CERT, &files.root_cert),
    ];
    let data = entries.map(|(key, text)| (key.to_owned(), ByteString(text.as_bytes().to_vec())));
    data.into()
}

fn secret(name: &str, kind: Option<&str>, data: BTreeMap<String, ByteString>) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: Some([(MADE_BY_LABEL.to_owned(), MADE_BY.to_owned())].into()),
            ..ObjectMeta::default()
        },
        type_: kind.map(str::to_owned),
        data: Some(data),
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
        let mut secret = secret(MADE, None, authority_data(&authority));
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
        let mut secret = secret(MADE, None, authority_data(&authority));
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
