//! Brings the wanted authority into effect, and goes on doing so for as long as the process runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aquifer_identity::CertificateAuthority;
use aquifer_identity::manager::Clock;
use aquifer_identity::succession::{Pace, Reach, Signer, Stage, Succession, Target, renewal_due};
use aquifer_telemetry::registry::Registry;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::view::{AuthorityMetrics, AuthorityView, CertificateView, Views};
use super::{Active, AuthorityStore, Notice, StoreError, Stored, Wanted};
use crate::peers::Elsewhere;
use crate::serve::registry::ProxyRegistry;
use crate::serve::trust;

/// The longest time between two looks at the clock and the proxies.
const LOOK: Duration = Duration::from_secs(10);
/// Acknowledgements that come within this time are counted as one.
const GATHER: Duration = Duration::from_millis(200);
/// After a failure of the store.
const RETRY: Duration = Duration::from_secs(2);

/// What a keeper looks at and writes to besides its store.
pub struct Surroundings {
    pub registry: ProxyRegistry,
    pub elsewhere: watch::Receiver<Arc<Elsewhere>>,
    pub views: Views,
    pub metrics: Registry,
}

/// Why there is no authority to begin with.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("there is no authority that can sign: {0}")]
    Unusable(String),
}

pub struct Keeper {
    store: Box<dyn AuthorityStore>,
    leads: watch::Receiver<bool>,
    pace: Pace,
    clock: Clock,
    stored: Stored,
    succession: Succession,
    active: watch::Sender<Arc<CertificateAuthority>>,
    /// What holds up the wanted authority, as it was said last.
    problem: Option<String>,
    stage: Stage,
}

impl Keeper {
    /// Reads the authority in effect; `leads` says whether this replica decides.
    pub async fn open(
        mut store: Box<dyn AuthorityStore>,
        leads: watch::Receiver<bool>,
        pace: Pace,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let stored = store.read().await?;
        let now = whole_seconds(clock());
        let (succession, active) = begin(&stored, now, &pace).map_err(OpenError::Unusable)?;
        store.publish(&active.roots_pem()).await?;
        Ok(Self {
            store,
            leads,
            pace,
            clock,
            stored,
            succession,
            active: watch::Sender::new(Arc::new(active)),
            problem: None,
            stage: Stage::Settled,
        })
    }

    pub fn active(&self) -> Active {
        self.active.subscribe()
    }

