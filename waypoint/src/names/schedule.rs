//! When which name is looked up, and what an answer means: the clock and chance are arguments.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::share::Chosen;

/// How often names are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Between two look-ups of a name.
    pub(super) interval: Duration,
    /// The longest that a name waits that fails again and again.
    pub(super) slowest: Duration,
    /// For how long a name may stand for nothing until what it stood for before goes.
    pub(super) gone_after: Duration,
}

/// Look-ups at a time; each holds a thread while the resolver waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Places {
    pub(super) all: usize,
    /// Of one namespace: names whose server never answers hold up only those beside them.
    pub(super) of_namespace: usize,
}

pub(super) struct Schedule {
    pace: Pace,
    places: Places,
    followed: BTreeMap<Arc<str>, Followed>,
    /// In flight, on which namespace's account; some may be followed no more.
    asking: BTreeMap<Arc<str>, Arc<str>>,
}

struct Followed {
    namespace: Arc<str>,
    due: Instant,
    /// Look-ups that failed since the last good one.
    failures: u32,
    /// Since when it stands for nothing.
    nothing: Option<Since>,
}

#[derive(Clone, Copy)]
struct Since {
    first: Instant,
    /// What it stood for before is gone.
    over: bool,
}

/// What a look-up came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Addresses,
    /// There is no such name, or it has no address: its owner says so.
    Nothing,
    /// Nobody could say.
    Unanswered,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The answer is in effect from now on; `again` where the look-up before failed.
    Use { again: bool },
    /// The last answer stays in effect; `first` where the look-up before was good.
    Keep { first: bool },
    /// The last answer is in effect no longer.
    Drop,
    /// Nobody needs it any more.
    Ignore,
}

impl Schedule {
    pub(super) fn new(pace: Pace, places: Places) -> Self {
        Self {
            pace,
            places,
            followed: BTreeMap::new(),
            asking: BTreeMap::new(),
        }
    }

    /// Begins with names that are new; gives those that it ends with.
    pub(super) fn follow(&mut self, chosen: Chosen, now: Instant) -> Vec<Arc<str>> {
        let ended: Vec<_> = self
            .followed
            .keys()
            .filter(|name| !chosen.contains_key(*name))
            .cloned()
            .collect();
        for name in &ended {
            self.followed.remove(name);
        }
        for (name, namespace) in chosen {
            let followed = self.followed.entry(name).or_insert_with(|| Followed {
                namespace: namespace.clone(),
                due: now,
                failures: 0,
                nothing: None,
            });
            followed.namespace = namespace;
        }
        ended
    }

    /// Takes a place, where one is free, for the name to look up next: of those that are due the one whose namespace has the
    /// fewest look-ups under way.
    pub(super) fn begin(&mut self, now: Instant) -> Option<Arc<str>> {
        let due = self.startable().filter(|(_, followed)| followed.due <= now);
        let (name, namespace) = due
            .min_by_key(|(_, followed)| (self.asking_of(&followed.namespace), followed.due))
            .map(|(name, followed)| (name.clone(), followed.namespace.clone()))?;
        self.asking.insert(name.clone(), namespace);
        Some(name)
    }

    /// When a name is due next; none while nothing can begin before an answer has come.
    pub(super) fn next(&self) -> Option<Instant> {
        self.startable().map(|(_, followed)| followed.due).min()
    }

    /// Names that have a place.
    fn startable(&self) -> impl Iterator<Item = (&Arc<str>, &Followed)> {
        let free = self.asking.len() < self.places.all;
        let has_place = move |name: &Arc<str>, followed: &Followed| {
            free && !self.asking.contains_key(name)
                && self.asking_of(&followed.namespace) < self.places.of_namespace
        };
        self.followed
            .iter()
            .filter(move |(name, followed)| has_place(name, followed))
    }

    fn asking_of(&self, namespace: &Arc<str>) -> usize {
        self.asking.values().filter(|of| *of == namespace).count()
    }

