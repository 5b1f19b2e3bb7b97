//! What a container starts with: command, variables, mounts and the files behind them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::enter::{Bind, Entry, Mounts, Start};
use super::super::images::{find_program, is_executable};
use super::super::layout::Layout;
use super::super::spec::{self, EnvVar, VolumeMount};
use super::super::store::{Key, update_file};
use super::cluster::Cluster;
use super::host_access::{HostAccess, NodePlace};
use super::kubelet::{ContainerRun, PodRun, Restart};
use super::pod::Pod;

/// Why a pod cannot start yet. It starts by itself when the cause is gone.
pub(super) type Obstacle = String;

impl Cluster {
    /// Writes a pod's files and says how to run it, or what is missing.
    pub(super) fn prepare(&self, pod: &Pod) -> Result<PodRun, Obstacle> {
        let mut containers = Vec::new();
        self.check_service_account(pod)?;
        self.write_pod_files(pod)
            .map_err(|error| format!("cannot write the pod's files: {error}"))?;
        self.write_volumes(pod)?;
        for container in &pod.spec.containers {
            let start = Start {
                entry: self.entry(pod, container)?,
                argv: self.argv(pod, container)?,
            };
            let path = pod.sandbox.folder.join(format!("{}.json", container.name));
            let text = serde_json::to_vec(&start).map_err(|error| error.to_string())?;
            update_file(&path, &text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
            note_unmountable(pod, container, &start.argv)
                .map_err(|error| format!("cannot write the container's log: {error}"))?;
            containers.push(ContainerRun {
                name: container.name.clone(),
                start: path,
                log: log_file(pod, &container.name),
            });
        }
        Ok(PodRun {
            uid: pod.uid.clone(),
            program: self.config.program.clone(),
            sandbox: pod.sandbox.clone(),
            containers,
            grace: std::time::Duration::from_secs(pod.spec.termination_grace_period_seconds),
            restart: restart_policy(&pod.manifest),
        })
    }

    /// How to enter a container: its own start, and every `exec` later.
    pub(super) fn entry(&self, pod: &Pod, container: &spec::Container) -> Result<Entry, Obstacle> {
        Ok(Entry {
            netns: pod.sandbox.netns_path(),
            cgroup: pod.sandbox.cgroup.clone(),
            hostname: pod.spec.hostname.clone().unwrap_or_else(|| pod.name.clone()),
            env: self.env(pod, container)?.into_iter().collect(),
            working_dir: container.working_dir.as_ref().map(PathBuf::from),
            mounts: self.mounts(pod, container, &self.argv(pod, container)?),
        })
    }

    fn argv(&self, pod: &Pod, container: &spec::Container) -> Result<Vec<String>, Obstacle> {
        let env = self.env(pod, container)?;
        let mapped = if container.command.is_empty() {
            self.config
                .images
                .command(&container.image)
                .map_err(|error| error.to_string())?
        } else {
            &container.command
        };
        let words = mapped.iter().chain(&container.args);
        let mut argv: Vec<String> = words.map(|word| expand(word, &env)).collect();
        let program = argv.first_mut().ok_or("no command")?;
        let path = Path::new(program.as_str());
        let found = if program.contains('/') {
            Some(path.to_owned()).filter(|path| is_executable(path))
        } else {
            find_program(program)
        };
        let found = found.ok_or_else(|| {
            format!(
                "container {}: no program {program} on this machine; build or install it",
                container.name
            )
        })?;
        *program = found.to_string_lossy().into_owned();
        Ok(argv)
    }

    fn env(&self, pod: &Pod, container: &spec::Container) -> Result<BTreeMap<String, String>, Obstacle> {
        let mut env = BTreeMap::from([
            (
                "PATH".to_owned(),
                std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
            ),
            ("HOME".to_owned(), "/root".to_owned()),
            ("HOSTNAME".to_owned(), pod.name.clone()),
            ("IMAGE".to_owned(), container.image.clone()),
        ]);
        if let Some(access) = HostAccess::of(&pod.annotations) {
            let layout = self.layout();
            env.extend(access.env(&NodePlace {
                layout: &layout,
                families: self.config.families,
                node: &pod.node.name(),
                node_cgroup: self.cgroup.join(pod.node.name()),
            }));
        }
        for source in &container.env_from {
            let kinds = [
                ("ConfigMap", &source.config_map_ref),
                ("Secret", &source.secret_ref),
            ];
            for (kind, reference) in kinds
                .into_iter()
                .filter_map(|(kind, name)| Some((kind, name.as_ref()?)))
            {
                let data = self.data(kind, &pod.namespace, &reference.name, reference.optional)?;
                env.extend(
                    data.into_iter()
                        .map(|(key, value)| (format!("{}{key}", source.prefix), text(&value))),
                );
            }
        }
        for variable in &container.env {
            if let Some(value) = self.variable(pod, variable, &env)? {
                env.insert(variable.name.clone(), value);
            }
        }
        Ok(env)
    }

    fn variable(
        &self,
        pod: &Pod,
        variable: &EnvVar,
        env: &BTreeMap<String, String>,
    ) -> Result<Option<String>, Obstacle> {
        let Some(source) = &variable.value_from else {
            return Ok(Some(expand(variable.value.as_deref().unwrap_or_default(), env)));
        };
        if let Some(field) = &source.field_ref {
            let value = field_value(pod, &field.field_path);
            return value
                .map(Some)
                .ok_or_else(|| format!("variable {}: no field {}", variable.name, field.field_path));
        }
        if let Some(resource) = &source.resource_field_ref {
            return Ok(Some(resource_value(&resource.resource)));
        }
        let references = [
            ("ConfigMap", &source.config_map_key_ref),
            ("Secret", &source.secret_key_ref),
        ];
        let reference = references
            .into_iter()
            .find_map(|(kind, key)| Some((kind, key.as_ref()?)));
        let Some((kind, key)) = reference else {
            return Err(format!(
                "variable {}: valueFrom names no source the lab knows",
                variable.name
            ));
        };
        let data = self.data(kind, &pod.namespace, &key.name, key.optional)?;
        match data.get(&key.key) {
            Some(value) => Ok(Some(text(value))),
            None if key.optional => Ok(None),
            None => Err(format!(
                "variable {}: {kind} {} has no key {}",
                variable.name, key.name, key.key
            )),
        }
    }

    fn mounts(&self, pod: &Pod, container: &spec::Container, argv: &[String]) -> Mounts {
        let folder = &pod.sandbox.folder;
        let layout = self.layout();
        let given = |name: &str, target: &str| Bind {
            source: folder.join(name),
            target: PathBuf::from(target),
        };
        let mut binds = vec![
            given("resolv.conf", "/etc/resolv.conf"),
            given("secrets", "/run/secrets"),
        ];
        let mounted = container
            .volume_mounts
            .iter()
            .filter(|mount| unmountable(mount, argv).is_none());
        for mount in mounted {
            let Some(volume) = pod.spec.volumes.iter().find(|volume| volume.name == mount.name) else {
                continue;
            };
            let source = match &volume.host_path {
                Some(host) => PathBuf::from(&host.path),
                None => folder.join("volumes").join(&volume.name),
            };
            binds.push(Bind {
                source: source.join(mount.sub_path.as_deref().unwrap_or_default()),
                target: PathBuf::from(&mount.mount_path),
            });
        }
        Mounts {
            staging: Some(folder.join("run")),
            kept: HostAccess::of(&pod.annotations)
                .map(|access| access.kept(&layout))
                .unwrap_or_default(),
            binds,
        }
    }

    fn check_service_account(&self, pod: &Pod) -> Result<(), Obstacle> {
        let name = pod.spec.service_account();
        if self
            .store
            .contains(&Key::core("ServiceAccount", &pod.namespace, name))
        {
            return Ok(());
        }
        Err(format!(
            "no ServiceAccount {name} in namespace {}: apply one",
            pod.namespace
        ))
    }

    pub(super) fn layout(&self) -> Layout {
        Layout::new(&self.config.name)
    }
}

/// Why a volume cannot appear where an image would have it: this machine's files are the image.
fn unmountable(mount: &VolumeMount, argv: &[String]) -> Option<&'static str> {
    let target = Path::new(&mount.mount_path);
    // A pod's /run is its own: there everything can be made.
    if target.starts_with("/run") || target.starts_with("/var/run") {
        return None;
    }
    if !target.exists() {
        return Some("this machine has no such path");
    }
    let hides = argv.iter().any(|word| Path::new(word).starts_with(target));
    hides.then_some("the container's command lies below it")
}

