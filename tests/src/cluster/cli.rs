//! The command line `aquifer-cluster`.

use std::io::Write;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::cgroup::Cgroups;
use super::layout::{ClusterName, Layout, Member};
use super::mesh::Mesh;
use super::{Cluster, ClusterOptions, OnFailure, member, parts, take_down};

/// A Kubernetes cluster on this machine: real parts, nodes made of namespaces.
#[derive(Debug, Parser)]
#[command(name = "aquifer-cluster", version)]
struct Cli {
    /// Several clusters live side by side under different names.
    #[arg(long, global = true, env = "AQUIFER_CLUSTER_NAME", default_value = "aquifer")]
    name: ClusterName,
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build a cluster; returns when nodes and DNS are ready. The first time builds its parts, for some minutes.
    Up(Up),
    /// Build the parts alone, and install kubectl and helm where they are missing.
    Parts,
    /// Load image archives (docker or OCI, a tar) into every node.
    Load {
        #[arg(required = true)]
        images: Vec<PathBuf>,
    },
    /// Print the path of the kubeconfig: `export KUBECONFIG=$(cargo xtask cluster kubeconfig)`.
    Kubeconfig,
    /// Run kubectl on the cluster.
    Kubectl {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Show members, services, nodes, pods, and whose metrics can be read; fails when not all are ready.
    Status {
        #[arg(short, long, value_enum, default_value = "text")]
        output: Format,
    },
    /// Run a command inside a member: control, node-1, ...; or in the network outside the cluster: world.
    Exec {
        member: Member,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Stop, start or kill a service of a member: `service stop node-1 kubelet`.
    Service {
        #[arg(value_enum)]
        verb: Verb,
        member: Member,
        service: String,
    },
    /// Cut a member's power, bring it back, or both: `member restart node-2`.
    Member {
        #[arg(value_enum)]
        verb: Power,
        member: Member,
    },
    /// Put the mesh on the cluster, built from this checkout and installed by helm, or take it off again.
    Mesh {
        #[arg(value_enum)]
        verb: MeshVerb,
        /// A value of the chart, as in helm's --set; may be repeated.
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Print what a member's service wrote.
    Logs { member: Member, service: String },
    /// Print what a member's service says of itself, in Prometheus's format; CoreDNS: `metrics control coredns`.
    Metrics { member: Member, service: String },
    /// Take the cluster down, running or dead, and leave nothing behind.
    Down,
    #[command(hide = true)]
    Launch { spec: PathBuf },
    #[command(hide = true)]
    Init {
        spec: PathBuf,
        #[arg(long)]
        socket: RawFd,
        #[arg(long)]
        forward: Option<RawFd>,
    },
}

#[derive(Debug, Args)]
struct Up {
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// Load this image archive into every node; may be repeated.
    #[arg(long, value_name = "TAR")]
    image: Vec<PathBuf>,
    /// How long to wait for everything to be ready, once the parts are built.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
    /// Leave a cluster that is not ready in time as it is.
    #[arg(long)]
    keep_failed: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Verb {
    Stop,
    Start,
    Kill,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Power {
    Stop,
    Start,
    Restart,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MeshVerb {
    Install,
    /// Load the images anew and upgrade the release.
    Upgrade,
    Uninstall,
}

/// How long helm and the workloads may take.
const MESH_PATIENCE: Duration = Duration::from_secs(120);

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli.name, cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("aquifer-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(name: &ClusterName, command: Action) -> Result<ExitCode> {
    match command {
        Action::Up(options) => up(name, options)?,
        Action::Parts => {
            parts::Parts::find_or_build(&tell)?;
            for tool in [parts::KUBECTL, parts::HELM] {
                print(&format!("{}\n", parts::tool(tool)?.display()))?;
            }
        }
        Action::Load { images } => {
            let cluster = Cluster::attach(name)?;
            images.iter().try_for_each(|image| cluster.load(image))?;
        }
        Action::Kubeconfig => {
            print(&format!("{}\n", Cluster::attach(name)?.kubeconfig().display()))?;
        }
        Action::Kubectl { arguments } => return kubectl(name, &arguments),
        Action::Status { output } => return status(name, output),
        Action::Exec { member, command } => return exec(name, member, &command),
        Action::Service {
            verb,
            member,
            service,
        } => control(name, verb, member, &service)?,
        Action::Member { verb, member } => power(&Cluster::attach(name)?, verb, member)?,
        Action::Mesh { verb, set } => mesh(&Cluster::attach(name)?, verb, &set)?,
        Action::Logs { member, service } => logs(name, member, &service)?,
        Action::Metrics { member, service } => print(&Cluster::attach(name)?.metrics(member, &service)?)?,
        Action::Down => take_down(name)?,
        Action::Launch { spec } => member::launch(&spec)?,
        Action::Init {
            spec,
            socket,
            forward,
        } => member::init(&spec, socket, forward)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(name: &ClusterName, options: Up) -> Result<()> {
    let start = Instant::now();
    let timed = |step: &str| tell(&format!("{:6.1} s  {step}", start.elapsed().as_secs_f64()));
    let options = ClusterOptions {
        name: name.clone(),
        nodes: options.nodes,
        timeout: Duration::from_secs(options.timeout),
        images: options.image,
        on_failure: if options.keep_failed {
            OnFailure::Keep
        } else {
            OnFailure::TakeDown
        },
    };
    let mut cluster = Cluster::up(&options, &timed)?;
    cluster.keep();
    timed("ready");
    print(&format!("export KUBECONFIG={}\n", cluster.kubeconfig().display()))
}

fn kubectl(name: &ClusterName, arguments: &[String]) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    let cluster = Cluster::attach(name)?;
    let mut command = cluster.kubectl().command(arguments);
    command.stdin(std::process::Stdio::inherit());
    Err(command.exec()).context("cannot run kubectl")
}

fn status(name: &ClusterName, output: Format) -> Result<ExitCode> {
    let cluster = Cluster::attach(name)?;
    let status = cluster.status().with_metrics(&cluster);
    match output {
        Format::Text => print(&status.to_string())?,
        Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&status)?))?,
    }
    let code = if status.is_ready() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    Ok(code)
}

fn exec(name: &ClusterName, member: Member, command: &[String]) -> Result<ExitCode> {
    let code = member::run_inside(&Layout::new(name), &Cgroups::find()?, member, command)?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

fn control(name: &ClusterName, verb: Verb, member: Member, service: &str) -> Result<()> {
    let cluster = Cluster::attach(name)?;
    match verb {
        Verb::Stop => cluster.stop_service(member, service),
        Verb::Start => cluster.start_service(member, service),
        Verb::Kill => cluster.kill_service(member, service),
    }?;
    Ok(())
}

fn power(cluster: &Cluster, verb: Power, member: Member) -> Result<()> {
    match verb {
        Power::Stop => cluster.stop_member(member)?,
        Power::Start => cluster.start_member(member)?,
        Power::Restart => cluster.restart_member(member)?,
    }
    Ok(())
}

fn mesh(cluster: &Cluster, verb: MeshVerb, set: &[String]) -> Result<()> {
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    let mesh = match verb {
        MeshVerb::Uninstall => Mesh::of(cluster)?,
        MeshVerb::Install | MeshVerb::Upgrade => {
            let program = std::env::current_exe().context("cannot find this program's folder")?;
            Mesh::prepare(cluster, program.parent().unwrap_or_else(|| Path::new(".")))?
        }
    };
    match verb {
        MeshVerb::Install => mesh.install(&set, MESH_PATIENCE)?,
        MeshVerb::Upgrade => {
            mesh.upgrade(&set)?;
            mesh.wait_ready(MESH_PATIENCE)?;
        }
        MeshVerb::Uninstall => mesh.uninstall(MESH_PATIENCE)?,
    }
    Ok(())
}

fn logs(name: &ClusterName, member: Member, service: &str) -> Result<()> {
    if service.contains('/') {
        bail!("no service {service}");
    }
    let path = Layout::new(name).logs(member).join(service);
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(std::io::stdout().write_all(&text)?)
}

fn tell(step: &str) {
    eprintln!("==> {step}");
}

fn print(text: &str) -> Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")
}
