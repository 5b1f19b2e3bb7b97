//! The life of each pod on this node as a state machine: facts in, actions out, no I/O and no clock of its own.
//!
//! Rules it keeps: one bad pod never holds up another; a pod is reported as enrolled only when tunnels to it work; once
//! reported it stays so until it is deliberately un-enrolled (an agent that restarts finds its pods still captured, and
//! withdrawing them meanwhile would make their peers talk plaintext); what an earlier agent serves is left to it until
//! this one can serve it; before capture is undone, the report is withdrawn and the control plane given time to follow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pods::{Captured, NodePod, PodList, PodReport, PodState};

/// How long the control plane may take to withdraw a pod before capture is undone anyway.
const WITHDRAW_DEADLINE: Duration = Duration::from_secs(5);
/// For the other nodes, waypoints and gateways, which learn of the withdrawal at about the same time as this one: a busy
/// one later. Whoever still dials the tunnel is served meanwhile.
const WITHDRAW_GRACE: Duration = Duration::from_secs(2);
const FIRST_RETRY: Duration = Duration::from_millis(250);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// What a pod waits for comes from the control plane, which backs off on its own account.
const LONGEST_PREPARE_RETRY: Duration = Duration::from_secs(2);

type Uid = Arc<str>;

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Listed(PodList),
    /// A pod that an earlier agent serves can be served by this one, or will be taken without.
    Awaited(Uid),
    /// Capture of a pod was set up, or not.
    Captured(Uid, Result<(), String>),
    /// What a captured pod needs to serve tunnels is there, or what is missing.
    Prepared(Uid, Result<(), String>),
    /// The control plane no longer advertises the pod's tunnel.
    Withdrawn(Uid),
    Released(Uid, Result<(), String>),
    /// Time has passed.
    Tick,
}

/// Something to do; each is answered by an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Get what serving the pod needs, while an earlier agent serves it.
    Await(Arc<NodePod>),
    Capture(Arc<NodePod>),
    Prepare(Uid),
    Release(Arc<NodePod>, Release),
}

/// How a pod's proxy ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// The pod lives on without the mesh: its open connections may finish.
    Leaves,
    /// The pod is gone, and its connections with it.
    Gone,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    /// Served by an earlier agent until this one can.
    Awaiting {
        over: bool,
    },
    Capturing,
    /// Capture failed; tried again at the time given.
    Failed {
        retry_at: Instant,
        reason: String,
    },
    Preparing,
    /// Something is missing; looked at again at the time given.
    Unprepared {
        retry_at: Instant,
        reason: String,
    },
    Enrolled,
    /// Reported as leaving; released at the time given, sooner once the control plane has followed.
    Withdrawing {
        until: Instant,
        followed: bool,
    },
    Releasing,
    /// Capture could not be undone; tried again at the time given.
    Stuck {
        retry_at: Instant,
        reason: String,
    },
}

#[derive(Debug)]
struct Pod {
    wanted: Arc<NodePod>,
    /// What the present capture was made for.
    captured: Option<Arc<NodePod>>,
    /// Whether this process made it, and so serves the pod.
    ours: bool,
    present: bool,
    advertised: bool,
    failures: u32,
    phase: Phase,
}

/// All pods of this node.
#[derive(Debug, Default)]
pub(crate) struct Reconciler {
    pods: BTreeMap<Uid, Pod>,
    malformed: BTreeMap<Uid, String>,
    /// Pods that an earlier process reported as enrolled; consulted when a pod is first seen.
    earlier: Vec<Uid>,
}

impl Reconciler {
    pub(crate) fn new(earlier: &[PodReport]) -> Self {
        let enrolled = earlier.iter().filter(|r| r.state == PodState::Enrolled);
        Self {
            earlier: enrolled.map(|r| r.uid.clone()).collect(),
            ..Self::default()
        }
    }

    /// Takes one event and says what to do.
    pub(crate) fn handle(&mut self, now: Instant, event: Event) -> Vec<Action> {
        match event {
            Event::Listed(list) => self.listed(list),
            Event::Awaited(uid) => self.awaited(&uid),
            Event::Captured(uid, result) => self.captured(now, &uid, result),
            Event::Prepared(uid, result) => self.prepared(now, &uid, result),
            Event::Withdrawn(uid) => self.withdrawn(now, &uid),
            Event::Released(uid, result) => self.released(now, &uid, result),
            Event::Tick => {}
        }
        let mut actions = Vec::new();
        for (uid, pod) in &mut self.pods {
            pod.step(now, uid, &mut actions);
        }
        self.pods.retain(|_, pod| pod.present || pod.phase != Phase::Idle);
        actions
    }

