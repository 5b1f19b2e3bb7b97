//! "In effect at N of M proxies" from what waypoints and gateways acknowledge.
//!
//! They are the product's own, in pods; a third gateway is played, since none of ours refuses what it is sent.

use aquifer_xds::type_url;

use crate::clients::Clients;
use crate::control::Control;
use crate::world::{World, helm_template};

const EDGE: &str = r"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {selector: {istio: edge}, servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: outside, namespace: shop}
spec: {hosts: [shop.example], gateways: [edge], http: [{route: [{destination: {host: web}}]}]}
";

/// A pod that the Gateway selects, and that is no gateway by itself.
const PLAYED: &str = r"
apiVersion: v1
kind: Pod
metadata: {name: edge-played, namespace: shop, labels: {istio: edge}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: istio-proxy, image: 'aquifer-cluster/app:1', args: [serve, '8080']}]
";
const PLAYED_POD: (&str, &str) = ("shop", "edge-played");

const MESH_RULES: &str = "virtualservice/good";
const EDGE_RULES: &str = "virtualservice/outside";
const GATEWAY: &str = "gateways.networking.istio.io/edge";
const DESTINATION: &str = "destinationrule/web";
const HAVE: &str = "True Programmed";
const LACK: &str = "False Pending";

pub(crate) fn what_they_acknowledge_is_counted(world: &World, control: &Control) {
    let in_effect = |object: &str, begins: &str, count: &str| is_in_effect(world, object, begins, count);
    in_effect(MESH_RULES, &format!("{HAVE} 1"), "1 of 1");
    in_effect(DESTINATION, HAVE, "1 of 1");

    world.apply(&gateways());
    world.apply(EDGE);
    for object in [EDGE_RULES, GATEWAY] {
        in_effect(object, HAVE, "2 of 2");
    }
    in_effect(DESTINATION, HAVE, "3 of 3");
    let longer = r#"[{"op": "replace", "path": "/spec/http/0/timeout", "value": "5s"}]"#;
    world.kubectl(&[
        "patch",
        "virtualservice",
        "good",
        "-n",
        "shop",
        "--type=json",
        "-p",
        longer,
    ]);
    in_effect(MESH_RULES, &format!("{HAVE} 2"), "1 of 1");

    world.apply(PLAYED);
    for object in [EDGE_RULES, GATEWAY] {
        in_effect(object, LACK, "2 of 3");
    }
    let clients = Clients::new(world, control);
    let token = world.token("shop", "default", PLAYED_POD.1, "istio-ca");
    let refusing = clients.gateway(&token, PLAYED_POD, Some(type_url::ROUTES));
    world.until("the one that refuses is named, with its reason", || {
        let said = world.condition("shop", EDGE_RULES, "Programmed");
        said.starts_with("False Refused")
            && said.contains("in effect at 2 of 3 proxies; shop/edge-played refuses ")
            && said.ends_with(": this client cannot read it")
    });
    in_effect(MESH_RULES, HAVE, "1 of 1");
    drop(refusing);
    in_effect(EDGE_RULES, LACK, "2 of 3");
    let _taking = clients.gateway(&token, PLAYED_POD, None);
    for object in [EDGE_RULES, GATEWAY] {
        in_effect(object, HAVE, "3 of 3");
    }
    in_effect(DESTINATION, HAVE, "4 of 4");
    world.kubectl(&["delete", "pod", PLAYED_POD.1, "-n", "shop"]);
    in_effect(EDGE_RULES, HAVE, "2 of 2");
}

fn is_in_effect(world: &World, object: &str, begins: &str, count: &str) {
    let ends = format!(" in effect at {count} proxies");
    world.until(&format!("{object} is {begins}{ends}"), || {
        let condition = world.condition("shop", object, "Programmed");
        condition.starts_with(begins) && condition.ends_with(&ends)
    });
}

/// Two pods by the gateway's chart.
fn gateways() -> String {
    let settings = "replicaCount=2,service.type=ClusterIP,global.imagePullPolicy=Never";
    helm_template(
        "deploy/chart/charts/gateway",
        &["edge", "-n", "shop", "--set", settings],
    )
}
