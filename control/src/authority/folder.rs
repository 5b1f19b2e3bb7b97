//! The authority in a folder: the four files of `cacerts`, and the state of its succession beside the mesh's own.
//!
//! No key is copied: a process that is started in the middle of a succession signs with the new authority at once.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aquifer_core::identity::TrustDomain;
use aquifer_identity::CertificateAuthority;
use aquifer_identity::succession::Succession;
use async_trait::async_trait;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{AuthorityStore, Notice, StoreError, Stored, Wanted, decode, encode};
use crate::sink::folder::{publish_root, replace};

/// Between looks at the files.
const EVERY: Duration = Duration::from_secs(1);
const STATE: &str = "succession.json";

pub struct FolderAuthority {
    /// Somebody's own authority, instead of one that is made.
    given: Option<PathBuf>,
    state: PathBuf,
    sink: PathBuf,
    trust_domain: TrustDomain,
    look: Interval,
    seen: Vec<Option<String>>,
}

impl FolderAuthority {
    /// Signs with the files in `given`, or with an authority that is made and kept in `state`; roots go to `sink`.
    pub fn new(given: Option<&Path>, state: &Path, sink: &Path, trust_domain: TrustDomain) -> Self {
        let mut look = interval(EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            given: given.map(Path::to_owned),
            state: state.to_owned(),
            sink: sink.to_owned(),
            trust_domain,
            look,
            seen: Vec::new(),
        }
    }

    fn folder(&self) -> &Path {
        self.given.as_deref().unwrap_or(&self.state)
    }

    fn load(&self) -> Result<Wanted, String> {
        let (folder, domain, now) = (self.folder(), self.trust_domain.clone(), SystemTime::now());
        let authority = match &self.given {
            Some(given) => CertificateAuthority::load(given, domain, now),
            None => CertificateAuthority::load_or_create(folder, domain, now),
        };
        let origin = format!("folder {}", folder.display());
        match authority {
            Ok(authority) => Ok(Wanted {
                made: self.given.is_none() && authority.is_self_signed(),
                renew: false,
                authority,
                origin,
            }),
            Err(error) => Err(format!("{origin} cannot be used: {}", with_cause(&error))),
        }
    }

    fn succession(&self) -> Option<Succession> {
        let path = self.state.join(STATE);
        let text = std::fs::read_to_string(&path).ok()?;
        match decode(&text) {
            Ok(succession) => Some(succession),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the state of the authority's succession is not usable; starting anew");
                None
            }
        }
    }

    fn failed(&self, error: &(dyn std::error::Error + 'static)) -> StoreError {
        StoreError {
            place: self.state.display().to_string(),
            cause: with_cause(error),
        }
    }

    /// Everything that a change could be in; the key changes with its certificate.
    fn texts(&self) -> Vec<Option<String>> {
        let names = ["ca-cert.pem", "cert-chain.pem", "root-cert.pem", "ca-key.pem"];
        let read = |name: &str| std::fs::read_to_string(self.folder().join(name)).ok();
        names.map(read).into()
    }
}

#[async_trait]
impl AuthorityStore for FolderAuthority {
    // Files of a few kilobytes on a local disk: not worth a hop to another thread.
    async fn read(&mut self) -> Result<Stored, StoreError> {
        // Before the files are read: what changes in between is seen again.
        self.seen = self.texts();
        Ok(Stored {
            wanted: self.load(),
            succession: self.succession(),
            outgoing: None,
        })
    }

    async fn changed(&mut self) {
        loop {
            self.look.tick().await;
            if self.texts() != self.seen {
                return;
            }
        }
    }

    async fn keep(
        &mut self,
        succession: &Succession,
        _outgoing: Option<&CertificateAuthority>,
    ) -> Result<(), StoreError> {
        std::fs::create_dir_all(&self.state).map_err(|e| self.failed(&e))?;
        replace(&self.state.join(STATE), encode(succession).as_bytes()).map_err(|e| self.failed(&e))
    }

    async fn renew(&mut self, authority: &CertificateAuthority) -> Result<(), StoreError> {
        authority.save(&self.state).map_err(|e| self.failed(&e))
    }

    async fn publish(&mut self, roots_pem: &str) -> Result<(), StoreError> {
        publish_root(&self.sink, roots_pem).map_err(|e| self.failed(&e))
    }

    /// The log has said it.
    async fn tell(&mut self, _notice: &Notice) {}
}

fn with_cause(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
