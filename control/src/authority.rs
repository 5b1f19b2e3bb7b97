//! The certificate authority in effect: where it comes from, how it is replaced, and what is said about it.
//!
//! Somebody gives an authority (a Secret, a folder) or asks for another; a [`Keeper`] brings it into effect step by step,
//! as [`aquifer_identity::succession`] decides, so that no request fails. The leader decides and writes the state down,
//! the other replicas follow what is written. Everybody else sees one [`Active`] authority.

mod folder;
mod keeper;
mod record;
mod view;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use aquifer_identity::CertificateAuthority;
use aquifer_identity::succession::Succession;
use async_trait::async_trait;
use tokio::sync::watch;

pub use folder::FolderAuthority;
pub use keeper::{Keeper, OpenError, Surroundings};
pub(crate) use record::{decode, encode};
pub use view::{AuthorityView, Views};

/// The authority that signs now, with the roots that are trusted now.
pub type Active = watch::Receiver<Arc<CertificateAuthority>>;

/// An authority that somebody wants to sign.
pub struct Wanted {
    pub authority: CertificateAuthority,
    /// Where it is, for people.
    pub origin: String,
    /// The mesh made it, and makes the next one.
    pub made: bool,
    /// Somebody asks for the next one now.
    pub renew: bool,
}

/// What is written down.
pub struct Stored {
    /// Or why it cannot be used.
    pub wanted: Result<Wanted, String>,
    pub succession: Option<Succession>,
    /// The authority that signs although another one is wanted already, or nothing that can be used.
    pub outgoing: Option<CertificateAuthority>,
}

/// Something that people should hear of where they look at the authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub reason: &'static str,
    pub text: String,
    pub warning: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read or write the authority in {place}: {cause}")]
pub struct StoreError {
    pub place: String,
    pub cause: String,
}

/// Where the authority is given and its state is kept.
#[async_trait]
pub trait AuthorityStore: Send {
    async fn read(&mut self) -> Result<Stored, StoreError>;

    /// Resolves when something may have changed. Cancel safe.
    async fn changed(&mut self);

    /// Writes the state down, with the authority that signs where its key is nowhere else.
    async fn keep(
        &mut self,
        succession: &Succession,
        outgoing: Option<&CertificateAuthority>,
    ) -> Result<(), StoreError>;

    /// Puts a new authority in the place of one that the mesh made.
    async fn renew(&mut self, authority: &CertificateAuthority) -> Result<(), StoreError>;

    /// Hands the roots to those who have no connection to the control plane yet.
    async fn publish(&mut self, roots_pem: &str) -> Result<(), StoreError>;

    /// Says something where people look; best effort.
    async fn tell(&mut self, notice: &Notice);
}
