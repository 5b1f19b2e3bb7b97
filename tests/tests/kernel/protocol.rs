//! What a test says to an actor and hears back: one JSON value per line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Serve on an address: greet every client with a [`Greeting`], then echo.
    Listen(SocketAddr),
    Connect(Dial),
    /// Send a line on a connection opened before and expect it back.
    Echo {
        connection: usize,
        line: String,
    },
    /// Connect one after the other, on one and the same socket.
    ConnectTwice(SocketAddr, SocketAddr),
    /// Echo datagrams.
    ListenDatagrams(SocketAddr),
    /// Connect a datagram socket, send one, and say which address it came from.
    Datagram(SocketAddr),
    Load(AgentConfig),
    Enrol(PodSpec),
    Unenrol(u64),
    Retain(Vec<u64>),
    Adopted,
    /// Close the inbound and outbound listeners, stay alive.
    DropListeners,
    Events,
    /// Wait so long for a line of the kernel programs' log.
    KernelLog(Duration),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Dial {
    pub(crate) to: SocketAddr,
    /// Use an IPv6 socket also for an IPv4 destination.
    pub(crate) dual_stack: bool,
    pub(crate) bind: Option<IpAddr>,
    pub(crate) device: Option<String>,
    pub(crate) mptcp: bool,
    /// Open the connection by sending, as TCP Fast Open does.
    pub(crate) fast_open: bool,
    /// How long to wait where nothing is to come of it.
    pub(crate) patience: Option<Duration>,
}

impl Dial {
    pub(crate) fn to(to: SocketAddr) -> Self {
        Self {
            to,
            dual_stack: false,
            bind: None,
            device: None,
            mptcp: false,
            fast_open: false,
            patience: None,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AgentConfig {
    pub(crate) bpffs: PathBuf,
    pub(crate) captured_cgroup: PathBuf,
    pub(crate) node_cgroup: PathBuf,
    pub(crate) node_netns: PathBuf,
    pub(crate) mesh_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PodSpec {
    pub(crate) netns: PathBuf,
    pub(crate) cgroup: PathBuf,
    pub(crate) ips: Vec<IpAddr>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    Listening(SocketAddr),
    Connected(Conversation),
    Refused(Refusal),
    Enrolled(u64),
    Pods(Vec<u64>),
    Events(Vec<Event>),
    /// Where a datagram came from, as its receiver saw it.
    Echoed(SocketAddr),
    Logged(String),
    Failed(String),
}

/// A connection as both ends see it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Conversation {
    pub(crate) connection: usize,
    /// getpeername() at the client.
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) server: Greeting,
}

/// What the server saw, sent by it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// The address accept() returned.
    pub(crate) accepted: SocketAddr,
    /// The address getpeername() returned.
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// Why a connection did not come about or did not last until the greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    Errno(i32),
    TimedOut,
    ClosedBeforeGreeting,
}

/// A connection that reached the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Event {
    Outbound {
        from: SocketAddr,
        destination: Option<SocketAddr>,
    },
    Inbound {
        from: SocketAddr,
        destination: SocketAddr,
    },
}
