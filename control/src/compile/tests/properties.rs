//! Whatever objects say, compiling them ends, and every proxy can read what it gets.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixture::{Held, Mesh};
use crate::objects::tests::json as any_json;
use crate::objects::{ObjectKey, RawObject};
use crate::proxies::ProxyKey;
use crate::store::SourceEvent;

const KINDS: [(&str, &str); 13] = [
    ("networking.istio.io", "VirtualService"),
    ("networking.istio.io", "DestinationRule"),
    ("networking.istio.io", "Gateway"),
    ("security.istio.io", "PeerAuthentication"),
    ("security.istio.io", "AuthorizationPolicy"),
    ("gateway.networking.k8s.io", "Gateway"),
    ("gateway.networking.k8s.io", "HTTPRoute"),
    ("gateway.networking.k8s.io", "TLSRoute"),
    ("gateway.networking.k8s.io", "TCPRoute"),
    ("", "Pod"),
    ("", "Service"),
    ("", "Namespace"),
    ("discovery.k8s.io", "EndpointSlice"),
];

fn apply(mesh: &mut Mesh, kind: usize, name: &str, mut value: Value) {
    let (group, kind) = KINDS[kind % KINDS.len()];
    if let Some(metadata) = value
        .as_object_mut()
        .and_then(|v| v.get_mut("metadata"))
        .and_then(Value::as_object_mut)
    {
        metadata.insert("name".to_owned(), json!(name));
    }
    let raw = RawObject {
        key: ObjectKey::new(group, kind, "shop", name),
        api_version: "v1".into(),
        value,
    };
    mesh.apply(SourceEvent::Applied {
        origin: name.into(),
        object: Arc::new(raw),
    });
}

fn look_everywhere(mesh: &mut Mesh) {
    mesh.pod("shop", "gw", "istio: gw", "10.244.9.7");
    let compiled = mesh.compile();
    Held::by_waypoint(&compiled, "shop", "waypoint");
    Held::by(
        &compiled,
        &ProxyKey::Gateway {
            namespace: "shop".into(),
            pod: "gw".into(),
            uid: "uid-gw".into(),
        },
    );
}

proptest! {
    #[test]
    fn any_objects_compile(objects in prop::collection::vec((0usize..10, any_json()), 0..8)) {
        let mut mesh = Mesh::new();
        for (i, (kind, value)) in objects.into_iter().enumerate() {
            apply(&mut mesh, kind, &format!("o{i}"), value);
        }
        look_everywhere(&mut mesh);
    }

    #[test]
    fn proxies_can_read_every_accepted_rule(
        host in "[a-c*.]{1,4}",
        uri in "[/a-z.*%?(\\[]{0,8}",
        how in prop::sample::select(vec!["exact", "prefix", "regex"]),
        header in "[a-zA-Z:-]{0,6}",
        value in "\\PC{0,6}",
        subset in "[a-z]{0,2}",
        weights in prop::collection::vec(-1i64..5, 1..4),
    ) {
        let mut mesh = Mesh::new();
        mesh.namespace("shop", "istio.io/dataplane-mode: ambient").pod("shop", "gw", "istio: gw", "10.0.0.9");
        mesh.service("shop", "a", "app: a", "10.96.0.1", "{name: http, port: 80}");
        let gateway = "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g}\nspec: {selector: {istio: gw}, servers: [{port: {number: 80, protocol: HTTP}, hosts: ['*']}]}";
        mesh.add("shop", gateway);
        let routes: Vec<Value> = weights.iter().map(|w| json!({
            "destination": { "host": host, "subset": subset }, "weight": w,
            "headers": { "request": { "set": { header.clone(): value }, "remove": [header] } },
        })).collect();
        let spec = json!({
            "hosts": ["a", host], "gateways": ["mesh", "g"],
            "http": [{
                "match": [{ "uri": { how: uri }, "headers": { header.clone(): { how: value } }, "queryParams": { "q": { how: value } } }],
                "route": routes,
                "rewrite": { "uri": uri, "authority": value },
                "corsPolicy": { "allowOrigins": [{ how: value }], "allowMethods": [value], "maxAge": "1h" },
            }],
        });
        let value = json!({ "metadata": { "name": "rules" }, "spec": spec });
        apply(&mut mesh, 0, "rules", value);
        look_everywhere(&mut mesh);
    }
}
