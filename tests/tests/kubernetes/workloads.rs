//! The kinds of workloads that people have, and what becomes of pods and their addresses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use aquifer_tests::cluster::layout::Member;

use super::manifests::{STRICT, deployment, getting, namespace, object, one_attempt, pods, service, serving};
use super::policies::refused;
use super::world::{NAMESPACE, UNMESHED, World, limit};

const KINDS: &str = "kinds";

/// Label, as manifests written for sidecars have it, and nothing but mutual TLS let in.
fn place() -> String {
    let pod = format!("containers: [{}]", serving("web", 8080, ""));
    let set = "replicas: 2, serviceName: peers, podManagementPolicy: Parallel";
    let alias = "type: ExternalName, externalName: target.kinds.svc.cluster.local";
    [
        namespace(KINDS, "istio-injection: enabled"),
        STRICT.to_owned(),
        service(
            "target",
            "target",
            "ports: [{name: http, port: 80, targetPort: 8080}]",
        ),
        service(
            "peers",
            "target",
            "clusterIP: None, ports: [{name: http, port: 8080}]",
        ),
        object("Service", "alias", alias),
        object(
            "StatefulSet",
            "target",
            &format!("{set}, {}", pods("target", &pod)),
        ),
    ]
    .concat()
}

/// Each asks as soon as it runs, once, and fails with its first answer: none may start before it is in the mesh.
fn once() -> String {
    let first = getting("first", "http://target/");
    let then = getting("then", "http://target-1.peers:8080/");
    let at_night = one_attempt(&format!("containers: [{}]", getting("job", "http://alias/")));
    let containers = [serving("one", 8080, ""), serving("two", 8081, "")].join(", ");
    let web = serving("web", 18080, "");
    [
        object(
            "Job",
            "once",
            &one_attempt(&format!("initContainers: [{first}], containers: [{then}]")),
        ),
        object(
            "CronJob",
            "nightly",
            // Nobody waits for the night.
            &format!("schedule: '0 3 * * *', suspend: true, jobTemplate: {{spec: {{{at_night}}}}}"),
        ),
        deployment(
            "pair",
            &format!(
                "automountServiceAccountToken: false, initContainers: [{first}], containers: [{containers}]"
            ),
        ),
        deployment("host", &format!("hostNetwork: true, containers: [{web}]")),
        // Ends when it has been answered, and is started again.
        object(
            "Pod",
            "again",
            &format!("containers: [{}]", getting("again", "http://target/")),
        ),
    ]
    .concat()
}