    /// When [`Event::Tick`] is wanted next.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.pods.values().filter_map(Pod::wake_at).min()
    }

    /// The state of every pod, in the order of uids.
    pub(crate) fn reports(&self) -> Vec<PodReport> {
        let pods = self.pods.iter().filter(|(_, pod)| pod.present).map(|(uid, pod)| {
            let (state, reason) = pod.state();
            PodReport {
                uid: uid.clone(),
                state,
                reason,
                captured: pod.standing_capture(),
            }
        });
        let malformed = self
            .malformed
            .iter()
            .filter(|(uid, _)| !self.pods.contains_key(*uid));
        let malformed = malformed.map(|(uid, reason)| PodReport {
            uid: uid.clone(),
            state: PodState::Failed,
            reason: reason.clone(),
            captured: None,
        });
        pods.chain(malformed).collect()
    }

    /// Pods that wait for the control plane to withdraw them.
    pub(crate) fn withdrawing(&self) -> impl Iterator<Item = &Arc<NodePod>> {
        let is = |pod: &&Pod| matches!(pod.phase, Phase::Withdrawing { followed: false, .. });
        self.pods.values().filter(is).map(|pod| &pod.wanted)
    }

    /// Whether the capture of any pod is under way or to come.
    pub(crate) fn is_taking_over(&self) -> bool {
        let is = |pod: &Pod| matches!(pod.phase, Phase::Capturing | Phase::Awaiting { .. });
        self.pods.values().any(is)
    }

    /// Pods whose capture must stay: all that is wanted, and what is not withdrawn yet.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &Arc<NodePod>> {
        self.pods.values().filter_map(|pod| pod.captured.as_ref())
    }

    fn listed(&mut self, list: PodList) {
        self.malformed = list.malformed.into_iter().map(|m| (m.uid, m.reason)).collect();
        for (uid, pod) in &mut self.pods {
            pod.present = self.malformed.contains_key(uid);
        }
        for pod in list.pods {
            let pod = Arc::new(pod);
            let earlier = self.earlier.iter().position(|uid| *uid == pod.uid);
            if let Some(known) = self.pods.get_mut(&pod.uid) {
                known.present = true;
                known.wanted = pod;
                continue;
            }
            let earlier = earlier.map(|i| self.earlier.swap_remove(i)).is_some();
            self.pods.insert(pod.uid.clone(), Pod::new(pod, earlier));
        }
        // What is not on the first list is gone for good.
        self.earlier.clear();
    }

    fn awaited(&mut self, uid: &str) {
        let phase = self.pods.get_mut(uid).map(|pod| &mut pod.phase);
        if let Some(Phase::Awaiting { over }) = phase {
            *over = true;
        }
    }

    fn captured(&mut self, now: Instant, uid: &str, result: Result<(), String>) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.phase = match result {
            Ok(()) => {
                pod.failures = 0;
                pod.ours = true;
                Phase::Unprepared {
                    retry_at: now,
                    reason: "captured; waiting for its certificate".to_owned(),
                }
            }
            Err(reason) => {
                (pod.captured, pod.ours) = (None, false);
                Phase::Failed {
                    retry_at: now + pod.back_off(),
                    reason,
                }
            }
        };
    }

    fn prepared(&mut self, now: Instant, uid: &str, result: Result<(), String>) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        if pod.phase != Phase::Preparing {
            return;
        }
        pod.phase = match result {
            Ok(()) => {
                pod.failures = 0;
                pod.advertised = true;
                Phase::Enrolled
            }
            Err(reason) => Phase::Unprepared {
                retry_at: now + pod.back_off().min(LONGEST_PREPARE_RETRY),
                reason,
            },
        };
    }

    fn withdrawn(&mut self, now: Instant, uid: &str) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        if let Phase::Withdrawing { until, followed } = &mut pod.phase {
            *until = now + WITHDRAW_GRACE;
            *followed = true;
        }
    }

    fn released(&mut self, now: Instant, uid: &str, result: Result<(), String>) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        match result {
            Ok(()) => {
                pod.failures = 0;
                (pod.captured, pod.ours) = (None, false);
                pod.phase = Phase::Idle;
            }
            Err(reason) => {
                let retry_at = now + pod.back_off();
                pod.phase = Phase::Stuck { retry_at, reason };
            }
        }
    }
}

impl Pod {
    fn new(wanted: Arc<NodePod>, captured_earlier: bool) -> Self {
        Self {
            captured: captured_earlier.then(|| wanted.clone()),
            ours: false,
            wanted,
            present: true,
            advertised: captured_earlier,
            failures: 0,
            phase: Phase::Idle,
        }
    }

    fn desired(&self) -> bool {
        self.present && self.wanted.wanted
    }