    /// Takes the outcome of a look-up; `chance` is between 0 and 1.
    pub(super) fn ended(&mut self, name: &Arc<str>, outcome: Outcome, now: Instant, chance: f64) -> Verdict {
        self.asking.remove(name);
        let pace = self.pace;
        let Some(followed) = self.followed.get_mut(name) else {
            return Verdict::Ignore;
        };
        let verdict = followed.judge(outcome, now, pace.gone_after);
        followed.due = now + followed.delay(pace, chance);
        verdict
    }

    /// Names whose last look-up failed.
    pub(super) fn failing(&self) -> usize {
        self.followed
            .values()
            .filter(|followed| followed.failures > 0)
            .count()
    }
}

impl Followed {
    fn judge(&mut self, outcome: Outcome, now: Instant, gone_after: Duration) -> Verdict {
        if outcome == Outcome::Addresses {
            let again = std::mem::take(&mut self.failures) > 0;
            self.nothing = None;
            return Verdict::Use { again };
        }
        let first = self.failures == 0;
        self.failures = self.failures.saturating_add(1);
        if outcome == Outcome::Nothing {
            let since = self.nothing.get_or_insert(Since {
                first: now,
                over: false,
            });
            if !since.over && now.saturating_duration_since(since.first) >= gone_after {
                since.over = true;
                return Verdict::Drop;
            }
        } else if self.nothing.is_some_and(|since| !since.over) {
            self.nothing = None;
        }
        Verdict::Keep { first }
    }

    /// Twice as long after each failure, and for many names not at one time. While it is open whether an answer is to be
    /// dropped, names are asked for as often as ever.
    fn delay(&self, pace: Pace, chance: f64) -> Duration {
        let undecided = self.nothing.is_some_and(|since| !since.over);
        if self.failures == 0 || undecided {
            return pace.interval;
        }
        let doubled = 1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX);
        let delay = pace.interval.saturating_mul(doubled).min(pace.slowest);
        delay.mul_f64(0.75 + chance / 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        interval: Duration::from_secs(5),
        slowest: Duration::from_secs(300),
        gone_after: Duration::from_secs(30),
    };
    const PLACES: Places = Places {
        all: 4,
        of_namespace: 2,
    };

    fn following(names: &[(&str, &str)], now: Instant) -> Schedule {
        let mut schedule = Schedule::new(PACE, PLACES);
        let chosen = names.iter().map(|(name, of)| (Arc::from(*name), Arc::from(*of)));
        assert!(schedule.follow(chosen.collect(), now).is_empty());
        schedule
    }

    /// Answers what comes next, again and again; gives the seconds at which, and the verdicts.
    fn answered(outcomes: &[Outcome], chance: f64) -> Vec<(u64, Verdict)> {
        let start = Instant::now();
        let mut schedule = following(&[("a", "ns")], start);
        let mut answer = |outcome: &Outcome| {
            let now = schedule.next().unwrap();
            let name = schedule.begin(now).unwrap();
            let verdict = schedule.ended(&name, *outcome, now, chance);
            ((now - start).as_secs(), verdict)
        };
        outcomes.iter().map(&mut answer).collect()
    }

    const KEPT: Verdict = Verdict::Keep { first: false };
    const FAILED: Verdict = Verdict::Keep { first: true };

    #[test]
    fn what_nobody_can_say_is_asked_less_and_less_and_the_last_answer_stays() {
        let mut outcomes = vec![Outcome::Addresses];
        outcomes.extend([Outcome::Unanswered; 9]);
        outcomes.push(Outcome::Addresses);
        let times: Vec<u64> = answered(&outcomes, 1.0).iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [0, 5, 10, 20, 40, 80, 160, 320, 620, 920, 1220]);
        let verdicts: Vec<Verdict> = answered(&outcomes, 0.0).iter().map(|(_, v)| *v).collect();
        let mut expected = vec![Verdict::Use { again: false }, FAILED];
        expected.extend([KEPT; 8]);
        expected.push(Verdict::Use { again: true });
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn names_that_fail_together_are_not_asked_together() {
        let outcomes = [Outcome::Unanswered; 4];
        let (early, late) = (answered(&outcomes, 0.0), answered(&outcomes, 1.0));
        assert!(early[3].0 < late[3].0, "{early:?} {late:?}");
    }

