//! Indexes connections at the moment their local port is known, just before the first SYN.
//!
//! Attached to the node's root cgroup, because three kinds of sockets matter: those captured by
//! [`crate::connect`], the agent's own towards applications, and those of the node's host
//! namespace (kubelet's probes). For any other it does nothing.

use aquifer_ebpf_abi::SocketKey;
use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
    },
    macros::sock_ops,
    programs::SockOpsContext,
};
use aya_log_ebpf::warn;

use crate::{
    context,
    maps::{self, CLIENTS, DIALLED, NODE_CONNS, NODE_NETNS, ON_BEHALF_OF, ORIGINAL_DST},
    quiet::{Complaint, may_say},
};

const BPF_ANY: u64 = 0;
/// A sock_ops program's answer when it has nothing to say.
const NO_REPLY: u32 = 1;

#[sock_ops]
pub(crate) fn aq_sock_ops(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => opened(&ctx),
        BPF_SOCK_OPS_STATE_CB if context::sock_ops_arg(&ctx, 1) == BPF_TCP_CLOSE => closed(&ctx),
        _ => {}
    }
    NO_REPLY
}

#[inline(always)]
fn opened(ctx: &SockOpsContext) {
    let socket = context::sock_ops_socket(ctx);
    if socket.is_null() {
        return;
    }
    let netns = context::netns_cookie(ctx);
    if let Some(dialled) = maps::stored(&DIALLED, socket) {
        let key = SocketKey::new(netns, context::sock_ops_local(ctx));
        // The agent takes the entry out after accept(); without one it closes the connection.
        complain_unless(ctx, netns, ORIGINAL_DST.insert(key, dialled, BPF_ANY));
    } else if let Some(client) = maps::stored(&ON_BEHALF_OF, socket) {
        let connection = context::sock_ops_connection(ctx);
        // Without an entry the application is shown the pod's own address: see `peername`.
        complain_unless(ctx, netns, CLIENTS.insert(connection, client, BPF_ANY));
        watch_close(ctx);
    } else if netns == NODE_NETNS.load() {
        // Without an entry an enrolled pod does not take the connection for a probe.
        complain_unless(
            ctx,
            netns,
            NODE_CONNS.insert(context::sock_ops_connection(ctx), 0, BPF_ANY),
        );
        watch_close(ctx);
    }
}

#[inline(always)]
fn complain_unless(ctx: &SockOpsContext, netns: u64, result: Result<(), i32>) {
    if let Err(errno) = result
        && may_say(Complaint::NotRecorded)
    {
        warn!(
            ctx,
            "connection not recorded in network namespace {:x}: error {}", netns, errno
        );
    }
}

/// Entries go when the socket does, however its owner ends: a port used again means another
/// connection. Reached before the kernel releases the port.
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let connection = context::sock_ops_connection(ctx);
    if context::netns_cookie(ctx) == NODE_NETNS.load() {
        let _ = NODE_CONNS.remove(connection);
    } else {
        let _ = CLIENTS.remove(connection);
    }
}

#[inline(always)]
fn watch_close(ctx: &SockOpsContext) {
    // Other programs may have asked for callbacks of this socket too.
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    let _ = ctx.set_cb_flags(flags as i32);
}
