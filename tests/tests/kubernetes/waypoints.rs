//! Waypoints that labels name: of a Service and of a pod, in another namespace, one that is not there, and none.

use super::manifests::namespace;
use super::world::{COMMONS, NAMESPACE, World};

const SHARED: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: shared, labels: {istio.io/waypoint-for: all}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}]
";
const DETAILS: &str = "details.bookinfo.svc.cluster.local";
const SERVICE: &[&str] = &["service", "details"];
const PODS: &[&str] = &["pod", "-l", "app=details"];
/// In the access log, of what went to a pod's own address.
const BY_ADDRESS: &str = "inbound-pod";
const USE: &str = "istio.io/use-waypoint";
const HOME_OF: &str = "istio.io/use-waypoint-namespace";

pub(crate) fn labels_say_which_waypoint_a_service_or_a_pod_has(world: &World) {
    world.apply("default", &namespace(COMMONS, ""));
    world.apply(COMMONS, SHARED);
    world.until("the waypoint is ready", |status| {
        status.pods_of(COMMONS, "shared").any(|pod| pod.ready)
    });
    let pages = world.under_load(|| {
        label(world, SERVICE, "missing");
        world.settled("a waypoint that is not there is passed by", |_| true);
        label(world, SERVICE, "shared");
        world.eventually("the Service is behind it", || mentions(world, DETAILS) > 0);
        label(world, SERVICE, "none");
        world.eventually("the Service is behind it no more", || {
            let before = mentions(world, DETAILS);
            world.settled("pages are served", |_| true);
            mentions(world, DETAILS) == before
        });
    });
    world.assert_none_failed("waypoints by label", &pages);

    // A pod's own address, while pages go on at the Service's.
    let pod = world.status();
    let pod = pod
        .pods_of(NAMESPACE, "details-v1")
        .find_map(|pod| pod.ip)
        .unwrap();
    let url = format!("http://{pod}:9080/details/0");
    let ask = || world.get_from(NAMESPACE, "client", &url);
    let pages = world.under_load(|| {
        label(world, PODS, "shared");
        world.eventually("the pod's address is behind it", || {
            let before = mentions(world, BY_ADDRESS);
            ask().is_ok() && mentions(world, BY_ADDRESS) > before
        });
        label(world, PODS, "none");
        world.eventually("the pod's address is behind it no more", || {
            let before = mentions(world, BY_ADDRESS);
            ask().is_ok() && mentions(world, BY_ADDRESS) == before
        });
    });
    world.assert_none_failed("a pod's own waypoint", &pages);

    let unset = [USE, HOME_OF].map(|label| format!("{label}-"));
    for object in [SERVICE, PODS] {
        let unset = [unset[0].as_str(), unset[1].as_str()];
        world.kubectl(&[&["-n", NAMESPACE, "label"], object, &unset].concat());
    }
    world.kubectl(&["delete", "namespace", COMMONS]);
}

fn label(world: &World, object: &[&str], waypoint: &str) {
    let labels = [format!("{USE}={waypoint}"), format!("{HOME_OF}={COMMONS}")];
    let labels = [labels[0].as_str(), labels[1].as_str()];
    world.kubectl(&[&["-n", NAMESPACE, "label", "--overwrite"], object, &labels].concat());
}

/// Lines of its access log.
fn mentions(world: &World, what: &str) -> usize {
    let log = world.kubectl(&["-n", COMMONS, "logs", "deployment/shared", "--tail=-1"]);
    log.lines().filter(|line| line.contains(what)).count()
}