    #[test]
    fn a_name_that_stands_for_nothing_is_given_up_after_a_while() {
        let mut outcomes = vec![Outcome::Addresses];
        outcomes.extend([Outcome::Nothing; 9]);
        let said = answered(&outcomes, 1.0);
        let dropped = said.iter().position(|(_, verdict)| *verdict == Verdict::Drop);
        assert_eq!(dropped.map(|i| said[i].0), Some(35), "{said:?}");
        assert_eq!(said.iter().filter(|(_, v)| *v == Verdict::Drop).count(), 1);
        assert!(
            said[9].0 - said[8].0 > 5,
            "from then on it is asked less: {said:?}"
        );
    }

    #[test]
    fn an_address_or_silence_in_between_begins_the_time_anew() {
        let (nothing, silent, found) = (Outcome::Nothing, Outcome::Unanswered, Outcome::Addresses);
        let mut outcomes = vec![found, nothing, nothing, nothing, nothing, found];
        outcomes.extend([nothing; 6]);
        assert!(answered(&outcomes, 1.0).iter().all(|(_, v)| *v != Verdict::Drop));
        let silence = [found, nothing, silent, silent, silent, silent, silent, nothing];
        let said = answered(&silence, 1.0);
        assert!(said.iter().all(|(_, v)| *v != Verdict::Drop), "{said:?}");
        assert!(
            said[7].0 - said[6].0 > 5,
            "it is asked less and less meanwhile: {said:?}"
        );
        let never_said = [silent; 20];
        assert!(
            answered(&never_said, 1.0)
                .iter()
                .all(|(_, v)| *v != Verdict::Drop)
        );
    }

    #[test]
    fn names_whose_server_is_silent_hold_up_no_other_namespace() {
        let now = Instant::now();
        let mut schedule = following(
            &[
                ("a1", "a"),
                ("a2", "a"),
                ("a3", "a"),
                ("b1", "b"),
                ("c1", "c"),
                ("d1", "d"),
            ],
            now,
        );
        let begun: Vec<_> = std::iter::from_fn(|| schedule.begin(now)).collect();
        assert_eq!(begun.len(), PLACES.all);
        let of_a = begun.iter().filter(|name| name.starts_with('a')).count();
        assert_eq!(of_a, 1, "each has one first: {begun:?}");
        assert_eq!(schedule.next(), None, "nothing begins before an answer has come");
        schedule.ended(&"b1".into(), Outcome::Addresses, now, 0.0);
        assert_eq!(schedule.begin(now).as_deref(), Some("a2"));
        schedule.ended(&"c1".into(), Outcome::Addresses, now, 0.0);
        assert_eq!(schedule.begin(now), None, "two of one namespace at a time");
        assert_eq!(schedule.next(), Some(now + PACE.interval));
    }

    #[test]
    fn what_is_wanted_no_more_keeps_its_place_until_it_ends() {
        let now = Instant::now();
        let mut schedule = following(&[("a", "ns"), ("b", "ns"), ("c", "ns")], now);
        let (first, second) = (schedule.begin(now).unwrap(), schedule.begin(now).unwrap());
        let ended = schedule.follow(Chosen::from([("c".into(), "ns".into())]), now);
        assert_eq!(ended, ["a".into(), "b".into()]);
        assert_eq!(schedule.begin(now), None);
        assert_eq!(
            schedule.ended(&first, Outcome::Addresses, now, 0.0),
            Verdict::Ignore
        );
        assert_eq!(schedule.begin(now).as_deref(), Some("c"));
        assert_eq!(
            schedule.ended(&second, Outcome::Nothing, now, 0.0),
            Verdict::Ignore
        );
        assert_eq!(schedule.failing(), 0);
    }
}
