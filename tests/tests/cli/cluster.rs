//! What is said where there is no cluster, no kubectl, no helm; and a cluster that a script plays.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::program::{aquifer, with_kubectl};

#[test]
fn without_kubectl_the_remedy_is_said() {
    for command in [
        &["check"][..],
        &["install"],
        &["uninstall"],
        &["waypoint", "list", "-n", "a"],
    ] {
        let ended = aquifer(command, "");
        assert_eq!(ended.status, 1, "{command:?}");
        assert!(
            ended.stderr.contains("install kubectl"),
            "{command:?}: {}",
            ended.stderr
        );
    }
}

#[test]
fn without_helm_settings_are_refused_by_name() {
    let ended = aquifer(&["install", "--set", "control.replicas=3", "-f", "mine.yaml"], "");
    assert_eq!(ended.status, 1);
    for part in ["--set control.replicas=3", "-f mine.yaml", "helm"] {
        assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
    }
}

#[test]
fn a_dry_run_prints_the_whole_profile_and_needs_nothing() {
    for (profile, gateways) in [("minimal", 0), ("default", 1), ("demo", 2)] {
        let ended = aquifer(&["install", "--dry-run", "--profile", profile], "");
        assert_eq!(ended.status, 0, "{}", ended.stderr);
        let count = |line: &str| ended.stdout.lines().filter(|l| *l == line).count();
        assert_eq!(count("kind: Deployment"), 1 + gateways, "{profile}");
        assert_eq!(count("kind: DaemonSet"), 1, "{profile}");
        assert!(count("kind: CustomResourceDefinition") > 10, "{profile}");
    }
}

#[test]
fn a_waypoint_is_printed_as_it_would_be_applied() {
    let ended = aquifer(
        &[
            "waypoint",
            "apply",
            "-n",
            "shop",
            "--name",
            "w",
            "--for",
            "all",
            "--dry-run",
        ],
        "",
    );
    let made: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(made["spec"]["gatewayClassName"], "istio-waypoint");
    assert_eq!(made["metadata"]["labels"]["istio.io/waypoint-for"], "all");
}

/// A kubectl that answers from a table of `ARGUMENTS-PATTERN) ANSWER`.
pub(crate) fn played(table: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubectl");
    let script = format!("#!/bin/sh\ncase \"$*\" in\n{table}\n*) echo '{{\"items\":[]}}';;\nesac\n");
    // By another process: a file that this one has open for writing, and any of its children, cannot be run.
    let mut writer = Command::new("sh")
        .args(["-c", "cat > \"$0\" && chmod +x \"$0\""])
        .arg(&path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
    let program = path.to_str().unwrap().to_owned();
    (folder, program)
}

pub(crate) const VERSION: &str = r#"version*) echo '{"serverVersion":{"gitVersion":"v1.33.1"}}';;"#;

#[test]
fn nothing_is_installed_beside_a_living_istio() {
    let istiod = r#""get deployments,daemonsets"*) echo '{"items":[{"kind":"Deployment","metadata":{"name":"istiod","labels":{"app":"istiod"}}}]}';;"#;
    let (_folder, kubectl) = played(&format!("{VERSION}\n{istiod}"));
    let ended = with_kubectl(&kubectl, &["install"], "");
    assert_eq!(ended.status, 1);
    assert!(
        ended.stderr.contains("Istio is here (Deployment istiod)"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("Coming from Istio"), "{}", ended.stderr);
}

#[test]
fn an_old_cluster_and_an_old_kernel_fail_the_check() {
    let version = VERSION.replace("v1.33.1", "v1.28.9");
    let node = |name: &str| {
        format!(
            r#"{{"metadata":{{"name":"{name}"}},"status":{{"nodeInfo":{{"operatingSystem":"linux","kernelVersion":"5.10.0","containerRuntimeVersion":"containerd://2"}}}}}}"#
        )
    };
    let both = ["a", "b"].map(node).join(",");
    let nodes = format!("\"get nodes\"*) echo '{{\"items\":[{both}]}}';;");
    let can_i = "\"auth can-i\"*) echo yes;;";
    // One object is nothing where it does not exist.
    let absent = "*--ignore-not-found*) ;;";
    let (_folder, kubectl) = played(&[&*version, &*nodes, can_i, absent].join("\n"));
    let ended = with_kubectl(&kubectl, &["check", "--pre"], "");
    assert_eq!(ended.status, 1, "{}", ended.stderr);
    let failed: Vec<&str> = ended
        .stdout
        .lines()
        .filter(|line| line.starts_with("FAIL"))
        .collect();
    assert_eq!(failed.len(), 2, "{}", ended.stdout);
    assert!(
        failed[0].contains("v1.28.9")
            && failed[1].contains("2 nodes: kernel 5.10.0, but 6.1 is needed (a, b); remedy: "),
        "{failed:?}"
    );
    assert!(failed.iter().all(|line| line.contains("remedy: ")), "{failed:?}");
    let refused = with_kubectl(&kubectl, &["install"], "");
    assert_eq!(refused.status, 1);
    assert!(refused.stderr.contains("--skip-checks"), "{}", refused.stderr);
}