    /// Moves on as far as this pod can without another event.
    fn step(&mut self, now: Instant, uid: &Uid, actions: &mut Vec<Action>) {
        match &self.phase {
            Phase::Capturing | Phase::Releasing => {}
            Phase::Stuck { retry_at, .. } if *retry_at <= now => self.release(actions),
            Phase::Stuck { .. } => {}
            Phase::Idle if self.desired() && self.is_served_elsewhere() => {
                self.phase = Phase::Awaiting { over: false };
                actions.push(Action::Await(self.wanted.clone()));
            }
            Phase::Idle if self.desired() => self.capture(actions),
            Phase::Awaiting { .. } if !self.desired() => self.leave(now, actions),
            Phase::Awaiting { over } if *over || !self.is_served_elsewhere() => self.capture(actions),
            Phase::Awaiting { .. } => {}
            // An earlier agent captured it, and now it is not wanted.
            Phase::Idle if self.captured.is_some() => self.leave(now, actions),
            Phase::Idle => {}
            Phase::Failed { .. } if !self.desired() && self.advertised => self.leave(now, actions),
            Phase::Failed { .. } if !self.desired() => self.phase = Phase::Idle,
            Phase::Failed { retry_at, .. } if *retry_at <= now => self.capture(actions),
            Phase::Failed { .. } => {}
            Phase::Withdrawing { .. } if self.desired() && !self.ours => self.capture(actions),
            Phase::Withdrawing { .. } if self.desired() => {
                self.phase = Phase::Unprepared {
                    retry_at: now,
                    reason: "wanted again".to_owned(),
                };
                self.step(now, uid, actions);
            }
            Phase::Withdrawing { until, .. } if *until <= now || !self.present => self.release(actions),
            Phase::Withdrawing { .. } => {}
            Phase::Preparing | Phase::Unprepared { .. } | Phase::Enrolled if !self.desired() => {
                self.leave(now, actions);
            }
            Phase::Unprepared { .. } | Phase::Enrolled if self.outdated() => self.release(actions),
            Phase::Unprepared { .. } | Phase::Enrolled if self.contested() => self.capture(actions),
            Phase::Unprepared { retry_at, .. } if *retry_at <= now => {
                self.phase = Phase::Preparing;
                actions.push(Action::Prepare(uid.clone()));
            }
            Phase::Preparing | Phase::Unprepared { .. } | Phase::Enrolled => {}
        }
    }

    /// Whether an earlier agent serves it that is not asked to end yet. What the pod became since then nobody serves.
    fn is_served_elsewhere(&self) -> bool {
        self.wanted.served && self.advertised && !self.outdated()
    }

    /// Whether the pod has changed in a way that its capture does not follow.
    fn outdated(&self) -> bool {
        let captured = self.captured.as_ref();
        captured.is_some_and(|captured| !captured.same_enrolment(&self.wanted))
    }

    /// Whether another agent may have captured the pod after this one did.
    fn contested(&self) -> bool {
        let captured = self.captured.as_ref();
        captured.is_some_and(|captured| captured.turn != self.wanted.turn)
    }

    /// What this process has captured of it.
    fn standing_capture(&self) -> Option<Captured> {
        let stands = matches!(
            self.phase,
            Phase::Preparing | Phase::Unprepared { .. } | Phase::Enrolled
        );
        let captured = self.captured.as_ref().filter(|_| stands && self.ours)?;
        Some(Captured {
            ips: captured.ips.clone(),
            netns: captured.netns.clone(),
        })
    }

    fn capture(&mut self, actions: &mut Vec<Action>) {
        self.captured = Some(self.wanted.clone());
        self.phase = Phase::Capturing;
        actions.push(Action::Capture(self.wanted.clone()));
    }

    /// Begins to un-enrol: at once where the pod is gone, else after the report was withdrawn.
    fn leave(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let advertised = std::mem::replace(&mut self.advertised, false);
        if self.present && advertised {
            self.phase = Phase::Withdrawing {
                until: now + WITHDRAW_DEADLINE,
                followed: false,
            };
        } else {
            self.release(actions);
        }
    }

    fn release(&mut self, actions: &mut Vec<Action>) {
        let how = if self.present {
            Release::Leaves
        } else {
            Release::Gone
        };
        let captured = self.captured.as_ref().unwrap_or(&self.wanted).clone();
        self.phase = Phase::Releasing;
        actions.push(Action::Release(captured, how));
    }

    fn back_off(&mut self) -> Duration {
        let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(12));
        self.failures = self.failures.saturating_add(1);
        wait.min(LONGEST_RETRY)
    }

    fn wake_at(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Failed { retry_at, .. } | Phase::Unprepared { retry_at, .. } => Some(*retry_at),
            Phase::Stuck { retry_at, .. } => Some(*retry_at),
            Phase::Withdrawing { until, .. } => Some(*until),
            _ => None,
        }
    }

    fn state(&self) -> (PodState, String) {
        let because = || self.wanted.reason.clone();
        match &self.phase {
            Phase::Withdrawing { .. } | Phase::Releasing => {
                (PodState::Pending, "being un-enrolled".to_owned())
            }
            Phase::Stuck { reason, .. } => (PodState::Pending, format!("cannot be un-enrolled: {reason}")),
            _ if !self.desired() => (PodState::NotWanted, because()),
            Phase::Enrolled => (PodState::Enrolled, because()),
            // Still captured by the kernel: withdrawing it would make its peers talk plaintext.
            Phase::Failed { reason, .. } | Phase::Unprepared { reason, .. } if self.advertised => {
                (PodState::Enrolled, format!("captured, not served: {reason}"))
            }
            _ if self.advertised => (PodState::Enrolled, because()),
            Phase::Failed { reason, .. } => (PodState::Failed, reason.clone()),
            Phase::Unprepared { reason, .. } => (PodState::Pending, reason.clone()),
            Phase::Idle | Phase::Awaiting { .. } | Phase::Capturing | Phase::Preparing => {
                (PodState::Pending, because())
            }
        }
    }
}
