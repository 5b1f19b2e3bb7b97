//! A node of one's own: network namespaces, cgroups and a bpffs, gone when dropped.
//!
//! ```text
//!  outside ---- node ---- bridge ---- pods a, b (enrolled on request), c, d
//!  192.0.2.2    192.0.2.1 10.244.1.1  10.244.1.11 ...
//! ```

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aquifer_ebpf_abi::{ConnectionKey, Endpoint, VERSION, map};
use aquifer_tests::skip;
use aya::maps::{HashMap, Map, MapData};
use nix::mount::{MsFlags, umount};

use crate::process::{ActorProcess, Btf};
use crate::protocol::{AgentConfig, PodSpec, Request};
use crate::sweep::{PREFIX, sweep};

pub(crate) const MESH_CIDRS: [&str; 4] = [
    "10.244.0.0/16",
    "10.96.0.0/16",
    "fd00:10:244::/48",
    "fd00:10:96::/112",
];
pub(crate) const NODE_V4: &str = "10.244.1.1";
pub(crate) const OUTSIDE_V4: &str = "192.0.2.2";
pub(crate) const OUTSIDE_V6: &str = "2001:db8:2::2";

static WORLDS: AtomicUsize = AtomicUsize::new(0);
static SWEPT: Once = Once::new();

pub(crate) struct World {
    name: String,
    cgroup: PathBuf,
    folder: PathBuf,
    namespaces: Vec<String>,
}

/// A pod, as a place to be.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    name: &'static str,
    number: u8,
}

pub(crate) const A: Place = Place {
    name: "a",
    number: 11,
};
pub(crate) const B: Place = Place {
    name: "b",
    number: 12,
};
pub(crate) const C: Place = Place {
    name: "c",
    number: 13,
};
pub(crate) const D: Place = Place {
    name: "d",
    number: 14,
};
const PODS: [Place; 4] = [A, B, C, D];

impl Place {
    pub(crate) fn v4(self) -> IpAddr {
        IpAddr::from([10, 244, 1, self.number])
    }

    pub(crate) fn v6(self) -> IpAddr {
        format!("fd00:10:244:1::{}", self.number)
            .parse()
            .expect("an address")
    }

    pub(crate) fn at_v4(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4(), port)
    }

    pub(crate) fn at_v6(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v6(), port)
    }
}

impl World {
    /// `None`, with a word about it, where tests may not do this; in CI that is a failure.
    pub(crate) fn build() -> Option<Self> {
        if !skip::unless_root() {
            return None;
        }
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        SWEPT.call_once(|| sweep(&cgroup2_mount(), &std::env::temp_dir()));
        let mut world = Self {
            cgroup: cgroup2_mount().join(&name),
            folder: std::env::temp_dir().join(&name),
            name,
            namespaces: Vec::new(),
        };
        world.make_cgroups();
        world.mount_bpffs();
        world.make_network();
        Some(world)
    }

    fn make_cgroups(&self) {
        for place in PODS {
            fs::create_dir_all(self.cgroup.join("kubepods").join(place.name)).expect("make a cgroup");
        }
        for name in ["kubepods/agent", "kubelet"] {
            fs::create_dir_all(self.cgroup.join(name)).expect("make a cgroup");
        }
    }

