//! How one authority follows another without a request that fails: what the mesh trusts and who signs, step by step.
//!
//! A pure state machine. Whoever looks after the authority gives it what somebody wants ([`Target`]), how far the present
//! roots have got ([`Reach`]) and the time; it answers with the next state. The order is always the same: a new root is
//! made known, then signed under, and the old one is dropped when nothing that it signed can be in use any more.
//!
//! The first root is the one that is signed under: proxies renew early what leads to another.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

use crate::authority::CertificateAuthority;
use crate::trust::MAX_ROOTS;

#[cfg(test)]
mod tests;

type Certificate = CertificateDer<'static>;

/// A root that the mesh trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedRoot {
    pub certificate: Certificate,
    /// Whether certificates that this mesh signed may lead to it: then it stays until they are over.
    pub signed: bool,
}

/// What the mesh trusts and who signs; kept somewhere that survives a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    /// The certificate of the authority that signs.
    pub signer: Certificate,
    /// The root that is signed under comes first.
    pub roots: Vec<TrustedRoot>,
    /// Since when the roots are these, in this order.
    pub changed_at: SystemTime,
    /// Since when every proxy has them.
    pub known_at: Option<SystemTime>,
}

/// What somebody wants: an authority with its key, and the roots to trust.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub signer: &'a Certificate,
    /// The one of the roots that the signer leads to.
    pub own_root: &'a Certificate,
    pub roots: &'a [Certificate],
}

/// At how many proxies the present roots are in effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    pub in_effect: usize,
    pub of: usize,
}

/// Whether the present signer can still sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signer {
    Usable,
    /// Its key is lost or its certificate is over: no reason to wait.
    Gone,
}

#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// How long a new root is known before it is signed under, at least: for proxies that are away for a moment.
    pub announce: Duration,
    /// The longest life of a workload's certificate.
    pub life: Duration,
}

/// Where a succession stands, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What is wanted is in effect.
    Settled,
    /// New roots are made known; the authority before signs on.
    Announcing,
    /// The new authority signs, workloads renew, old roots are still trusted.
    Renewing,
}

impl Stage {
    pub const ALL: [Self; 3] = [Self::Settled, Self::Announcing, Self::Renewing];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settled => "settled",
            Self::Announcing => "announcing",
            Self::Renewing => "renewing",
        }
    }
}

/// The roots of what was and of what is wanted are too many together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} root certificates would be trusted at once, at most {MAX_ROOTS} may be; give fewer")]
pub struct TooManyRoots(usize);

impl<'a> Target<'a> {
    /// None where the authority leads to none of its own roots.
    pub fn of(authority: &'a CertificateAuthority) -> Option<Self> {
        Some(Self {
            signer: authority.certificate(),
            own_root: authority.own_root()?,
            roots: authority.roots(),
        })
    }
}

impl Succession {
    /// The first authority of a mesh.
    pub fn starting(target: &Target<'_>, now: SystemTime) -> Self {
        let mut first = Self {
            signer: target.signer.clone(),
            roots: target.roots.iter().map(|root| trusted(root, false)).collect(),
            changed_at: now,
            known_at: None,
        };
        first.sign_under(target.own_root);
        first
    }

    /// The next state; the same one where nothing is to be done yet.
    ///
    /// `reach` is about the roots as they are in this state.
    pub fn step(
        &self,
        target: &Target<'_>,
        reach: Reach,
        signer: Signer,
        now: SystemTime,
        pace: &Pace,
    ) -> Result<Self, TooManyRoots> {
        let mut next = self.clone();
        next.announce(target)?;
        if next.roots == self.roots {
            next.note(reach, now, pace);
        }
        // A root that nobody was signed under yet: also by those who have come since everybody had it.
        let everywhere = self.has_signed(target.own_root) || self.is_everywhere(reach, now, pace);
        let known = next.roots == self.roots && next.is_known_long_enough(now, pace) && everywhere;
        if next.signer != *target.signer && (known || signer == Signer::Gone) {
            next.signer = target.signer.clone();
            next.sign_under(target.own_root);
        }
        next.retire(target, now, pace);
        if next.roots != self.roots {
            next.changed_at = now;
            next.known_at = None;
        }
        Ok(next)
    }

    pub fn stage(&self, target: &Target<'_>) -> Stage {
        let missing = target.roots.iter().any(|root| !self.trusts(root));
        if self.signer != *target.signer || missing {
            Stage::Announcing
        } else if self.roots.iter().any(|root| is_beyond(root, target)) {
            Stage::Renewing
        } else {
            Stage::Settled
        }
    }

    /// When old roots are dropped, if some are about to be and nothing changes meanwhile.
    pub fn retires_at(&self, target: &Target<'_>, pace: &Pace) -> Option<SystemTime> {
        (self.stage(target) == Stage::Renewing).then(|| self.retire_at(pace))
    }

    pub fn certificates(&self) -> Vec<Certificate> {
        self.roots.iter().map(|root| root.certificate.clone()).collect()
    }

    pub fn trusts(&self, root: &Certificate) -> bool {
        self.roots.iter().any(|known| known.certificate == *root)
    }

    fn announce(&mut self, target: &Target<'_>) -> Result<(), TooManyRoots> {
        let missing: Vec<_> = target.roots.iter().filter(|root| !self.trusts(root)).collect();
        self.roots
            .extend(missing.into_iter().map(|root| trusted(root, false)));
        if self.roots.len() > MAX_ROOTS {
            return Err(TooManyRoots(self.roots.len()));
        }
        Ok(())
    }

    /// A proxy that never answers has learnt the roots with its certificate once a life has passed.
    fn note(&mut self, reach: Reach, now: SystemTime, pace: &Pace) {
        if self.known_at.is_none() && self.is_everywhere(reach, now, pace) {
            self.known_at = Some(now);
        }
    }

    fn has_signed(&self, root: &Certificate) -> bool {
        self.roots
            .iter()
            .any(|known| known.signed && known.certificate == *root)
    }

    fn is_everywhere(&self, reach: Reach, now: SystemTime, pace: &Pace) -> bool {
        reach.in_effect >= reach.of || self.changed_at + pace.life <= now
    }

    fn is_known_long_enough(&self, now: SystemTime, pace: &Pace) -> bool {
        self.known_at.is_some() && self.changed_at + pace.announce <= now
    }

    fn sign_under(&mut self, root: &Certificate) {
        self.roots.sort_by_key(|known| known.certificate != *root);
        if let Some(first) = self.roots.first_mut() {
            first.signed = true;
        }
    }

    /// What never signed here goes at once, such as another cluster's root.
    fn retire(&mut self, target: &Target<'_>, now: SystemTime, pace: &Pace) {
        if self.signer != *target.signer {
            return;
        }
        let over = self.known_at.is_some() && self.retire_at(pace) <= now;
        self.roots
            .retain(|root| !is_beyond(root, target) || (root.signed && !over));
    }

    /// Everybody has to know who signs now, and what was signed before has to be over.
    fn retire_at(&self, pace: &Pace) -> SystemTime {
        let known_at = self.known_at.unwrap_or(self.changed_at + pace.life);
        known_at + pace.life
    }
}

fn trusted(root: &Certificate, signed: bool) -> TrustedRoot {
    TrustedRoot {
        certificate: root.clone(),
        signed,
    }
}

fn is_beyond(root: &TrustedRoot, target: &Target<'_>) -> bool {
    !target.roots.contains(&root.certificate)
}

/// When an authority that the mesh made itself is to be replaced: with a fifth of its life left.
pub fn renewal_due(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    not_after - life / 5
}
