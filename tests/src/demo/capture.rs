//! Packets on the links of a lab, counted while something happens.
//!
//! One packet socket per node sees the node's uplink (the link between the nodes) and the node's end of
//! every pod's link. What is inside a pod stays unseen, as it must: there the application speaks plainly.

mod packet;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::ops::AddAssign;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use nix::sys::socket::{LinkAddr, recvfrom};
use regex::bytes::Regex;
use socket2::{Domain, Protocol, Socket, Type};

use super::namespace::{Inside, Namespace, NamespaceError};
use packet::Segment;

/// Text of bookinfo's answers: of the page, of the JSON between its parts, of the database.
pub const TEXTS: &str = r"Simple Bookstore App|Reviewer1|servedBy|ISBN-1|x-served-by";
const HBONE_PORT: u16 = 15008;
/// Where an ingress gateway pod listens for clients from outside.
const GATEWAY_PORT: u16 = 8080;
/// The largest packet with segmentation offload, and more.
const SNAP: usize = 128 * 1024;
/// Enough for some seconds of traffic while this process waits for a processor.
const RECEIVE_BUFFER: usize = 256 << 20;
/// How often the socket's thread looks whether it shall stop.
const TICK: Duration = Duration::from_millis(50);
const UPLINK: &str = "eth0";
/// Interfaces of a node that are no link: what they carry is seen on a link as well.
const NOT_LINKS: [&str; 2] = ["lo", "cni0"];

/// Addresses that tell the client's own, unencrypted link to the gateway from the mesh.
#[derive(Clone, Debug, Default)]
pub struct Edge {
    /// Where clients reach the gateway from outside.
    pub entry: Vec<IpAddr>,
    pub gateway_pods: Vec<IpAddr>,
}

impl Edge {
    fn carries(&self, segment: &Segment<'_>) -> bool {
        let ends = [segment.source, segment.destination];
        let is_listener = |end: (IpAddr, u16)| end.1 == GATEWAY_PORT && self.gateway_pods.contains(&end.0);
        ends.iter()
            .any(|end| self.entry.contains(&end.0) || is_listener(*end))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub packets: u64,
    pub hbone: u64,
    /// Packets that contain the text of an answer.
    pub plaintext: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.hbone += other.hbone;
        self.plaintext += other.plaintext;
    }
}

/// What was seen between start and stop.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Between the nodes.
    pub nodes: Traffic,
    /// On the pods' own links.
    pub pods: Traffic,
    /// The client's own link to the ingress gateway, wherever it was seen.
    pub edge: Traffic,
    /// Packets that the kernel could not hand to us in time.
    pub dropped: u64,
}

impl Seen {
    /// Everything but the client's own link.
    pub fn mesh(&self) -> Traffic {
        let mut sum = self.nodes;
        sum += self.pods;
        sum
    }
}

impl AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.nodes += other.nodes;
        self.pods += other.pods;
        self.edge += other.edge;
        self.dropped += other.dropped;
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error("cannot capture packets: {0}; it takes root (CAP_NET_RAW)")]
    Socket(#[from] io::Error),
}

/// Captures on several nodes at once.
pub struct Capture {
    stop: Arc<AtomicBool>,
    nodes: Vec<Inside<io::Result<Seen>>>,
}

impl Capture {
    /// Returns when every socket is open: what happens next is seen.
    pub fn start(nodes: &[Namespace], edge: &Edge, texts: &Regex) -> Result<Self, CaptureError> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = Self {
            stop: Arc::clone(&stop),
            nodes: Vec::new(),
        };
        for node in nodes {
            let (opened, wait) = sync_channel(1);
            let sniffer = Sniffer {
                edge: edge.clone(),
                texts: texts.clone(),
                stop: Arc::clone(&stop),
            };
            running.nodes.push(node.spawn(move || sniffer.run(&opened))?);
            // A closed channel means that the thread ended early: `stop` tells why.
            if wait.recv().is_err() {
                running.stop()?;
                return Err(io::Error::other("the capture ended before it began").into());
            }
        }
        Ok(running)
    }

    pub fn stop(self) -> Result<Seen, CaptureError> {
        self.stop.store(true, Ordering::Relaxed);
        let mut seen = Seen::default();
        for node in self.nodes {
            seen += node.join()??;
        }
        Ok(seen)
    }
}

/// The thread of one node.
struct Sniffer {
    edge: Edge,
    texts: Regex,
    stop: Arc<AtomicBool>,
}

