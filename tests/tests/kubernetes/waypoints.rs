//! Waypoints that labels name: of a Service, of a pod, in another namespace, and none.

use super::manifests::namespace;
use super::world::{NAMESPACE, World};

/// Where the waypoint is: not where those are that it serves.
const HOME: &str = "commons";
const SHARED: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shared, labels: {istio.io/waypoint-for: all}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}]
";
const DETAILS: &str = "details.bookinfo.svc.cluster.local";
const USE: &str = "istio.io/use-waypoint";

pub(crate) fn labels_say_which_waypoint_a_service_or_a_pod_has(world: &World) {
    world.apply("default", &namespace(HOME, ""));
    world.apply(HOME, SHARED);
    world.until("the waypoint is ready", |status| {
        status.pods_of(HOME, "shared").any(|pod| pod.ready)
    });
    let pages = world.under_load(|| {
        label(world, &["service", "details"], "missing");
        world.settled("a waypoint that is not there is passed by", |_| true);
        label(world, &["service", "details"], "shared");
        world.eventually("the Service is behind it", || mentions(world, DETAILS) > 0);
        label(world, &["service", "details"], "none");
        world.eventually("the Service is behind it no more", || {
            let before = mentions(world, DETAILS);
            world.settled("pages are served", |_| true);
            mentions(world, DETAILS) == before
        });
    });
    world.assert_none_failed("waypoints by label", &pages);

    // A pod's own address.
    label(world, &["pod", "-l", "app=details"], "shared");
    let status = world.status();
    let pod = status.pods_of(NAMESPACE, "details-v1").next().unwrap();
    let address = format!("{}:9080", pod.ip.unwrap());
    world.eventually("the pod's address is behind it", || {
        let answer = world.get_from(NAMESPACE, "client", &format!("http://{address}/details/0"));
        answer.is_ok() && mentions(world, &address) > 0
    });
    for object in [&["service", "details"][..], &["pod", "-l", "app=details"]] {
        let unset = [
            &["-n", NAMESPACE, "label"],
            object,
            &["istio.io/use-waypoint-", "istio.io/use-waypoint-namespace-"],
        ];
        world.kubectl(&unset.concat());
    }
    world.eventually("the pod is reached without it", || {
        let before = mentions(world, &address);
        let answer = world.get_from(NAMESPACE, "client", &format!("http://{address}/details/0"));
        answer.is_ok() && mentions(world, &address) == before
    });
    world.kubectl(&["delete", "namespace", HOME]);
}

fn label(world: &World, object: &[&str], waypoint: &str) {
    let (waypoint, home) = (format!("{USE}={waypoint}"), format!("{USE}-namespace={HOME}"));
    let command = [
        &["-n", NAMESPACE, "label", "--overwrite"],
        object,
        &[&*waypoint, &*home],
    ];
    world.kubectl(&command.concat());
}

/// Lines of its access log.
fn mentions(world: &World, what: &str) -> usize {
    let log = world.kubectl(&["-n", HOME, "logs", "deployment/shared", "--tail=-1"]);
    log.lines().filter(|line| line.contains(what)).count()
}
