//! Detaching a pinned program for certain.
//!
//! Removing the pin is not enough: the kernel drops the last reference of a link later, on a worker
//! thread, and until then the program runs on. aya offers no call for what detaches at once.

use std::{
    ffi::{CString, c_int, c_long},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// Commands of bpf(2). Kernel: 5.9 for the second.
const BPF_OBJ_GET: c_int = 7;
const BPF_LINK_DETACH: c_int = 34;

/// The beginning of `union bpf_attr`; the kernel takes what is left out for zeros.
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Detaches the link pinned at `path`; its program has run for the last time when this returns.
///
/// One whose cgroup or network namespace is gone counts as detached. The pin stays.
pub(crate) fn detach(path: &Path) -> io::Result<()> {
    let link = open(path)?;
    let link_fd = u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?;
    bpf(BPF_LINK_DETACH, &LinkDetach { link_fd }).map(|_| ())
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjGet {
        pathname: name.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    let descriptor = c_int::try_from(bpf(BPF_OBJ_GET, &attributes)?).map_err(io::Error::other)?;
    // SAFETY: the kernel made the descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn bpf<T>(command: c_int, attributes: &T) -> io::Result<c_long> {
    // SAFETY: the kernel reads as many bytes of `attributes` as it is told there are, and what they
    // point to outlives the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
