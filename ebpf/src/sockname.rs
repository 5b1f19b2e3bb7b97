//! What getsockname() says at the client's end of a captured connection.
//!
//! Its way to the agent leads over loopback; the application is shown the pod's own address, as without the mesh:
//! cluster members and protocols that tell their peers where to call back (FTP, SIP) learn it from here.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};

use crate::{
    context::{self, Family},
    maps::{self, DIALLED, PODS},
};

/// The only value the verifier accepts here.
const DONE: i32 = 1;

#[cgroup_sock_addr(getsockname4)]
pub(crate) fn aq_getsockname4(ctx: SockAddrContext) -> i32 {
    sockname(&ctx, Family::V4);
    DONE
}

#[cgroup_sock_addr(getsockname6)]
pub(crate) fn aq_getsockname6(ctx: SockAddrContext) -> i32 {
    sockname(&ctx, Family::V6);
    DONE
}

#[inline(always)]
fn sockname(ctx: &SockAddrContext, family: Family) {
    let mut local = context::user_endpoint(ctx, family);
    if !local.address.is_loopback() || maps::stored(&DIALLED, context::socket(ctx)).is_none() {
        return;
    }
    // SAFETY: the reference is used before anything else runs; the agent replaces whole values.
    let Some(pod) = (unsafe { PODS.get(context::netns_cookie(ctx)) }) else {
        return;
    };
    local.address = pod.address_like(&local.address);
    context::set_user_endpoint(ctx, family, &local);
}
