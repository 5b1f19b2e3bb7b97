//! A set of objects as a watch tells it: complete lists, and changes between them.

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;

/// What is kept of each object, by a key that is never used twice at one time.
#[derive(Debug)]
pub(super) struct Listed<V> {
    current: BTreeMap<String, V>,
    /// The list under way; it replaces the current one when it is complete.
    next: Option<BTreeMap<String, V>>,
    complete: bool,
}

impl<V> Default for Listed<V> {
    fn default() -> Self {
        Self {
            current: BTreeMap::new(),
            next: None,
            complete: false,
        }
    }
}

impl<V: PartialEq> Listed<V> {
    /// Takes an event; `keep` makes of an object its key and what is kept of it. True where something changed.
    pub(super) fn hear<K>(&mut self, event: Event<K>, keep: impl Fn(K) -> Option<(String, V)>) -> bool {
        match event {
            Event::Init => {
                self.next = Some(BTreeMap::new());
                false
            }
            Event::InitApply(object) => {
                self.next.get_or_insert_default().extend(keep(object));
                false
            }
            Event::InitDone => {
                let next = self.next.take().unwrap_or_default();
                let changed = !self.complete || next != self.current;
                self.current = next;
                self.complete = true;
                changed
            }
            Event::Apply(object) => {
                let Some((key, value)) = keep(object) else {
                    return false;
                };
                if self.current.get(&key) == Some(&value) {
                    return false;
                }
                self.current.insert(key, value);
                true
            }
            Event::Delete(object) => {
                let key = keep(object).map(|(key, _)| key);
                key.and_then(|key| self.current.remove(&key)).is_some()
            }
        }
    }

    /// Whether a list was ever complete.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    pub(super) fn get(&self, key: &str) -> Option<&V> {
        self.current.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &V)> {
        self.current.iter()
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.current.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hear(listed: &mut Listed<u8>, event: Event<(&'static str, u8)>) -> bool {
        listed.hear(event, |(key, value)| Some((key.to_owned(), value)))
    }

    #[test]
    fn a_list_counts_once_it_is_complete_and_forgets_what_it_does_not_name() {
        let mut listed = Listed::default();
        assert!(!hear(&mut listed, Event::Init));
        assert!(!hear(&mut listed, Event::InitApply(("a", 1))));
        assert!(!listed.is_complete());
        assert!(hear(&mut listed, Event::InitDone));
        assert!(hear(&mut listed, Event::Apply(("b", 2))));
        assert!(!hear(&mut listed, Event::Apply(("b", 2))));
        assert!(!hear(&mut listed, Event::Init));
        assert_eq!(listed.values().count(), 2);
        assert!(!hear(&mut listed, Event::InitApply(("b", 2))));
        assert!(hear(&mut listed, Event::InitDone));
        assert_eq!(listed.get("a"), None);
        assert!(hear(&mut listed, Event::Delete(("b", 3))));
        assert!(!hear(&mut listed, Event::Delete(("b", 3))));
    }

    #[test]
    fn an_empty_first_list_is_news() {
        let mut listed: Listed<u8> = Listed::default();
        hear(&mut listed, Event::Init);
        assert!(hear(&mut listed, Event::InitDone));
        hear(&mut listed, Event::Init);
        assert!(!hear(&mut listed, Event::InitDone));
    }
}
