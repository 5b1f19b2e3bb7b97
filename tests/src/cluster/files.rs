//! A member's configuration files, written to its disk before it starts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::json;
use thiserror::Error;

use super::audit;
use super::image::PAUSE;
use super::layout::{DNS_SERVICE, Layout, Member};
use super::pki::{self, Pki};
use super::root::{CONFIG, PARTS};
use super::services::PLUGINS;

#[derive(Debug, Error)]
#[error("cannot write {}: {source}", path.display())]
pub struct FileError {
    path: PathBuf,
    source: io::Error,
}

/// Pods per node: as many as its range has addresses.
const MAX_PODS: u8 = 250;
const OVERLAYFS_MAGIC: i64 = 0x794c_7630;

/// Writes everything that the member's services read.
pub(super) fn write(layout: &Layout, member: Member, nodes: u8, pki: &Pki) -> Result<(), FileError> {
    let folder = layout.member_dir(member);
    let etc = folder.join("etc");
    put(&etc.join("hosts"), &hosts(nodes))?;
    put(&etc.join("machine-id"), &machine_id(layout, member))?;
    put(&etc.join("hostname"), &format!("{member}\n"))?;
    // No name server outside: the cluster's own answers for the cluster's names and for nothing else.
    put(&etc.join("resolv.conf"), "options ndots:1\n")?;
    let config = in_folder(&folder, CONFIG);
    for (name, text) in pki::files_of(member, pki) {
        put_secret(&config.join(name), text)?;
    }
    if member == Member::Control {
        put(&config.join(audit::POLICY), &audit::policy())?;
    }
    if let Member::Node(_) = member {
        put(
            &config.join("containerd.toml"),
            &containerd(snapshotter(&layout.state_dir())),
        )?;
        put(&config.join("kubelet.yaml"), &kubelet())?;
        put(&etc.join("cni/net.d/10-cluster.conflist"), &cni(member))?;
        for empty in ["opt/cni/bin", "var/lib/kubelet", "var/log/pods"] {
            let path = folder.join(empty);
            fs::create_dir_all(&path).map_err(|source| FileError { path, source })?;
        }
    }
    Ok(())
}

fn hosts(nodes: u8) -> String {
    let members = Member::all(nodes).map(|member| format!("{} {member}\n", member.address()));
    format!("127.0.0.1 localhost\n{}", members.collect::<String>())
}

/// A kubelet reports it; made of what identifies the member, so that it survives its restart.
fn machine_id(layout: &Layout, member: Member) -> String {
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        format!("{}.{member}", layout.name()).as_bytes(),
    );
    let hex: String = digest
        .as_ref()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{hex}\n")
}

/// Overlays do not stack on an overlay, as in a container without a volume.
fn snapshotter(folder: &Path) -> &'static str {
    let kind = nix::sys::statfs::statfs(folder).map(|stat| stat.filesystem_type().0);
    if kind.is_ok_and(|kind| kind == OVERLAYFS_MAGIC) {
        "native"
    } else {
        "overlayfs"
    }
}

fn containerd(snapshotter: &str) -> String {
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
# This machine's root may lack the capability to lower a score.
oom_score = 0

[metrics]
  address = "0.0.0.0:1338"

[grpc]
  address = "/run/containerd/containerd.sock"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{snapshotter}"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE}"
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = "/etc/containerd/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = "{PARTS}/runc"
        SystemdCgroup = false
"#
    )
}

/// JSON is YAML.
fn kubelet() -> String {
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": format!("{CONFIG}/ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": format!("{CONFIG}/kubelet.crt"),
        "tlsPrivateKeyFile": format!("{CONFIG}/kubelet.key"),
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [DNS_SERVICE.to_string()],
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "maxPods": MAX_PODS,
        "oomScoreAdj": 0,
        "volumePluginDir": PLUGINS,
        "serializeImagePulls": false,
        "registryPullQPS": 0,
        // The disk is the machine's: how full that is says nothing about this cluster.
        "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%", "memory.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    });
    config.to_string()
}

fn cni(member: Member) -> String {
    let range = member.pod_range().unwrap_or_default();
    let config = json!({
        "cniVersion": "1.0.0",
        "name": "cluster",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": range}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    config.to_string()
}

fn in_folder(folder: &Path, absolute: &str) -> PathBuf {
    folder.join(absolute.trim_start_matches('/'))
}

pub(super) fn put(path: &Path, text: &str) -> Result<(), FileError> {
    put_with_mode(path, text, 0o644)
}

pub(super) fn put_secret(path: &Path, text: &str) -> Result<(), FileError> {
    put_with_mode(path, text, 0o600)
}

fn put_with_mode(path: &Path, text: &str, mode: u32) -> Result<(), FileError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| {
        let mut options = fs::OpenOptions::new();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(path);
        file?.write_all(text.as_bytes())
    });
    written.map_err(|source| FileError {
        path: path.to_owned(),
        source,
    })
}
