//! The maps, typed, each behind its own lock.
//!
//! aya wants exclusive access for writing although the kernel does not; a lock is held for the one
//! or two system calls of an operation, never across an await.

use aquifer_ebpf_abi::{Address, Endpoint, Pod, SocketKey, map};
use aya::{
    Ebpf,
    maps::{HashMap, LpmTrie, Map, MapData, MapError, SkStorage, SockHash, lpm_trie::Key},
};
use ipnet::IpNet;
use parking_lot::Mutex;

const V4_MAPPED_BITS: u32 = 96;

pub(crate) struct Maps {
    pub(crate) pods: Mutex<HashMap<MapData, u64, Pod>>,
    pub(crate) agents: Mutex<HashMap<MapData, u64, u32>>,
    pub(crate) mesh_ranges: Mutex<LpmTrie<MapData, Address, u32>>,
    pub(crate) original_destinations: Mutex<HashMap<MapData, SocketKey, Endpoint>>,
    pub(crate) on_behalf_of: Mutex<SkStorage<MapData, Endpoint>>,
    pub(crate) listeners: Mutex<SockHash<MapData, Address>>,
}

impl Maps {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self {
            pods: Mutex::new(take(object, map::PODS)?.try_into()?),
            agents: Mutex::new(take(object, map::AGENTS)?.try_into()?),
            mesh_ranges: Mutex::new(take(object, map::MESH_RANGES)?.try_into()?),
            original_destinations: Mutex::new(take(object, map::ORIGINAL_DESTINATIONS)?.try_into()?),
            on_behalf_of: Mutex::new(take(object, map::ON_BEHALF_OF)?.try_into()?),
            listeners: Mutex::new(take(object, map::LISTENERS)?.try_into()?),
        })
    }

    /// Makes the ranges exactly `wanted`. New ones come before old ones go: in between too much is
    /// captured, never too little.
    pub(crate) fn set_mesh_ranges(&self, wanted: &[IpNet]) -> Result<(), MapError> {
        let mut ranges = self.mesh_ranges.lock();
        let wanted: Vec<_> = wanted.iter().map(|range| range_key(*range)).collect();
        for key in &wanted {
            ranges.insert(key, 0, 0)?;
        }
        let present = ranges.keys().collect::<Result<Vec<_>, _>>()?;
        for key in present
            .iter()
            .filter(|key| !wanted.iter().any(|other| same_range(key, other)))
        {
            ranges.remove(key)?;
        }
        Ok(())
    }
}

fn take(object: &mut Ebpf, name: &str) -> Result<Map, MapError> {
    object.take_map(name).ok_or_else(|| MapError::PinError {
        name: Some(name.to_owned()),
        error: aya::pin::PinError::NoFd {
            name: name.to_owned(),
        },
    })
}

fn range_key(range: IpNet) -> Key<Address> {
    let length = u32::from(range.prefix_len());
    let bits = if range.addr().is_ipv4() {
        V4_MAPPED_BITS + length
    } else {
        length
    };
    Key::new(bits, range.network().into())
}

fn same_range(a: &Key<Address>, b: &Key<Address>) -> bool {
    a.prefix_len() == b.prefix_len() && a.data() == b.data()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn an_ipv4_range_becomes_a_v4_mapped_one() {
        let key = range_key("10.244.1.7/16".parse().expect("a range"));
        assert_eq!(
            (key.prefix_len(), IpAddr::from(key.data())),
            (112, IpAddr::from([10, 244, 0, 0]))
        );
        let key = range_key("fd00:10::/32".parse().expect("a range"));
        assert_eq!(
            (key.prefix_len(), IpAddr::from(key.data()).to_string()),
            (32, "fd00:10::".to_owned())
        );
    }
}
