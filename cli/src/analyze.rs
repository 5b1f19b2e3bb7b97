//! `aquifer analyze`: what the control plane would say about manifests, before they are applied.

mod cluster;
mod files;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;
use aquifer_control::objects::RawObject;
use aquifer_control::validate::{Finding, Input, Level, Mesh, View, read, references, validate};
use serde_json::json;

use crate::kubectl::Kubectl;
use crate::table::{Output, say, structured};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Files or folders of manifests; `-` is the standard input. Without any, the objects of the cluster are judged.
    #[arg(value_name = "FILE")]
    paths: Vec<PathBuf>,
    /// The same, as kubectl has it.
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Namespace of objects that name none; of the cluster only this namespace's objects are judged.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Judge the files beside what is in the cluster, as if they were applied.
    #[arg(long)]
    cluster: bool,
    /// Namespace of the control plane, whose objects hold for the mesh.
    #[arg(long, default_value = "istio-system")]
    istio_namespace: String,
    /// The exit status is 1 from this level on.
    #[arg(long, value_enum, default_value_t = FailOn::Error)]
    fail_on: FailOn,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FailOn {
    Error,
    Warning,
    Info,
    Never,
}

impl FailOn {
    fn fails(self, level: Level) -> bool {
        match self {
            Self::Error => level == Level::Error,
            Self::Warning => level <= Level::Warning,
            Self::Info => true,
            Self::Never => false,
        }
    }
}

/// Manifests or the cluster cannot be read.
const CANNOT_READ: u8 = 2;

pub(crate) fn run(options: &Options, kubectl: &Kubectl, output: Output) -> ExitCode {
    match judge(options, kubectl) {
        Ok((findings, judged)) => match print(&findings, judged, output) {
            Ok(()) if findings.iter().any(|f| options.fail_on.fails(f.level)) => ExitCode::FAILURE,
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => unreadable(&error),
        },
        Err(error) => unreadable(&error),
    }
}

fn unreadable(error: &anyhow::Error) -> ExitCode {
    eprintln!("aquifer: {error:#}");
    ExitCode::from(CANNOT_READ)
}

/// The findings, and how many objects were judged.
fn judge(options: &Options, kubectl: &Kubectl) -> anyhow::Result<(Vec<Finding>, usize)> {
    let paths: Vec<&PathBuf> = options.paths.iter().chain(&options.files).collect();
    let documents = files::read(&paths)?;
    let whole = options.cluster || paths.is_empty();
    let (background, mesh) = if whole {
        let why = "cannot read the cluster (give files with -f to judge them alone)";
        cluster::read(kubectl, &options.istio_namespace).context(why)?
    } else {
        (Vec::new(), Mesh::in_namespace(&options.istio_namespace))
    };
    let mut input = Input {
        documents,
        background,
        view: if whole { View::Cluster } else { View::Files },
        namespace: options.namespace.as_deref().unwrap_or("default").into(),
        mesh,
        now: SystemTime::now(),
    };
    let subject = if input.documents.is_empty() {
        &input.background
    } else {
        &input.documents
    };
    let (objects, _) = read(subject, &input.namespace);
    if whole {
        let (known, _) = read(&input.background, &input.namespace);
        let pods: Vec<&RawObject> = known.iter().map(|(_, o)| &**o).filter(|o| is_pod(o)).collect();
        let named = references(objects.iter().map(|(_, o)| &**o), &pods);
        input.background.extend(cluster::secrets(kubectl, &named)?);
    }
    let mut findings = validate(&input);
    if paths.is_empty()
        && let Some(namespace) = &options.namespace
    {
        let of_namespace = format!(" {namespace}/");
        findings.retain(|f| f.object.contains(&of_namespace));
    }
    Ok((findings, objects.len()))
}

fn is_pod(object: &RawObject) -> bool {
    object.key.group.is_empty() && &*object.key.kind == "Pod"
}

fn print(findings: &[Finding], judged: usize, output: Output) -> anyhow::Result<()> {
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let (errors, warnings, infos) = (count(Level::Error), count(Level::Warning), count(Level::Info));
    let value = json!({
        "findings": findings, "objects": judged, "errors": errors, "warnings": warnings, "infos": infos,
    });
    if structured(output, &value)? {
        return Ok(());
    }
    findings.iter().for_each(|finding| say(&described(finding)));
    say(&match findings.len() {
        0 => format!("No problems found in {}.", counted(judged, "object")),
        _ => format!(
            "{}, {}, {} in {}.",
            counted(errors, "error"),
            counted(warnings, "warning"),
            counted(infos, "hint"),
            counted(judged, "object")
        ),
    });
    Ok(())
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn described(finding: &Finding) -> String {
    let place = [&*finding.object, &*finding.field];
    let place: Vec<&str> = place.into_iter().filter(|part| !part.is_empty()).collect();
    let head = [&[&*finding.origin], &*place].concat().join(": ");
    format!(
        "{}[{}] {head}\n    {}\n    remedy: {}",
        finding.level, finding.reason, finding.message, finding.remedy
    )
}
