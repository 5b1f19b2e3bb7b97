//! The chart's validating webhook, asked by the API server.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::world::{World, helm_template};

const CONFIGURATION: &str = "aquifer-validator-istio-system";
const SHOP: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec: {host: web, subsets: [{name: v1, labels: {version: v1}}]}
";

const GOOD: &str = "{hosts: [web], http: [{route: [{destination: {host: web, subset: v1}}], timeout: 3s}]}";
const WEIGHT: &str = "{hosts: [web], http: [{route: [{destination: {host: web}, weight: -5}]}]}";
const WEIGHTS: &str = "{hosts: [web], http: [{route: [{destination: {host: web}, weight: 0}, {destination: {host: web, subset: v1}, weight: 0}]}]}";
const NO_SUBSET: &str = "{hosts: [web], http: [{route: [{destination: {host: web, subset: v9}}]}]}";
const UNKNOWN: &str = "{hosts: [web], htp: []}";

/// Objects of other kinds that make no sense, and where.
const OTHERS: [(&str, &str, &str, &str); 3] = [
    (
        "security.istio.io",
        "AuthorizationPolicy",
        "{rules: [{from: [{source: {ipBlocks: [somewhere]}}]}]}",
        "spec.rules[0].from[0].source.ipBlocks[0]: ",
    ),
    (
        "networking.istio.io",
        "Gateway",
        "{selector: {istio: ingressgateway}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE}}]}",
        "spec.servers[0].tls.credentialName: ",
    ),
    (
        "networking.istio.io",
        "ServiceEntry",
        "{hosts: [a.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: nowhere}]}",
        "spec.endpoints[0].address: ",
    ),
];