/// Says in the container's log what its manifest asks for and the lab cannot give.
fn note_unmountable(pod: &Pod, container: &spec::Container, argv: &[String]) -> io::Result<()> {
    let mut log = super::open_log(&log_file(pod, &container.name))?;
    for mount in &container.volume_mounts {
        if let Some(reason) = unmountable(mount, argv) {
            writeln!(
                log,
                "lab: volume {} is not mounted at {}: {reason}",
                mount.name, mount.mount_path
            )?;
        }
    }
    Ok(())
}

pub(super) fn log_file(pod: &Pod, container: &str) -> PathBuf {
    pod.sandbox.folder.join(format!("{container}.log"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn restart_policy(manifest: &Value) -> Restart {
    match manifest["spec"]["restartPolicy"].as_str() {
        Some("Never") => Restart::Never,
        Some("OnFailure") => Restart::OnFailure,
        _ => Restart::Always,
    }
}

/// What the downward API gives for a field path.
fn field_value(pod: &Pod, path: &str) -> Option<String> {
    let ips: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
    let keyed = |prefix: &str, map: &spec::Labels| {
        let key = path.strip_prefix(prefix)?.strip_suffix("']")?;
        Some(map.get(key).cloned().unwrap_or_default())
    };
    match path {
        "metadata.name" => Some(pod.name.clone()),
        "metadata.namespace" => Some(pod.namespace.clone()),
        "metadata.uid" => Some(pod.uid.clone()),
        "spec.nodeName" => Some(pod.node.name()),
        "spec.serviceAccountName" => Some(pod.spec.service_account().to_owned()),
        "status.podIP" => ips.first().cloned(),
        "status.podIPs" => Some(ips.join(",")),
        "status.hostIP" => pod.addresses.first().map(|ip| host_ip(pod, *ip)),
        _ => keyed("metadata.labels['", &pod.labels)
            .or_else(|| keyed("metadata.annotations['", &pod.annotations)),
    }
}

fn host_ip(pod: &Pod, ip: std::net::IpAddr) -> String {
    pod.node
        .address(super::super::network::Family::of(ip))
        .to_string()
}

/// The lab sets no limits: a container may use the whole machine.
fn resource_value(resource: &str) -> String {
    if resource.ends_with("cpu") {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        return cpus.to_string();
    }
    let memory = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let kib: u64 = text
            .strip_prefix("MemTotal:")?
            .split_whitespace()
            .next()?
            .parse()
            .ok()?;
        Some(kib * 1024)
    });
    memory.unwrap_or(0).to_string()
}

/// Replaces `$(NAME)` by a known variable; `$$` stands for `$`, an unknown name for itself.
fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let reference = rest.strip_prefix("$(").and_then(|inside| inside.split_once(')'));
        if let Some(tail) = rest.strip_prefix("$$") {
            out.push('$');
            rest = tail;
        } else if let Some((value, tail)) = reference.and_then(|(name, tail)| Some((env.get(name)?, tail))) {
            out.push_str(value);
            rest = tail;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_expanded_as_kubernetes_does() {
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, wanted) in [
            ("x$(A)y", "x1y"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$A $", "$A $"),
            ("$(A", "$(A"),
        ] {
            assert_eq!(expand(text, &env), wanted, "{text}");
        }
    }
}