    fn mount_bpffs(&self) {
        fs::create_dir_all(&self.folder).expect("make a folder");
        nix::mount::mount(
            Some("bpf"),
            &self.folder,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .expect("mount a bpffs");
    }

    fn make_network(&mut self) {
        for name in ["node", "outside"]
            .into_iter()
            .chain(PODS.map(|place| place.name))
        {
            let namespace = self.namespace(name);
            ip(&["netns", "add", &namespace]);
            self.namespaces.push(namespace.clone());
            ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        }
        let node = self.namespace("node");
        self.batch("node", "link add br0 type bridge\naddress add 10.244.1.1/24 dev br0\naddress add fd00:10:244:1::1/64 dev br0 nodad\nlink set br0 up\n");
        for place in PODS {
            let pod = self.namespace(place.name);
            self.batch(
                "node",
                &format!(
                    "link add name pod-{0} type veth peer name eth0 netns {pod}\nlink set pod-{0} master br0 up\n",
                    place.name
                ),
            );
            self.batch(place.name, &format!(
                "address add {}/24 dev eth0\naddress add {}/64 dev eth0 nodad\nlink set eth0 up\nroute add default via 10.244.1.1\nroute add default via fd00:10:244:1::1\n",
                place.v4(), place.v6()));
        }
        let outside = self.namespace("outside");
        self.batch("node", &format!(
            "link add out0 type veth peer name eth0 netns {outside}\naddress add 192.0.2.1/24 dev out0\naddress add 2001:db8:2::1/64 dev out0 nodad\nlink set out0 up\n"));
        self.batch("outside", "address add 192.0.2.2/24 dev eth0\naddress add 2001:db8:2::2/64 dev eth0 nodad\nlink set eth0 up\nroute add default via 192.0.2.1\nroute add default via 2001:db8:2::1\n");
        run(Command::new("ip").args([
            "netns",
            "exec",
            &node,
            "sysctl",
            "-qw",
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
        ]));
    }

    /// What kube-proxy does to NodePort traffic: it reaches pods from the node's own address.
    pub(crate) fn masquerade_forwarded(&self) {
        let rules = "add table ip t\nadd chain ip t c { type nat hook postrouting priority 100; }\nadd rule ip t c oifname br0 masquerade\n";
        let mut command = Command::new("ip");
        feed(
            command.args(["netns", "exec", &self.namespace("node"), "nft", "-f", "-"]),
            rules,
        );
    }

    /// Counts the TCP packets that reach a pod from `source`, before the kernel judges them. The
    /// result tells how many did so far.
    pub(crate) fn count_arriving(&self, place: Place, source: IpAddr) -> impl Fn() -> u64 {
        let namespace = self.namespace(place.name);
        let family = if source.is_ipv4() { "ip" } else { "ip6" };
        let table = format!("{family} count{}", source.to_string().replace([':', '.'], "_"));
        let rules = format!(
            "add table {table}\nadd chain {table} c {{ type filter hook prerouting priority -300; }}\nadd rule {table} c iifname eth0 {family} saddr {source} tcp dport != 0 counter\n"
        );
        feed(
            Command::new("ip").args(["netns", "exec", &namespace, "nft", "-f", "-"]),
            &rules,
        );
        move || {
            let mut list = Command::new("ip");
            list.args(["netns", "exec", &namespace, "nft", "list", "table"])
                .args(table.split(' '));
            let output = list.output().expect("start nft");
            let text = String::from_utf8(output.stdout).expect("text");
            let packets = text.split_once("counter packets ").expect("a counter").1;
            packets
                .split(' ')
                .next()
                .expect("a word")
                .parse()
                .expect("a number")
        }
    }

    /// `ip` commands in a namespace, one per line.
    pub(crate) fn batch(&self, namespace: &str, commands: &str) {
        feed(
            Command::new("ip").args(["-n", &self.namespace(namespace), "-batch", "-"]),
            commands,
        );
    }

    /// The same for those whose family no argument tells.
    pub(crate) fn batch_v6(&self, namespace: &str, commands: &str) {
        feed(
            Command::new("ip").args(["-6", "-n", &self.namespace(namespace), "-batch", "-"]),
            commands,
        );
    }

    fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    fn netns(&self, name: &str) -> PathBuf {
        Path::new("/run/netns").join(self.namespace(name))
    }

    pub(crate) fn bpffs(&self) -> PathBuf {
        self.folder.join("aquifer")
    }

    /// A process in a pod.
    pub(crate) fn pod(&self, place: Place) -> ActorProcess {
        ActorProcess::spawn(
            Some(&self.netns(place.name)),
            &self.cgroup.join("kubepods").join(place.name),
        )
    }

    /// A process of the node itself, like kubelet.
    pub(crate) fn kubelet(&self) -> ActorProcess {
        ActorProcess::spawn(Some(&self.netns("node")), &self.cgroup.join("kubelet"))
    }

    /// A process on a machine of its own.
    pub(crate) fn outside(&self) -> ActorProcess {
        ActorProcess::spawn(Some(&self.netns("outside")), &self.cgroup)
    }

    /// A process that may become the node's agent, in a cgroup below the captured one.
    pub(crate) fn unloaded_agent(&self) -> ActorProcess {
        ActorProcess::spawn(None, &self.cgroup.join("kubepods/agent"))
    }

    /// The node's agent, loaded.
    pub(crate) fn agent(&self) -> ActorProcess {
        self.loaded(self.unloaded_agent())
    }

    /// The same, on a node that does not show the kernel's BTF.
    pub(crate) fn agent_without_btf(&self) -> ActorProcess {
        let cgroup = self.cgroup.join("kubepods/agent");
        self.loaded(ActorProcess::spawn_seeing(Btf::Hidden, None, &cgroup))
    }

    fn loaded(&self, mut agent: ActorProcess) -> ActorProcess {
        agent.done(&Request::Load(self.agent_config()));
        agent
    }

    /// Leaves the kernel one port to choose for connections that a pod opens: all of them have it.
    pub(crate) fn single_local_port(&self, place: Place, port: u16) {
        let range = format!("net.ipv4.ip_local_port_range={port} {port}");
        let namespace = self.namespace(place.name);
        run(Command::new("ip").args(["netns", "exec", &namespace, "sysctl", "-qw", &range]));
    }

    /// How many connections of the node the kernel has on record.
    pub(crate) fn node_connections(&self) -> usize {
        self.entries::<ConnectionKey, u32>(map::NODE_CONNECTIONS)
    }

    /// How many connections with a substituted client the kernel has on record.
    pub(crate) fn clients(&self) -> usize {
        self.entries::<ConnectionKey, Endpoint>(map::CLIENTS)
    }

    fn entries<K: aya::Pod, V: aya::Pod>(&self, name: &str) -> usize {
        let data = MapData::from_pin(self.map_pin(name)).expect("a pinned map");
        let map = match name {
            map::NODE_CONNECTIONS => Map::LruHashMap(data),
            _ => Map::HashMap(data),
        };
        HashMap::<_, K, V>::try_from(map)
            .expect("the layout")
            .keys()
            .count()
    }

    fn map_pin(&self, name: &str) -> PathBuf {
        self.bpffs().join(format!("v{VERSION}/maps/{name}"))
    }

    /// Puts a map that is not ours where one of ours belongs: a link to another of our own.
    pub(crate) fn pin_foreign_map(&self, name: &str) {
        self.agent().kill();
        let (from, to) = (self.map_pin(map::AGENTS), self.map_pin(name));
        fs::rename(from, to).expect("move a pin");
    }

    /// Leaves the pins as an agent does that knew no such program.
    pub(crate) fn forget_program(&self, name: &str) {
        let link = self.bpffs().join(format!("v{VERSION}/links/{name}"));
        fs::remove_file(link).expect("a pinned link");
    }

    /// Polls for what the kernel does on its own time.
    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !condition() {
            assert!(Instant::now() < deadline, "never: {what}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn agent_config(&self) -> AgentConfig {
        AgentConfig {
            bpffs: self.bpffs(),
            captured_cgroup: self.cgroup.join("kubepods"),
            node_cgroup: self.cgroup.clone(),
            node_netns: self.netns("node"),
            mesh_cidrs: MESH_CIDRS.map(str::to_owned).to_vec(),
        }
    }

    pub(crate) fn spec(&self, place: Place) -> PodSpec {
        PodSpec {
            netns: self.netns(place.name),
            cgroup: self.cgroup.join("kubepods").join(place.name),
            ips: vec![place.v4(), place.v6()],
        }
    }

    pub(crate) fn node_spec(&self) -> PodSpec {
        PodSpec {
            netns: self.netns("node"),
            cgroup: self.cgroup.join("kubepods"),
            ips: vec![NODE_V4.parse().expect("an address")],
        }
    }
}

impl Drop for World {
    /// Never panics: it may run because of one.
    fn drop(&mut self) {
        let _ = umount(&self.folder);
        let _ = fs::remove_dir(&self.folder);
        for namespace in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
        let pods = PODS.map(|place| format!("kubepods/{}", place.name));
        let names = pods
            .iter()
            .map(String::as_str)
            .chain(["kubepods/agent", "kubepods", "kubelet", ""]);
        for name in names {
            if let Err(error) = fs::remove_dir(self.cgroup.join(name)) {
                eprintln!("cannot remove cgroup {name:?} of {}: {error}", self.name);
            }
        }
    }
}

fn cgroup2_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let line = mounts
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .expect("a cgroup2 mount");
    line.split(' ').nth(4).expect("a mount point").into()
}

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments));
}

fn run(command: &mut Command) {
    let status = command.status().expect("start a program");
    assert!(status.success(), "{command:?}: {status}");
}

fn feed(command: &mut Command, input: &str) {
    let mut child = command.stdin(Stdio::piped()).spawn().expect("start a program");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(input.as_bytes())
        .expect("write to a program");
    let status = child.wait().expect("wait for a program");
    assert!(status.success(), "{command:?}: {status}\n{input}");
}
