//! The kernel programs and `aquifer_agent::capture`, on the real kernel.
//!
//! Each test builds its own node (network namespaces, cgroups, a bpffs) and fills it with actors:
//! this same program, started again inside a pod, beside it, or as the node's agent, and told what
//! to do over a socket. Nothing is simulated: sockets are opened by processes in the right cgroup
//! and namespace, because that is all the programs look at.

mod actor;
mod agent;
mod inbound;
mod lifecycle;
mod outbound;
mod process;
mod protocol;
mod sweep;
mod world;
