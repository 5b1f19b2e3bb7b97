use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::reconciler::{Action, Event, Reconciler, Release};
use super::{Enroller, PodHost, Reports};
use crate::pods::{MalformedPod, NodePod, NodePods, PodList, PodReport, PodState, PodsError};

fn pod(uid: &str, wanted: bool) -> NodePod {
    NodePod {
        uid: uid.into(),
        namespace: "ns".into(),
        name: uid.into(),
        service_account: "sa".into(),
        ips: vec!["10.0.0.1".parse().unwrap()],
        netns: format!("/run/netns/{uid}").into(),
        cgroup: "/c".into(),
        turn: 0,
        served: false,
        wanted,
        reason: "a label".to_owned(),
    }
}

#[test]
fn a_pod_that_another_agent_may_have_captured_is_captured_anew_and_stays_advertised() {
    let mut bench = Bench::new(&[]);
    bench.event(list(&[pod("u", true)]));
    bench.enrol("u");
    let mut again = pod("u", true);
    again.turn = 1;
    let actions = bench.event(list(std::slice::from_ref(&again)));
    assert_eq!(actions, [Action::Capture(Arc::new(again.clone()))]);
    assert_eq!(bench.state("u").0, PodState::Enrolled);
    bench.enrol("u");
    assert_eq!(bench.event(list(&[again])), []);
    assert_eq!(bench.state("u").0, PodState::Enrolled);
}

fn list(pods: &[NodePod]) -> Event {
    Event::Listed(PodList {
        pods: pods.to_vec(),
        malformed: Vec::new(),
    })
}

struct Bench {
    reconciler: Reconciler,
    now: Instant,
}

impl Bench {
    fn new(earlier: &[PodReport]) -> Self {
        Self {
            reconciler: Reconciler::new(earlier),
            now: Instant::now(),
        }
    }

    fn event(&mut self, event: Event) -> Vec<Action> {
        self.reconciler.handle(self.now, event)
    }

    fn after(&mut self, wait: Duration) -> Vec<Action> {
        self.now += wait;
        self.event(Event::Tick)
    }

    #[track_caller]
    fn state(&self, uid: &str) -> (PodState, String) {
        let report = self
            .reconciler
            .reports()
            .into_iter()
            .find(|r| &*r.uid == uid)
            .unwrap();
        (report.state, report.reason)
    }

    fn enrol(&mut self, uid: &str) {
        self.event(Event::Captured(uid.into(), Ok(())));
        self.event(Event::Prepared(uid.into(), Ok(())));
    }
}

fn capture(uid: &str) -> Action {
    Action::Capture(Arc::new(pod(uid, true)))
}

fn release(uid: &str, how: Release) -> Action {
    Action::Release(Arc::new(pod(uid, true)), how)
}

fn earlier(uid: &str) -> PodReport {
    PodReport {
        uid: uid.into(),
        state: PodState::Enrolled,
        reason: String::new(),
        captured: None,
    }
}

#[test]
fn enrolled_only_once_captured_and_prepared() {
    let mut b = Bench::new(&[]);
    assert_eq!(b.event(list(&[pod("a", true), pod("b", false)])), [capture("a")]);
    assert_eq!(b.state("a").0, PodState::Pending);
    assert_eq!(b.state("b").0, PodState::NotWanted);
    assert_eq!(
        b.event(Event::Captured("a".into(), Ok(()))),
        [Action::Prepare("a".into())]
    );
    assert_eq!(b.state("a").0, PodState::Pending);
    assert_eq!(b.event(Event::Prepared("a".into(), Ok(()))), []);
    assert_eq!(b.state("a"), (PodState::Enrolled, "a label".to_owned()));
    assert_eq!(b.reconciler.wake_at(), None);
}

#[test]
fn a_failing_pod_is_retried_and_stops_no_other() {
    let mut b = Bench::new(&[]);
    b.event(list(&[pod("a", true), pod("b", true)]));
    b.event(Event::Captured("a".into(), Err("no such namespace".to_owned())));
    b.enrol("b");
    assert_eq!(b.state("a"), (PodState::Failed, "no such namespace".to_owned()));
    assert_eq!(b.state("b").0, PodState::Enrolled);
    let mut waits = Vec::new();
    for _ in 0..12 {
        let wake = b.reconciler.wake_at().unwrap();
        waits.push(wake - b.now);
        b.now = wake;
        assert_eq!(b.event(Event::Tick), [capture("a")]);
        b.event(Event::Captured("a".into(), Err("no such namespace".to_owned())));
    }
    assert!(waits[0] < Duration::from_secs(1));
    assert!(
        waits.windows(2).all(|w| w[0] <= w[1]) && waits[11] == Duration::from_secs(30),
        "{waits:?}"
    );
}