    pub async fn run(mut self, mut around: Surroundings, cancel: CancellationToken) {
        let metrics = AuthorityMetrics::new(&around.metrics);
        let mut proxies = around.registry.changes();
        loop {
            let reach = self.reach(&around);
            let pause = match self.turn(reach).await {
                Ok(()) => self.pause(),
                Err(error) => {
                    self.complain(error.to_string()).await;
                    RETRY
                }
            };
            self.show(&around, reach, &metrics);
            // Nobody's acknowledgement matters unless roots are on their way.
            let waits = self.succession.known_at.is_none() || self.stage_now() == Stage::Announcing;
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.store.changed() => self.read().await,
                () = news(&mut self.leads) => {}
                () = news(&mut proxies), if waits => sleep(GATHER).await,
                () = news(&mut around.elsewhere), if waits => {}
                () = sleep(pause) => {}
            }
        }
    }

    async fn read(&mut self) {
        match self.store.read().await {
            Ok(stored) => self.stored = stored,
            Err(error) => self.complain(error.to_string()).await,
        }
    }

    /// One look at everything, and what follows from it.
    async fn turn(&mut self, reach: Reach) -> Result<(), StoreError> {
        let leads = *self.leads.borrow_and_update();
        if !leads && let Some(written) = &self.stored.succession {
            self.succession = written.clone();
        }
        let held_up = if leads { self.decide(reach).await? } else { None };
        self.activate().await?;
        let problem = self.stored.wanted.as_ref().err().cloned().or(held_up);
        match problem {
            Some(problem) => self.complain(problem).await,
            None => self.problem = None,
        }
        self.announce_stage(leads).await;
        Ok(())
    }

    /// What the leader does: the next step, in writing before in effect. Answers what holds it up.
    async fn decide(&mut self, reach: Reach) -> Result<Option<String>, StoreError> {
        let now = self.now();
        if self.renewal_is_due(now) {
            self.renew(now).await?;
        }
        let next = match self.next(reach, now) {
            Ok(next) => next,
            Err(held_up) => return Ok(Some(held_up)),
        };
        self.write_down(next).await?;
        Ok(None)
    }

    fn next(&self, reach: Reach, now: SystemTime) -> Result<Succession, String> {
        let Ok(wanted) = &self.stored.wanted else {
            return Ok(self.succession.clone());
        };
        let Some(target) = Target::of(&wanted.authority) else {
            return Err(format!(
                "the authority in {} leads to none of its roots",
                wanted.origin
            ));
        };
        let signer = if self.active.borrow().not_after() <= now {
            Signer::Gone
        } else {
            Signer::Usable
        };
        let next = self.succession.step(&target, reach, signer, now, &self.pace);
        next.map_err(|error| error.to_string())
    }

    /// Writes the state where it is not written yet; the signer's key beside it for as long as it is nowhere else.
    async fn write_down(&mut self, next: Succession) -> Result<(), StoreError> {
        let is_wanted = |wanted: &Wanted| *wanted.authority.certificate() == next.signer;
        let elsewhere = self.stored.wanted.as_ref().is_ok_and(is_wanted);
        let active = self.active.borrow().clone();
        let outgoing = (!elsewhere && *active.certificate() == next.signer).then_some(&*active);
        let kept = self
            .stored
            .outgoing
            .as_ref()
            .map(CertificateAuthority::certificate);
        let is_written = self.stored.succession.as_ref() == Some(&next)
            && kept == outgoing.map(CertificateAuthority::certificate);
        if !is_written {
            self.store.keep(&next, outgoing).await?;
            self.stored.outgoing = outgoing.map(|kept| kept.trusting(kept.roots().to_vec()));
            self.stored.succession = Some(next.clone());
        }
        self.succession = next;
        Ok(())
    }

    fn renewal_is_due(&self, now: SystemTime) -> bool {
        let Ok(wanted) = &self.stored.wanted else {
            return false;
        };
        let Some(target) = Target::of(&wanted.authority) else {
            return false;
        };
        let authority = &wanted.authority;
        let old = renewal_due(authority.not_before(), authority.not_after()) <= now;
        wanted.made && (wanted.renew || old) && self.succession.stage(&target) == Stage::Settled
    }

    /// The old key is kept first: a crash in between must not lose who signs.
    async fn renew(&mut self, now: SystemTime) -> Result<(), StoreError> {
        let active = self.active.borrow().clone();
        let failed = |cause: String| StoreError {
            place: "this process".to_owned(),
            cause,
        };
        let new = CertificateAuthority::new_self_signed(active.trust_domain().clone(), now)
            .map_err(|e| failed(e.to_string()))?;
        self.store.keep(&self.succession, Some(&active)).await?;
        self.store.renew(&new).await?;
        tracing::info!("made another certificate authority; bringing it into effect step by step");
        self.stored = self.store.read().await?;
        Ok(())
    }

    /// Signs as the succession says, if the key is at hand.
    async fn activate(&mut self) -> Result<(), StoreError> {
        let before = self.active.borrow().clone();
        let chosen = choose(&self.stored, &self.succession, Some(&before));
        let now = chosen.unwrap_or_else(|| before.trusting(self.succession.certificates()));
        if now.certificate() == before.certificate() && now.roots() == before.roots() {
            return Ok(());
        }
        self.store.publish(&now.roots_pem()).await?;
        self.active.send_replace(Arc::new(now));
        Ok(())
    }

    async fn complain(&mut self, problem: String) {
        if self.problem.as_ref() == Some(&problem) {
            return;
        }
        tracing::warn!(
            problem,
            "the authority that is wanted is not in effect; the one before stays"
        );
        let notice = Notice {
            reason: "AuthorityUnusable",
            text: format!("{problem}; the authority before stays in effect"),
            warning: true,
        };
        self.problem = Some(problem);
        if *self.leads.borrow() {
            self.store.tell(&notice).await;
        }
    }

    async fn announce_stage(&mut self, leads: bool) {
        let stage = self.stage_now();
        if std::mem::replace(&mut self.stage, stage) == stage {
            return;
        }
        let text = match stage {
            Stage::Announcing => "new roots are made known to every proxy; the authority before signs on",
            Stage::Renewing => {
                "the new authority signs; workloads renew their certificates, and old roots are trusted until they have"
            }
            Stage::Settled => "the authority that is wanted is in effect, and nothing else is trusted",
        };
        tracing::info!(stage = stage.as_str(), leads, "certificate authority: {text}");
        if leads {
            let notice = Notice {
                reason: "AuthorityStage",
                text: format!("{}: {text}", stage.as_str()),
                warning: false,
            };
            self.store.tell(&notice).await;
        }
    }

    fn stage_now(&self) -> Stage {
        let wanted = self.stored.wanted.as_ref().ok();
        let target = wanted.and_then(|wanted| Target::of(&wanted.authority));
        target.map_or(self.stage, |target| self.succession.stage(&target))
    }

    /// At how many proxies the roots are in effect, those of other replicas too; a reconnecting one counts once.
    fn reach(&self, around: &Surroundings) -> Reach {
        let version = trust::version(&self.active.borrow());
        let mut proxies: BTreeMap<_, bool> = BTreeMap::new();
        let elsewhere = around.elsewhere.borrow().clone();
        for (pod, has) in around
            .registry
            .trusting(version)
            .chain(elsewhere.trusting(version))
        {
            *proxies.entry(pod).or_default() |= has;
        }
        Reach {
            in_effect: proxies.values().filter(|has| **has).count(),
            of: proxies.len(),
        }
    }

    fn show(&self, around: &Surroundings, reach: Reach, metrics: &AuthorityMetrics) {
        let active = self.active.borrow().clone();
        let wanted = self.stored.wanted.as_ref().ok();
        let is_wanted = |root| wanted.is_none_or(|wanted| wanted.authority.roots().contains(root));
        let target = wanted.and_then(|wanted| Target::of(&wanted.authority));
        let retires_at = target.and_then(|target| self.succession.retires_at(&target, &self.pace));
        let rfc3339 = aquifer_telemetry::timestamp::rfc3339;
        let stage = self.stage_now();
        metrics.set(&active, (stage, reach), self.problem.is_some(), self.now());
        around.views.store(Some(Arc::new(AuthorityView {
            stage: stage.as_str(),
            origin: wanted.map_or_else(String::new, |wanted| wanted.origin.clone()),
            problem: self.problem.clone(),
            signer: CertificateView::of(active.certificate(), true),
            roots: active
                .roots()
                .iter()
                .map(|root| CertificateView::of(root, is_wanted(root)))
                .collect(),
            since: rfc3339(self.succession.changed_at),
            in_effect: reach.in_effect,
            of: reach.of,
            retires_at: retires_at.map(rfc3339),
        })));
    }

    /// Until something is due that no event tells of.
    fn pause(&self) -> Duration {
        let wanted = self.stored.wanted.as_ref().ok();
        let Some(target) = wanted.and_then(|wanted| Target::of(&wanted.authority)) else {
            return LOOK;
        };
        let due = match self.succession.stage(&target) {
            Stage::Announcing => Some(self.succession.changed_at + self.pace.announce),
            _ => self.succession.retires_at(&target, &self.pace),
        };
        let left = due.map(|due| due.duration_since(self.now()).unwrap_or_default());
        // What is overdue waits for somebody else.
        left.map_or(LOOK, |left| left.clamp(Duration::from_secs(1), LOOK))
    }

    fn now(&self) -> SystemTime {
        whole_seconds((self.clock)())
    }
}