pub(crate) fn every_kind_of_workload_is_in_the_mesh_from_its_first_connection(world: &World) {
    world.apply(KINDS, &place());
    enrolled(world, "target", 2);
    world.wait("plaintext is refused", || {
        refused(world.get_from(UNMESHED, "client", "http://target.kinds.svc.cluster.local/"))
    });
    // Who asks once must not be the first: names, Services and tunnels are known a moment after their pods are ready.
    world.peers_know();
    for name in [
        "target.kinds",
        "alias.kinds",
        "target-0.peers.kinds:8080",
        "target-1.peers.kinds:8080",
    ] {
        let (host, port) = name.split_once(':').unwrap_or((name, "80"));
        let url = format!("http://{host}.svc.cluster.local:{port}/");
        world.reaches(NAMESPACE, "client", &url);
    }
    world.apply(KINDS, &once());
    world.kubectl(&["-n", KINDS, "create", "job", "tonight", "--from=cronjob/nightly"]);
    for job in ["once", "tonight"] {
        world.wait(&format!("job {job} is done at the first attempt"), || {
            done(world, job)
        });
    }
    world.until("pods that have ended are not reported as enrolled", |status| {
        let jobs = ["once", "tonight"]
            .into_iter()
            .flat_map(|job| status.pods_of(KINDS, job));
        let jobs: Vec<_> = jobs.collect();
        jobs.len() == 2 && jobs.iter().all(|pod| !pod.enrolled)
    });
    world.available(KINDS);
    enrolled(world, "pair", 1);
    world.peers_know();
    let status = world.status();
    let never_failed = |pod: &aquifer_tests::lab::status::PodStatus| pod.restarts == 0;
    assert!(status.pods_of(KINDS, "pair").all(never_failed), "{status}");
    assert!(status.pods_of(KINDS, "host").all(|pod| !pod.enrolled), "{status}");
    let pod = status
        .pods_of(KINDS, "pair")
        .next()
        .and_then(|pod| pod.ip)
        .unwrap();
    let host = status
        .pods_of(KINDS, "host")
        .next()
        .and_then(|pod| pod.ip)
        .unwrap();
    // Both containers; each of the set by its own name; a name that is another's; who has the node's network.
    for (from, url) in [
        (NAMESPACE, format!("http://{pod}:8080/")),
        (NAMESPACE, format!("http://{pod}:8081/")),
        (
            NAMESPACE,
            "http://target-0.peers.kinds.svc.cluster.local:8080/".to_owned(),
        ),
        (NAMESPACE, "http://alias.kinds.svc.cluster.local/".to_owned()),
        (NAMESPACE, format!("http://{host}:18080/")),
    ] {
        let answer = world.get_from(from, "client", &url);
        assert!(answer.is_ok(), "{url}: {answer:?}");
    }
    world.wait("a container that was started again is served again", || {
        started_again(world)
    });
    if world.ours().is_some() {
        an_address_that_changes_hands_changes_its_identity(world);
    } else {
        world.leave_out("in kinds of workloads: an address that changes hands");
    }
    world.kubectl(&["delete", "namespace", KINDS, &limit()]);
}

/// Each of its lives ended well.
fn started_again(world: &World) -> Result<(), String> {
    let state =
        "jsonpath={range .status.containerStatuses[0]}{.restartCount} {.lastState.terminated.exitCode}{end}";
    let state = world.kubectl(&["-n", KINDS, "get", "pod", "again", "-o", state]);
    match state.split_once(' ') {
        Some((restarts, "0")) if restarts.parse().is_ok_and(|count: u32| count > 1) => Ok(()),
        Some((_, "" | "0")) => Err(state),
        _ => panic!(
            "a later life of the pod failed: {}",
            world.kubectl(&["-n", KINDS, "logs", "again", "--previous"])
        ),
    }
}

fn done(world: &World, job: &str) -> Result<(), String> {
    let template = "jsonpath={.status.succeeded} {.status.failed}";
    let counts = world.kubectl(&["-n", KINDS, "get", "job", job, "-o", template]);
    let (succeeded, failed) = counts.split_once(' ').unwrap_or_default();
    if succeeded == "1" {
        return Ok(());
    }
    let selector = format!("job-name={job}");
    let logs = [
        "-n",
        KINDS,
        "logs",
        "-l",
        &selector,
        "--all-containers",
        "--prefix",
    ];
    assert!(failed.is_empty(), "{job} failed: {}", world.kubectl(&logs));
    Err(counts)
}

fn enrolled(world: &World, workload: &str, count: usize) {
    world.until(&format!("{count} pods of {workload} are enrolled"), |status| {
        let pods: Vec<_> = status.pods_of(KINDS, workload).collect();
        pods.len() == count && pods.iter().all(|pod| pod.ready && pod.enrolled)
    });
}

/// Who may ask the target.
fn allow(account: &str) -> String {
    format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: target, namespace: kinds}}
spec:
  selector: {{matchLabels: {{app: target}}}}
  action: ALLOW
  rules: [{{from: [{{source: {{principals: [cluster.local/ns/kinds/sa/{account}]}}}}]}}]
"
    )
}

