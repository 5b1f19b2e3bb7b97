//! Reading and writing the kernel's contexts in the canonical address form.
//!
//! Fields are read one word at a time and volatile: the verifier allows no other width, and the
//! compiler would like to merge them.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use aquifer_ebpf_abi::{Address, ConnectionKey, Endpoint};
use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_sk_lookup, bpf_sock, bpf_sock_addr, bpf_sock_ops},
    helpers::generated::bpf_get_netns_cookie,
    programs::{SkLookupContext, SockAddrContext, SockOpsContext},
};

const AF_INET: u32 = 2;

/// Cookie of the network namespace of the context's socket.
#[inline(always)]
pub(crate) fn netns_cookie(ctx: &impl EbpfContext) -> u64 {
    // SAFETY: the helper accepts the context of every program type used here.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

macro_rules! word {
    ($ctx:expr, $($field:tt)+) => {
        // SAFETY: the kernel hands a valid context to every program.
        unsafe { read_volatile(addr_of!((*$ctx).$($field)+)) }
    };
}

macro_rules! words {
    ($ctx:expr, $field:ident) => {
        Address::from_words([
            word!($ctx, $field[0]),
            word!($ctx, $field[1]),
            word!($ctx, $field[2]),
            word!($ctx, $field[3]),
        ])
    };
}

/// The family of the address in a socket address program, which its attach point decides.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The address an application handed to connect(), or is about to be told by getpeername().
#[inline(always)]
pub(crate) fn user_endpoint(ctx: &SockAddrContext, family: Family) -> Endpoint {
    let addr: *mut bpf_sock_addr = ctx.sock_addr;
    let address = match family {
        Family::V4 => Address::from_v4_word(word!(addr, user_ip4)),
        Family::V6 => words!(addr, user_ip6),
    };
    Endpoint::new(address, u16::from_be(word!(addr, user_port) as u16))
}

/// Replaces that address. An IPv6 address cannot be written where the kernel wants IPv4: ignored.
#[inline(always)]
pub(crate) fn set_user_endpoint(ctx: &SockAddrContext, family: Family, endpoint: &Endpoint) {
    let addr: *mut bpf_sock_addr = ctx.sock_addr;
    let words = endpoint.address.words();
    match family {
        Family::V4 if !endpoint.address.is_v4() => return,
        // SAFETY: as for reading; these fields are writable in connect and getpeername programs.
        Family::V4 => unsafe { write_volatile(addr_of_mut!((*addr).user_ip4), words[3]) },
        // SAFETY: as above.
        Family::V6 => unsafe {
            write_volatile(addr_of_mut!((*addr).user_ip6[0]), words[0]);
            write_volatile(addr_of_mut!((*addr).user_ip6[1]), words[1]);
            write_volatile(addr_of_mut!((*addr).user_ip6[2]), words[2]);
            write_volatile(addr_of_mut!((*addr).user_ip6[3]), words[3]);
        },
    }
    // SAFETY: as above.
    unsafe { write_volatile(addr_of_mut!((*addr).user_port), u32::from(endpoint.port.to_be())) };
}

#[inline(always)]
pub(crate) fn socket_type(ctx: &SockAddrContext) -> u32 {
    word!(ctx.sock_addr, type_)
}

#[inline(always)]
pub(crate) fn protocol(ctx: &SockAddrContext) -> u32 {
    word!(ctx.sock_addr, protocol)
}

/// The socket of a socket address program; never null there.
#[inline(always)]
pub(crate) fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    word!(ctx.sock_addr, __bindgen_anon_1.sk)
}

/// The socket's own address and port.
#[inline(always)]
pub(crate) fn local_endpoint(ctx: &SockAddrContext, family: Family) -> Endpoint {
    let socket = socket(ctx);
    let address = match family {
        Family::V4 => Address::from_v4_word(word!(socket, src_ip4)),
        Family::V6 => words!(socket, src_ip6),
    };
    // In host order, unlike the port of the address being asked for.
    Endpoint::new(address, word!(socket, src_port) as u16)
}

/// The device the socket is bound to by SO_BINDTODEVICE; 0 for none.
#[inline(always)]
pub(crate) fn bound_device(ctx: &SockAddrContext) -> u32 {
    word!(socket(ctx), bound_dev_if)
}

/// The socket of a sock_ops program; null while it is not a full socket.
#[inline(always)]
pub(crate) fn sock_ops_socket(ctx: &SockOpsContext) -> *mut bpf_sock {
    word!(ctx.ops, __bindgen_anon_2.sk)
}

#[inline(always)]
pub(crate) fn sock_ops_local(ctx: &SockOpsContext) -> Endpoint {
    let ops: *mut bpf_sock_ops = ctx.ops;
    let (v4, v6) = (word!(ops, local_ip4), words!(ops, local_ip6));
    Endpoint::new(select(word!(ops, family), v4, v6), word!(ops, local_port) as u16)
}

#[inline(always)]
pub(crate) fn sock_ops_connection(ctx: &SockOpsContext) -> ConnectionKey {
    let ops: *mut bpf_sock_ops = ctx.ops;
    let (v4, v6) = (word!(ops, remote_ip4), words!(ops, remote_ip6));
    let address = select(word!(ops, family), v4, v6);
    // The only port of this context in network order, in the first two bytes of the word.
    let port = u32::from_be(word!(ops, remote_port)) as u16;
    ConnectionKey {
        source: sock_ops_local(ctx),
        destination: Endpoint::new(address, port),
    }
}

/// The address of the socket's family. Both are read before this decides: were each read in its own
/// branch, the compiler would join the branches and choose the address to read from, which the
/// verifier refuses.
#[inline(always)]
fn select(family: u32, v4: u32, v6: Address) -> Address {
    if family == AF_INET {
        Address::from_v4_word(v4)
    } else {
        v6
    }
}

#[inline(always)]
pub(crate) fn sock_ops_arg(ctx: &SockOpsContext, index: usize) -> u32 {
    word!(ctx.ops, __bindgen_anon_1.args[index])
}

/// The connection a SYN asks for, from the side that opened it.
#[inline(always)]
pub(crate) fn lookup_connection(ctx: &SkLookupContext) -> ConnectionKey {
    let lookup: *mut bpf_sk_lookup = ctx.lookup;
    let family = word!(lookup, family);
    let (remote_v4, remote_v6) = (word!(lookup, remote_ip4), words!(lookup, remote_ip6));
    let (local_v4, local_v6) = (word!(lookup, local_ip4), words!(lookup, local_ip6));
    let remote_port = u16::from_be(word!(lookup, remote_port));
    ConnectionKey {
        source: Endpoint::new(select(family, remote_v4, remote_v6), remote_port),
        destination: Endpoint::new(
            select(family, local_v4, local_v6),
            word!(lookup, local_port) as u16,
        ),
    }
}

#[inline(always)]
pub(crate) fn lookup_protocol(ctx: &SkLookupContext) -> u32 {
    word!(ctx.lookup, protocol)
}

#[inline(always)]
pub(crate) fn ingress_device(ctx: &SkLookupContext) -> u32 {
    word!(ctx.lookup, ingress_ifindex)
}
