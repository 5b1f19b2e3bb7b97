//! Outbound capture, decided at connect(): nothing is paid per packet, and a destination outside
//! the mesh costs a few lookups once.

use aquifer_ebpf_abi::{Address, Endpoint, OUTBOUND_PORT, Pod};
use aya_ebpf::{
    btf_maps::lpm_trie::Key,
    helpers::{bpf_get_current_cgroup_id, generated::bpf_set_retval},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::warn;

use crate::{
    context::{self, Family},
    maps::{self, AGENTS, DIALLED, MESH_RANGES, PODS},
    quiet::{Complaint, may_say},
};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;

/// Index of the loopback device in every network namespace.
const LOOPBACK_DEVICE: u32 = 1;

const ENETUNREACH: i32 = 101;
const ENOMEM: i32 = 12;

#[cgroup_sock_addr(connect4)]
pub(crate) fn aq_connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Family::V4)
}

/// Also sees the IPv4 destinations of dual-stack sockets, as v4-mapped.
#[cgroup_sock_addr(connect6)]
pub(crate) fn aq_connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, Family::V6)
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, family: Family) -> i32 {
    if !is_tcp(ctx) {
        return ALLOW;
    }
    let netns = context::netns_cookie(ctx);
    // SAFETY: the reference is used before anything else runs; the agent replaces whole values.
    let Some(pod) = (unsafe { PODS.get(netns) }) else {
        return ALLOW;
    };
    let destination = context::user_endpoint(ctx, family);
    if is_capture_listener(&destination) {
        // While one agent takes over from another both have this program attached, and this is
        // the second: what the first one stored must stay.
        return ALLOW;
    }
    if passes(pod, &destination.address) || is_agent() {
        // A socket may have tried a captured destination before and failed.
        // SAFETY: the socket is the context's own.
        let _ = unsafe { DIALLED.delete(context::socket(ctx)) };
        return ALLOW;
    }
    capture(ctx, family, netns, destination)
}

#[inline(always)]
fn is_tcp(ctx: &SockAddrContext) -> bool {
    let protocol = context::protocol(ctx);
    context::socket_type(ctx) == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP)
}

#[inline(always)]
fn is_capture_listener(destination: &Endpoint) -> bool {
    destination.port == OUTBOUND_PORT
        && (destination.address.same(&Address::LOOPBACK_V4)
            || destination.address.same(&Address::LOOPBACK_V6))
}

/// Whether a destination is none of the mesh's business.
#[inline(always)]
fn passes(pod: &Pod, address: &Address) -> bool {
    if address.is_loopback() || address.is_unspecified() || pod.owns(address) {
        return true;
    }
    MESH_RANGES.get(&Key::new(128, *address)).is_none()
}

/// By cgroup, which a pod cannot choose: a mark can be set by anyone with NET_ADMIN, and a pid
/// means nothing across pid namespaces.
#[inline(always)]
fn is_agent() -> bool {
    // SAFETY: the helper takes nothing; the value is not read.
    unsafe { AGENTS.get(bpf_get_current_cgroup_id()) }.is_some()
}

#[inline(always)]
fn capture(ctx: &SockAddrContext, family: Family, netns: u64, destination: Endpoint) -> i32 {
    let device = context::bound_device(ctx);
    if device != 0 && device != LOOPBACK_DEVICE {
        // The SYN would leave through that device towards 127.0.0.1 and never be answered. Passing
        // it would be plaintext in the mesh.
        if may_say(Complaint::BoundToDevice) {
            warn!(
                ctx,
                "connect refused in the pod with network namespace {:x}: the socket is bound to device {} by SO_BINDTODEVICE",
                netns,
                device
            );
        }
        return refuse(ENETUNREACH);
    }
    if !maps::store(&DIALLED, context::socket(ctx), destination) {
        return refuse(ENOMEM);
    }
    // A dual-stack socket stays with IPv4: its IPv4 address may be the only one it has.
    let listener = match family {
        Family::V6 if !destination.address.is_v4() => Address::LOOPBACK_V6,
        _ => Address::LOOPBACK_V4,
    };
    context::set_user_endpoint(ctx, family, &Endpoint::new(listener, OUTBOUND_PORT));
    ALLOW
}

#[inline(always)]
fn refuse(errno: i32) -> i32 {
    // SAFETY: the helper takes a number. Kernel: 6.1 for socket address programs.
    unsafe { bpf_set_retval(-errno) };
    REFUSE
}
