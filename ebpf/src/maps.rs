//! The maps; names, sizes and meaning are the abi crate's.

use aquifer_ebpf_abi::{Address, ConnectionKey, Endpoint, Pod, SocketKey, capacity};
use aya_ebpf::{
    Global,
    bindings::{BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::{HashMap, LpmTrie, LruHashMap, SkStorage, SockHash},
    helpers::generated::bpf_sk_storage_get,
    macros::btf_map,
};

#[btf_map]
pub(crate) static PODS: HashMap<u64, Pod, { capacity::PODS }> = HashMap::new();

#[btf_map]
pub(crate) static AGENTS: LruHashMap<u64, u32, { capacity::AGENTS }> = LruHashMap::new();

#[btf_map]
pub(crate) static MESH_RANGES: LpmTrie<Address, u32, { capacity::MESH_RANGES }> = LpmTrie::new();

#[btf_map]
pub(crate) static DIALLED: SkStorage<Endpoint> = SkStorage::new();

#[btf_map]
pub(crate) static ORIGINAL_DST: LruHashMap<SocketKey, Endpoint, { capacity::ORIGINAL_DESTINATIONS }> =
    LruHashMap::new();

#[btf_map]
pub(crate) static ON_BEHALF_OF: SkStorage<Endpoint> = SkStorage::new();

/// Not preallocated: sized for the busiest node, nearly empty on most.
#[btf_map]
pub(crate) static CLIENTS: HashMap<
    ConnectionKey,
    Endpoint,
    { capacity::CLIENTS },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

#[btf_map]
pub(crate) static LISTENERS: SockHash<Address, { capacity::LISTENERS }> = SockHash::new();

#[btf_map]
pub(crate) static NODE_CONNS: LruHashMap<ConnectionKey, u32, { capacity::NODE_CONNECTIONS }> =
    LruHashMap::new();

/// Cookie of the node's own network namespace; patched by the agent before loading.
#[unsafe(no_mangle)]
pub(crate) static NODE_NETNS: Global<u64> = Global::new(0);

/// What the socket's storage holds, if anything.
#[inline(always)]
pub(crate) fn stored(map: &SkStorage<Endpoint>, sk: *mut bpf_sock) -> Option<Endpoint> {
    let map = core::ptr::from_ref(map).cast_mut().cast();
    // SAFETY: `sk` comes from the program's context and was checked for null by the caller.
    let value = unsafe { bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), 0) };
    // SAFETY: the helper returns null or a pointer to a value of the map.
    unsafe { value.cast::<Endpoint>().as_ref() }.copied()
}

/// Puts `value` into the socket's storage; false when the kernel has no memory for it.
#[inline(always)]
pub(crate) fn store(map: &SkStorage<Endpoint>, sk: *mut bpf_sock, mut value: Endpoint) -> bool {
    let map = core::ptr::from_ref(map).cast_mut().cast();
    let initial = core::ptr::from_mut(&mut value).cast();
    // SAFETY: as in `stored`; `initial` points to a whole value on the stack.
    let slot = unsafe { bpf_sk_storage_get(map, sk.cast(), initial, BPF_SK_STORAGE_GET_F_CREATE.into()) };
    // SAFETY: as in `stored`. No other program writes this socket's storage: connect() holds its lock.
    let Some(slot) = (unsafe { slot.cast::<Endpoint>().as_mut() }) else {
        return false;
    };
    // A second connect() on one socket finds the first one's value in the slot.
    *slot = value;
    true
}
