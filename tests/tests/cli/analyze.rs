//! `aquifer analyze` on files: samples are clean, each kind of mistake is named, the exit status says which.

use std::fs;

use serde_json::Value;

use crate::program::{aquifer, root};

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: reviews}\nspec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}\n---\n";

/// Status, and `LEVEL REASON FIELD` of each finding.
fn judged(arguments: &[&str], input: &str) -> (i32, Vec<String>) {
    let ended = aquifer(&[&["analyze", "-o", "json"], arguments].concat(), input);
    let answer: Value = serde_json::from_str(&ended.stdout)
        .unwrap_or_else(|e| panic!("{e}: {} {}", ended.stdout, ended.stderr));
    let findings = answer["findings"].as_array().unwrap().iter().map(|finding| {
        let text = |key: &str| finding[key].as_str().unwrap().to_owned();
        assert!(
            !text("message").is_empty() && !text("remedy").is_empty(),
            "{finding}"
        );
        format!("{} {} {}", text("level"), text("reason"), text("field"))
    });
    (ended.status, findings.collect())
}

fn rules(spec: &str) -> String {
    format!(
        "{SERVICE}apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: reviews}}\nspec: {spec}\n"
    )
}

#[test]
fn the_sample_application_is_clean() {
    for file in [
        "bookinfo.yaml",
        "bookinfo-db.yaml",
        "bookinfo-ratings-v2.yaml",
        "bookinfo-gateway.yaml",
        "bookinfo-gateway-8080.yaml",
    ] {
        let application = "deploy/samples/bookinfo/bookinfo.yaml";
        let path = format!("deploy/samples/bookinfo/{file}");
        let both: Vec<&str> = if path == application {
            vec![application]
        } else {
            vec![application, &path]
        };
        assert_eq!(judged(&both, ""), (0, Vec::new()), "{file}");
    }
}

#[test]
fn the_seeds_canary_has_no_error_and_its_known_gap_is_named() {
    let files = [
        "deploy/samples/bookinfo/bookinfo.yaml",
        "deploy/samples/bookinfo/bookinfo-ratings-v2.yaml",
        "deploy/samples/bookinfo/destination-rule-all-mtls.yaml",
        "deploy/samples/seed/canary.yaml",
    ];
    let (status, findings) = judged(&files, "");
    assert_eq!(status, 0, "{findings:?}");
    // Clients that no rule of `ratings` is for; and subsets of versions that the application does not bring.
    assert!(
        findings.contains(&"warning Suspicious spec.http".to_owned()),
        "{findings:?}"
    );
    let rest = findings.iter().filter(|f| *f != "warning Suspicious spec.http");
    assert!(
        rest.clone()
            .all(|f| f.starts_with("warning Suspicious spec.subsets")),
        "{findings:?}"
    );
}

#[test]
fn each_mistake_is_an_error_with_its_field() {
    let check = |spec: &str, expected: &str| {
        let (status, findings) = judged(&["-"], &rules(spec));
        assert_eq!(
            (status, findings.first().map(String::as_str)),
            (1, Some(expected)),
            "{spec}: {findings:?}"
        );
    };
    let to = |destination: &str| {
        format!("{{hosts: [reviews], http: [{{route: [{{destination: {destination}}}]}}]}}")
    };
    check("{hosts: [reviews], htp: []}", "error UnknownField spec.htp");
    check("{hosts: [reviews]}", "error Invalid spec");
    check(
        "{hosts: ['a b'], http: [{route: [{destination: {host: reviews}}]}]}",
        "error Invalid spec.hosts[0]",
    );
    check(
        &to("{host: reviws}"),
        "error NotFound spec.http[0].route[0].destination",
    );
    check(
        &to("{host: reviews, subset: v1}"),
        "error NotFound spec.http[0].route[0].destination",
    );
    check(
        &to("{host: reviews, port: {number: 81}}"),
        "error NotFound spec.http[0].route[0].destination",
    );
    check(
        "{hosts: [reviews], http: [{route: [{destination: {host: reviews}, weight: -5}]}]}",
        "error Invalid spec.http[0].route[0].weight",
    );
    check(
        "{hosts: [reviews], tls: [{match: [{sniHosts: [a]}]}]}",
        "error Unsupported spec.tls",
    );
    check(
        "{hosts: [reviews], gateways: [none], http: [{route: [{destination: {host: reviews}}]}]}",
        "error NotFound spec.gateways[0]",
    );
}