#[test]
fn without_a_certificate_it_stays_pending_and_is_tried_again() {
    let mut b = Bench::new(&[]);
    b.event(list(&[pod("a", true)]));
    b.event(Event::Captured("a".into(), Ok(())));
    b.event(Event::Prepared("a".into(), Err("no certificate".to_owned())));
    assert_eq!(b.state("a"), (PodState::Pending, "no certificate".to_owned()));
    assert_eq!(b.after(Duration::from_secs(31)), [Action::Prepare("a".into())]);
}

#[test]
fn unenrolment_withdraws_first() {
    let mut b = Bench::new(&[]);
    b.event(list(&[pod("a", true)]));
    b.enrol("a");
    assert_eq!(b.event(list(&[pod("a", false)])), []);
    assert_eq!(b.state("a").0, PodState::Pending);
    assert_eq!(b.reconciler.withdrawing().count(), 1);
    assert_eq!(b.event(Event::Withdrawn("a".into())), []);
    assert_eq!(
        b.after(Duration::from_secs(1)),
        [],
        "others may not have heard yet"
    );
    assert_eq!(b.after(Duration::from_secs(2)), [release("a", Release::Leaves)]);
    b.event(Event::Released("a".into(), Ok(())));
    assert_eq!(b.state("a").0, PodState::NotWanted);
    assert_eq!(b.event(list(&[pod("a", true)])), [capture("a")]);
}

/// A pod that was enrolled, and is wanted no more.
fn leaving() -> Bench {
    let mut b = Bench::new(&[]);
    b.event(list(&[pod("a", true)]));
    b.enrol("a");
    b.event(list(&[pod("a", false)]));
    b
}

#[test]
fn others_have_their_time_also_after_a_late_withdrawal() {
    let mut b = leaving();
    assert_eq!(b.after(Duration::from_millis(4500)), []);
    assert_eq!(b.event(Event::Withdrawn("a".into())), []);
    assert_eq!(b.after(Duration::from_secs(1)), []);
    assert_eq!(b.after(Duration::from_secs(1)), [release("a", Release::Leaves)]);
}

#[test]
fn a_silent_control_plane_delays_unenrolment_only_so_long() {
    let mut b = leaving();
    assert_eq!(b.after(Duration::from_secs(4)), []);
    assert_eq!(b.after(Duration::from_secs(2)), [release("a", Release::Leaves)]);
}

#[test]
fn wanted_again_while_withdrawing_needs_no_new_capture() {
    let mut b = leaving();
    assert_eq!(b.event(list(&[pod("a", true)])), [Action::Prepare("a".into())]);
    b.event(Event::Prepared("a".into(), Ok(())));
    assert_eq!(b.state("a").0, PodState::Enrolled);
}

#[test]
fn a_deleted_pod_is_released_at_once_and_forgotten() {
    let mut b = Bench::new(&[]);
    b.event(list(&[pod("a", true)]));
    b.enrol("a");
    assert_eq!(b.event(list(&[])), [release("a", Release::Gone)]);
    b.event(Event::Released("a".into(), Ok(())));
    assert!(b.reconciler.reports().is_empty());
}

#[test]
fn deleted_while_being_captured() {
    let mut b = Bench::new(&[]);
    b.event(list(&[pod("a", true)]));
    assert_eq!(b.event(list(&[])), []);
    assert_eq!(
        b.event(Event::Captured("a".into(), Ok(()))),
        [release("a", Release::Gone)]
    );
}

#[test]
fn failed_release_is_tried_again() {
    let mut b = Bench::new(&[]);
    b.event(list(&[pod("a", true)]));
    b.enrol("a");
    b.event(list(&[]));
    assert_eq!(b.event(Event::Released("a".into(), Err("busy".to_owned()))), []);
    assert_eq!(b.after(Duration::from_secs(1)), [release("a", Release::Gone)]);
}

