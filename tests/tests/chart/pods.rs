//! What runs: as little privilege as it takes, images and references that agree with each other.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::helm::{VALUE_SETS, list, name, of_kind, rendered, texts};

/// Read by others than the program itself: Kiali.
const FOR_OTHERS: [&str; 1] = ["PILOT_ENABLE_AMBIENT"];

struct Workload {
    name: String,
    pod: Value,
    selector: Value,
    labels: Value,
}

fn workloads(objects: &[Value]) -> Vec<Workload> {
    of_kind(objects, "Deployment")
        .chain(of_kind(objects, "DaemonSet"))
        .chain(of_kind(objects, "Job"))
        .map(|object| Workload {
            name: name(object).to_owned(),
            pod: object["spec"]["template"]["spec"].clone(),
            selector: object["spec"]["selector"]["matchLabels"].clone(),
            labels: object["spec"]["template"]["metadata"]["labels"].clone(),
        })
        .collect()
}

impl Workload {
    fn container(&self) -> &Value {
        &self.pod["containers"][0]
    }

    fn is_agent(&self) -> bool {
        self.name == "aquifer-agent"
    }

    fn environment(&self) -> impl Iterator<Item = &str> {
        list(&self.container()["env"]).filter_map(|variable| variable["name"].as_str())
    }
}

#[test]
fn nothing_is_privileged_or_in_a_namespace_of_the_host() {
    for values in VALUE_SETS {
        for workload in workloads(&rendered(values)) {
            for host in ["hostPID", "hostNetwork", "hostIPC"] {
                assert_ne!(workload.pod[host], true, "{}: {host}", workload.name);
            }
            assert_eq!(list(&workload.pod["containers"]).count(), 1, "{}", workload.name);
            let context = &workload.container()["securityContext"];
            assert_ne!(context["privileged"], true, "{}", workload.name);
            assert_eq!(context["allowPrivilegeEscalation"], false, "{}", workload.name);
            assert_eq!(context["readOnlyRootFilesystem"], true, "{}", workload.name);
            assert_eq!(
                texts(&context["capabilities"]["drop"]),
                ["ALL"],
                "{}",
                workload.name
            );
            if !workload.is_agent() {
                assert_eq!(context["capabilities"]["add"], Value::Null, "{}", workload.name);
                assert_eq!(
                    workload.pod["securityContext"]["runAsNonRoot"], true,
                    "{}",
                    workload.name
                );
            }
        }
    }
}

#[test]
fn proxies_and_the_control_plane_are_called_what_tools_look_for() {
    let objects = rendered(&[]);
    for workload in workloads(&objects) {
        let (container, app) = match &*workload.name {
            "aquifer-control" => ("discovery", "istiod"),
            "aquifer-agent" => ("istio-proxy", "ztunnel"),
            "istio-ingressgateway" => ("istio-proxy", "istio-ingressgateway"),
            _ => continue,
        };
        assert_eq!(workload.container()["name"], container, "{}", workload.name);
        assert_eq!(workload.labels["app"], app, "{}", workload.name);
    }
}

#[test]
fn control_planes_are_kept_apart_and_agents_are_on_every_node() {
    let objects = rendered(&[]);
    let workloads = workloads(&objects);
    let of = |name: &str| workloads.iter().find(|workload| workload.name == name).unwrap();
    let control = of("aquifer-control");
    let spread: Vec<&Value> = list(&control.pod["topologySpreadConstraints"]).collect();
    assert!(!spread.is_empty());
    for constraint in spread {
        assert_eq!(constraint["labelSelector"]["matchLabels"], control.selector);
    }
    let budgets: Vec<&Value> = of_kind(&objects, "PodDisruptionBudget").collect();
    let of_control = |budget: &&&Value| budget["spec"]["selector"]["matchLabels"] == control.selector;
    assert_eq!(budgets.iter().filter(of_control).count(), 1);
    let agent = of("aquifer-agent");
    let everywhere: Vec<&str> = list(&agent.pod["tolerations"])
        .filter(|toleration| toleration["operator"] == "Exists")
        .filter_map(|toleration| toleration["effect"].as_str())
        .collect();
    assert!(
        everywhere.contains(&"NoSchedule") && everywhere.contains(&"NoExecute"),
        "{everywhere:?}"
    );
    assert_eq!(agent.pod["priorityClassName"], "system-node-critical");
}

