//! Compared with what is looked for among all the others.

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[derive(Clone, Debug)]
struct Written {
    namespace: u8,
    hosts: Vec<u8>,
    addresses: BTreeSet<u8>,
    export_to: u8,
}

fn written() -> impl Strategy<Value = Written> {
    let hosts = prop::collection::vec(0u8..4, 1..3);
    let addresses = prop::collection::btree_set(0u8..4, 1..4);
    (0u8..3, hosts, addresses, 0u8..4).prop_map(|(namespace, hosts, addresses, export_to)| Written {
        namespace,
        hosts,
        addresses,
        export_to,
    })
}

fn entry(age: usize, written: &Written) -> Entry<ServiceEntry> {
    let namespace = ["a", "b", "c"][usize::from(written.namespace)];
    let meta = json!({
        "name": format!("e{age}"), "namespace": namespace, "creationTimestamp": format!("2024-01-01T00:00:{age:02}Z"),
    });
    let meta: Meta = serde_json::from_value(meta).unwrap();
    let export_to = ["*", ".", "a", "*"][usize::from(written.export_to)];
    let spec = json!({
        "hosts": written.hosts.iter().map(|h| format!("h{h}.example")).collect::<Vec<_>>(),
        "addresses": written.addresses.iter().map(|a| format!("192.0.2.{}", a + 1)).collect::<Vec<_>>(),
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        "resolution": "NONE",
        "exportTo": [export_to],
    });
    let spec = serde_json::from_value(spec).unwrap();
    let spec = ServiceEntry::parse(&spec, &meta, None, &mut Vec::new()).unwrap();
    Entry {
        meta: Arc::new(meta),
        spec: Arc::new(spec),
    }
}

/// The definition, at the cost of looking at every other entry.
fn slowly(all: &[Entry<ServiceEntry>], number: usize, ip: IpAddr) -> Option<&Arc<Meta>> {
    let this = &all[number];
    let has_first = |n: usize| {
        let is_older_of = |older: &Entry<ServiceEntry>| {
            older.meta.namespace == all[n].meta.namespace && older.spec.hosts.contains(&all[n].spec.hosts[0])
        };
        !all[..n].iter().any(is_older_of)
    };
    let reach_of = |entry: &Entry<ServiceEntry>| reach(&entry.spec, &entry.meta.namespace);
    let older = || (0..number).filter(|n| has_first(*n) && all[*n].spec.addresses.contains(&ip));
    let is_own = |n: usize| all[n].meta.namespace == this.meta.namespace;
    let own = older().find(|n| is_own(*n) && reach_of(&all[*n]) != Reach::Nobody);
    let elsewhere = || {
        let mut others = older().filter(|n| !is_own(*n) && reach_of(&all[*n]) == Reach::All);
        others.next().filter(|_| reach_of(this) == Reach::All)
    };
    own.or_else(elsewhere).map(|n| &all[n].meta)
}

proptest! {
    #[test]
    fn finds_what_a_look_at_all_others_finds(written in prop::collection::vec(written(), 1..12)) {
        let all: Vec<_> = written.iter().enumerate().map(|(age, w)| entry(age, w)).collect();
        let addressed = Addressed::of(all.iter());
        for (number, entry) in all.iter().enumerate() {
            for ip in &entry.spec.addresses {
                let found = addressed.before(&entry.meta, &entry.spec, *ip).map(|meta| &meta.name);
                prop_assert_eq!(found, slowly(&all, number, *ip).map(|meta| &meta.name));
            }
        }
    }
}
