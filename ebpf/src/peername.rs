//! What getpeername() and accept() say.
//!
//! The client asked for a Service and was sent to loopback; the application was dialled by the
//! agent on behalf of a client. Both are shown the address they expect.

use aquifer_ebpf_abi::{ConnectionKey, Endpoint};
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
    // An accepted socket: its peer is the local end of the agent's upstream socket in this pod. Both ends are compared:
    // the same port of loopback may be in use towards the agent's own listener, or between the pod's containers.
    let connection = ConnectionKey {
        source: context::user_endpoint(ctx, family),
        destination: context::local_endpoint(ctx, family),
    };
    // SAFETY: the entry is removed only when the agent's socket closes; a stale copy is harmless.
    if let Some(client) = unsafe { CLIENTS.get(connection) } {
        let client = *client;
        context::set_user_endpoint(ctx, family, &client);
    } else if connection.source.address.is_loopback() {
        hide_loopback(ctx, family, &connection);
    }
}

/// Shows a loopback peer of a connection to the pod's address as the pod itself.
///
/// The agent delivers from loopback. Should the client be unknown, because the kernel had no memory
/// for the entry, an application that trusts its own host must not be told that this is it.
#[inline(always)]
fn hide_loopback(ctx: &SockAddrContext, family: Family, connection: &ConnectionKey) {
    let local = connection.destination.address;
    // SAFETY: the value is not read.
    if !local.is_loopback() && unsafe { PODS.get(context::netns_cookie(ctx)) }.is_some() {
        context::set_user_endpoint(ctx, family, &Endpoint::new(local, connection.source.port));
    }
}
