//! The indexed answer is the one that a look at every proxy gives.

use std::collections::BTreeMap;
use std::time::SystemTime;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::compile::report::before_all;
use crate::objects::ParsedObject;
use crate::source::document;

const PODS: [&str; 4] = ["a", "b", "c", "d"];
const TYPES: [(ProxyType, &str); 3] = [
    (ProxyType::Agent, "agent"),
    (ProxyType::Waypoint, "waypoint"),
    (ProxyType::Gateway, "gateway"),
];

/// A proxy of either replica; `has` is the generation here, and whether it has the object there.
#[derive(Clone, Debug)]
struct Proxy {
    kind: usize,
    pod: usize,
    has: Option<u64>,
    refuses: bool,
}

fn proxies() -> impl Strategy<Value = Vec<Proxy>> {
    let proxy = (
        0..TYPES.len(),
        0..PODS.len(),
        prop::option::of(0..4u64),
        any::<bool>(),
    );
    let proxy = proxy.prop_map(|(kind, pod, has, refuses)| Proxy {
        kind,
        pod,
        has,
        refuses,
    });
    prop::collection::vec(proxy, 0..12)
}

fn audience() -> impl Strategy<Value = Audience> {
    let pods = prop::collection::btree_set(0..PODS.len(), 0..4);
    prop_oneof![
        Just(Audience::Nobody),
        Just(Audience::Agents),
        Just(Audience::WaypointsAndGateways),
        pods.prop_map(|pods| Audience::Pods(
            pods.into_iter().map(|n| ("ns".into(), PODS[n].into())).collect()
        )),
    ]
}

impl Proxy {
    fn said(&self) -> Option<Arc<str>> {
        self.refuses.then(|| format!("{self:?}").into())
    }

    fn here(&self) -> ProxyStatus {
        ProxyStatus {
            node_id: "x".into(),
            proxy_type: TYPES[self.kind].0,
            namespace: "ns".into(),
            pod: PODS[self.pod].into(),
            node: "node".into(),
            connected_since: SystemTime::UNIX_EPOCH,
            generation_in_effect: self.has,
            refusal: self.said(),
            trusts: None,
            types: BTreeMap::new(),
        }
    }

    fn is_for(&self, audience: &Audience) -> bool {
        match audience {
            Audience::Nobody => false,
            Audience::Agents => self.kind == 0,
            Audience::WaypointsAndGateways => self.kind != 0,
            Audience::Pods(pods) => pods.contains(&("ns".into(), PODS[self.pod].into())),
        }
    }
}

/// As one would say it, from all proxies and whether each has the object.
fn plainly(audience: &Audience, all: &[(&Proxy, bool)], here: usize) -> Option<Reach> {
    if *audience == Audience::Nobody {
        return None;
    }
    let of_audience = all.iter().filter(|(p, _)| p.is_for(audience));
    let (in_effect, of) = match audience {
        Audience::Pods(pods) => {
            // An agent here is no pod that an object is for.
            let counts = |(n, (p, has)): (usize, &(&Proxy, bool))| {
                (*has && p.is_for(audience) && (n >= here || p.kind != 0)).then_some(p.pod)
            };
            let reached: BTreeSet<usize> = all.iter().enumerate().filter_map(counts).collect();
            (reached.len(), pods.len())
        }
        _ => (
            of_audience.clone().filter(|(_, has)| *has).count(),
            of_audience.clone().count(),
        ),
    };
    let quoted = of_audience.filter(|(p, has)| match audience {
        Audience::WaypointsAndGateways => false,
        Audience::Pods(_) => !has && p.kind != 0,
        _ => !has,
    });
    let words = quoted.filter_map(|(p, _)| Some((PODS[p.pod], p.said()?)));
    let refusal = words.min().filter(|_| in_effect < of);
    Some(Reach {
        in_effect,
        of,
        refusal: refusal.map(|(pod, said)| Refusal::new(&"ns".into(), &pod.into(), &said)),
    })
}

proptest! {
    #[test]
    fn an_answer_is_that_of_a_look_at_every_proxy(
        here in proxies(), there in proxies(), known in any::<bool>(), audience in audience(),
    ) {
        const GENERATION: u64 = 2;
        let raw = document::parse(b"apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: ns, uid: u}\n");
        let object = Arc::new(ParsedObject::parse(raw.objects[0].clone()));
        let key = object.raw.key.clone();
        let lacking: Vec<usize> = there.iter().enumerate().filter(|(_, p)| p.has.is_none()).map(|(n, _)| n).collect();
        let peer = |p: &Proxy| json!({"proxyType": TYPES[p.kind].1, "namespace": "ns", "pod": PODS[p.pod], "refusal": p.said()});
        let elsewhere = Elsewhere::of_report(json!({
            "proxies": there.iter().map(peer).collect::<Vec<_>>(),
            "objects": [{"group": "", "kind": "Service", "namespace": "ns", "name": "s", "uid": if known { "u" } else { "old" }, "generation": null, "lacking": lacking}],
            "places": [],
        }));
        let mut report = before_all(&object);
        report.audience = audience.clone();
        let since = Since { object, report: Arc::new(report), generation: GENERATION };
        let connected: Vec<ProxyStatus> = here.iter().map(Proxy::here).collect();
        let own = here.iter().map(|p| (p, p.has.is_some_and(|has| has >= GENERATION)));
        let others = there.iter().map(|p| (p, known && p.has.is_some()));
        let all: Vec<(&Proxy, bool)> = own.chain(others).collect();
        prop_assert_eq!(
            Census::of(&connected, &elsewhere).reach(&key, &since),
            plainly(&audience, &all, here.len())
        );
    }
}