#[test]
fn a_restart_does_not_withdraw_what_is_still_captured() {
    let mut b = Bench::new(&[earlier("a"), earlier("b"), earlier("gone")]);
    let actions = b.event(list(&[pod("a", true), pod("b", false)]));
    assert_eq!(actions, [capture("a")]);
    assert_eq!(b.state("a").0, PodState::Enrolled);
    assert_eq!(
        b.state("b").0,
        PodState::Pending,
        "captured earlier and no longer wanted: withdrawn, then released"
    );
    b.event(Event::Captured("a".into(), Err("not yet".to_owned())));
    let (state, reason) = b.state("a");
    assert_eq!(state, PodState::Enrolled);
    assert!(reason.contains("not yet"));
    b.event(Event::Withdrawn("b".into()));
    assert_eq!(
        b.after(Duration::from_secs(2)),
        [
            capture("a"),
            Action::Release(Arc::new(pod("b", false)), Release::Leaves)
        ]
    );
}

fn served(uid: &str) -> NodePod {
    NodePod {
        served: true,
        ..pod(uid, true)
    }
}

#[test]
fn what_an_earlier_agent_serves_is_taken_when_it_can_be_served() {
    let mut b = Bench::new(&[earlier("a"), earlier("b")]);
    let awaits = |uid| Action::Await(Arc::new(served(uid)));
    let actions = b.event(list(&[served("a"), served("b"), pod("new", true)]));
    assert_eq!(actions, [awaits("a"), awaits("b"), capture("new")]);
    assert_eq!(b.state("a").0, PodState::Enrolled);
    b.enrol("new");
    assert!(b.reconciler.is_taking_over());
    assert_eq!(b.after(Duration::from_secs(60)), []);

    let taken = b.event(Event::Awaited("a".into()));
    assert_eq!(taken, [Action::Capture(Arc::new(served("a")))]);
    b.enrol("a");
    assert!(b.reconciler.is_taking_over());
    // Now the other ends.
    let rest = [pod("a", true), pod("b", true), pod("new", true)];
    assert_eq!(b.event(list(&rest)), [capture("b")]);
    b.enrol("b");
    assert_eq!(b.event(Event::Awaited("b".into())), []);
    assert!(!b.reconciler.is_taking_over());
    assert_eq!(b.state("b").0, PodState::Enrolled);
}

#[test]
fn what_an_earlier_agent_served_is_captured_when_it_is_wanted_again() {
    let mut b = Bench::new(&[earlier("a")]);
    b.event(list(&[served("a")]));
    b.event(list(&[pod("a", false)]));
    assert_eq!(
        b.event(list(&[served("a")])),
        [Action::Capture(Arc::new(served("a")))]
    );
    b.enrol("a");
    assert_eq!(b.state("a").0, PodState::Enrolled);
}

#[test]
fn nobody_serves_what_a_pod_became_meanwhile() {
    let mut b = Bench::new(&[earlier("a")]);
    b.event(list(&[served("a")]));
    let anew = NodePod {
        netns: "/run/netns/anew".into(),
        ..served("a")
    };
    assert!(b.reconciler.reports()[0].captured.is_none());
    assert_eq!(
        b.event(list(std::slice::from_ref(&anew))),
        [Action::Capture(Arc::new(anew))]
    );
}

#[test]
fn what_leaves_while_an_earlier_agent_serves_it_is_withdrawn_first() {
    let mut b = Bench::new(&[earlier("a")]);
    b.event(list(&[served("a")]));
    assert_eq!(b.event(list(&[pod("a", false)])), []);
    assert_eq!(b.state("a").0, PodState::Pending);
    assert_eq!(b.event(Event::Awaited("a".into())), []);
    assert_eq!(
        b.after(Duration::from_secs(6)),
        [Action::Release(Arc::new(served("a")), Release::Leaves)]
    );
}

#[test]
fn a_changed_address_is_captured_anew() {
    let mut b = Bench::new(&[]);
    b.event(list(&[pod("a", true)]));
    b.enrol("a");
    let mut moved = pod("a", true);
    moved.ips.push("fd00::1".parse().unwrap());
    assert_eq!(
        b.event(list(std::slice::from_ref(&moved))),
        [release("a", Release::Leaves)]
    );
    assert_eq!(
        b.event(Event::Released("a".into(), Ok(()))),
        [Action::Capture(Arc::new(moved))]
    );
}

#[test]
fn a_malformed_entry_changes_nothing_that_runs() {
    let mut b = Bench::new(&[]);
    b.event(list(&[pod("a", true)]));
    b.enrol("a");
    let malformed = |uid: &str| MalformedPod {
        uid: uid.into(),
        reason: "ips: not a list".to_owned(),
    };
    let broken = PodList {
        pods: Vec::new(),
        malformed: vec![malformed("a"), malformed("b")],
    };
    assert_eq!(b.event(Event::Listed(broken)), []);
    assert_eq!(b.state("a").0, PodState::Enrolled);
    assert_eq!(b.state("b").0, PodState::Failed);
}