fn rules(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

pub(crate) fn bad_ones_are_denied_and_good_ones_are_not(world: &World) {
    world.apply(SHOP);
    configure(world, "Ignore");
    the_root_is_written(world);
    // The API server takes a moment to hear of a webhook.
    world.until("the webhook is asked", || {
        !world.tells(&["--dry-run=server"], &rules("bad", WEIGHT)).0
    });
    for (spec, field) in [
        (WEIGHT, "spec.http[0].route[0].weight: "),
        (WEIGHTS, "spec.http[0].route"),
    ] {
        let words = [
            "admission webhook \"validation.aquifer.istio.io\" denied the request",
            "VirtualService shop/bad",
            field,
            "kubectl explain virtualservice.spec",
        ];
        is_denied(world, &rules("bad", spec), &words);
    }
    is_denied_for_good(world);
    for (group, kind, spec, field) in OTHERS {
        let object = format!(
            "apiVersion: {group}/v1\nkind: {kind}\nmetadata: {{name: bad, namespace: shop}}\nspec: {spec}\n"
        );
        let name = format!("{kind} shop/bad");
        is_denied(world, &object, &["denied the request", &name, field]);
    }
    // Fields that the definition does not have never get as far as the webhook.
    let (taken, said) = world.tells(&[], &rules("bad", UNKNOWN));
    assert!(!taken && said.contains("unknown field \"spec.htp\""), "{said}");
    assert!(!said.contains("admission webhook"), "{said}");
    // What is named may come later: manifests come in any order.
    world.until_said("what is named and not there is warned of", || {
        let (taken, said) = world.tells(&["--dry-run=server"], &rules("late", NO_SUBSET));
        let warned = said.contains("Warning: spec.http[0].route[0].destination") && said.contains("\"v9\"");
        if taken && warned { Ok(()) } else { Err(said) }
    });
    world.until(
        "the DestinationRule is read, and a good one taken without a word",
        || {
            let (taken, said) = world.tells(&["--dry-run=server"], &rules("good", GOOD));
            taken && !said.contains("Warning")
        },
    );
    assert!(world.tells(&[], &rules("good", GOOD)).0);
}

/// Not in a rehearsal only.
fn is_denied_for_good(world: &World) {
    world.until_said("it is denied", || match world.tells(&[], &rules("bad", WEIGHT)) {
        (false, said) if said.contains("denied the request") => Ok(()),
        (_, said) => Err(said),
    });
    world.kubectl(&[
        "delete",
        "virtualservices",
        "bad",
        "-n",
        "shop",
        "--ignore-not-found",
    ]);
}

/// By an answer of the webhook's: with the chart's failure policy the API server takes what it was not told of in time.
/// Nothing is stored.
fn is_denied(world: &World, object: &str, words: &[&str]) {
    world.until_said("it is denied", || {
        let (taken, said) = world.tells(&["--dry-run=server"], object);
        let lacks = words.iter().find(|word| !said.contains(**word));
        match (taken, lacks) {
            (false, None) => Ok(()),
            _ => Err(format!("taken: {taken}, without {lacks:?}: {said}")),
        }
    });
}

/// The webhook as the chart renders it with that failure policy; `Ignore` is the chart's own.
fn configure(world: &World, failure_policy: &str) {
    let mut arguments = vec![
        "aquifer",
        "-n",
        "istio-system",
        "-s",
        "templates/control/webhook.yaml",
    ];
    let value = format!("webhook.failurePolicy={failure_policy}");
    if failure_policy != "Ignore" {
        arguments.extend(["--set", &value]);
    }
    let rendered = helm_template("deploy/chart", &arguments);
    assert!(rendered.contains(&format!("failurePolicy: {failure_policy}")));
    world.apply(&rendered);
}

fn the_root_is_written(world: &World) {
    let root = || {
        let path = r"jsonpath={.data.root-cert\.pem}";
        let map = [
            "get",
            "configmap",
            "istio-ca-root-cert",
            "-n",
            "istio-system",
            "-o",
            path,
        ];
        world.try_kubectl(&map).unwrap_or_default()
    };
    let bundle = || {
        let path = "jsonpath={.webhooks[0].clientConfig.caBundle}";
        world.kubectl(&["get", "validatingwebhookconfiguration", CONFIGURATION, "-o", path])
    };
    world.until("the control plane's root is in the configuration", || {
        STANDARD
            .decode(bundle())
            .is_ok_and(|pem| !pem.is_empty() && String::from_utf8_lossy(&pem).trim() == root().trim())
    });
}

/// By the chart's failure policy; with the other one, which it has as a value, nothing passes.
pub(crate) fn without_the_control_plane_everything_passes(world: &World) {
    configure(world, "Fail");
    world.until("with the policy Fail nothing passes", || {
        let (taken, said) = world.tells(&["--dry-run=server"], &rules("bad", WEIGHT));
        !taken && said.contains("failed calling webhook \"validation.aquifer.istio.io\"")
    });
    configure(world, "Ignore");
    world.until("with the policy Ignore everything passes", || {
        world.tells(&[], &rules("bad", WEIGHT)).0
    });
}

/// What came in meanwhile is judged when it is read; a rule that has no effect says so, and what to do.
pub(crate) fn without_automatic_waypoints_the_status_says_so(world: &World) {
    let condition = |name: &str, kind: &str| world.condition("shop", &format!("virtualservice/{name}"), kind);
    world.until("what passed is refused where it is read", || {
        condition("bad", "Accepted").starts_with("False Invalid 1 spec.http[0].route[0].weight")
    });
    world.kubectl(&["delete", "virtualservice", "bad", "-n", "shop"]);
    let made = ["get", "deployment", "waypoint", "-n", "shop"];
    world.until("the waypoint of the run before goes", || {
        world.try_kubectl(&made).is_none()
    });
    world.until(
        "the status says that the rules have no effect, and the remedy",
        || {
            let said = condition("good", "Warning");
            said.starts_with("True")
                && said.contains("the rules have no effect on it")
                && said.contains("`aquifer waypoint apply` makes one")
        },
    );
    world.until("and that no proxy has them", || {
        condition("good", "Programmed").starts_with("False NoProxies")
    });
}
