//! The chart that this program was built with: unpacked for helm, and rendered for who has none.

use std::fs;

use anyhow::Context as _;
use tempfile::TempDir;

mod carried {
    include!(concat!(env!("OUT_DIR"), "/carried.rs"));
}

/// Sets of values that the chart brings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// Two replicas of the control plane, an ingress gateway
    #[default]
    Default,
    /// One of each, small; ingress and egress gateways, access log, every request traced
    Demo,
    /// Control plane and agents only
    Minimal,
}

impl Profile {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Demo => "demo",
            Self::Minimal => "minimal",
        }
    }
}

/// The chart in a folder of its own, removed with this value.
pub(crate) fn unpack() -> anyhow::Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix("aquifer-chart-")
        .tempdir()
        .context("cannot make a temporary folder for the chart")?;
    for (path, text) in carried::CHART {
        let file = folder.path().join(path);
        let parent = file.parent().unwrap_or_else(|| folder.path());
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&file, text))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(folder)
}

/// What helm makes of a profile, without the definitions of Istio's kinds.
pub(crate) fn rendered(profile: Profile) -> &'static str {
    let name = format!("{}.yaml", profile.name());
    file(carried::RENDERED, &name)
}

/// The definitions of Istio's kinds, each a document.
pub(crate) fn definitions() -> impl Iterator<Item = (&'static str, &'static str)> {
    let files = carried::CHART.iter().copied();
    files.filter_map(|(path, text)| {
        let name = path.strip_prefix("files/crds/")?.strip_suffix(".yaml")?;
        Some((name, text))
    })
}

/// The kinds that templates of the chart make, its subcharts' as well.
#[cfg(test)]
pub(crate) fn carried_kinds() -> std::collections::BTreeSet<&'static str> {
    let templates = carried::CHART
        .iter()
        .filter(|(path, _)| path.contains("templates/"));
    templates
        .flat_map(|(_, text)| text.lines().filter_map(|line| line.strip_prefix("kind: ")))
        .collect()
}

fn file(files: &[(&str, &'static str)], name: &str) -> &'static str {
    let found = files.iter().find(|(path, _)| *path == name);
    found.map_or("", |(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_is_whole() {
        let folder = unpack().unwrap();
        for path in [
            "Chart.yaml",
            "values.yaml",
            "profiles/minimal.yaml",
            "charts/gateway/Chart.yaml",
            "templates/_helpers.tpl",
        ] {
            assert!(folder.path().join(path).is_file(), "{path}");
        }
        assert!(
            definitions().any(|(name, text)| name == "virtualservices.networking.istio.io"
                && text.contains("kind: CustomResourceDefinition"))
        );
    }

    #[test]
    fn every_profile_is_rendered() {
        for profile in [Profile::Default, Profile::Demo, Profile::Minimal] {
            assert!(rendered(profile).contains("name: aquifer-control"), "{profile:?}");
            let chart = carried::CHART
                .iter()
                .any(|(path, _)| *path == format!("profiles/{}.yaml", profile.name()));
            assert!(chart, "{profile:?}");
        }
    }
}
