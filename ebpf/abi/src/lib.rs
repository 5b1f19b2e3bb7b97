//! What the kernel programs and the agent must agree on, byte by byte.
//!
//! Every type here is a key or a value of a pinned map that outlives the agent that made it.
//! A change of layout or of meaning raises [`VERSION`], which names the pin folder: agents of
//! two versions never read each other's maps. The crate knows nothing of loading or attaching.
//!
//! Read first: [`Endpoint`], [`SocketKey`].
#![no_std]

mod address;
mod layout;
mod record;

pub use address::{Address, Endpoint};
pub use layout::{MAPS, MapKind, MapLayout, VERSION, capacity, map, program};
pub use record::{ConnectionKey, Pod, SocketKey};

/// Port of the agent's listener for captured outbound connections, on loopback in the pod.
pub const OUTBOUND_PORT: u16 = 15001;
/// Port of the agent's listener for steered inbound connections, on loopback in the pod.
pub const INBOUND_PORT: u16 = 15006;

/// Makes the types usable as map keys and values.
#[cfg(feature = "user")]
mod pod {
    // SAFETY: all are `repr(C)` or `repr(transparent)` over integers, `Copy`, and have no padding:
    // `layout` asserts that their sizes are the sum of their fields.
    unsafe impl aya::Pod for crate::Address {}
    unsafe impl aya::Pod for crate::Endpoint {}
    unsafe impl aya::Pod for crate::SocketKey {}
    unsafe impl aya::Pod for crate::ConnectionKey {}
    unsafe impl aya::Pod for crate::Pod {}
}