/// A client of that identity, on a node of whose addresses the next one is the same for all.
fn client(account: &str) -> String {
    let web = serving("web", 8080, "");
    let pod = format!(
        "nodeName: {REUSING}, serviceAccountName: {account}, terminationGracePeriodSeconds: 1, containers: [{web}]"
    );
    let account_object = format!("{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {account}}}}}\n");
    account_object + &object("Pod", account, &pod)
}

const REUSING: Member = Member::Node(2);
/// Where the plugin that gives addresses keeps one file for each that is in use.
const ADDRESSES: &str = "/var/lib/cni/networks/cluster";

fn an_address_that_changes_hands_changes_its_identity(world: &World) {
    let address = starts(world, "first");
    world.apply(KINDS, &allow("first"));
    world.wait("others are refused", || {
        refused(ask(world, NAMESPACE, "deployment/client"))
    });
    world.wait("the first one is allowed", || {
        ask(world, KINDS, "first").map(drop)
    });
    world.kubectl(&["-n", KINDS, "delete", "pod", "first"]);
    give_next(world, address);
    assert_eq!(starts(world, "second"), address, "the address is another's now");
    // Not once may it pass for the one before.
    for _ in 0..8 {
        let answer = ask(world, KINDS, "second");
        assert!(answer.is_err(), "{answer:?}");
    }
    world.apply(KINDS, &allow("second"));
    world.wait("the second one is allowed", || {
        ask(world, KINDS, "second").map(drop)
    });
}

/// Waits until the address is given back, and has it be the next one that is given.
fn give_next(world: &World, address: Ipv4Addr) {
    world.wait("the address is given back", || {
        let kept = world.in_node(REUSING, &format!("ls {ADDRESSES}"));
        if kept.lines().any(|name| name == address.to_string()) {
            return Err(kept);
        }
        Ok(())
    });
    let before = Ipv4Addr::from_bits(address.to_bits() - 1);
    world.in_node(
        REUSING,
        &format!("printf %s {before} > {ADDRESSES}/last_reserved_ip.0"),
    );
}

/// Starts the client of that name and tells its address.
fn starts(world: &World, name: &str) -> Ipv4Addr {
    world.apply(KINDS, &client(name));
    enrolled(world, name, 1);
    let status = world.status();
    match status.pods_of(KINDS, name).next().and_then(|pod| pod.ip) {
        Some(IpAddr::V4(address)) => address,
        other => panic!("{name} has the address {other:?}"),
    }
}

fn ask(world: &World, namespace: &str, pod: &str) -> Result<String, String> {
    let url = "http://target.kinds.svc.cluster.local/";
    let get = ["-n", namespace, "exec", pod, "--", "/app", "get", url];
    world.api().run(&get).map_err(|error| error.to_string())
}

pub(crate) fn a_pod_that_goes_takes_no_request_with_it(world: &World) {
    let scale = |replicas| world.kubectl(&["-n", NAMESPACE, "scale", "deployment/details-v1", replicas]);
    let details = |count: usize| {
        world.until(&format!("{count} pods of details are enrolled"), |status| {
            let pods: Vec<_> = status.pods_of(NAMESPACE, "details-v1").collect();
            pods.len() == count && pods.iter().all(|pod| pod.ready && pod.enrolled)
        });
    };
    scale("--replicas=3");
    details(3);
    let status = world.status();
    let names: BTreeSet<String> = status
        .pods_of(NAMESPACE, "details-v1")
        .map(|pod| pod.name.clone())
        .collect();
    // While a waypoint knows of the old one only, nobody can take its place.
    world.settled("every pod of details serves pages", |pages| {
        names.is_subset(&pages.pods)
    });
    let gone = names.first().unwrap();
    let pages = world.under_load(|| {
        world.kubectl(&["-n", NAMESPACE, "delete", "pod", gone]);
        details(3);
    });
    world.assert_none_failed("a pod is deleted", &pages);
    scale("--replicas=1");
    details(1);
}
