//! Tunnels end to end, in one process over loopback: real sockets, real TLS, real HTTP/2.
#![cfg(test)]
#![forbid(unsafe_code)]

mod hostile;
mod identities;
mod lifecycle;
mod mesh;
mod pooling;
mod streams;
