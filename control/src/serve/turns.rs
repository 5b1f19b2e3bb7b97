//! Large first pictures are sent to a few proxies at a time.
//!
//! Hundreds of proxies that reconnect at once are served faster one after the other than all at the same time, and
//! what is buffered for them stays small. A turn that takes too long ends by itself: its proxy goes on, and counts no
//! more, so that slow ones delay the others for a bounded time only.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

const AT_ONCE: usize = 16;
const LONGEST: Duration = Duration::from_secs(5);

#[derive(Clone, Default)]
pub(super) struct Turns(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// Held for a look, never over an await.
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    /// Number and end of the turns that count.
    taken: Vec<(u64, Instant)>,
}

/// Ends when dropped.
pub(super) struct Turn {
    turns: Turns,
    number: u64,
}

impl Turns {
    /// Cancel safe.
    pub(super) async fn wait(&self) -> Turn {
        loop {
            let free_at = match self.0.state.lock().take(Instant::now()) {
                Ok(number) => {
                    let turns = self.clone();
                    return Turn { turns, number };
                }
                Err(free_at) => free_at,
            };
            tokio::select! {
                () = self.0.freed.notified() => {}
                () = sleep_until(free_at) => {}
            }
        }
    }
}

impl State {
    /// The number of a new turn, or when one ends by itself.
    fn take(&mut self, now: Instant) -> Result<u64, Instant> {
        self.taken.retain(|(_, end)| *end > now);
        if self.taken.len() >= AT_ONCE {
            let first = self.taken.iter().map(|(_, end)| *end).min();
            return Err(first.unwrap_or(now));
        }
        self.next += 1;
        self.taken.push((self.next, now + LONGEST));
        Ok(self.next)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns
            .0
            .state
            .lock()
            .taken
            .retain(|(number, _)| *number != self.number);
        self.turns.0.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_free_when_one_ends_or_takes_too_long() {
        let (mut state, now) = (State::default(), Instant::now());
        for n in 0..AT_ONCE as u64 {
            let later = now + Duration::from_millis(n);
            assert_eq!(state.take(later), Ok(n + 1));
        }
        assert_eq!(
            state.take(now),
            Err(now + LONGEST),
            "when the first one has taken too long"
        );
        assert!(state.take(now + LONGEST).is_ok());
        assert!(state.take(now + LONGEST).is_err(), "the others still count");
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_a_turn_ends() {
        let turns = Turns::default();
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            held.push(turns.wait().await);
        }
        let waiting = turns.wait();
        held.pop();
        held.push(waiting.await);
        drop(held);
        assert!(turns.0.state.lock().taken.is_empty());
    }
}
