//! What names outside the mesh stand for, looked up again and again beside the data path.
//!
//! A name that nobody can look up keeps its last answer: a name server that is away takes nothing out of service that
//! the proxy knows. A name that stands for nothing any more, by the word of its name server, loses it after a while: its
//! addresses may be somebody else's by then. The system's resolver is asked, which tells no time to live, so every name
//! is asked for in a fixed interval.

mod resolver;
mod schedule;
mod share;

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aquifer_telemetry::names::NameMetrics;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::state::Wanted;
use crate::state::handlers::Writer;
pub(crate) use resolver::lookup;
use schedule::{Outcome, Pace, Places, Schedule, Verdict};
use share::{LeftOut, share};

/// Between two look-ups of a name, as Envoy's where it is told no time to live.
const INTERVAL: Duration = Duration::from_secs(5);
/// In intervals: five minutes, and half a minute. Envoy drops what a name stood for at the first answer without an
/// address, and so do mistakes that last a moment.
const SLOWEST: u32 = 60;
const GONE_AFTER: u32 = 6;
/// Names that one proxy looks up; the others are named in the log and have no endpoints.
const MAX_NAMES: usize = 1000;
const PLACES: Places = Places {
    all: 16,
    of_namespace: 4,
};

pub(crate) type Answer = Result<Vec<IpAddr>, Failure>;
/// Looks a name up.
pub(crate) type Lookup = Arc<dyn Fn(Arc<str>) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// Why a name leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("there is no such name, or it has no address of another host")]
    Nothing,
    #[error("{0}")]
    Unanswered(String),
}

/// Keeps the answers of the names that clusters need.
pub(crate) struct Names {
    writer: Writer,
    lookup: Lookup,
    metrics: NameMetrics,
    wanted: watch::Receiver<Wanted>,
    schedule: Schedule,
    left_out: LeftOut,
    looking: JoinSet<Answer>,
    /// Which name a task looks up: one that panics cannot say.
    names: HashMap<Id, Arc<str>>,
}

impl Names {
    pub(crate) fn new(writer: &Writer, lookup: Lookup, metrics: NameMetrics) -> Self {
        let wanted = writer.lock().wanted_names();
        Self {
            writer: writer.clone(),
            lookup,
            metrics,
            wanted,
            schedule: Schedule::new(pace(INTERVAL), PLACES),
            left_out: LeftOut::new(),
            looking: JoinSet::new(),
            names: HashMap::new(),
        }
    }

    /// Asks more often, as tests have to.
    #[cfg(test)]
    pub(crate) fn every(mut self, interval: Duration) -> Self {
        self.schedule = Schedule::new(pace(interval), PLACES);
        self
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        self.wanted.mark_changed();
        loop {
            self.begin();
            let next = self.schedule.next();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.follow(),
                    Err(_) => return,
                },
                Some(ended) = self.looking.join_next_with_id() => self.ended(ended),
                () = until(next) => {}
            }
        }
    }

    /// Starts the look-ups that are due.
    fn begin(&mut self) {
        while let Some(name) = self.schedule.begin(Instant::now()) {
            let answer = (self.lookup)(name.clone());
            let task = self
                .looking
                .spawn(async move { answer.await.and_then(resolver::usable) });
            self.names.insert(task.id(), name);
        }
    }

    /// Begins with names that are new, and ends with those that nobody needs.
    fn follow(&mut self) {
        let (chosen, left_out) = share(&self.wanted.borrow_and_update(), MAX_NAMES);
        for name in self.schedule.follow(chosen, Instant::now()) {
            self.writer.lock().answered(&name, &[]);
        }
        self.metrics.failing(self.schedule.failing());
        self.metrics.left_out(left_out.values().sum());
        if left_out != self.left_out {
            for (namespace, names) in &left_out {
                tracing::warn!(%namespace, names, limit = MAX_NAMES, "more names of ServiceEntries than this proxy looks up, shared among namespaces; requests for the rest get 503");
            }
            self.left_out = left_out;
        }
    }

    fn ended(&mut self, ended: Result<(Id, Answer), JoinError>) {
        let (id, answer) = match ended {
            Ok(ended) => ended,
            Err(error) => (error.id(), Err(Failure::Unanswered(error.to_string()))),
        };
        if let Some(name) = self.names.remove(&id) {
            self.answer(&name, answer);
        }
    }

    fn answer(&mut self, name: &Arc<str>, answer: Answer) {
        let outcome = match &answer {
            Ok(_) => Outcome::Addresses,
            Err(Failure::Nothing) => Outcome::Nothing,
            Err(Failure::Unanswered(_)) => Outcome::Unanswered,
        };
        let verdict = self.schedule.ended(name, outcome, Instant::now(), rand::random());
        match answer {
            Ok(addresses) => self.found(name, &addresses, verdict),
            Err(failure) => self.failed(name, &failure, verdict),
        }
        self.metrics.failing(self.schedule.failing());
    }

    fn found(&self, name: &Arc<str>, addresses: &[IpAddr], verdict: Verdict) {
        self.metrics.answered();
        if verdict == Verdict::Ignore {
            return;
        }
        if verdict == (Verdict::Use { again: true }) {
            tracing::info!(%name, "looked up again");
        }
        self.writer.lock().answered(name, addresses);
    }

    /// Said once, and not each time: it may stay so for days.
    fn failed(&self, name: &Arc<str>, error: &Failure, verdict: Verdict) {
        self.metrics.failed();
        match verdict {
            Verdict::Keep { first: true } => {
                tracing::warn!(%name, %error, "cannot be looked up; the last answer stays in effect, if there was one");
            }
            Verdict::Drop => {
                tracing::warn!(%name, %error, "leads nowhere any more; its last answer is in effect no longer");
                self.writer.lock().answered(name, &[]);
            }
            Verdict::Use { .. } | Verdict::Keep { first: false } | Verdict::Ignore => {}
        }
    }
}

fn pace(interval: Duration) -> Pace {
    Pace {
        interval,
        slowest: interval * SLOWEST,
        gone_after: interval * GONE_AFTER,
    }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next.into()).await,
        None => std::future::pending().await,
    }
}
