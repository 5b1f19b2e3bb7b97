//! `deploy/rendered`: the profiles as helm makes them, which the command line carries for who has no helm.

use std::fs;
use std::path::PathBuf;

use crate::helm::{NAMESPACE, chart, helm, objects};

const PROFILES: [&str; 3] = ["default", "demo", "minimal"];
/// Set, the renderings are written instead of compared.
const WRITE: &str = "AQUIFER_RENDER";

fn rendering(profile: &str) -> String {
    let values = format!("profiles/{profile}.yaml");
    let folder = chart();
    // The definitions are carried on their own, once.
    let arguments = [
        "template",
        "aquifer",
        folder.to_str().unwrap(),
        "-n",
        NAMESPACE,
        // What helm runs when it uninstalls; without helm `aquifer uninstall` does that itself.
        "--no-hooks",
        "--set",
        "crds.install=false",
        "-f",
        &values,
    ];
    let output = helm(&arguments);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn file(profile: &str) -> PathBuf {
    chart().join("../rendered").join(format!("{profile}.yaml"))
}

#[test]
fn what_the_command_line_carries_is_what_helm_renders() {
    for profile in PROFILES {
        let now = rendering(profile);
        if std::env::var_os(WRITE).is_some() {
            fs::write(file(profile), &now).unwrap();
        }
        let carried = fs::read_to_string(file(profile)).unwrap();
        // Texts may differ from one helm to the next.
        assert!(
            objects(&carried) == objects(&now),
            "deploy/rendered/{profile}.yaml is not what the chart renders now: `{WRITE}=1 cargo xtask test chart` writes it anew"
        );
    }
}

#[test]
fn nothing_but_the_profiles_is_carried() {
    let files = fs::read_dir(chart().join("../rendered")).unwrap();
    let mut names: Vec<String> = files
        .map(|f| f.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, PROFILES.map(|profile| format!("{profile}.yaml")));
}
