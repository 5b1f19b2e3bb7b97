//! Waypoints that labels name: in another namespace, one that is not there, and none.

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
const HOME_OF: &str = "istio.io/use-waypoint-namespace";

pub(crate) fn labels_say_which_waypoint_a_service_has(world: &World) {
    world.apply("default", &namespace(HOME, ""));
    world.apply(HOME, SHARED);
    world.until("the waypoint is ready", |status| {
        status.pods_of(HOME, "shared").any(|pod| pod.ready)
    });
    let pages = world.under_load(|| {
        label(world, "missing");
        world.settled("a waypoint that is not there is passed by", |_| true);
        label(world, "shared");
        world.eventually("the Service is behind it", || mentions(world, DETAILS) > 0);
        label(world, "none");
        world.eventually("the Service is behind it no more", || {
            let before = mentions(world, DETAILS);
            world.settled("pages are served", |_| true);
            mentions(world, DETAILS) == before
        });
    });
    world.assert_none_failed("waypoints by label", &pages);

    let unset = [USE, HOME_OF].map(|label| format!("{label}-"));
    world.kubectl(&[
        "-n", NAMESPACE, "label", "service", "details", &unset[0], &unset[1],
    ]);
    world.kubectl(&["delete", "namespace", HOME]);
}

fn label(world: &World, waypoint: &str) {
    let labels = [format!("{USE}={waypoint}"), format!("{HOME_OF}={HOME}")];
    world.kubectl(&[
        "-n",
        NAMESPACE,
        "label",
        "--overwrite",
        "service",
        "details",
        &labels[0],
        &labels[1],
    ]);
}

/// Lines of its access log.
fn mentions(world: &World, what: &str) -> usize {
    let log = world.kubectl(&["-n", HOME, "logs", "deployment/shared", "--tail=-1"]);
    log.lines().filter(|line| line.contains(what)).count()
}
