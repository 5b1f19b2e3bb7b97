//! A cluster with the mesh and, outside of it at first, bookinfo; and what the chapters look at.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use aquifer_tests::cluster::foreign::{Access, Terms, Wanted};
use aquifer_tests::cluster::ground::{Ground, Way};
use aquifer_tests::cluster::kubectl::{self, Kubectl, KubectlError};
use aquifer_tests::cluster::layout::{ClusterName, Member};
use aquifer_tests::cluster::mesh::Mesh;
use aquifer_tests::cluster::{Cluster, ClusterOptions, observe, parts, take_down_on_signal};
use aquifer_tests::demo::capture::{Capture, Edge, Seen, TEXTS};
use aquifer_tests::demo::load::{Load, Pages};
use aquifer_tests::demo::namespace::Namespace;
use aquifer_tests::lab::status::{PodStatus, Status};
use aquifer_tests::skip;
use regex::bytes::Regex;
use serde_json::Value;

use super::manifests::service;
use super::{command, inventory};

pub(crate) const NAMESPACE: &str = "bookinfo";
pub(crate) const SYSTEM: &str = "istio-system";
/// Where a client is that the mesh never has.
pub(crate) const UNMESHED: &str = "unmeshed";
/// Where a waypoint is that other namespaces use.
pub(crate) const COMMONS: &str = "commons";
/// Namespaces that chapters make.
const MADE_LATER: [&str; 5] = ["own", "kinds", "shop", COMMONS, UNMESHED];
/// Of the cluster that is made.
const NAME: &str = "test-mesh";
/// Generous: the machine may be slow, and busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
/// Pages; each is three to five requests through the mesh.
const PER_SECOND: u32 = 70;
const FRONT_PORT: u16 = 9080;
pub(crate) const GATEWAYS: &str = "gateways.gateway.networking.k8s.io";
/// Pages that have to be served in a row before a change counts as over.
const SETTLED: usize = 20;

/// Of the way in that stays when the mesh's gateway is gone.
const FRONT: &str = "type: NodePort, ports: [{name: http, port: 9080, nodePort: 30081}]";

pub(crate) struct World {
    /// To productpage, past every gateway; closed before the ground goes.
    front: OnceCell<Way>,
    ground: Ground,
    /// What could not be looked at, since the nodes are somebody else's.
    left_out: RefCell<BTreeSet<&'static str>>,
    /// What each node had before the mesh.
    rules: Vec<(Member, String)>,
    /// What the cluster had.
    objects: BTreeSet<String>,
}

impl World {
    /// On the cluster that `cargo xtask test` was told of, or on one made for the suite: none where this is not root,
    /// but not in CI.
    pub(crate) fn build() -> Option<Self> {
        drop(tracing_subscriber::fmt().with_writer(std::io::stderr).try_init());
        if let Some(terms) = Terms::from_environment().unwrap_or_else(|error| panic!("{error}")) {
            return Some(Self::of(attach(&terms)));
        }
        if !skip::unless_root() {
            return None;
        }
        Some(Self::of(make()))
    }

    /// Bookinfo, and beside it the mesh.
    fn of(ground: Ground) -> Self {
        let mut world = Self {
            ground,
            front: OnceCell::new(),
            left_out: RefCell::default(),
            rules: Vec::new(),
            objects: BTreeSet::new(),
        };
        world.deploy_bookinfo();
        world.objects = inventory::take(&world);
        let nodes = world.ours().map(Cluster::nodes).into_iter().flatten();
        world.rules = nodes.map(|node| (node, world.rules_of(node))).collect();
        // On somebody's own cluster they may be there.
        let lacks_gateways = world
            .api()
            .run(&["get", "customresourcedefinition", GATEWAYS])
            .is_err();
        let settings: &[&str] = if lacks_gateways {
            &["gatewayApi.install=true"]
        } else {
            &[]
        };
        world.ground.install(settings, PATIENCE).unwrap();
        world
    }

