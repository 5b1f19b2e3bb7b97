//! What is refused, and what is removed when: before an API server that is a script.

use super::*;

/// Answers by the first words of its arguments, and keeps what it was told.
const KUBECTL: &str = r#"#!/bin/sh
shift 2
cd "$(dirname "$0")" || exit 1
printf "%s\n" "$*" >>calls
case "$*" in
create*) cat >>calls; echo >>calls ;;
"get namespaces -l aquifer.io/made-by=aquifer-tests "*) cat marked ;;
"get namespaces -l aquifer.io/run=this "*) cat of_this_run ;;
"get deployments,daemonsets -n istio-system -l app in (istiod,ztunnel),app.kubernetes.io/part-of!=aquifer "*) cat came_later ;;
"get mutatingwebhookconfigurations "*) cat webhooks ;;
esac 2>/dev/null
exit 0
"#;

struct Api {
    folder: Arc<tempfile::TempDir>,
}

impl Api {
    /// What it lists, one name a line, by the names of the script's files.
    fn with(lists: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in lists.iter().chain([&("script", KUBECTL), &("calls", "")]) {
            fs::write(folder.path().join(name), content).unwrap();
        }
        // By another process: what this one has open for writing while a test beside forks cannot be run.
        let mut install = Command::new("install");
        install.args(["-m", "755", "script", "kubectl"]);
        assert!(install.current_dir(folder.path()).status().unwrap().success());
        Self {
            folder: Arc::new(folder),
        }
    }

    fn access(&self) -> Access {
        let at = |name| self.folder.path().join(name);
        Access {
            kubectl: Kubectl::new(at("kubectl"), at("kubeconfig")),
            programs: at("programs"),
            run: "this".to_owned(),
            folder: self.folder.clone(),
        }
    }

    fn cluster(&self) -> Foreign {
        Foreign {
            access: self.access(),
            delivered: Delivered::Loaded,
            settings: Vec::new(),
            at_drop: AtDrop::Clear,
        }
    }

    /// What it was told, without its being asked.
    fn changes(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.folder.path().join("calls")).unwrap();
        let calls = calls.lines().filter(|call| !call.starts_with("get "));
        calls.map(str::to_owned).collect()
    }
}

fn deletion(name: &str) -> String {
    format!("delete namespace {name} --ignore-not-found --timeout=120s")
}

#[test]
fn another_runs_namespaces_go_only_when_that_is_asked_for() {
    let api = Api::with(&[("marked", "bookinfo\nkinds\n")]);
    let refused = api.access().make_room(false, &|_| ()).unwrap_err();
    assert!(matches!(refused, ForeignError::Left(_)), "{refused}");
    assert_eq!(api.changes(), Vec::<String>::new());
    api.access().make_room(true, &|_| ()).unwrap();
    assert_eq!(api.changes(), ["bookinfo", "kinds"].map(deletion));
}

#[test]
fn a_mesh_that_came_later_is_not_removed() {
    let api = Api::with(&[("marked", "bookinfo\nistio-system\n"), ("came_later", "istiod\n")]);
    let refused = api.access().make_room(true, &|_| ()).unwrap_err().to_string();
    assert!(
        refused.contains("istiod") && refused.contains(MARK.0),
        "{refused}"
    );
    assert_eq!(api.changes(), Vec::<String>::new());
}

#[test]
fn what_a_run_made_goes_with_it_unless_it_is_kept() {
    let api = Api::with(&[("marked", "kinds\n"), ("of_this_run", "bookinfo\n")]);
    let mut kept = api.cluster();
    kept.keep();
    drop(kept);
    assert_eq!(api.changes(), Vec::<String>::new());
    drop(api.cluster());
    assert_eq!(api.changes(), [deletion("bookinfo")]);
    api.cluster().leave().unwrap();
    assert_eq!(api.changes().len(), 2, "once, not again when it is dropped");
}

#[test]
fn at_the_end_of_the_process_the_copy_of_the_kubeconfig_goes_too() {
    let api = Api::with(&[]);
    api.access().clear_and_end().unwrap();
    assert!(!api.folder.path().exists());
}

#[test]
fn namespaces_have_their_labels_from_the_first() {
    let api = Api::with(&[]);
    api.cluster().make_namespaces(&["bookinfo"]).unwrap();
    let changes = api.changes();
    for (told, name) in changes.chunks(2).zip(["istio-system", "bookinfo"]) {
        assert_eq!(told[0], "create -f -");
        let namespace: serde_json::Value = serde_json::from_str(&told[1]).unwrap();
        let labels = json!({"aquifer.io/made-by": "aquifer-tests", "aquifer.io/run": "this"});
        assert_eq!(namespace["metadata"], json!({"name": name, "labels": labels}));
    }
    assert_eq!(changes.len(), 4);
}

#[test]
fn a_cluster_with_sidecars_is_left_alone() {
    let api = Api::with(&[("webhooks", "cert-manager\nistio-sidecar-injector-1-20\n")]);
    let refused = api.access().refuse_what_is_there(&[]).unwrap_err().to_string();
    assert!(
        refused.contains("Istio or Aquifer (istio-sidecar-injector-1-20)"),
        "{refused}"
    );
}

#[test]
fn the_name_of_a_run_is_a_label() {
    let name = name_of_run();
    assert!(name.len() <= 63 && name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-'));
}

fn terms(load_with: Option<&str>, settings: &[&str]) -> Terms {
    Terms {
        load_with: load_with.map(str::to_owned),
        registry: None,
        settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
        clear: false,
    }
}

#[test]
fn what_a_run_left_is_named_with_its_remedies() {
    let left = |names: &[&str]| {
        let names = names.iter().map(|&name| name.to_owned()).collect();
        ForeignError::Left(names).to_string()
    };
    let said = left(&["bookinfo", "istio-system", "kinds"]);
    let by_hand = "kubectl delete namespace bookinfo kinds; aquifer uninstall --purge; kubectl delete namespace istio-system";
    assert!(said.contains("--clear") && said.ends_with(by_hand), "{said}");
    assert!(!left(&["kinds"]).contains("uninstall"));
}

#[test]
fn clearing_alone_is_refused() {
    let alone = Terms {
        clear: true,
        ..Terms::default()
    };
    let error = alone.given().unwrap_err().to_string();
    assert!(error.contains("--load-with or --registry"), "{error}");
}

#[test]
fn nothing_said_is_no_cluster_of_ones_own() {
    assert!(terms(None, &[]).given().unwrap().is_none());
    assert!(terms(Some("load {}"), &["a=b"]).given().unwrap().is_some());
    let error = terms(None, &["a=b"]).given().unwrap_err().to_string();
    assert!(error.contains("--load-with or --registry"), "{error}");
}

#[test]
fn terms_reach_a_suite_as_they_were_said() {
    let text = serde_json::to_string(&terms(Some("load {}"), &["a=b"])).unwrap();
    let read: Terms = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (read.load_with.as_deref(), &*read.settings),
        (Some("load {}"), &["a=b".to_owned()][..])
    );
}
