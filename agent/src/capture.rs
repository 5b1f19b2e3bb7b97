//! Kernel capture of enrolled pods, seen from user space.
//!
//! Loads the programs of `ebpf/`, keeps them and their maps pinned so that they outlive this
//! process, and enrols pods: after [`Capture::enrol`] every TCP connection a pod opens towards the
//! mesh, and every one it receives, arrives at a listener this process holds. Without such a
//! listener (process dead, restarting) the kernel refuses: nothing passes in plaintext.
//!
//! It knows network namespaces, cgroups and addresses; no workload, identity, policy or protocol.
//! Read first: [`Capture`], [`EnrolledPod`].
//!
//! Pins, below the configured folder of a bpffs, in one folder per layout version:
//! `v1/maps/NAME`, `v1/links/PROGRAM` and `v1/links/sk_lookup_COOKIE`, one per enrolled pod.
//!
//! Kernel: 6.1 or later. Privileges: CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN (to enter pods'
//! network namespaces).

mod cgroup;
mod enrol;
mod kernel_log;
mod link;
mod listeners;
mod load;
mod maps;
mod netns;
mod pins;
mod sockopt;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use aquifer_ebpf_abi::{Endpoint, SocketKey};
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::net::TcpSocket;

use self::{enrol::Enrolments, maps::Maps, pins::Pins};
pub use self::{
    enrol::{EnrolError, EnrolledPod, PodNetns, UnenrolError},
    kernel_log::KernelLog,
    load::LoadError,
    netns::{Netns, NetnsCookie},
    pins::PinError,
};

/// Where to attach, and what is the mesh's.
#[derive(Clone, Debug)]
pub struct CaptureConfig {
    /// Folder on a mounted bpffs, made when absent. No component below the mount may contain a dot.
    pub bpffs: PathBuf,
    /// cgroup (v2) above all pods of this node: the kubepods cgroup.
    pub captured_cgroup: PathBuf,
    /// cgroup (v2) above everything on this node, the agent and kubelet included.
    pub node_cgroup: PathBuf,
    /// The node's own network namespace, in which kubelet runs.
    pub node_netns: PathBuf,
    /// Pod and Service ranges; a destination outside all of them passes untouched.
    pub mesh_cidrs: Vec<IpNet>,
    /// This process's cgroup, where `/proc/self/cgroup` cannot tell; usually `None`.
    pub own_cgroup: Option<PathBuf>,
}

/// The attached programs and the maps that steer them. One per process; share it in an `Arc`.
///
/// Dropping it detaches nothing: that is [`Capture::unenrol`]'s and [`Capture::teardown`]'s.
pub struct Capture {
    pins: Pins,
    node_netns: NetnsCookie,
    captured_cgroup: PathBuf,
    maps: Maps,
    /// Protects the set of enrolled pods and the program attached to each.
    enrolments: Mutex<Enrolments>,
}

/// Where a delivery to a pod's application comes from. Only the pod itself can come from either, which is how the
/// inbound program tells it from the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliverySource {
    /// `127.0.0.1` or `::1`. The kernel uses its ports again after a second, any other's after a minute, which would be
    /// 470 connections per second at most (tried: 60,000 in 4 s, against an error after 28,000).
    Loopback,
    /// The pod's own address, as when the pod dials itself. For IPv6: the kernel answers a packet from `::1` that no
    /// socket wants with a reset through eth0, where it is lost (tried: Linux 6.18). A closed port is then refused
    /// after ten seconds, and who sends to an application that has closed hears nothing.
    Pod,
}

impl DeliverySource {
    fn address(self, pod: IpAddr) -> IpAddr {
        match (self, pod) {
            (Self::Pod, _) => pod,
            (Self::Loopback, IpAddr::V4(_)) => Ipv4Addr::LOCALHOST.into(),
            (Self::Loopback, IpAddr::V6(_)) => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

impl Capture {
    /// Loads and attaches everything but the per-pod programs, adopting what an earlier agent left.
    ///
    /// The maps found are kept, contents included; programs are replaced without a gap, old ones
    /// running until the new ones are attached. Pods enrolled before stay captured; with their
    /// listeners gone their traffic is refused until [`Capture::enrol`] is called again.
    pub fn load(config: &CaptureConfig) -> Result<Self, LoadError> {
        load::load(config)
    }

    /// The pods enrolled now; right after loading, those an earlier agent left.
    pub fn adopted(&self) -> Result<Vec<NetnsCookie>, UnenrolError> {
        self.known_pods()
    }

    /// What the application that opened a captured connection dialled, by the address the accepted
    /// connection came from. The record is taken out: ask once per connection.
    ///
    /// `None` means that nothing was captured: someone in the pod dialled the listener itself.
    pub fn original_destination(&self, netns: NetnsCookie, peer: SocketAddr) -> Option<SocketAddr> {
        let key = SocketKey::new(netns.as_u64(), Endpoint::from(peer));
        let mut destinations = self.maps.original_destinations.lock();
        let destination = destinations.get(&key, 0).ok()?;
        // Gone already only if it was evicted in between, which changes nothing here.
        let _ = destinations.remove(&key);
        Some(destination.into())
    }

    /// A socket in the pod, ready to connect to `destination` (one of the pod's own addresses), for which the
    /// application will see `client` as its peer.
    ///
    /// The substitution lasts as long as the connection and ends with it, however it ends.
    pub fn upstream_socket(
        &self,
        source: DeliverySource,
        netns: &Netns,
        destination: SocketAddr,
        client: SocketAddr,
    ) -> io::Result<TcpSocket> {
        let socket = netns.socket(destination.ip())?;
        sockopt::bind_source(&socket, source.address(destination.ip()))?;
        self.maps
            .on_behalf_of
            .lock()
            .insert(&socket, Endpoint::from(client), 0)
            .map_err(|error| io::Error::other(format!("cannot note the client of a connection: {error}")))?;
        Ok(socket)
    }

    /// Removes every pin of every layout version: after it, pods are as if there had been no mesh.
    ///
    /// For uninstalling, and for cleaning up after a dead agent. Missing folders are no error.
    pub fn teardown(bpffs: &Path) -> Result<(), PinError> {
        pins::remove_all(bpffs)
    }

    /// The kernel programs' log; `None` when already taken.
    pub fn take_log(&self) -> Option<KernelLog> {
        self.enrolments.lock().take_log()
    }
}