    /// Tables of the packet filter and routing rules, by name; what the container runtime reads and runs.
    pub(crate) fn rules_of(&self, node: Member) -> String {
        self.in_node(
            node,
            "nft list tables | sort; ip rule; ls /opt/cni/bin /etc/cni/net.d; tr -d '[:space:]' </etc/cni/net.d/10-cluster.conflist",
        )
    }

    pub(crate) fn objects_before(&self) -> &BTreeSet<String> {
        &self.objects
    }

    pub(crate) fn rules_before(&self, node: Member) -> &str {
        let of = |known: &&(Member, String)| known.0 == node;
        self.rules.iter().find(of).map_or("", |known| &known.1)
    }

    fn deploy_bookinfo(&self) {
        for file in [
            "bookinfo/bookinfo",
            "bookinfo/bookinfo-db",
            "bookinfo/bookinfo-ratings-v2",
        ] {
            self.apply_sample(file);
        }
        self.apply(NAMESPACE, &service("front", "productpage", FRONT));
    }

    pub(crate) fn down(self) {
        let Self { ground, front, .. } = self;
        drop(front);
        ground.down().unwrap_or_else(|error| panic!("{error}"));
    }

    /// The cluster, where its nodes are ours to enter.
    pub(crate) fn ours(&self) -> Option<&Cluster> {
        self.ground.made()
    }

    /// For chapters that enter nodes: only where they are ours.
    pub(crate) fn cluster(&self) -> &Cluster {
        self.ours()
            .expect("a chapter that enters nodes is left out where they are somebody else's")
    }

    /// Something that is not looked at, since the nodes are somebody else's; it is told at the end.
    pub(crate) fn leave_out(&self, what: &'static str) {
        self.left_out.borrow_mut().insert(what);
    }

