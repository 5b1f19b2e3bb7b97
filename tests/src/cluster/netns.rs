//! The cluster's network: a switch, the world outside, the control plane and the nodes, each a named namespace.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use thiserror::Error;

use super::layout::{Layout, Member, netns_dir, netns_path};

#[derive(Debug, Error)]
pub enum NetworkError {
    #[error("cannot run ip: {0} (install iproute2)")]
    NoIp(io::Error),
    #[error("{place}: {message}; commands:\n{script}")]
    Ip {
        place: String,
        message: String,
        script: String,
    },
    #[error("cannot enter network namespace {}: {source}", path.display())]
    Enter { path: PathBuf, source: io::Error },
    #[error("network namespace {namespace}: cannot set {key}: {source}")]
    Sysctl {
        namespace: String,
        key: &'static str,
        source: io::Error,
    },
    #[error("cannot remove network namespace {}: {source}", path.display())]
    Remove { path: PathBuf, source: io::Error },
    #[error(
        "the kernel filters no bridged packets, so a pod could not reach its own node's pods through a Service: load br_netfilter (`modprobe br_netfilter`)"
    )]
    NoBridgeFilter,
}

/// A pod and a Service's backend beside it on the bridge answer each other directly; only with bridged packets in
/// the node's rules is the Service's address put back.
const BRIDGED_IN_RULES: Setting = ("bridge/bridge-nf-call-iptables", "1");
/// The switch is a cable, not a router.
const BRIDGED_PAST_RULES: Setting = ("bridge/bridge-nf-call-iptables", "0");

const ROUTER: &[Setting] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
];

/// A path below /proc/sys/net, and its value.
type Setting = (&'static str, &'static str);

/// Makes the switch and the world.
pub(super) fn build_switch(layout: &Layout) -> Result<(), NetworkError> {
    let switch = layout.switch();
    need_bridge_filter()?;
    ip_batch(None, &format!("netns add {switch}\n"))?;
    set_sysctls(&switch, &[BRIDGED_PAST_RULES])?;
    ip_batch(
        Some(&switch),
        "link add br0 type bridge mcast_snooping 0\nlink set br0 up\nlink set lo up\n",
    )
}

/// Makes a member's namespace and plugs it into the switch; `nodes` are those of the whole cluster.
pub(super) fn plug(layout: &Layout, member: Member, nodes: u8) -> Result<(), NetworkError> {
    let netns = layout.netns(member);
    ip_batch(None, &format!("netns add {netns}\n"))?;
    set_sysctls(&netns, ROUTER)?;
    set_sysctls(&netns, &[BRIDGED_IN_RULES])?;
    let switch_port = format!(
        "link add {member} type veth peer name eth0 netns {netns}\nlink set {member} master br0 up\n"
    );
    ip_batch(Some(&layout.switch()), &switch_port)?;
    ip_batch(Some(&netns), &member_script(member, nodes))
}

fn member_script(member: Member, nodes: u8) -> String {
    let mut script = format!(
        "link set lo up\nlink set eth0 up\naddr add {}/24 dev eth0\n",
        member.address()
    );
    for other in (1..=nodes).map(Member::Node).filter(|other| *other != member) {
        if let Some(range) = other.pod_range() {
            let _ = writeln!(script, "route add {range} via {}", other.address());
        }
    }
    if member != Member::World {
        let _ = writeln!(script, "route add default via {}", Member::World.address());
    }
    script
}

/// Removes a member's cable and namespace. Missing is removed.
///
/// The kernel frees a namespace some time after its last user has left, and only then what is plugged into it: the
/// cable's end at the switch would be in the way of the next one.
pub(super) fn unplug(layout: &Layout, member: Member) -> Result<(), NetworkError> {
    let switch = layout.switch();
    if let Err(error) = ip_batch(Some(&switch), &format!("link del {member}\n"))
        && is_plugged(&switch, member)
    {
        return Err(error);
    }
    remove(&netns_path(&layout.netns(member)))
}

fn is_plugged(switch: &str, member: Member) -> bool {
    ip_batch(Some(switch), &format!("link show dev {member}\n")).is_ok()
}

/// Removes every namespace of the cluster, by their names.
pub(super) fn remove_all(layout: &Layout) -> Result<(), NetworkError> {
    let prefix = layout.netns_prefix();
    let Ok(entries) = fs::read_dir(netns_dir()) else {
        return Ok(());
    };
    let ours = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.starts_with(&prefix));
    for entry in entries.flatten().filter(|entry| ours(&entry.file_name())) {
        remove(&entry.path())?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), NetworkError> {
    if !path.exists() {
        return Ok(());
    }
    // EINVAL: a file left by a crash between its creation and the mount.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    fs::remove_file(path).map_err(|source| NetworkError::Remove {
        path: path.to_owned(),
        source,
    })
}

/// Moves the calling thread into the namespace, for good.
pub(super) fn enter(path: &Path) -> Result<(), NetworkError> {
    let entered =
        fs::File::open(path).and_then(|file| setns(file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
    entered.map_err(|source| NetworkError::Enter {
        path: path.to_owned(),
        source,
    })
}

fn need_bridge_filter() -> Result<(), NetworkError> {
    let present = || Path::new("/proc/sys/net/bridge").exists();
    if !present() {
        // Where it is a module, root may load it; the check below says whether that helped.
        drop(Command::new("modprobe").arg("br_netfilter").output());
    }
    if present() {
        Ok(())
    } else {
        Err(NetworkError::NoBridgeFilter)
    }
}

/// Runs lines of `ip` commands, in the caller's namespace or in the named one.
fn ip_batch(namespace: Option<&str>, script: &str) -> Result<(), NetworkError> {
    let mut command = Command::new("ip");
    if let Some(name) = namespace {
        command.args(["-n", name]);
    }
    command.args(["-batch", "-"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(NetworkError::NoIp)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A failed write means that ip gave up: its exit status and message say why.
        drop(stdin.write_all(script.as_bytes()));
    }
    let output = child.wait_with_output().map_err(NetworkError::NoIp)?;
    if output.status.success() {
        return Ok(());
    }
    Err(NetworkError::Ip {
        place: namespace.unwrap_or("root namespace").to_owned(),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        script: script.to_owned(),
    })
}

fn set_sysctls(namespace: &str, settings: &[Setting]) -> Result<(), NetworkError> {
    let path = netns_path(namespace);
    let inside = || {
        enter(&path)?;
        for &(key, value) in settings {
            let file = Path::new("/proc/sys/net").join(key);
            fs::write(file, value).map_err(|source| NetworkError::Sysctl {
                namespace: namespace.to_owned(),
                key,
                source,
            })?;
        }
        Ok(())
    };
    // A thread of its own: the namespace is the thread's, and it must not leak into the caller.
    std::thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|_| {
        Err(NetworkError::Enter {
            path: path.clone(),
            source: io::Error::other("the thread panicked"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_routes_to_the_other_nodes_pods_and_out() {
        let script = member_script(Member::Node(1), 2);
        assert!(
            script.contains("route add 10.244.2.0/24 via 172.30.0.12\n"),
            "{script}"
        );
        assert!(!script.contains("10.244.1.0"), "{script}");
        assert!(script.contains("route add default via 172.30.0.1\n"), "{script}");
    }

    #[test]
    fn the_world_has_no_way_out() {
        assert!(!member_script(Member::World, 1).contains("default"));
    }
}
