//! Listeners: which addresses are served, and how.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::action::Destinations;

/// How a listener is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// A socket of its own.
    Bound,
    /// Only through a tunnel whose authority names one of its addresses.
    Tunnel,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: Arc<str>,
    pub addresses: Vec<SocketAddr>,
    pub binding: Binding,
    pub protocol: ListenerProtocol,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ListenerProtocol {
    Http(HttpListener),
    Tcp(TcpListener),
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpListener {
    /// Name of the route table.
    pub routes: Arc<str>,
    pub path: PathHandling,
    /// Requests come from outside the mesh: the client's address is the connection's, and `x-forwarded-for` of the
    /// client is extended, not believed.
    pub edge: bool,
    /// Proxies in front whose `x-forwarded-for` entries are believed; edge only.
    pub trusted_hops: u32,
    pub stream_idle_timeout: Option<Duration>,
}

/// What is done to a path before it is matched and forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathHandling {
    pub normalize: bool,
    pub merge_slashes: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TcpListener {
    pub destinations: Destinations,
    pub idle_timeout: Option<Duration>,
}
