//! Another split while pages are asked for, and the way back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::demo::client::Outcome;
use crate::demo::failure::{Failure, OrFailed};
use crate::demo::report::Change;
use crate::demo::tally::{Tally, find};

use super::{NAMESPACE, PARALLEL, SETTLE, Story, TRIAL_REQUESTS, eventually, steps};

const PER_SECOND: u32 = 200;
/// After the change only this version serves, so one answer of another belongs to the old split.
const ONLY: &str = "v2";

impl Story<'_> {
    pub(super) fn change_weights(&self) -> Result<Change, Failure> {
        self.progress.say(format_args!(
            "changing the weights to 0/100/0 under {PER_SECOND} requests/s"
        ));
        let weights = BTreeMap::from([("v1", 0), (ONLY, 100), ("v3", 0)]);
        let changed = self.manifests.weights(&weights).or_failed(steps::WEIGHTS)?;
        let stop = CancellationToken::new();
        let load = self
            .client
            .load(PER_SECOND, stop.clone())
            .or_failed(steps::WEIGHTS)?;
        wait(self.options.load);
        let at = Instant::now();
        let applied = self.place.apply(NAMESPACE, &changed);
        // Whether the new split has come is told by the load's own answers, which are more.
        let _ = eventually(SETTLE, || self.only_the_new_split());
        wait(self.options.load);
        stop.cancel();
        let outcomes = load.join().or_failed(steps::WEIGHTS)?;
        applied.or_failed(steps::WEIGHTS)?;
        // Whoever looks around afterwards finds the canary as it was written.
        self.place
            .apply_path(NAMESPACE, &self.manifests.canary())
            .or_failed(steps::WEIGHTS)?;
        Ok(judge(outcomes, at))
    }

    /// Some pages, none of which is of the old split.
    fn only_the_new_split(&self) -> Result<(), String> {
        let pages = self.client.pages(TRIAL_REQUESTS, PARALLEL);
        match pages.map_err(|error| error.to_string())?.iter().all(is_new) {
            true => Ok(()),
            false => Err("the old split shows".to_owned()),
        }
    }
}

fn is_new(outcome: &Outcome) -> bool {
    let chain = outcome.result.as_ref();
    chain.is_ok_and(|chain| find(chain, "reviews").is_some_and(|by| by.version == ONLY))
}

fn judge(mut outcomes: Vec<Outcome>, changed: Instant) -> Change {
    outcomes.sort_by_key(|outcome| outcome.finished);
    let tally = Tally::of(&outcomes);
    // Answers of the old split may be under way when the change is made: the last one counts.
    let last_old = outcomes.iter().rev().find(|outcome| !is_new(outcome));
    let took = last_old.map_or(Duration::ZERO, |old| {
        old.finished.saturating_duration_since(changed)
    });
    Change {
        requests: tally.requests,
        failures: tally.failures,
        examples: tally.examples,
        per_second: PER_SECOND,
        took: outcomes.last().filter(|outcome| is_new(outcome)).map(|_| took),
    }
}

/// Lets the load run for a while; `park_timeout` may return early.
fn wait(time: Duration) {
    let deadline = Instant::now() + time;
    while let Some(left) = deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        std::thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(start: Instant, millis: u64, version: &str) -> Outcome {
        let finished = start + Duration::from_millis(millis);
        Outcome {
            finished,
            result: Ok(vec![format!("reviews/{version}@pod").parse().unwrap()]),
        }
    }

    #[test]
    fn the_new_split_holds_after_the_last_answer_of_the_old() {
        let start = Instant::now();
        let at = start + Duration::from_millis(100);
        let outcomes = [
            (50, "v2"),
            (90, "v1"),
            (110, "v2"),
            (130, "v3"),
            (150, "v2"),
            (170, "v2"),
        ];
        let change = judge(
            outcomes
                .map(|(millis, version)| outcome(start, millis, version))
                .to_vec(),
            at,
        );
        assert_eq!(change.took, Some(Duration::from_millis(30)));
        assert_eq!((change.requests, change.failures), (6, 0));
    }

    #[test]
    fn a_split_that_never_changes_is_told() {
        let start = Instant::now();
        let change = judge(vec![outcome(start, 10, "v2"), outcome(start, 20, "v3")], start);
        assert_eq!(change.took, None);
    }
}
