//! Which names are followed where there are more than a proxy looks up.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::state::Wanted;

/// Names that are followed, each with the namespace on whose account.
pub(super) type Chosen = BTreeMap<Arc<str>, Arc<str>>;

/// Names that are not, by namespace.
pub(super) type LeftOut = BTreeMap<Arc<str>, usize>;

/// As many as `most`, and of each namespace as many as of another while it has more: who names thousands takes nothing
/// from those who name a few.
pub(super) fn share(wanted: &Wanted, most: usize) -> (Chosen, LeftOut) {
    let mut chosen = Chosen::new();
    let mut rounds: Vec<_> = wanted
        .iter()
        .map(|(namespace, names)| (namespace, names.iter()))
        .collect();
    while chosen.len() < most && !rounds.is_empty() {
        rounds.retain_mut(|(namespace, names)| {
            let next = names.find(|name| !chosen.contains_key(*name));
            if let Some(name) = next.filter(|_| chosen.len() < most) {
                chosen.insert(name.clone(), (*namespace).clone());
            }
            next.is_some()
        });
    }
    let missing = |(namespace, names): (&Arc<str>, &std::collections::BTreeSet<Arc<str>>)| {
        let missing = names.iter().filter(|name| !chosen.contains_key(*name)).count();
        (missing > 0).then(|| (namespace.clone(), missing))
    };
    let left_out = wanted.iter().filter_map(missing).collect();
    (chosen, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(of: &[(&str, &[&str])]) -> Wanted {
        let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        of.iter()
            .map(|(namespace, list)| (Arc::from(*namespace), names(list)))
            .collect()
    }

    #[test]
    fn a_namespace_with_many_names_takes_none_from_the_others() {
        let wanted = wanted(&[
            ("a", &["1", "2", "3", "4", "5"]),
            ("b", &["6"]),
            ("c", &["7", "8"]),
        ]);
        let (chosen, left_out) = share(&wanted, 5);
        let names: Vec<&str> = chosen.keys().map(|name| &**name).collect();
        assert_eq!(names, ["1", "2", "6", "7", "8"]);
        assert_eq!(left_out, LeftOut::from([("a".into(), 3)]));
    }

    #[test]
    fn what_two_namespaces_name_is_followed_once() {
        let wanted = wanted(&[("a", &["1"]), ("b", &["1", "2"])]);
        let (chosen, left_out) = share(&wanted, 2);
        assert_eq!((chosen.len(), left_out.len()), (2, 0));
        assert_eq!((&*chosen["1"], &*chosen["2"]), ("a", "b"));
        assert!(share(&Wanted::new(), 2).0.is_empty());
    }
}
