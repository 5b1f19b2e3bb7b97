//! The kinds of workloads that people have, and what becomes of pods and their addresses.

use super::world::{NAMESPACE, World};

const KINDS: &str = "kinds";

/// Label, as manifests written for sidecars have it, and nothing but mutual TLS let in.
const PLACE: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: kinds, labels: {istio-injection: enabled}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: kinds}
spec: {mtls: {mode: STRICT}}
---
apiVersion: v1
kind: Service
metadata: {name: target}
spec: {selector: {app: target}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: peers}
spec: {clusterIP: None, selector: {app: target}, ports: [{name: http, port: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: target.kinds.svc.cluster.local}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: target}
spec:
  replicas: 2
  serviceName: peers
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: target}}
  template:
    metadata: {labels: {app: target}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: 'aquifer-cluster/app:1', args: [serve, '8080']}]
";

/// Each asks as soon as it runs, once, and fails with its first answer: none may start before it is in the mesh.
const ONCE: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      initContainers: [{name: first, image: 'aquifer-cluster/app:1', args: [get, 'http://target/']}]
      containers: [{name: then, image: 'aquifer-cluster/app:1', args: [get, 'http://target-1.peers:8080/']}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: '0 3 * * *'
  jobTemplate:
    spec:
      backoffLimit: 0
      template:
        spec:
          restartPolicy: Never
          containers: [{name: job, image: 'aquifer-cluster/app:1', args: [get, 'http://alias/']}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: pair}
spec:
  selector: {matchLabels: {app: pair}}
  template:
    metadata: {labels: {app: pair}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 1
      initContainers: [{name: first, image: 'aquifer-cluster/app:1', args: [get, 'http://target/']}]
      containers:
      - {name: one, image: 'aquifer-cluster/app:1', args: [serve, '8080']}
      - {name: two, image: 'aquifer-cluster/app:1', args: [serve, '8081']}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: host}
spec:
  selector: {matchLabels: {app: host}}
  template:
    metadata: {labels: {app: host}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 1
      containers: [{name: web, image: 'aquifer-cluster/app:1', args: [serve, '18080']}]
";

pub(crate) fn every_kind_of_workload_is_in_the_mesh_from_its_first_connection(world: &World) {
    world.apply(KINDS, PLACE);
    enrolled(world, "target", 2);
    world.wait("plaintext is refused", || {
        match world.get_from("default", "client", "http://target.kinds.svc.cluster.local/") {
            Err(_) => Ok(()),
            Ok(answer) => Err(answer),
        }
    });
    world.apply(KINDS, ONCE);
    world.kubectl(&["-n", KINDS, "create", "job", "tonight", "--from=cronjob/nightly"]);
    for job in ["once", "tonight"] {
        world.wait(&format!("job {job} is done at the first attempt"), || {
            done(world, job)
        });
    }
    world.available(KINDS);
    enrolled(world, "pair", 1);
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
    world.kubectl(&["delete", "namespace", KINDS, "--timeout=60s"]);
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
    let gone = status
        .pods_of(NAMESPACE, "details-v1")
        .next()
        .unwrap()
        .name
        .clone();
    let pages = world.under_load(|| {
        world.kubectl(&["-n", NAMESPACE, "delete", "pod", &gone]);
        details(3);
    });
    world.assert_none_failed("a pod is deleted", &pages);
    scale("--replicas=1");
    details(1);
}
