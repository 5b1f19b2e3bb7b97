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

/// Removals come before additions, so that a header can be replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderMutations {
    pub remove: Vec<HeaderName>,
    pub set: Vec<HeaderSet>,
}

impl HeaderMutations {
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for set in &self.set {
            set.apply(headers);
        }
    }
}

impl HeaderSet {
    fn apply(&self, headers: &mut HeaderMap) {
        let present = headers.contains_key(&self.name);
        match self.mode {
            SetMode::Append => {
                headers.append(self.name.clone(), self.value.clone());
            }
            SetMode::IfAbsent if present => {}
            SetMode::OverwriteIfPresent if !present => {}
            SetMode::IfAbsent | SetMode::Overwrite | SetMode::OverwriteIfPresent => {
                headers.insert(self.name.clone(), self.value.clone());
            }
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
}