/// A source that tells what a test puts into it, and shows what was reported.
struct Source {
    lists: mpsc::Receiver<PodList>,
    reported: watch::Sender<Vec<PodReport>>,
}

#[async_trait]
impl NodePods for Source {
    async fn last_report(&mut self) -> Vec<PodReport> {
        Vec::new()
    }

    async fn next(&mut self) -> Result<PodList, PodsError> {
        match self.lists.recv().await {
            Some(list) => Ok(list),
            None => std::future::pending().await,
        }
    }

    async fn report(&mut self, pods: &[PodReport]) -> Result<(), PodsError> {
        self.reported.send_replace(pods.to_vec());
        Ok(())
    }
}

/// Captures every pod but `bad`, and notes what it did.
struct Host {
    done: Mutex<Vec<String>>,
    changes: watch::Sender<u64>,
    advertised: AtomicBool,
}

impl Host {
    fn note(&self, what: &str, uid: &str) {
        self.done.lock().push(format!("{what} {uid}"));
    }
}

#[async_trait]
impl PodHost for Host {
    async fn await_means(&self, pod: Arc<NodePod>) -> Result<(), String> {
        self.note("await", &pod.uid);
        Err("no certificate".to_owned())
    }

    async fn capture(&self, pod: Arc<NodePod>) -> Result<(), String> {
        self.note("capture", &pod.uid);
        if &*pod.uid == "bad" {
            Err("no such namespace".to_owned())
        } else {
            Ok(())
        }
    }

    async fn prepare(&self, uid: Arc<str>) -> Result<(), String> {
        self.note("prepare", &uid);
        Ok(())
    }

    async fn release(&self, pod: Arc<NodePod>, _how: Release) -> Result<(), String> {
        self.note("release", &pod.uid);
        Ok(())
    }

    async fn retain(&self, pods: Vec<Arc<NodePod>>) -> Result<(), String> {
        self.note("retain", &pods.len().to_string());
        Ok(())
    }

    fn is_withdrawn(&self, _pod: &NodePod) -> bool {
        !self.advertised.load(Ordering::SeqCst)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

async fn reported(reports: &mut watch::Receiver<Vec<PodReport>>, uid: &str, state: PodState) {
    let is_so = |all: &Vec<PodReport>| all.iter().any(|r| &*r.uid == uid && r.state == state);
    let wait = tokio::time::timeout(Duration::from_secs(30), reports.wait_for(is_so)).await;
    assert!(wait.is_ok(), "{uid} is not {state:?}");
}

#[tokio::test(start_paused = true)]
async fn the_loop_runs_actions_and_reports() {
    let (lists, receiver) = mpsc::channel(4);
    let (sender, mut reports) = watch::channel(Vec::new());
    let host = Arc::new(Host {
        done: Mutex::default(),
        changes: watch::Sender::new(0),
        advertised: AtomicBool::new(true),
    });
    let source = Source {
        lists: receiver,
        reported: sender,
    };
    let enroller = Enroller::new(Box::new(source), host.clone(), Reports::default()).await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(enroller.run(|| {}, stop.clone()));

    let send = |pods: Vec<NodePod>| PodList {
        pods,
        malformed: Vec::new(),
    };
    lists
        .send(send(vec![pod("a", true), pod("bad", true)]))
        .await
        .unwrap();
    reported(&mut reports, "a", PodState::Enrolled).await;
    reported(&mut reports, "bad", PodState::Failed).await;

    lists.send(send(vec![pod("a", false)])).await.unwrap();
    reported(&mut reports, "a", PodState::Pending).await;
    assert!(
        !host.done.lock().contains(&"release a".to_owned()),
        "withdrawn before it is released"
    );
    host.advertised.store(false, Ordering::SeqCst);
    host.changes.send_replace(1);
    reported(&mut reports, "a", PodState::NotWanted).await;

    stop.cancel();
    running.await.unwrap();
    let done = host.done.lock().clone();
    let at = |what: &str| done.iter().position(|d| d == what);
    assert!(at("prepare a") < at("release a"), "{done:?}");
    assert_eq!(
        done.iter().filter(|d| d.starts_with("retain")).count(),
        1,
        "{done:?}"
    );
    assert!(at("retain 1") > at("capture bad"), "leftovers go last: {done:?}");
}
