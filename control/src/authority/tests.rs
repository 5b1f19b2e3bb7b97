//! The keeper against a store in memory, in simulated time: tokio's clock is paused and drives ours.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer_core::identity::TrustDomain;
use aquifer_identity::CertificateAuthority;
use aquifer_identity::succession::{Pace, Succession};
use aquifer_telemetry::registry::Registry;
use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::serve::registry::ProxyRegistry;

const PACE: Pace = Pace {
    announce: Duration::from_secs(60),
    life: Duration::from_secs(86_400),
};
/// Of simulated time, which nobody waits for.
const DEADLINE: Duration = Duration::from_secs(4 * 86_400);

/// What is in the store, and what was done to it.
#[derive(Default)]
struct Contents {
    wanted: Option<Result<(CertificateAuthority, bool), String>>,
    renew: bool,
    state: Option<String>,
    outgoing: Option<CertificateAuthority>,
    published: Vec<String>,
    told: Vec<Notice>,
    writes: usize,
    broken: bool,
}

#[derive(Clone, Default)]
struct Store {
    contents: Arc<Mutex<Contents>>,
    changed: Arc<Notify>,
}

fn copy(authority: &CertificateAuthority) -> CertificateAuthority {
    authority.trusting(authority.roots().to_vec())
}

impl Store {
    fn want(&self, authority: &CertificateAuthority, made: bool) {
        self.contents.lock().wanted = Some(Ok((copy(authority), made)));
        self.changed.notify_one();
    }

    fn spoil(&self, reason: &str) {
        self.contents.lock().wanted = Some(Err(reason.to_owned()));
        self.changed.notify_one();
    }

    fn check(&self) -> Result<(), StoreError> {
        let (place, cause) = ("a test".to_owned(), "it is broken".to_owned());
        if self.contents.lock().broken {
            return Err(StoreError { place, cause });
        }
        Ok(())
    }

    fn succession(&self) -> Option<Succession> {
        Some(decode(self.contents.lock().state.as_ref()?).unwrap())
    }
}

#[async_trait]
impl AuthorityStore for Store {
    async fn read(&mut self) -> Result<Stored, StoreError> {
        self.check()?;
        let contents = self.contents.lock();
        let wanted = contents.wanted.as_ref().unwrap();
        let wanted = wanted
            .as_ref()
            .map_err(Clone::clone)
            .map(|(authority, made)| Wanted {
                authority: copy(authority),
                origin: "a test".to_owned(),
                made: *made,
                renew: contents.renew,
            });
        Ok(Stored {
            wanted,
            succession: contents.state.as_ref().map(|text| decode(text).unwrap()),
            outgoing: contents.outgoing.as_ref().map(copy),
        })
    }

    async fn changed(&mut self) {
        self.changed.notified().await;
    }

    async fn keep(
        &mut self,
        succession: &Succession,
        outgoing: Option<&CertificateAuthority>,
    ) -> Result<(), StoreError> {
        self.check()?;
        let mut contents = self.contents.lock();
        contents.state = Some(encode(succession));
        contents.outgoing = outgoing.map(copy);
        contents.writes += 1;
        Ok(())
    }

    async fn renew(&mut self, authority: &CertificateAuthority) -> Result<(), StoreError> {
        self.check()?;
        let mut contents = self.contents.lock();
        contents.wanted = Some(Ok((copy(authority), true)));
        contents.renew = false;
        Ok(())
    }

    async fn publish(&mut self, roots_pem: &str) -> Result<(), StoreError> {
        self.contents.lock().published.push(roots_pem.to_owned());
        Ok(())
    }

    async fn tell(&mut self, notice: &Notice) {
        self.contents.lock().told.push(notice.clone());
    }
}

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::new_self_signed(TrustDomain::default(), start()).unwrap()
}

