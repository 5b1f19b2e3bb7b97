//! End to end on loopback: real tunnels in, the proxy, real tunnels out.

mod change;
mod edge;
mod egress;
mod failures;
mod gateway;
mod pods;
mod protocol;
mod routing;