    pub(crate) fn left_out(&self) -> Vec<&'static str> {
        self.left_out.borrow().iter().copied().collect()
    }

    pub(crate) fn api(&self) -> &Kubectl {
        self.ground.kubectl()
    }

    pub(crate) fn mesh(&self) -> Mesh<'_> {
        self.ground.mesh().unwrap()
    }

    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.api().run(arguments).unwrap()
    }

    pub(crate) fn apply(&self, namespace: &str, manifests: &str) {
        self.ground.apply(namespace, manifests).unwrap();
    }

    pub(crate) fn apply_sample(&self, name: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../deploy/samples/{name}.yaml"));
        self.apply(NAMESPACE, &std::fs::read_to_string(path).unwrap());
    }

    /// Waits until every Deployment of the namespace is available.
    pub(crate) fn available(&self, namespace: &str) {
        self.api().wait_available(namespace, PATIENCE).unwrap();
    }

    /// Waits until a Deployment's pods are the ones that it asks for.
    pub(crate) fn rolled_out(&self, namespace: &str, deployment: &str) {
        let (what, limit) = (format!("deployment/{deployment}"), limit());
        self.kubectl(&["-n", namespace, "rollout", "status", &what, &limit]);
    }

    pub(crate) fn status(&self) -> Status {
        observe::status(self.api()).unwrap()
    }

    /// Waits for a state of the cluster and tells how long it took.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Duration {
        let start = Instant::now();
        self.done(observe::until(self.api(), what, PATIENCE, wanted));
        start.elapsed()
    }

    /// Waits until every node's agent knows of each enrolled pod that it has a tunnel. That a pod is enrolled is reported
    /// by its own node's agent; the others hear of it through the control plane, and talk to it plainly until then.
    pub(crate) fn peers_know(&self) {
        self.wait("every agent knows who is enrolled", || {
            let status = observe::status(self.api()).map_err(|error| error.to_string())?;
            let enrolled = || status.pods.iter().filter(|pod| pod.enrolled);
            for agent in status.pods_of(SYSTEM, "aquifer-agent") {
                let known = tunnels(self, &agent.name)?;
                let is_known = |pod: &&PodStatus| known.contains(&format!("{}/{}", pod.namespace, pod.name));
                if let Some(unknown) = enrolled().find(|pod| !is_known(pod)) {
                    return Err(format!("{} does not know {}", agent.name, unknown.name));
                }
            }
            Ok(())
        });
    }

    /// Waits until a page is served there.
    pub(crate) fn answers(&self, what: &str, address: SocketAddr) {
        self.wait(what, || {
            let pages = Load::pages(&self.outside(), address, 1).unwrap();
            if pages.failures == 0 {
                return Ok(());
            }
            Err(format!("{pages:?}"))
        });
    }

    /// Tells with a failure what helps to see why.
    fn done<T>(&self, waited: Result<T, KubectlError>) {
        if let Err(error) = waited {
            panic!("{error}\n{}", self.mesh().describe());
        }
    }

    pub(crate) fn application(status: &Status) -> Vec<&PodStatus> {
        let ours = |pod: &&PodStatus| pod.namespace == NAMESPACE && pod.workload != "waypoint";
        status.pods.iter().filter(ours).collect()
    }

    pub(crate) fn outside(&self) -> Namespace {
        self.ground.outside()
    }

    /// Where the world reaches productpage, past every gateway.
    fn front(&self) -> SocketAddr {
        let open = || self.way_to("front", FRONT_PORT);
        self.front.get_or_init(open).address
    }

    /// Where it reaches a Service of bookinfo.
    pub(crate) fn way_to(&self, service: &str, port: u16) -> Way {
        self.way_into(NAMESPACE, service, port)
    }

    pub(crate) fn way_into(&self, namespace: &str, service: &str, port: u16) -> Way {
        let node = Member::Node(1).to_string();
        let way = self.ground.way_to(namespace, service, port, &node);
        way.unwrap()
    }

    /// The node of the cluster's name server, and the other one.
    pub(crate) fn nodes_by_name_server(&self) -> (Member, Member) {
        let template = "jsonpath={.items[0].spec.nodeName}";
        let list = [
            "-n",
            "kube-system",
            "get",
            "pods",
            "-l",
            "k8s-app=kube-dns",
            "-o",
            template,
        ];
        let here: Member = self.kubectl(&list).parse().unwrap();
        let other = self.cluster().nodes().find(|node| *node != here).unwrap();
        (here, other)
    }

    /// Runs something under load and tells what came of the requests.
    pub(crate) fn under_load(&self, act: impl FnOnce()) -> Pages {
        self.under_load_at(self.front(), act)
    }

    pub(crate) fn under_load_at(&self, front: SocketAddr, act: impl FnOnce()) -> Pages {
        let load = Load::start(&self.outside(), front, PER_SECOND).unwrap();
        act();
        load.stop().unwrap()
    }

    /// Looks at every packet on the links of these nodes and their pods, but for those of clients outside.
    pub(crate) fn watch(&self, nodes: &[Member]) -> Capture {
        let namespace = |node: &Member| Namespace::named(&self.cluster().layout().netns(*node));
        let nodes: Vec<Namespace> = nodes.iter().map(namespace).collect();
        Capture::start(&nodes, &self.edge(), &Regex::new(TEXTS).unwrap()).unwrap()
    }

    /// What was seen on all nodes while something happened.
    pub(crate) fn watched(&self, act: impl FnOnce()) -> Seen {
        let nodes: Vec<Member> = self.cluster().nodes().collect();
        let watch = self.watch(&nodes);
        act();
        watch.stop().unwrap()
    }

    /// A NodePort's client comes from the world, or from a node's address: the one on the switch, or the bridge's.
    fn edge(&self) -> Edge {
        let bridge = |number| Ipv4Addr::new(10, 244, number, 1);
        let of_node = |node| match node {
            Member::Node(number) => [node.address(), bridge(number)],
            other => [other.address(); 2],
        };
        let nodes = self.cluster().nodes().flat_map(of_node);
        let entry = nodes.chain([Member::World.address()]).map(IpAddr::V4);
        Edge {
            entry: entry.collect(),
            gateway_pods: Vec::new(),
        }
    }

    pub(crate) fn assert_none_failed(&self, what: &str, pages: &Pages) {
        eprintln!(
            "{what}: {} requests, {} failed; {:?}; {:.0} calls a second",
            pages.requests,
            pages.failures,
            pages.served,
            pages.calls as f64 / pages.took.as_secs_f64()
        );
        assert!(pages.requests > 0, "{what}: no request was made");
        assert_eq!(
            pages.failures,
            0,
            "{what}: of {} requests, the first and the last {:?} after their start: {:?}\n{}",
            pages.requests,
            pages.failed,
            pages.examples,
            self.mesh().describe()
        );
    }

    /// Tries until it is so.
    pub(crate) fn eventually(&self, what: &str, is_so: impl Fn() -> bool) {
        self.wait(what, || match is_so() {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        });
    }

    /// Waits until that holds; what it says meanwhile is told at the deadline.
    pub(crate) fn wait(&self, what: &str, wanted: impl Fn() -> Result<(), String>) {
        self.done(self.api().until(what, PATIENCE, wanted));
    }

    /// Waits until pages are served, all of a number in a row, and `right` says that they are as they should be.
    pub(crate) fn settled(&self, what: &str, right: impl Fn(&Pages) -> bool) {
        self.wait(what, || {
            let pages = Load::pages(&self.outside(), self.front(), SETTLED).unwrap();
            if pages.failures == 0 && right(&pages) {
                return Ok(());
            }
            Err(format!("{pages:?}"))
        });
    }

    /// What a command inside a node prints; it may fail.
    pub(crate) fn in_node(&self, node: Member, script: &str) -> String {
        let output = self
            .cluster()
            .exec_command(node, &["sh", "-c", script])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until a client inside a pod is answered: a node hears of a Service's pods a moment after they are ready.
    pub(crate) fn reaches(&self, namespace: &str, workload: &str, url: &str) {
        self.wait(&format!("{namespace}/{workload} reaches {url}"), || {
            self.get_from(namespace, workload, url).map(drop)
        });
    }

    /// Fetches from inside a pod; the error is what the client said.
    pub(crate) fn get_from(&self, namespace: &str, workload: &str, url: &str) -> Result<String, String> {
        let target = format!("deployment/{workload}");
        let get = ["-n", namespace, "exec", &*target, "--", "/app", "get", url];
        self.api().run(&get).map_err(|error| error.to_string())
    }
}

