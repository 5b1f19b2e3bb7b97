//! Inbound steering: which listener a SYN to an enrolled pod finds.
//!
//! Everything goes to the agent, whatever its port; the accepted socket's local address is what
//! the client dialled. No listener of the agent means drop, never the application.

use aya_ebpf::{
    bindings::sk_action::{SK_DROP, SK_PASS},
    macros::sk_lookup,
    programs::SkLookupContext,
};

use crate::{
    context,
    maps::{LISTENERS, NODE_CONNS},
};

const IPPROTO_TCP: u32 = 6;
const LOOPBACK_DEVICE: u32 = 1;
/// While one agent takes over from another, both programs assign the same listener.
const BPF_SK_LOOKUP_F_REPLACE: u64 = 1 << 0;
/// The listener itself, not one of its SO_REUSEPORT group: two agents overlap during a takeover.
const BPF_SK_LOOKUP_F_NO_REUSEPORT: u64 = 1 << 1;

#[sk_lookup]
pub(crate) fn aq_sk_lookup(ctx: SkLookupContext) -> u32 {
    if context::lookup_protocol(&ctx) != IPPROTO_TCP {
        return SK_PASS;
    }
    let connection = context::lookup_connection(&ctx);
    let (client, pod) = (&connection.source.address, &connection.destination.address);
    if pod.is_loopback() && context::ingress_device(&ctx) == LOOPBACK_DEVICE {
        return SK_PASS;
    }
    // From the pod to itself, which is also how the agent delivers: from loopback to the pod's
    // address. Nobody else can complete such a handshake. IPv4 drops a SYN from outside whose
    // source is loopback or one of our own addresses as martian; IPv6 drops loopback sources, and
    // where it lets our own address through, the SYN-ACK goes to this pod and not to the forger.
    // The device cannot tell: it is eth0's for anything sent to eth0's address.
    if client.is_loopback() || client.same(pod) {
        return SK_PASS;
    }
    // SAFETY: the value is not read.
    if unsafe { NODE_CONNS.get(connection) }.is_some() {
        return SK_PASS;
    }
    let flags = BPF_SK_LOOKUP_F_REPLACE | BPF_SK_LOOKUP_F_NO_REUSEPORT;
    match LISTENERS.redirect_sk_lookup(&ctx, pod, flags) {
        Ok(()) => SK_PASS,
        Err(_) => SK_DROP,
    }
}
