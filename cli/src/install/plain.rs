//! Without helm: the profile as it was rendered when this program was built, by kubectl.

use anyhow::{Context as _, bail};
use aquifer_control::source::document;
use serde_json::{Value, json};

use crate::chart::{self, Profile};
use crate::install::{NAMESPACE, Options, RELEASE, Verb};
use crate::kubectl::Kubectl;
use crate::table::say;

/// Who owns the fields, for server-side apply.
const MANAGER: &str = "--field-manager=aquifer-cli";
/// Says that a definition is ours.
pub(crate) const PART_OF: &str = "app.kubernetes.io/part-of";

/// # Errors
/// The settings that only helm can put into the chart.
pub(crate) fn refuse_settings(options: &Options) -> anyhow::Result<()> {
    let mut settings: Vec<String> = options.set.iter().map(|s| format!("--set {s}")).collect();
    settings.extend(options.files.iter().map(|f| format!("-f {f}")));
    if options.namespace != NAMESPACE {
        settings.push(format!("-n {}", options.namespace));
    }
    if settings.is_empty() {
        return Ok(());
    }
    bail!(
        "{} need helm, which is not here (or --no-helm was given); install helm 3.14 or later, or name it by the variable HELM. Without it there are the profiles as they are: default, demo, minimal",
        settings.join(", ")
    )
}

/// All that would be applied.
pub(crate) fn manifest(profile: Profile) -> String {
    let definitions = chart::definitions().map(|(_, text)| format!("---\n{text}"));
    definitions.chain([chart::rendered(profile).to_owned()]).collect()
}

pub(crate) fn apply(options: &Options, kubectl: &Kubectl, verb: Verb) -> anyhow::Result<()> {
    let there = kubectl.object(&["deployment", "aquifer-control", "-n", NAMESPACE])?;
    match (verb, there.is_some()) {
        (Verb::Install, true) => {
            bail!("Aquifer is in namespace {NAMESPACE} already; `aquifer upgrade` changes it")
        }
        (Verb::Upgrade, false) => bail!("no Aquifer in namespace {NAMESPACE}; `aquifer install` makes one"),
        _ => {}
    }
    say(&format!(
        "without helm: profile {} as it is",
        options.profile.unwrap_or_default().name()
    ));
    apply_definitions(kubectl)?;
    let objects = objects(chart::rendered(options.profile.unwrap_or_default()))?;
    send(kubectl, &objects).context("cannot apply the objects")
}

/// Definitions that are there and are not ours stay as they are.
fn apply_definitions(kubectl: &Kubectl) -> anyhow::Result<()> {
    let there = kubectl.items(&["customresourcedefinitions"])?;
    let foreign = |name: &str| {
        there
            .iter()
            .any(|d| d["metadata"]["name"] == name && d["metadata"]["labels"][PART_OF] != "aquifer")
    };
    let mut list = Vec::new();
    let mut names = Vec::new();
    for (name, text) in chart::definitions() {
        if foreign(name) {
            say(&format!("definition {name} is another's and stays as it is"));
            continue;
        }
        list.extend(objects(text)?);
        names.push(format!("customresourcedefinition/{name}"));
    }
    send(kubectl, &list).context("cannot apply the definitions of Istio's kinds")?;
    let mut arguments = vec!["wait", "--for=condition=Established", "--timeout=50s"];
    arguments.extend(names.iter().map(String::as_str));
    if names.is_empty() {
        return Ok(());
    }
    kubectl.text(&arguments).map(drop)
}

/// The documents, marked so that a later `helm upgrade --install` takes them over.
fn objects(text: &str) -> anyhow::Result<Vec<Value>> {
    let parsed = document::parse(text.as_bytes());
    if let Some(problem) = parsed.problems.first() {
        bail!("the carried manifest is broken: {problem}");
    }
    let marked = parsed.objects.iter().map(|object| {
        let mut value = object.value.clone();
        let annotations = &mut value["metadata"]["annotations"];
        if !annotations.is_object() {
            *annotations = json!({});
        }
        annotations["meta.helm.sh/release-name"] = RELEASE.into();
        annotations["meta.helm.sh/release-namespace"] = NAMESPACE.into();
        let labels = &mut value["metadata"]["labels"];
        if !labels.is_object() {
            *labels = json!({});
        }
        // Helm takes over nothing without it, and the definitions' files do not have it.
        labels["app.kubernetes.io/managed-by"] = "Helm".into();
        value
    });
    Ok(marked.collect())
}

fn send(kubectl: &Kubectl, objects: &[Value]) -> anyhow::Result<()> {
    if objects.is_empty() {
        return Ok(());
    }
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects }).to_string();
    let arguments = ["apply", "--server-side", "--force-conflicts", MANAGER, "-f", "-"];
    kubectl.with_input(&arguments, Some(&list)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_carried_object_can_be_applied() {
        for profile in [Profile::Default, Profile::Demo, Profile::Minimal] {
            let all = objects(&manifest(profile)).unwrap();
            assert!(all.iter().any(|o| o["kind"] == "DaemonSet"));
            assert!(all.iter().all(
                |o| o["metadata"]["annotations"]["meta.helm.sh/release-name"] == RELEASE
                    && o["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
            ));
        }
    }
}