#[test]
fn two_virtual_services_for_one_host_conflict() {
    let rules = rules("{hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}");
    let second = rules
        .replace(SERVICE, "")
        .replace("metadata: {name: reviews}", "metadata: {name: second}");
    let (status, findings) = judged(&["-"], &format!("{rules}---\n{second}"));
    assert_eq!(
        (status, findings),
        (1, vec!["error Conflict spec.hosts".to_owned()])
    );
}

#[test]
fn a_file_alone_is_not_blamed_for_what_it_does_not_show() {
    let (status, findings) = judged(&["deploy/samples/seed/canary.yaml"], "");
    assert_eq!(status, 0);
    assert!(
        findings.iter().any(|f| f.starts_with("info NotFound")),
        "{findings:?}"
    );
    assert!(!findings.iter().any(|f| f.starts_with("error")), "{findings:?}");
}

#[test]
fn folders_and_several_files_are_read_as_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("below")).unwrap();
    fs::write(folder.path().join("a.yaml"), SERVICE).unwrap();
    let rule =
        rules("{hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}]}").replace(SERVICE, "");
    fs::write(folder.path().join("below/b.yml"), &rule).unwrap();
    fs::write(folder.path().join("README.md"), "{ no manifest").unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(judged(&[path], ""), (0, Vec::new()));
    let (a, b) = (format!("{path}/a.yaml"), format!("{path}/below/b.yml"));
    assert_eq!(judged(&["-f", &a, "-f", &b], ""), (0, Vec::new()));
}

#[test]
fn the_exit_status_tells_findings_from_what_cannot_be_read() {
    assert_eq!(aquifer(&["analyze", "no/such/file.yaml"], "").status, 2);
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(
        aquifer(&["analyze", empty.path().to_str().unwrap()], "").status,
        2
    );
    // The whole cluster is asked for, and there is no kubectl.
    let cluster = aquifer(&["analyze"], "");
    assert_eq!(cluster.status, 2);
    assert!(cluster.stderr.contains("KUBECTL"), "{}", cluster.stderr);
    assert_eq!(judged(&["-"], "{ broken: [").0, 1);
    let warned = rules(
        "{hosts: [reviews], http: [{route: [{destination: {host: reviews}}]}, {route: [{destination: {host: reviews}}]}]}",
    );
    assert_eq!(judged(&["-"], &warned).0, 0);
    assert_eq!(judged(&["--fail-on", "warning", "-"], &warned).0, 1);
    assert_eq!(judged(&["--fail-on", "never", "-"], "{ broken: [").0, 0);
}

#[test]
fn objects_without_a_namespace_get_the_named_one() {
    let ended = aquifer(
        &["analyze", "-n", "shop", "-o", "yaml", "-"],
        &rules("{hosts: [reviews], htp: []}"),
    );
    assert!(
        ended.stdout.contains("VirtualService shop/reviews"),
        "{}",
        ended.stdout
    );
}

#[test]
fn people_read_object_field_cause_and_remedy() {
    let ended = aquifer(
        &["analyze", "-"],
        &rules("{hosts: [reviews], http: [{route: [{destination: {host: reviws}}]}]}"),
    );
    let expected = "error[NotFound] standard input: VirtualService default/reviews: spec.http[0].route[0].destination\n    no service has the host reviws.default.svc.cluster.local; requests for it get 503 until one does\n    remedy: did you mean \"reviews\"?\n1 error, 0 warnings, 0 hints in 2 objects.\n";
    assert_eq!(ended.stdout, expected);
    assert!(root().join("deploy").is_dir());
}
