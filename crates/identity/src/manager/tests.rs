//! The manager against an authority in memory, in simulated time: tokio's clock is paused and drives ours.

use std::sync::atomic::{AtomicUsize, Ordering};

use aquifer_core::identity::TrustDomain;
use async_trait::async_trait;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::authority::CertificateAuthority;

const HOUR: Duration = Duration::from_secs(3600);

/// What the authority does when it is asked.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Sign,
    Refuse,
    Hang,
    /// Signs for somebody else.
    Impostor,
    Panic,
}

struct Source {
    authority: CertificateAuthority,
    mood: Mutex<Mood>,
    ttl: Duration,
    takes: Duration,
    calls: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
    clock: Clock,
}

#[async_trait]
impl CertificateSource for Source {
    async fn sign(&self, identity: &SpiffeId, csr_pem: &str) -> Result<Vec<String>, SignError> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        tokio::time::sleep(self.takes).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        let mood = *self.mood.lock();
        let identity = match mood {
            Mood::Sign => identity.clone(),
            Mood::Impostor => id("impostor"),
            Mood::Refuse => return Err(SignError::Refused("not on this node".into())),
            Mood::Hang => std::future::pending().await,
            Mood::Panic => panic!("the source of this test panics on purpose"),
        };
        self.authority
            .sign_workload(csr_pem, &identity, self.ttl, (self.clock)())
            .map_err(|e| SignError::Malformed(e.to_string()))
    }
}

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/test/sa/{name}")).unwrap()
}

struct Bench {
    source: Arc<Source>,
    manager: CertificateManager,
    clock: Clock,
    driver: JoinHandle<()>,
}

impl Bench {
    fn new(mood: Mood) -> Self {
        let (epoch, start) = (SystemTime::now(), Instant::now());
        let clock: Clock = Arc::new(move || epoch + start.elapsed());
        let source = Arc::new(Source {
            authority: CertificateAuthority::new_self_signed(TrustDomain::default(), epoch).unwrap(),
            mood: Mutex::new(mood),
            ttl: HOUR,
            takes: Duration::from_millis(100),
            calls: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            clock: clock.clone(),
        });
        let config = ManagerConfig {
            clock: clock.clone(),
            ..ManagerConfig::default()
        };
        let (manager, driver) = CertificateManager::new(source.clone(), config);
        let driver = tokio::spawn(driver);
        Self {
            source,
            manager,
            clock,
            driver,
        }
    }

    fn set(&self, mood: Mood) {
        *self.source.mood.lock() = mood;
    }

    fn calls(&self) -> usize {
        self.source.calls.load(Ordering::SeqCst)
    }

    async fn serial(&self, name: &str) -> String {
        self.manager
            .certificate(&id(name))
            .await
            .unwrap()
            .serial()
            .to_owned()
    }

    async fn error(&self, name: &str) -> String {
        self.manager.certificate(&id(name)).await.unwrap_err().to_string()
    }
}

#[tokio::test(start_paused = true)]
async fn many_callers_share_one_fetch() {
    let bench = Bench::new(Mood::Sign);
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let manager = bench.manager.clone();
            tokio::spawn(async move { manager.certificate(&id("a")).await.unwrap().serial().to_owned() })
        })
        .collect();
    let mut serials = Vec::new();
    for caller in callers {
        serials.push(caller.await.unwrap());
    }
    serials.dedup();
    assert_eq!((serials.len(), bench.calls()), (1, 1));
    bench.serial("a").await;
    assert_eq!(bench.calls(), 1, "a certificate in force is not fetched again");
}

#[tokio::test(start_paused = true)]
async fn rotates_at_half_of_the_life_while_the_old_one_serves() {
    let bench = Bench::new(Mood::Sign);
    let first = bench.serial("a").await;
    tokio::time::sleep(HOUR * 2 / 5).await;
    assert_eq!(bench.serial("a").await, first);
    tokio::time::sleep(HOUR / 5).await;
    let second = bench.serial("a").await;
    assert_ne!(second, first);
    assert_eq!(bench.calls(), 2);
    // A day later it has been renewed again and again without anybody asking.
    tokio::time::sleep(HOUR * 24).await;
    assert!((48..=56).contains(&bench.calls()), "{}", bench.calls());
    let current = bench.manager.current(&id("a")).unwrap();
    assert!(current.not_after() > (bench.clock)() + HOUR / 3);
}

