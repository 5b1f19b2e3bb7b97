//! The roots that peers are judged by, which change while the process runs and while connections are open.
//!
//! A certificate comes with roots of its own. Once the control plane has said what the mesh trusts, that counts for every
//! certificate of the process instead, also for those that were fetched before: a root must be known everywhere before
//! the first peer shows a certificate of it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::certificate::WorkloadCertificate;
use crate::pem::{self, PemError};
use crate::verify::Roots;

/// More roots than any mesh changes between; each costs every handshake a little.
pub const MAX_ROOTS: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("{0} root certificates; at most {MAX_ROOTS} are trusted at once")]
    TooMany(usize),
    #[error("{0}")]
    Unusable(String),
}

/// What the control plane said last. Clones share it; reading takes no lock.
#[derive(Clone, Debug, Default)]
pub struct TrustBundle {
    told: Arc<ArcSwapOption<Told>>,
}

#[derive(Debug)]
struct Told {
    all: Arc<Roots>,
    /// The one that certificates are signed under now.
    first: Roots,
}

impl TrustBundle {
    /// Takes the roots in PEM, the one that certificates are signed under first; whether anything changed.
    ///
    /// What cannot be read whole changes nothing.
    pub(crate) fn replace(&self, roots_pem: &str) -> Result<bool, TrustError> {
        let roots = pem::certificates(roots_pem.as_bytes(), "trust bundle")?;
        if roots.len() > MAX_ROOTS {
            return Err(TrustError::TooMany(roots.len()));
        }
        if self
            .told
            .load()
            .as_ref()
            .is_some_and(|told| told.all.certificates() == roots)
        {
            return Ok(false);
        }
        let first = Roots::new(roots[..1].to_vec()).map_err(TrustError::Unusable)?;
        let all = Arc::new(Roots::new(roots).map_err(TrustError::Unusable)?);
        self.told.store(Some(Arc::new(Told { all, first })));
        Ok(true)
    }

    /// All roots in PEM; none before the control plane has said anything.
    pub fn roots_pem(&self) -> Option<String> {
        let told = self.told.load();
        Some(pem::encode_certificates(told.as_ref()?.all.certificates()))
    }

    /// Whether the certificate leads to another root than the one that is signed under now.
    pub(crate) fn outdates(&self, certificate: &WorkloadCertificate) -> bool {
        let told = self.told.load();
        told.as_ref()
            .is_some_and(|told| !certificate.leads_to(&told.first))
    }
}

/// What one certificate's connections judge peers by.
#[derive(Clone, Debug)]
pub(crate) struct Trust {
    own: Arc<Roots>,
    bundle: Option<TrustBundle>,
}

impl Trust {
    /// The roots that came with the certificate.
    pub(crate) fn of(own: Arc<Roots>) -> Self {
        Self { own, bundle: None }
    }

    pub(crate) fn follow(&mut self, bundle: TrustBundle) {
        self.bundle = Some(bundle);
    }

    /// What counts at this moment.
    pub(crate) fn roots(&self) -> Arc<Roots> {
        let told = self.bundle.as_ref().and_then(|bundle| bundle.told.load_full());
        told.map_or_else(|| self.own.clone(), |told| told.all.clone())
    }
}