/// As it is written down: what is read back must be equal.
fn whole_seconds(at: SystemTime) -> SystemTime {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// The state to start with and the authority that signs in it.
fn begin(
    stored: &Stored,
    now: SystemTime,
    pace: &Pace,
) -> Result<(Succession, CertificateAuthority), String> {
    if let Some(succession) = &stored.succession
        && let Some(active) = choose(stored, succession, None)
    {
        return Ok((succession.clone(), active));
    }
    let wanted = stored.wanted.as_ref().map_err(Clone::clone)?;
    let target = Target::of(&wanted.authority)
        .ok_or_else(|| format!("the authority in {} leads to none of its roots", wanted.origin))?;
    let first = match &stored.succession {
        None => Succession::starting(&target, now),
        Some(before) => {
            tracing::warn!(
                origin = wanted.origin,
                "the key that signed before is gone; signing with the new authority at once, which proxies that do not know it yet refuse"
            );
            let stepped = before.step(&target, Reach::default(), Signer::Gone, now, pace);
            stepped.map_err(|e| e.to_string())?
        }
    };
    let active = wanted.authority.trusting(first.certificates());
    Ok((first, active))
}

/// The authority that the succession names, wherever its key is.
fn choose(
    stored: &Stored,
    succession: &Succession,
    before: Option<&CertificateAuthority>,
) -> Option<CertificateAuthority> {
    let wanted = stored.wanted.as_ref().ok().map(|wanted| &wanted.authority);
    let known = [wanted, stored.outgoing.as_ref(), before];
    let signs = |authority: &&CertificateAuthority| *authority.certificate() == succession.signer;
    let signer = known.into_iter().flatten().find(signs)?;
    Some(signer.trusting(succession.certificates()))
}

/// Waits for ever where nobody will ever say anything.
async fn news<T>(receiver: &mut watch::Receiver<T>) {
    if receiver.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
