//! Remedies for names that lead nowhere: the nearest name that exists.

use crate::compile::Compiled;
use crate::compile::references::Resolver;
use crate::model::host::destination_host;
use crate::model::virtual_service::CLUSTER_DOMAIN;
use crate::objects::{Notice, ParsedObject};
use crate::validate::View;
use crate::validate::finding::Level;
use crate::validate::world::{World, at, names_secret};

/// Names further apart than this are different names.
const MAX_DISTANCE: usize = 2;
/// Longer names are compared in this many characters.
const MAX_COMPARED: usize = 63;

pub(super) fn for_unresolved(
    world: &World<'_>,
    compiled: &Compiled,
    object: &ParsedObject,
    notice: &Notice,
    level: Level,
) -> String {
    if notice.field == "spec.selector" {
        return "label the gateway's pods so, or correct the selector".to_owned();
    }
    if let Some(better) = nearest(compiled, object, &notice.field) {
        return format!("did you mean {better:?}?");
    }
    match (level, world.view) {
        (Level::Info, View::Files) => "give the manifests that define it too, or --cluster".to_owned(),
        _ if names_secret(&notice.field) => {
            "`kubectl create secret tls NAME -n NAMESPACE --cert=FILE --key=FILE`, where the gateway's pods run".to_owned()
        }
        _ if notice.field.starts_with("spec.gateways") => {
            "create the Gateway, or correct the name".to_owned()
        }
        _ => "create what is named, or correct the name".to_owned(),
    }
}

/// The host or subset that exists and is written almost like the one at `field`.
fn nearest(compiled: &Compiled, object: &ParsedObject, field: &str) -> Option<String> {
    let written = at(&object.raw.value, field)?;
    let own = &object.raw.key.namespace;
    let text = written.as_str().or_else(|| written.get("host")?.as_str())?;
    let host = destination_host(text, own, CLUSTER_DOMAIN, field).ok()?;
    if let Some(entry) = compiled.discovery.service_for(&host, own) {
        let subset = written.get("subset")?.as_str()?;
        let rules = Resolver::new(compiled, own).rules(&entry.service.key());
        let names = rules.subsets().into_iter().map(|s| s.name.to_string());
        return closest(subset, names);
    }
    let qualified = format!("{host}.svc.{CLUSTER_DOMAIN}");
    if compiled.discovery.by_host.contains_key(&*qualified) {
        return Some(qualified);
    }
    let (name, rest) = host.split_once('.')?;
    let beside = compiled.discovery.by_host.keys().filter_map(|known| {
        let (other, of) = known.split_once('.')?;
        (of == rest).then(|| other.to_owned())
    });
    closest(name, beside)
}

fn closest(wanted: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let near = names.map(|name| (distance(wanted, &name), name));
    near.filter(|(d, _)| (1..=MAX_DISTANCE).contains(d))
        .min()
        .map(|(_, name)| name)
}

/// Insertions, removals and replacements between two names.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (
        a.chars().take(MAX_COMPARED).collect(),
        b.chars().take(MAX_COMPARED).collect(),
    );
    if a.len().abs_diff(b.len()) > MAX_DISTANCE {
        return MAX_DISTANCE + 1;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found() {
        let names = || ["ratings", "reviews", "details"].map(str::to_owned).into_iter();
        assert_eq!(closest("reviws", names()).as_deref(), Some("reviews"));
        assert_eq!(closest("rating", names()).as_deref(), Some("ratings"));
        assert_eq!(closest("productpage", names()), None);
        assert_eq!(closest("reviews", names()), None);
    }

    proptest::proptest! {
        #[test]
        fn distance_is_symmetric(a in "[a-c]{0,8}", b in "[a-c]{0,8}") {
            assert_eq!(distance(&a, &b), distance(&b, &a));
        }
    }
}
