//! What getpeername() and accept() say.
//!
//! The client asked for a Service and was sent to loopback; the application was dialled by the
//! agent on behalf of a client. Both are shown the address they expect.

use aquifer_ebpf_abi::SocketKey;
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{
    context::{self, Family},
    maps::{self, CLIENTS, DIALLED},
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
    // An accepted socket: its peer is the local end of the agent's upstream socket in this pod.
    let peer = SocketKey::new(context::netns_cookie(ctx), context::user_endpoint(ctx, family));
    // SAFETY: the entry is removed only when the agent's socket closes; a stale copy is harmless.
    if let Some(client) = unsafe { CLIENTS.get(peer) } {
        let client = *client;
        context::set_user_endpoint(ctx, family, &client);
    }
}