#[test]
fn ptrace_is_asked_for_only_where_a_namespace_is_opened_below_proc() {
    let capabilities = |values: &[&str]| -> Vec<String> {
        let workloads = workloads(&rendered(values));
        let agent = workloads.iter().find(|workload| workload.is_agent()).unwrap();
        texts(&agent.container()["securityContext"]["capabilities"]["add"])
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(capabilities(&[]), ["BPF", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE"]);
    assert_eq!(
        capabilities(&["--set", "agent.nodeNetnsDir=/run/node"]),
        ["BPF", "NET_ADMIN", "SYS_ADMIN"]
    );
}

#[test]
fn all_images_are_of_one_hub_and_tag() {
    for (values, prefix, tag) in [
        (&[][..], "aquifer/", env!("CARGO_PKG_VERSION")),
        (
            &["--set", "global.hub=registry.example:5000/mesh,global.tag=1.2.3"],
            "registry.example:5000/mesh/",
            "1.2.3",
        ),
    ] {
        let mut seen = BTreeSet::new();
        for workload in workloads(&rendered(values)) {
            let image = workload.container()["image"].as_str().unwrap().to_owned();
            let waypoint = list(&workload.container()["env"])
                .find(|variable| variable["name"] == "AQUIFER_WAYPOINT_IMAGE")
                .map(|variable| variable["value"].as_str().unwrap().to_owned());
            for image in [Some(image), waypoint].into_iter().flatten() {
                let name = image
                    .strip_prefix(prefix)
                    .and_then(|rest| rest.strip_suffix(&format!(":{tag}")))
                    .unwrap_or_else(|| panic!("{image} is not {prefix}NAME:{tag}"));
                seen.insert(name.to_owned());
            }
        }
        assert_eq!(
            seen,
            ["agent", "control", "waypoint"].map(str::to_owned).into(),
            "what `cargo xtask image` makes"
        );
    }
}

/// A misspelt variable would be ignored without a word.
#[test]
fn every_variable_is_one_that_the_program_reads() {
    for workload in workloads(&rendered(&["--set", "egressGateway.enabled=true"])) {
        let image = workload.container()["image"].as_str().unwrap();
        let program = match image.rsplit('/').next().unwrap().split(':').next().unwrap() {
            "control" => "aquifer-control",
            "agent" => "aquifer-agent",
            "waypoint" => "aquifer-waypoint",
            other => panic!("no program is known for image {other}"),
        };
        let known = variables(program);
        for variable in workload.environment() {
            // Not all of those that say which pod this is are needed by every program.
            let common = variable.starts_with("POD_") || FOR_OTHERS.contains(&variable);
            assert!(
                common || known.contains(variable),
                "{}: {program} reads no {variable}; it reads {known:?}",
                workload.name
            );
        }
    }
}

/// What `--help` names.
fn variables(program: &str) -> BTreeSet<String> {
    let test = std::env::current_exe().unwrap();
    let program: PathBuf = test.parent().unwrap().parent().unwrap().join(program);
    let output = Command::new(&program)
        .arg("--help")
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; build it first", program.display()));
    let help = String::from_utf8(output.stdout).unwrap();
    help.split("[env: ")
        .skip(1)
        .map(|rest| rest.split(['=', ']']).next().unwrap().to_owned())
        .collect()
}

#[test]
fn selectors_ports_and_mounts_lead_somewhere() {
    for values in VALUE_SETS {
        let objects = rendered(values);
        let workloads = workloads(&objects);
        for workload in &workloads {
            // A Job selects its pods by itself.
            assert!(
                workload.selector.is_null() || includes(&workload.labels, &workload.selector),
                "{}",
                workload.name
            );
            mounts_lead_to_volumes(workload);
            for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
                let probe = &workload.container()[probe];
                for port in [&probe["httpGet"]["port"], &probe["tcpSocket"]["port"]] {
                    assert!(
                        port.is_null() || opens(workload, port),
                        "{}: {port}",
                        workload.name
                    );
                }
            }
        }
        for service in of_kind(&objects, "Service") {
            let behind = workloads
                .iter()
                .find(|workload| includes(&workload.labels, &service["spec"]["selector"]))
                .unwrap_or_else(|| panic!("no pod is behind {}", name(service)));
            for port in list(&service["spec"]["ports"]) {
                let target = &port["targetPort"];
                // A gateway's ports are opened as Gateway objects ask for them.
                assert!(
                    target.is_number() || opens(behind, target),
                    "{}: {port}",
                    name(service)
                );
            }
        }
    }
}

#[test]
fn a_rolling_update_never_leaves_a_node_without_an_agent() {
    let objects = rendered(&[]);
    let agent = of_kind(&objects, "DaemonSet").next().unwrap();
    let update = &agent["spec"]["updateStrategy"]["rollingUpdate"];
    assert_eq!(
        (&update["maxSurge"], &update["maxUnavailable"]),
        (&1.into(), &0.into())
    );
    assert_eq!(
        agent["spec"]["template"]["spec"]["priorityClassName"],
        "system-node-critical"
    );
}

/// An agent or gateway that is killed while it drains cuts connections that it could have finished.
#[test]
fn proxies_drain_for_less_than_they_are_given() {
    for grace in ["3", "30", "600"] {
        let values = format!(
            "agent.terminationGracePeriodSeconds={grace},ingressGateway.terminationGracePeriodSeconds={grace}"
        );
        let objects = rendered(&["--set", &values]);
        for workload in workloads(&objects) {
            let drain = list(&workload.container()["env"])
                .find(|variable| {
                    let name = variable["name"].as_str().unwrap();
                    name == "AQUIFER_DRAIN_DEADLINE" || name == "AQUIFER_DRAIN_SECONDS"
                })
                .map(|variable| variable["value"].as_str().unwrap().parse::<u64>().unwrap());
            if let Some(drain) = drain {
                let grace: u64 = grace.parse().unwrap();
                assert!(
                    drain >= 1 && drain < grace,
                    "{}: {drain} of {grace}",
                    workload.name
                );
            }
        }
    }
}

fn mounts_lead_to_volumes(workload: &Workload) {
    let volumes: BTreeSet<&str> = list(&workload.pod["volumes"])
        .filter_map(|volume| volume["name"].as_str())
        .collect();
    let mounted: BTreeSet<&str> = list(&workload.container()["volumeMounts"])
        .filter_map(|mount| mount["name"].as_str())
        .collect();
    assert_eq!(mounted, volumes, "{}", workload.name);
}

fn opens(workload: &Workload, wanted: &Value) -> bool {
    list(&workload.container()["ports"])
        .any(|port| &port["name"] == wanted || &port["containerPort"] == wanted)
}

fn includes(labels: &Value, selector: &Value) -> bool {
    selector
        .as_object()
        .is_some_and(|selector| selector.iter().all(|(key, value)| &labels[key] == value))
}
