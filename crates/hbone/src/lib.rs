//! HBONE: TCP connections carried as HTTP/2 CONNECT streams over mutual TLS.
//!
//! Both ends of the tunnel (a pooled client, a server), the stream itself, and the copy loop between a stream and a
//! socket. It refuses to know workloads, services and policies: who may connect where is decided by its users, with the
//! verified identity in their hands.
//!
//! Read first: [`Pool`] and [`TunnelHandler`].
#![forbid(unsafe_code)]

pub mod copy;
mod establish;
pub mod fault;
mod keepalive;
pub mod pool;
mod proxy_status;
pub mod server;
mod settings;
pub mod stream;

pub use copy::{ByteCounters, CopyError, Endpoint, Plain, copy_bidirectional};
pub use fault::{Fault, Retry};
pub use pool::{ConnectError, Pool, PoolConfig, PoolKey, TunnelRequest};
pub use server::{AcceptError, IncomingTunnel, ServeError, TunnelHandler, serve};
pub use stream::TunnelStream;
