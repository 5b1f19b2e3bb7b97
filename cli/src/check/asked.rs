//! Many nodes asked at the same time, within bounds: one after the other a large cluster would take an hour, and one node
//! that does not answer would hold up all the others.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::bail;

/// Nodes that are asked at the same time; each question is a process of kubectl.
const AT_ONCE: usize = 20;
/// How long questions go on being asked. One that has been asked has a deadline of its own.
const PATIENCE: Duration = Duration::from_secs(60);

/// The answers, in the order of the nodes.
pub(super) fn all<N: Sync, A: Send>(
    nodes: &[N],
    ask: impl Fn(&N) -> anyhow::Result<A> + Sync,
) -> Vec<anyhow::Result<A>> {
    #[allow(clippy::disallowed_methods, reason = "the edge: how long a command may take")]
    let now = Instant::now;
    let end = now() + PATIENCE;
    while_not(|| now() >= end, nodes, ask)
}

fn while_not<N: Sync, A: Send>(
    is_over: impl Fn() -> bool + Sync,
    nodes: &[N],
    ask: impl Fn(&N) -> anyhow::Result<A> + Sync,
) -> Vec<anyhow::Result<A>> {
    let next = AtomicUsize::new(0);
    // Protects the answers, each of which is written once.
    let answers = Mutex::new(Vec::from_iter(nodes.iter().map(|_| None)));
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(node) = nodes.get(number) else { return };
            let answer = match is_over() {
                false => ask(node),
                true => too_late(),
            };
            if let Ok(mut answers) = answers.lock() {
                answers[number] = Some(answer);
            }
        }
    };
    std::thread::scope(|threads| {
        for _ in 0..nodes.len().min(AT_ONCE) {
            threads.spawn(work);
        }
    });
    let answers = answers.into_inner().unwrap_or_default();
    answers
        .into_iter()
        .map(|answer| answer.unwrap_or_else(too_late))
        .collect()
}

fn too_late<A>() -> anyhow::Result<A> {
    bail!(
        "was not asked within {} s: others did not answer",
        PATIENCE.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn twenty_are_asked_at_the_same_time() {
        // Nobody gets past it before all are there.
        let all_there = Barrier::new(AT_ONCE);
        let nodes: Vec<usize> = (0..3 * AT_ONCE).collect();
        let answers = while_not(
            || false,
            &nodes,
            |node| {
                all_there.wait();
                Ok(node * 2)
            },
        );
        let answers: Vec<usize> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers, nodes.iter().map(|n| n * 2).collect::<Vec<_>>());
    }

    #[test]
    fn with_the_time_over_nobody_is_asked_any_more() {
        let asked = AtomicUsize::new(0);
        let nodes: Vec<usize> = (0..200).collect();
        let answers = while_not(
            || asked.load(Ordering::SeqCst) >= 1,
            &nodes,
            |_| {
                asked.fetch_add(1, Ordering::SeqCst);
                Ok(())
            },
        );
        assert!(asked.load(Ordering::SeqCst) <= AT_ONCE);
        assert_eq!(answers.len(), nodes.len());
        let last = answers[199].as_ref().unwrap_err().to_string();
        assert!(last.starts_with("was not asked within"), "{last}");
    }
}
