//! Answers of the API server, for a short while and by hash.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;

use crate::auth::{AuthError, Caller};

/// A pod that was deleted is refused at once by the Pod objects; this is how long a revoked token of a living pod holds.
const GOOD: Duration = Duration::from_secs(60);
const BAD: Duration = Duration::from_secs(5);
const MOST: usize = 20_000;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 32]);

impl Key {
    pub(super) fn of(token: &str) -> Self {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(key)
    }
}

struct Entry {
    answer: Result<Caller, AuthError>,
    until: SystemTime,
}

/// The lock protects the map, and is held for a look only.
#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<Key, Entry>>);

impl Cache {
    pub(super) fn get(&self, key: &Key, now: SystemTime) -> Option<Result<Caller, AuthError>> {
        let entries = self.0.lock();
        let entry = entries.get(key).filter(|entry| now < entry.until)?;
        Some(entry.answer.clone())
    }

    /// Remembers an answer, at most until the token's own end. That there was none is not one.
    pub(super) fn put(
        &self,
        key: Key,
        answer: &Result<Caller, AuthError>,
        expiry: SystemTime,
        now: SystemTime,
    ) {
        let until = match answer {
            Ok(_) => expiry.min(now + GOOD),
            Err(AuthError::Unavailable(_)) => return,
            Err(_) => now + BAD,
        };
        let mut entries = self.0.lock();
        if entries.len() >= MOST {
            entries.retain(|_, entry| now < entry.until);
        }
        if entries.len() >= MOST {
            // Full of answers that hold: starting over costs a question per token.
            entries.clear();
        }
        let answer = answer.clone();
        entries.insert(key, Entry { answer, until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused() -> Result<Caller, AuthError> {
        Err(AuthError::NotAuthenticated)
    }

    #[test]
    fn an_answer_holds_for_a_while_and_never_beyond_the_token() {
        let (cache, now) = (Cache::default(), SystemTime::UNIX_EPOCH);
        let caller = Caller {
            namespace: "n".into(),
            service_account: "s".into(),
            pod_name: "p".into(),
            pod_uid: "u".into(),
            node_name: "".into(),
            node_uid: "".into(),
        };
        let (long, short, bad) = (Key::of("a"), Key::of("b"), Key::of("c"));
        cache.put(long, &Ok(caller.clone()), now + GOOD * 2, now);
        cache.put(short, &Ok(caller.clone()), now + GOOD / 2, now);
        cache.put(bad, &refused(), now + GOOD, now);
        assert_eq!(cache.get(&long, now), Some(Ok(caller)));
        assert!(cache.get(&short, now + GOOD / 2).is_none());
        assert!(cache.get(&long, now + GOOD).is_none());
        assert_eq!(cache.get(&bad, now), Some(refused()));
        assert!(cache.get(&bad, now + BAD).is_none());
    }

    #[test]
    fn silence_is_no_answer_and_the_cache_has_an_end() {
        let (cache, now) = (Cache::default(), SystemTime::UNIX_EPOCH);
        let silence = Err(AuthError::Unavailable(String::new()));
        cache.put(Key::of("x"), &silence, now, now);
        assert!(cache.get(&Key::of("x"), now).is_none());
        for i in 0..=MOST {
            cache.put(Key::of(&i.to_string()), &refused(), now, now);
        }
        assert!(cache.0.lock().len() <= MOST);
    }
}
