//! Writes the report: one annotation on each pod, only where it differs, tried again until it is so.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::connect::explain;
use super::observed::{REDIRECTION, REDIRECTION_ENABLED};

/// Calls under way at one time; a node that enrols all its pods at once is one of many.
const MOST_CALLS: usize = 8;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// What a pod's annotation is to say, and what the watch showed last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) advertise: bool,
    pub(super) shown: bool,
}

pub(super) type Uid = Arc<str>;
pub(super) type Wishes = BTreeMap<Uid, Wish>;

/// Hands wishes to its task; the last ones count.
pub(super) struct Annotator {
    wishes: watch::Sender<Wishes>,
    task: AbortHandle,
}

impl Annotator {
    pub(super) fn start(client: Client) -> Self {
        let (wishes, receiver) = watch::channel(Wishes::new());
        let task = tokio::spawn(run(client, receiver)).abort_handle();
        Self { wishes, task }
    }

    pub(super) fn want(&self, wishes: Wishes) {
        self.wishes.send_if_modified(|known| {
            let changed = *known != wishes;
            *known = wishes;
            changed
        });
    }
}

impl Drop for Annotator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(client: Client, mut wishes: watch::Receiver<Wishes>) {
    let mut book = Book::default();
    let mut calls = JoinSet::new();
    loop {
        let wanted = wishes.borrow_and_update().clone();
        for (uid, wish) in book.due(Instant::now(), &wanted, MOST_CALLS) {
            let client = client.clone();
            calls.spawn(async move {
                let result = write(client, &uid, &wish).await;
                (uid, wish, result)
            });
        }
        tokio::select! {
            changed = wishes.changed() => if changed.is_err() { return },
            Some(Ok((uid, wish, result))) = calls.join_next() => {
                if let Err(error) = &result {
                    tracing::warn!(pod = %wish.name, namespace = %wish.namespace, %error, "enrolment cannot be reported; trying again");
                }
                book.done(Instant::now(), &uid, wish.advertise, result.is_ok());
            }
            () = super::sleep_until(book.wake_at()) => {}
        }
    }
}

/// With the uid: a pod that took over the name of another must not take over its report.
async fn write(client: Client, uid: &str, wish: &Wish) -> Result<(), String> {
    let value = wish.advertise.then_some(REDIRECTION_ENABLED);
    let patch = json!({"metadata": {"uid": uid, "annotations": {REDIRECTION: value}}});
    let api = Api::<Pod>::namespaced(client, &wish.namespace);
    let parameters = PatchParams {
        field_manager: Some("aquifer-agent".to_owned()),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(patch);
    match tokio::time::timeout(CALL_TIMEOUT, api.patch_metadata(&wish.name, &parameters, &patch)).await {
        Ok(Ok(_)) => Ok(()),
        // The pod is gone, or another has its name: the watch tells.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
        Ok(Err(error)) => Err(explain(&error)),
        Err(_) => Err(format!("no answer within {CALL_TIMEOUT:?}")),
    }
}

/// What was written, what is being written, and what waits for another attempt.
#[derive(Debug, Default)]
struct Book {
    /// Written, and not yet shown by the watch.
    written: HashMap<Uid, bool>,
    calling: HashSet<Uid>,
    retries: HashMap<Uid, Retry>,
}

#[derive(Debug)]
struct Retry {
    at: Instant,
    pause: Duration,
}

impl Book {
    /// The calls to make now.
    fn due(&mut self, now: Instant, wanted: &Wishes, most: usize) -> Vec<(Uid, Wish)> {
        self.written
            .retain(|uid, written| wanted.get(uid).is_some_and(|wish| wish.shown != *written));
        self.retries.retain(|uid, _| wanted.contains_key(uid));
        let room = most.saturating_sub(self.calling.len());
        let differs = |(uid, wish): &(&Uid, &Wish)| {
            let now_there = self.written.get(*uid).copied().unwrap_or(wish.shown);
            let waits = self.retries.get(*uid).is_some_and(|retry| retry.at > now);
            wish.advertise != now_there && !waits && !self.calling.contains(*uid)
        };
        let due: Vec<(Uid, Wish)> = wanted
            .iter()
            .filter(differs)
            .take(room)
            .map(|(uid, wish)| (uid.clone(), wish.clone()))
            .collect();
        self.calling.extend(due.iter().map(|(uid, _)| uid.clone()));
        due
    }

    fn done(&mut self, now: Instant, uid: &Uid, advertise: bool, succeeded: bool) {
        self.calling.remove(uid);
        if succeeded {
            self.retries.remove(uid);
            self.written.insert(uid.clone(), advertise);
            return;
        }
        let last = self.retries.get(uid).map(|retry| retry.pause * 2);
        let pause = last.unwrap_or(FIRST_RETRY).min(LONGEST_RETRY);
        let retry = Retry {
            at: now + pause,
            pause,
        };
        self.retries.insert(uid.clone(), retry);
    }

    fn wake_at(&self) -> Option<Instant> {
        let waiting = self
            .retries
            .iter()
            .filter(|(uid, _)| !self.calling.contains(*uid));
        waiting.map(|(_, retry)| retry.at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(advertise: bool, shown: bool) -> Wishes {
        let wish = Wish {
            namespace: "shop".into(),
            name: "web".into(),
            advertise,
            shown,
        };
        Wishes::from([("u1".into(), wish)])
    }

    #[test]
    fn only_what_differs_is_written_and_once() {
        let (mut book, now) = (Book::default(), Instant::now());
        assert!(book.due(now, &wishes(true, true), 8).is_empty());
        assert_eq!(book.due(now, &wishes(true, false), 8).len(), 1);
        assert!(book.due(now, &wishes(true, false), 8).is_empty(), "under way");
        book.done(now, &"u1".into(), true, true);
        assert!(
            book.due(now, &wishes(true, false), 8).is_empty(),
            "the watch lags"
        );
        assert!(book.due(now, &wishes(true, true), 8).is_empty());
        // Somebody else removed it.
        assert_eq!(book.due(now, &wishes(true, false), 8).len(), 1);
    }

    #[test]
    fn a_withdrawal_does_not_wait_for_the_watch_to_show_the_report() {
        let (mut book, now) = (Book::default(), Instant::now());
        book.due(now, &wishes(true, false), 8);
        book.done(now, &"u1".into(), true, true);
        assert_eq!(book.due(now, &wishes(false, false), 8).len(), 1);
    }

    #[test]
    fn failures_are_tried_again_ever_later_and_calls_are_bounded() {
        let (mut book, now) = (Book::default(), Instant::now());
        assert!(book.due(now, &wishes(true, false), 0).is_empty());
        book.due(now, &wishes(true, false), 8);
        book.done(now, &"u1".into(), true, false);
        assert_eq!(book.wake_at(), Some(now + FIRST_RETRY));
        assert!(book.due(now, &wishes(true, false), 8).is_empty());
        let later = now + FIRST_RETRY;
        assert_eq!(book.due(later, &wishes(true, false), 8).len(), 1);
        book.done(later, &"u1".into(), true, false);
        assert_eq!(book.wake_at(), Some(later + FIRST_RETRY * 2));
        // A pod that is gone is no longer tried.
        book.due(later, &Wishes::new(), 8);
        assert_eq!(book.wake_at(), None);
    }
}
