//! The pinned objects: names, kinds, sizes. What an adopting agent checks before it trusts a pin.

use core::mem::size_of;

use crate::{Address, ConnectionKey, Endpoint, Pod, SocketKey};

/// Version of everything in this crate; the name of the pin folder.
pub const VERSION: u32 = 1;

/// Names of the maps.
pub mod map {
    /// Cookie of an enrolled network namespace -> [`crate::Pod`].
    pub const PODS: &str = "PODS";
    /// Cgroup ids of live agents: their connections are never captured.
    pub const AGENTS: &str = "AGENTS";
    /// Prefixes of the mesh's pod and Service ranges; anything else passes.
    pub const MESH_RANGES: &str = "MESH_RANGES";
    /// Per socket: what a captured socket dialled.
    pub const DIALLED: &str = "DIALLED";
    /// [`crate::SocketKey`] of a captured socket -> what it dialled; read by the agent after accept().
    pub const ORIGINAL_DESTINATIONS: &str = "ORIGINAL_DST";
    /// Per socket: the client on whose behalf the agent's upstream socket dials.
    pub const ON_BEHALF_OF: &str = "ON_BEHALF_OF";
    /// [`crate::ConnectionKey`] of the agent's upstream socket -> the client.
    pub const CLIENTS: &str = "CLIENTS";
    /// A pod's address -> the agent's inbound listener in that pod.
    pub const LISTENERS: &str = "LISTENERS";
    /// Connections opened by sockets of the node's own network namespace.
    pub const NODE_CONNECTIONS: &str = "NODE_CONNS";
}

/// Greatest number of entries per map.
pub mod capacity {
    pub const PODS: usize = 4096;
    /// Least recently used goes first: a crash-looping agent leaves one dead entry per container.
    pub const AGENTS: usize = 1024;
    pub const MESH_RANGES: usize = 1024;
    /// Entries live from connect() to the agent's accept(); overflow closes connections, never leaks them.
    pub const ORIGINAL_DESTINATIONS: usize = 32768;
    /// Entries live as long as the agent's upstream connections.
    pub const CLIENTS: usize = 131_072;
    pub const LISTENERS: usize = 8192;
    pub const NODE_CONNECTIONS: usize = 16384;
}

/// Names of the programs, which are the names of their functions.
///
/// Not the names of their sections: the linker takes `sockops` twice for a duplicate symbol.
pub mod program {
    pub const CONNECT4: &str = "aq_connect4";
    pub const CONNECT6: &str = "aq_connect6";
    pub const GETPEERNAME4: &str = "aq_getpeername4";
    pub const GETPEERNAME6: &str = "aq_getpeername6";
    pub const GETSOCKNAME4: &str = "aq_getsockname4";
    pub const GETSOCKNAME6: &str = "aq_getsockname6";
    pub const SOCK_OPS: &str = "aq_sock_ops";
    pub const SK_LOOKUP: &str = "aq_sk_lookup";
    /// The global that holds the cookie of the node's own network namespace.
    pub const NODE_NETNS: &str = "NODE_NETNS";
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    Hash,
    LruHash,
    LpmTrie,
    SkStorage,
    SockHash,
}

/// The shape of one map as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLayout {
    pub name: &'static str,
    pub kind: MapKind,
    pub key_size: usize,
    pub value_size: usize,
    pub max_entries: usize,
}

const fn layout(
    name: &'static str,
    kind: MapKind,
    key_size: usize,
    value_size: usize,
    max_entries: usize,
) -> MapLayout {
    MapLayout {
        name,
        kind,
        key_size,
        value_size,
        max_entries,
    }
}

/// Every pinned map.
pub const MAPS: [MapLayout; 9] = [
    layout(map::PODS, MapKind::Hash, 8, size_of::<Pod>(), capacity::PODS),
    layout(map::AGENTS, MapKind::LruHash, 8, 4, capacity::AGENTS),
    layout(
        map::MESH_RANGES,
        MapKind::LpmTrie,
        4 + size_of::<Address>(),
        4,
        capacity::MESH_RANGES,
    ),
    layout(map::DIALLED, MapKind::SkStorage, 4, size_of::<Endpoint>(), 0),
    layout(
        map::ORIGINAL_DESTINATIONS,
        MapKind::LruHash,
        size_of::<SocketKey>(),
        size_of::<Endpoint>(),
        capacity::ORIGINAL_DESTINATIONS,
    ),
    layout(map::ON_BEHALF_OF, MapKind::SkStorage, 4, size_of::<Endpoint>(), 0),
    layout(
        map::CLIENTS,
        MapKind::Hash,
        size_of::<ConnectionKey>(),
        size_of::<Endpoint>(),
        capacity::CLIENTS,
    ),
    layout(
        map::LISTENERS,
        MapKind::SockHash,
        size_of::<Address>(),
        4,
        capacity::LISTENERS,
    ),
    layout(
        map::NODE_CONNECTIONS,
        MapKind::LruHash,
        size_of::<ConnectionKey>(),
        4,
        capacity::NODE_CONNECTIONS,
    ),
];

// The layout itself. No padding anywhere: keys are compared as bytes.
const _: () = {
    assert!(size_of::<Address>() == 16 && align_of::<Address>() == 4);
    assert!(size_of::<Endpoint>() == 16 + 2 + 2 && align_of::<Endpoint>() == 4);
    assert!(size_of::<SocketKey>() == 8 + 20 + 4 && align_of::<SocketKey>() == 8);
    assert!(size_of::<ConnectionKey>() == 40);
    assert!(size_of::<Pod>() == 64);
};