#[tokio::test(start_paused = true)]
async fn an_old_certificate_serves_until_it_ends_when_renewal_fails() {
    let bench = Bench::new(Mood::Sign);
    let first = bench.serial("a").await;
    bench.set(Mood::Refuse);
    tokio::time::sleep(HOUR - Duration::from_secs(5)).await;
    assert_eq!(bench.serial("a").await, first);
    assert!(
        bench.manager.list()[0]
            .error
            .as_ref()
            .unwrap()
            .contains("not on this node")
    );
    tokio::time::sleep(Duration::from_secs(10)).await;
    let error = bench.error("a").await;
    assert!(
        error.contains("no certificate for spiffe://cluster.local/ns/test/sa/a"),
        "{error}"
    );
    assert!(error.contains("refused: not on this node"), "{error}");
    assert!(bench.manager.current(&id("a")).is_none());
    bench.set(Mood::Sign);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_ne!(bench.serial("a").await, first);
    assert!(bench.manager.list()[0].error.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_failed_identity_answers_at_once_and_backs_off() {
    let bench = Bench::new(Mood::Refuse);
    bench.error("a").await;
    let before = Instant::now();
    for _ in 0..100 {
        assert!(bench.error("a").await.contains("next attempt in"));
    }
    assert_eq!(before.elapsed(), Duration::ZERO);
    assert_eq!(bench.calls(), 1);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    // 1 2 4 ... 128 then every 150 s, a fifth more or less: about 30 in an hour, not thousands.
    assert!((25..=40).contains(&bench.calls()), "{}", bench.calls());
    // Another identity is not held up by it.
    bench.set(Mood::Sign);
    bench.serial("b").await;
}

#[tokio::test(start_paused = true)]
async fn at_most_eight_fetches_run_at_once() {
    let bench = Bench::new(Mood::Sign);
    let callers: Vec<_> = (0..40)
        .map(|n| {
            let manager = bench.manager.clone();
            tokio::spawn(async move { manager.certificate(&id(&format!("w{n}"))).await.map(drop) })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    assert_eq!(bench.source.most.load(Ordering::SeqCst), 8);
    assert_eq!(bench.manager.list().len(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_authority_is_given_up() {
    let bench = Bench::new(Mood::Hang);
    let error = bench.error("a").await;
    assert!(error.contains("did not answer within 10 s"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_for_somebody_else_is_not_used() {
    let bench = Bench::new(Mood::Impostor);
    let error = bench.error("a").await;
    assert!(error.contains("sa/a") && error.contains("sa/impostor"), "{error}");
    assert!(bench.manager.current(&id("a")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_panicking_source_does_not_stop_the_others() {
    let bench = Bench::new(Mood::Panic);
    assert!(bench.error("a").await.contains("abnormally"));
    bench.set(Mood::Sign);
    bench.serial("b").await;
}

#[tokio::test(start_paused = true)]
async fn forgetting_ends_the_wait_and_the_renewals() {
    let bench = Bench::new(Mood::Hang);
    let manager = bench.manager.clone();
    let waiting = tokio::spawn(async move { manager.certificate(&id("a")).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.manager.forget(&id("a"));
    assert!(matches!(
        waiting.await.unwrap(),
        Err(FetchError::Forgotten { .. })
    ));
    assert!(bench.manager.list().is_empty());
    tokio::time::sleep(HOUR * 10).await;
    assert_eq!(bench.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn prefetch_has_the_certificate_ready() {
    let bench = Bench::new(Mood::Sign);
    bench.manager.prefetch(&id("a"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(bench.manager.current(&id("a")).is_some());
    assert_eq!(bench.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_when_the_driver_ends_is_told() {
    let bench = Bench::new(Mood::Hang);
    let manager = bench.manager.clone();
    let waiting = tokio::spawn(async move { manager.certificate(&id("a")).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.driver.abort();
    assert!(matches!(waiting.await.unwrap(), Err(FetchError::Stopped { .. })));
    assert!(bench.error("b").await.contains("shutting down"));
}
