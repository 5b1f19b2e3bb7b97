//! Changes of headers that a route, a virtual host or a table asks for.

use ::http::header::{HeaderMap, HeaderName, HeaderValue};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetMode {
    Append,
    IfAbsent,
    Overwrite,
    OverwriteIfPresent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderSet {
    pub name: HeaderName,
    pub value: HeaderValue,
    pub mode: SetMode,
}

/// One level's changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderMutations {
    pub remove: Vec<HeaderName>,
    pub set: Vec<HeaderSet>,
}

impl HeaderMutations {
    /// Removes, then overwrites, then adds. What is present is asked once, after the removals: the changes of one level
    /// do not see each other (Envoy).
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        let (mut overwrite, mut add) = (Vec::new(), Vec::new());
        for set in &self.set {
            let present = headers.contains_key(&set.name);
            match set.mode {
                SetMode::Append => add.push(set),
                SetMode::Overwrite => overwrite.push(set),
                SetMode::IfAbsent if !present => add.push(set),
                SetMode::OverwriteIfPresent if present => overwrite.push(set),
                SetMode::IfAbsent | SetMode::OverwriteIfPresent => {}
            }
        }
        for set in overwrite {
            headers.insert(set.name.clone(), set.value.clone());
        }
        for set in add {
            headers.append(set.name.clone(), set.value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_then_sets_by_mode() {
        let set = |name: &'static str, value: &'static str, mode| HeaderSet {
            name: HeaderName::from_static(name),
            value: HeaderValue::from_static(value),
            mode,
        };
        let mutations = HeaderMutations {
            remove: vec![HeaderName::from_static("gone")],
            set: vec![
                set("gone", "back", SetMode::IfAbsent),
                set("a", "2", SetMode::Append),
                set("b", "2", SetMode::Overwrite),
                set("c", "2", SetMode::IfAbsent),
                set("d", "2", SetMode::OverwriteIfPresent),
            ],
        };
        let mut headers = HeaderMap::new();
        for name in ["gone", "a", "b", "c"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("1"));
        }
        mutations.apply(&mut headers);
        let all = |n: &str| {
            headers
                .get_all(n)
                .iter()
                .map(|v| v.to_str().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (all("gone"), all("a"), all("b")),
            (vec!["back"], vec!["1", "2"], vec!["2"])
        );
        assert_eq!((all("c"), all("d")), (vec!["1"], vec![]));
    }

    #[test]
    fn changes_of_one_level_do_not_see_each_other() {
        let set = |value: &'static str, mode| HeaderSet {
            name: HeaderName::from_static("a"),
            value: HeaderValue::from_static(value),
            mode,
        };
        let mutations = HeaderMutations {
            remove: vec![],
            set: vec![
                set("1", SetMode::IfAbsent),
                set("2", SetMode::OverwriteIfPresent),
                set("3", SetMode::Overwrite),
            ],
        };
        let mut headers = HeaderMap::new();
        mutations.apply(&mut headers);
        assert_eq!(headers.get_all("a").iter().collect::<Vec<_>>(), ["3", "1"]);
    }
}
