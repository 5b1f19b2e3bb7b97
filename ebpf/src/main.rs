//! The kernel side of capture.
//!
//! Purpose: redirect the connections of enrolled pods to the node's agent, and fail closed when
//! there is none. The programs know no policy, no workload and no Service: they consult maps the
//! agent fills, and anything that needs more than a lookup is the agent's.
//!
//! | program | attached to | does |
//! |---|---|---|
//! | [`connect`] | captured cgroup | sends connects to mesh ranges to the agent's listener |
//! | [`peername`] | captured cgroup | shows both ends the address they expect |
//! | [`sockname`] | captured cgroup | shows a client the address it would have without the mesh |
//! | [`established`] | node cgroup | indexes by local port what was known at connect |
//! | [`lookup`] | each pod's network namespace | steers inbound connections to the agent |
//!
//! Kernel: 6.1 or later (`bpf_set_retval` in socket address programs).
#![no_std]
#![no_main]

mod connect;
mod context;
mod established;
mod lookup;
mod maps;
mod peername;
mod quiet;
mod sockname;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// No helper in use asks for more than this.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
