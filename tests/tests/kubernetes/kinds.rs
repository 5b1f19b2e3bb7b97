//! Every kind of configuration is answered for, and a proxy gets all that may be asked for with it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::world::{GATEWAYS, World};

/// That of the manifests.
pub(crate) const SHOP: &str = "shop";

/// A gateway with all that may be asked for; the uninstallation takes it away.
const DOORS: &str = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: shape}
data:
  horizontalPodAutoscaler: '{spec: {minReplicas: 1, maxReplicas: 2}}'
  podDisruptionBudget: '{spec: {minAvailable: 1}}'
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: doors
  annotations: {networking.istio.io/service-type: ClusterIP}
spec:
  gatewayClassName: istio
  infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: shape}}
  listeners:
  - {name: http, port: 80, protocol: HTTP}
  - {name: bytes, port: 9000, protocol: TCP}
  - {name: passed, port: 8443, protocol: TLS, tls: {mode: Passthrough}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: x}
spec:
  parentRefs: [{name: doors, sectionName: http}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {name: x}
spec:
  parentRefs: [{name: doors, sectionName: http}]
  rules: [{matches: [{method: {service: a.B, method: C}}], backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TLSRoute
metadata: {name: x}
spec:
  parentRefs: [{name: doors, sectionName: passed}]
  hostnames: [a.pass.example.com]
  rules: [{name: all, backendRefs: [{name: web, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1alpha2
kind: TCPRoute
metadata: {name: x}
spec:
  parentRefs: [{name: doors, sectionName: bytes}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
";
const PARTS: [&str; 5] = [
    "deployment",
    "service",
    "serviceaccount",
    "horizontalpodautoscaler",
    "poddisruptionbudget",
];
const ROUTES: &str = "httproutes,grpcroutes,tlsroutes,tcproutes";

pub(crate) fn every_kind_is_answered_for(world: &World) {
    let file = one_of_each();
    world.apply(SHOP, &std::fs::read_to_string(&file).unwrap());
    let path = file.to_str().unwrap();
    all_answered(world, &["-f", path], |object| {
        let ours = object["apiVersion"]
            .as_str()
            .is_some_and(|v| v.contains(".istio.io/"));
        !ours || !object["status"]["conditions"].is_null()
    });

    world.apply(SHOP, DOORS);
    all_answered(world, &[GATEWAYS], |gateway| {
        !gateway["status"]["conditions"].is_null()
    });
    all_answered(world, &[ROUTES], |route| {
        !route["status"]["parents"][0]["conditions"].is_null()
    });
    world.wait("all that was asked for is made", || made(world, &PARTS));
    // Its owner stays, so that nobody else removes it.
    set_class(world, "somebody-elses");
    for part in PARTS {
        world.eventually("what is another's to make goes", || made(world, &[part]).is_err());
    }
    // For the uninstallation.
    set_class(world, "istio");
    world.wait("all is made again", || made(world, &PARTS));
}

fn set_class(world: &World, class: &str) {
    let patch = format!("{{\"spec\": {{\"gatewayClassName\": \"{class}\"}}}}");
    world.kubectl(&[
        "-n",
        SHOP,
        "patch",
        GATEWAYS,
        "doors",
        "--type=merge",
        "-p",
        &patch,
    ]);
}

/// Of the gateway's proxy.
fn made(world: &World, kinds: &[&str]) -> Result<(), String> {
    let get = |kind: &&str| world.api().run(&["-n", SHOP, "get", kind, "doors-istio"]);
    kinds
        .iter()
        .try_for_each(|kind| get(kind).map(drop))
        .map_err(|error| error.to_string())
}

fn one_of_each() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/one-of-each.yaml")
}

fn all_answered(world: &World, which: &[&str], is_answered: impl Fn(&Value) -> bool) {
    let get = [&["-n", SHOP, "get", "-o", "json"], which].concat();
    world.wait(&format!("{} are answered for", which.join(" ")), || {
        let list: Value = serde_json::from_str(&world.kubectl(&get)).map_err(|error| error.to_string())?;
        let objects = list["items"].as_array().filter(|objects| !objects.is_empty());
        let objects = objects.ok_or("none is there")?;
        match objects.iter().find(|object| !is_answered(object)) {
            Some(silent) => Err(silent.to_string()),
            None => Ok(()),
        }
    });
}