pub(crate) fn limit() -> String {
    kubectl::limit(PATIENCE)
}

/// `NAMESPACE/NAME` of the pods that an agent reaches through tunnels.
fn tunnels(world: &World, agent: &str) -> Result<BTreeSet<String>, String> {
    let proxy = format!("{agent}.{SYSTEM}");
    let shown = command::tells(world, &["config", &proxy, "workloads", "-o", "json"])?;
    let workloads: Vec<Value> = serde_json::from_str(&shown).map_err(|error| error.to_string())?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = |workload: &Value| format!("{}/{}", text(&workload["namespace"]), text(&workload["name"]));
    let has_tunnel = |workload: &&Value| workload["protocol"] == "HBONE";
    Ok(workloads.iter().filter(has_tunnel).map(name).collect())
}

/// The cluster of KUBECONFIG, with the namespace and all images on it; a signal from now on clears it.
fn attach(terms: &Terms) -> Ground {
    let tell = |step: &str| eprintln!("{step}");
    let wanted = Wanted {
        namespaces: &[NAMESPACE],
        later: &MADE_LATER,
        images: &|| Ok(vec![parts::app_image(&tell)?]),
    };
    let access = Access::take(programs()).unwrap_or_else(|error| panic!("{error}"));
    access.clear_on_signal().unwrap();
    Ground::attach(terms, access, &wanted, &tell).unwrap_or_else(|error| panic!("{error}"))
}

/// A cluster with the same on it; a signal takes it down.
fn make() -> Ground {
    let name: ClusterName = NAME.parse().unwrap();
    take_down_on_signal(name.clone()).unwrap();
    let ground = Ground::make(&ClusterOptions::new(name), &|step| eprintln!("{step}")).unwrap();
    ground.load(programs()).unwrap();
    ground.kubectl().run(&["create", "namespace", NAMESPACE]).unwrap();
    ground
}

pub(crate) fn programs() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_bookinfo")).parent().unwrap()
}