/// A replica that runs.
struct Replica {
    active: Active,
    views: Views,
    leads: watch::Sender<bool>,
    _elsewhere: watch::Sender<Arc<crate::peers::Elsewhere>>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Replica {
    async fn start(store: &Store, leads: bool) -> Self {
        let (began, leads) = (Instant::now(), watch::Sender::new(leads));
        let clock = Arc::new(move || start() + began.elapsed());
        let opened = Keeper::open(Box::new(store.clone()), leads.subscribe(), PACE, clock).await;
        let keeper = opened.unwrap();
        let (sender, elsewhere) = watch::channel(Arc::default());
        let around = Surroundings {
            registry: ProxyRegistry::default(),
            elsewhere,
            views: Views::default(),
            metrics: Registry::new(),
        };
        let (active, views, cancel) = (keeper.active(), around.views.clone(), CancellationToken::new());
        Self {
            active,
            views,
            leads,
            _elsewhere: sender,
            task: tokio::spawn(keeper.run(around, cancel.clone())),
            cancel,
        }
    }

    /// Until the stage is shown; simulated time goes by meanwhile.
    async fn stage(&self, wanted: &str) {
        let shown = async {
            while self.views.load().as_ref().is_none_or(|view| view.stage != wanted) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        timeout(DEADLINE, shown)
            .await
            .unwrap_or_else(|_| panic!("never {wanted}"));
    }

    fn signs_with(&self, authority: &CertificateAuthority) -> bool {
        self.active.borrow().certificate() == authority.certificate()
    }

    fn problem(&self) -> Option<String> {
        self.views.load().as_ref()?.problem.clone()
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap();
    }
}

/// A replica that leads and signs with what somebody gave.
async fn settled(store: &Store, given: &CertificateAuthority) -> Replica {
    store.want(given, false);
    let replica = Replica::start(store, true).await;
    replica.stage("settled").await;
    replica
}

#[tokio::test(start_paused = true)]
async fn another_authority_comes_into_effect_in_stages_and_the_old_root_goes_last() {
    let (store, a, b) = (Store::default(), authority(), authority());
    let replica = settled(&store, &a).await;
    let began = Instant::now();
    store.want(&b, false);
    replica.stage("announcing").await;
    assert!(replica.signs_with(&a), "the new root is not known yet");
    assert_eq!(replica.active.borrow().roots().len(), 2);
    assert!(
        store.contents.lock().outgoing.is_some(),
        "its key is nowhere else"
    );
    replica.stage("renewing").await;
    assert!(began.elapsed() >= PACE.announce);
    assert!(replica.signs_with(&b));
    assert_eq!(replica.active.borrow().roots()[0], *b.certificate());
    assert!(
        store.contents.lock().outgoing.is_none(),
        "the old key is kept no longer than it signs"
    );
    replica.stage("settled").await;
    assert!(began.elapsed() >= PACE.announce + PACE.life);
    assert_eq!(replica.active.borrow().roots(), b.roots());
    assert_eq!(store.contents.lock().published.last().unwrap(), &b.roots_pem());
    let told: Vec<_> = store.contents.lock().told.iter().map(|n| n.reason).collect();
    assert_eq!(told, ["AuthorityStage"; 3]);
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_in_the_middle_goes_on_where_it_was() {
    let (store, a, b) = (Store::default(), authority(), authority());
    let replica = settled(&store, &a).await;
    store.want(&b, false);
    replica.stage("announcing").await;
    replica.stop().await;
    let again = Replica::start(&store, true).await;
    assert!(again.signs_with(&a), "with the key that was kept");
    again.stage("renewing").await;
    assert!(again.signs_with(&b));
    again.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_lead_follows_and_writes_nothing() {
    let (store, a, b) = (Store::default(), authority(), authority());
    let leader = settled(&store, &a).await;
    let follower = Replica::start(&store, false).await;
    leader.stop().await;
    let writes = store.contents.lock().writes;
    store.want(&b, false);
    follower.stage("announcing").await;
    tokio::time::sleep(PACE.announce * 3).await;
    assert!(follower.signs_with(&a));
    assert_eq!(store.contents.lock().writes, writes);
    follower.leads.send_replace(true);
    follower.stage("renewing").await;
    assert!(follower.signs_with(&b));
    follower.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_used_is_said_and_changes_nothing() {
    let (store, a) = (Store::default(), authority());
    let replica = settled(&store, &a).await;
    store.spoil("the key does not belong to the certificate");
    let said = async {
        while replica.problem().is_none() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(DEADLINE, said).await.unwrap();
    assert!(replica.problem().unwrap().contains("does not belong"));
    tokio::time::sleep(PACE.life * 2).await;
    assert!(replica.signs_with(&a));
    let told: Vec<_> = store.contents.lock().told.iter().map(|n| n.reason).collect();
    assert_eq!(told, ["AuthorityUnusable"], "said once");
    replica.stop().await;
    // The Secret is still broken: what was kept signs on.
    let again = Replica::start(&store, true).await;
    assert!(again.signs_with(&a));
    store.want(&a, false);
    again.stage("settled").await;
    while again.problem().is_some() || store.contents.lock().outgoing.is_some() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    again.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_authority_that_the_mesh_made_is_renewed_before_it_ends_and_when_asked() {
    let (store, a) = (Store::default(), authority());
    store.want(&a, true);
    let replica = Replica::start(&store, true).await;
    replica.stage("settled").await;
    store.contents.lock().renew = true;
    store.changed.notify_one();
    replica.stage("renewing").await;
    assert!(!replica.signs_with(&a));
    assert!(!store.contents.lock().renew, "the request was fulfilled");
    replica.stage("settled").await;
    let second = replica.active.borrow().certificate().clone();
    assert_eq!(replica.active.borrow().roots(), std::slice::from_ref(&second));
    replica.stop().await;
    // Nine years later.
    let old = start() - Duration::from_secs(9 * 365 * 86_400);
    let old = CertificateAuthority::new_self_signed(TrustDomain::default(), old).unwrap();
    let store = Store::default();
    store.want(&old, true);
    let replica = Replica::start(&store, true).await;
    replica.stage("renewing").await;
    assert!(!replica.signs_with(&old));
    replica.stop().await;
    // What somebody gave is theirs to replace.
    let store = Store::default();
    let replica = settled(&store, &old).await;
    tokio::time::sleep(PACE.life).await;
    assert!(replica.signs_with(&old));
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_takes_effect_that_could_not_be_written_down() {
    let (store, a, b) = (Store::default(), authority(), authority());
    let replica = settled(&store, &a).await;
    store.want(&b, false);
    replica.stage("announcing").await;
    store.contents.lock().broken = true;
    tokio::time::sleep(PACE.announce * 10).await;
    assert!(replica.signs_with(&a));
    assert!(replica.problem().unwrap().contains("it is broken"));
    store.contents.lock().broken = false;
    replica.stage("renewing").await;
    assert!(replica.signs_with(&b));
    assert_eq!(store.succession().unwrap().signer, *b.certificate());
    replica.stop().await;
}

#[test]
fn what_is_written_is_read_back_and_what_is_garbage_is_refused() {
    let authority = authority();
    let target = aquifer_identity::succession::Target::of(&authority).unwrap();
    let first = Succession::starting(&target, start());
    assert_eq!(decode(&encode(&first)).unwrap(), first);
    for bad in [
        "",
        "{}",
        r#"{"signer":"","roots":[],"changedAt":0,"knownAt":null}"#,
    ] {
        assert!(decode(bad).is_err(), "{bad}");
    }
    let far = encode(&first).replace("1800000000", "18446744073709551615");
    assert!(decode(&far).is_ok());
}