impl Sniffer {
    fn run(&self, opened: &SyncSender<()>) -> io::Result<Seen> {
        let socket = open()?;
        // The receiver waits for exactly this; it cannot be gone.
        let _ = opened.send(());
        let mut seen = Seen::default();
        let mut names = HashMap::new();
        let mut buffer = vec![0; SNAP];
        loop {
            let stopping = self.stop.load(Ordering::Relaxed);
            match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
                Ok((length, Some(from))) => {
                    let name = names
                        .entry(from.ifindex())
                        .or_insert_with(|| interface(from.ifindex()));
                    self.count(&mut seen, name, &buffer[..length]);
                }
                Ok((_, None)) | Err(nix::Error::EINTR) => {}
                // Nothing came for a tick: what was sent before the stop has been read.
                Err(nix::Error::EAGAIN) if stopping => break,
                Err(nix::Error::EAGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        seen.dropped = dropped(socket.as_raw_fd())?;
        Ok(seen)
    }

    fn count(&self, seen: &mut Seen, interface: &str, bytes: &[u8]) {
        if NOT_LINKS.contains(&interface) {
            return;
        }
        let segment = Segment::parse(bytes);
        let is_edge = segment.as_ref().is_some_and(|segment| self.edge.carries(segment));
        let traffic = if is_edge {
            &mut seen.edge
        } else if interface == UPLINK {
            &mut seen.nodes
        } else {
            &mut seen.pods
        };
        traffic.packets += 1;
        let Some(segment) = segment else { return };
        if segment.source.1 == HBONE_PORT || segment.destination.1 == HBONE_PORT {
            traffic.hbone += 1;
        }
        // Whatever the port: text on the tunnel's port would be text all the same.
        if self.texts.is_match(segment.payload) {
            traffic.plaintext += 1;
        }
    }
}

/// All packets of all interfaces of the thread's namespace, from their IP header on.
fn open() -> io::Result<Socket> {
    let every_protocol = i32::from(u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be());
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(every_protocol)))?;
    force_receive_buffer(&socket)?;
    socket.set_read_timeout(Some(TICK))?;
    Ok(socket)
}

fn force_receive_buffer(socket: &Socket) -> io::Result<()> {
    nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    Ok(())
}

fn interface(index: usize) -> String {
    let name = nix::net::if_::if_indextoname(u32::try_from(index).unwrap_or_default());
    name.map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Packets that the socket's buffer had no room for.
fn dropped(socket: RawFd) -> io::Result<u64> {
    let mut statistics = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tpacket_stats>()).unwrap_or_default();
    // SAFETY: the kernel writes at most `length` bytes, the size of the structure it points to; both
    // pointers live through the call.
    let result = unsafe {
        libc::getsockopt(
            socket,
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(statistics.tp_drops))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sniffer() -> Sniffer {
        Sniffer {
            edge: Edge {
                entry: vec!["172.31.0.1".parse().unwrap()],
                gateway_pods: vec!["10.244.1.9".parse().unwrap()],
            },
            texts: Regex::new("the text").unwrap(),
            stop: Arc::default(),
        }
    }

    fn count(interface: &str, from: (&str, u16), to: (&str, u16), payload: &[u8]) -> Seen {
        let mut seen = Seen::default();
        let packet = packet::tests::ipv4(from, to, payload);
        sniffer().count(&mut seen, interface, &packet);
        seen
    }

    #[test]
    fn text_and_tunnel_packets_are_counted_per_link() {
        let seen = count(
            "eth0",
            ("10.244.1.2", 40000),
            ("10.244.2.2", 15008),
            b"\x17\x03\x03",
        );
        assert_eq!(
            seen.nodes,
            Traffic {
                packets: 1,
                hbone: 1,
                plaintext: 0
            }
        );
        let seen = count(
            "veth1",
            ("10.244.1.2", 9080),
            ("10.244.2.2", 40000),
            b"here is the text",
        );
        assert_eq!(
            seen.pods,
            Traffic {
                packets: 1,
                hbone: 0,
                plaintext: 1
            }
        );
    }

    #[test]
    fn text_inside_the_tunnels_port_is_text() {
        let seen = count("eth0", ("10.244.1.2", 40000), ("10.244.2.2", 15008), b"the text");
        assert_eq!(
            seen.mesh(),
            Traffic {
                packets: 1,
                hbone: 1,
                plaintext: 1
            }
        );
    }

    #[test]
    fn the_clients_own_link_is_apart() {
        let to_pod = count("eth0", ("172.30.0.11", 40000), ("10.244.1.9", 8080), b"the text");
        assert_eq!((to_pod.mesh().packets, to_pod.edge.plaintext), (0, 1));
        let to_entry = count("eth0", ("172.31.0.1", 80), ("172.30.0.1", 40000), b"");
        assert_eq!((to_entry.mesh().packets, to_entry.edge.packets), (0, 1));
        let onwards = count("eth0", ("10.244.1.9", 40000), ("10.244.2.2", 9080), b"the text");
        assert_eq!((onwards.mesh().plaintext, onwards.edge.packets), (1, 0));
    }

    #[test]
    fn bridges_and_loopback_are_no_links() {
        let seen = count("cni0", ("10.244.1.2", 1), ("10.244.2.2", 2), b"the text");
        assert_eq!(seen.mesh(), Traffic::default());
    }
}
