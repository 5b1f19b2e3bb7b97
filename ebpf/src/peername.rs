//! What getpeername() and accept() say.
//!
//! The client asked for a Service and was sent to loopback; the application was dialled by the
//! agent on behalf of a client. Both are shown the address they expect.

use aquifer_ebpf_abi::{Endpoint, SocketKey};
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{
    context::{self, Family},
    maps::{self, CLIENTS, DIALLED, PODS},
};

/// The only value the verifier accepts here.
const DONE: i32 = 1;

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn aq_getpeername4(ctx: SockAddrContext) -> i32 {
    peername(&ctx, Family::V4);
    DONE
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn aq_getpeername6(ctx: SockAddrContext) -> i32 {
    peername(&ctx, Family::V6);
    DONE
}

#[inline(always)]
fn peername(ctx: &SockAddrContext, family: Family) {
    if let Some(dialled) = maps::stored(&DIALLED, context::socket(ctx)) {
        context::set_user_endpoint(ctx, family, &dialled);
        return;
    }
    let netns = context::netns_cookie(ctx);
    let peer = context::user_endpoint(ctx, family);
    // An accepted socket: its peer is the local end of the agent's upstream socket in this pod.
    // SAFETY: the entry is removed only when the agent's socket closes; a stale copy is harmless.
    if let Some(client) = unsafe { CLIENTS.get(SocketKey::new(netns, peer)) } {
        let client = *client;
        context::set_user_endpoint(ctx, family, &client);
    } else if peer.address.is_loopback() {
        hide_loopback(ctx, family, netns, &peer);
    }
}

/// Shows a loopback peer of a connection to the pod's address as the pod itself.
///
/// The agent delivers from loopback. Should the client be unknown, because the kernel had no memory
/// for the entry, an application that trusts its own host must not be told that this is it.
#[inline(always)]
fn hide_loopback(ctx: &SockAddrContext, family: Family, netns: u64, peer: &Endpoint) {
    let local = context::local_address(ctx, family);
    // SAFETY: the value is not read.
    if !local.is_loopback() && unsafe { PODS.get(netns) }.is_some() {
        context::set_user_endpoint(ctx, family, &Endpoint::new(local, peer.port));
    }
}
