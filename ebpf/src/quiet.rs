//! Bounds what the programs log: a pod must not be able to fill the node's log.

use aya_ebpf::{btf_maps::Array, helpers::generated::bpf_ktime_get_ns, macros::btf_map};

const INTERVAL_NS: u64 = 1_000_000_000;

/// What there is to complain about; each has its own allowance.
#[derive(Clone, Copy)]
pub(crate) enum Complaint {
    BoundToDevice = 0,
    NotRecorded = 1,
}

/// When each complaint was last made. Not pinned: belongs to these programs, not to the pods.
#[btf_map]
static LAST_SAID: Array<u64, 2> = Array::new();

/// Whether a second has passed since `complaint` was last made. Two processors may both say yes.
#[inline(always)]
pub(crate) fn may_say(complaint: Complaint) -> bool {
    let Some(last) = LAST_SAID.get_ptr_mut(complaint as u32) else {
        return false;
    };
    // SAFETY: the helper takes nothing; the slot is the map's and lives as long as the program.
    let (now, last) = unsafe { (bpf_ktime_get_ns(), &mut *last) };
    if now - *last < INTERVAL_NS {
        return false;
    }
    *last = now;
    true
}
