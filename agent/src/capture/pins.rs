//! The pin folder: what of an earlier agent may be adopted, replaced or removed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aquifer_ebpf_abi::{MAPS, MapKind, MapLayout, VERSION};
use aya::{
    maps::{MapInfo, MapType},
    programs::links::FdLink,
};
use nix::sys::statfs::{FsType, statfs};
use thiserror::Error;

use crate::capture::{NetnsCookie, link};

/// include/uapi/linux/magic.h
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
const POD_LINK_PREFIX: &str = "sk_lookup_";
/// A link on its way to replace another. No dots: bpffs reserves them.
const REPLACEMENT_SUFFIX: &str = "_new";

/// Why a pin could not be made, read or removed.
#[derive(Debug, Error)]
pub enum PinError {
    #[error("{path} is not on a bpf file system; mount one with `mount -t bpf bpf DIRECTORY`")]
    NotBpffs { path: PathBuf },
    #[error("cannot {action} {path}")]
    Folder {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("cannot pin {path}")]
    Pin {
        path: PathBuf,
        source: aya::pin::PinError,
    },
    #[error("cannot inspect {path}")]
    Inspect {
        path: PathBuf,
        source: Box<aya::maps::MapError>,
    },
    #[error(
        "the map pinned at {path} has another layout ({found}) than this agent's ({expected}); \
         another program uses the folder, or it was left by a development build: remove it with every pin beside it"
    )]
    Layout {
        path: PathBuf,
        expected: String,
        found: String,
    },
}

/// The folders of this layout version.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    base: PathBuf,
}

impl Pins {
    /// Makes the folders where they are missing.
    pub(crate) fn open(bpffs: &Path) -> Result<Self, PinError> {
        let pins = Self {
            base: bpffs.to_path_buf(),
        };
        for folder in [pins.maps_folder(), pins.links_folder()] {
            fs::create_dir_all(&folder).map_err(|source| PinError::Folder {
                action: "make the folder",
                path: folder.clone(),
                source,
            })?;
            check_bpffs(&folder)?;
        }
        Ok(pins)
    }

    fn version_folder(&self) -> PathBuf {
        self.base.join(version_name())
    }

    fn maps_folder(&self) -> PathBuf {
        self.version_folder().join("maps")
    }

    fn links_folder(&self) -> PathBuf {
        self.version_folder().join("links")
    }

    pub(crate) fn map(&self, name: &str) -> PathBuf {
        self.maps_folder().join(name)
    }

    pub(crate) fn program_link(&self, program: &str) -> PathBuf {
        self.links_folder().join(program)
    }

    pub(crate) fn pod_link(&self, pod: NetnsCookie) -> PathBuf {
        self.links_folder().join(format!("{POD_LINK_PREFIX}{pod}"))
    }

    /// Fails unless every map already pinned is what this agent would make.
    pub(crate) fn check_layouts(&self) -> Result<(), PinError> {
        MAPS.iter()
            .try_for_each(|layout| check_layout(&self.map(layout.name), layout))
    }

    /// Pins `link` at `path`; a link pinned there before ends only after this one is in place.
    pub(crate) fn replace(&self, link: FdLink, path: &Path) -> Result<(), PinError> {
        let mut replacement = path.as_os_str().to_owned();
        replacement.push(REPLACEMENT_SUFFIX);
        let replacement = PathBuf::from(replacement);
        // Left by an agent killed between the next two steps.
        remove_file(&replacement)?;
        link.pin(&replacement).map_err(|source| PinError::Pin {
            path: replacement.clone(),
            source,
        })?;
        fs::rename(&replacement, path).map_err(|source| PinError::Folder {
            action: "move a pin to",
            path: path.to_path_buf(),
            source,
        })
    }

    /// Ends the inbound capture of a pod. A missing pin is no error.
    pub(crate) fn remove_pod_link(&self, pod: NetnsCookie) -> Result<(), PinError> {
        remove_link(&self.pod_link(pod))
    }

    /// The pods whose inbound capture is pinned.
    pub(crate) fn pods(&self) -> Result<Vec<NetnsCookie>, PinError> {
        Ok(names(&self.links_folder())?
            .iter()
            .filter_map(|name| pod_of_link(name))
            .collect())
    }

    pub(crate) fn remove_other_versions(&self) -> Result<(), PinError> {
        let others = versions(&self.base)?
            .into_iter()
            .filter(|name| *name != version_name());
        others
            .map(|name| self.base.join(name))
            .try_for_each(|folder| remove_version(&folder))
    }
}

/// Removes the pins of every version below `base`.
pub(crate) fn remove_all(base: &Path) -> Result<(), PinError> {
    if !base.exists() {
        return Ok(());
    }
    versions(base)?
        .into_iter()
        .map(|name| base.join(name))
        .try_for_each(|folder| remove_version(&folder))
}

fn version_name() -> String {
    format!("v{VERSION}")
}

fn versions(base: &Path) -> Result<Vec<String>, PinError> {
    let is_version = |name: &String| {
        name.strip_prefix('v')
            .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    };
    Ok(names(base)?.into_iter().filter(is_version).collect())
}

/// Links first: a program that outlives the pins of its maps would go on with maps nobody can fill.
fn remove_version(folder: &Path) -> Result<(), PinError> {
    empty_folder(&folder.join("links"), remove_link)?;
    empty_folder(&folder.join("maps"), remove_file)?;
    remove_folder(folder)
}

fn empty_folder(folder: &Path, remove: fn(&Path) -> Result<(), PinError>) -> Result<(), PinError> {
    if !folder.exists() {
        return Ok(());
    }
    names(folder)?
        .iter()
        .try_for_each(|name| remove(&folder.join(name)))?;
    remove_folder(folder)
}

fn remove_folder(path: &Path) -> Result<(), PinError> {
    fs::remove_dir(path).map_err(|source| PinError::Folder {
        action: "remove",
        path: path.to_path_buf(),
        source,
    })
}

fn remove_link(path: &Path) -> Result<(), PinError> {
    match link::detach(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PinError::Folder {
            action: "detach the program pinned at",
            path: path.to_path_buf(),
            source: error,
        }),
        _ => remove_file(path),
    }
}

fn remove_file(path: &Path) -> Result<(), PinError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(PinError::Folder {
            action: "remove the pin",
            path: path.to_path_buf(),
            source: error,
        }),
        _ => Ok(()),
    }
}

fn names(folder: &Path) -> Result<Vec<String>, PinError> {
    let list = || -> io::Result<Vec<String>> {
        fs::read_dir(folder)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    list().map_err(|source| PinError::Folder {
        action: "list",
        path: folder.to_path_buf(),
        source,
    })
}

fn pod_of_link(name: &str) -> Option<NetnsCookie> {
    let cookie = name.strip_prefix(POD_LINK_PREFIX)?;
    u64::from_str_radix(cookie, 16).ok().map(NetnsCookie::new)
}

fn check_bpffs(path: &Path) -> Result<(), PinError> {
    match statfs(path) {
        Ok(found) if found.filesystem_type() == FsType(BPF_FS_MAGIC) => Ok(()),
        _ => Err(PinError::NotBpffs {
            path: path.to_path_buf(),
        }),
    }
}

fn check_layout(path: &Path, expected: &MapLayout) -> Result<(), PinError> {
    if !path.exists() {
        return Ok(());
    }
    let inspect = |source| PinError::Inspect {
        path: path.to_path_buf(),
        source: Box::new(source),
    };
    let info = MapInfo::from_pin(path).map_err(inspect)?;
    let found = (
        info.map_type().map_err(inspect)?,
        info.key_size() as usize,
        info.value_size() as usize,
        info.max_entries() as usize,
    );
    let wanted = (
        map_type(expected.kind),
        expected.key_size,
        expected.value_size,
        expected.max_entries,
    );
    if found == wanted {
        return Ok(());
    }
    let text = |(kind, key, value, entries)| format!("{kind:?}, key {key}, value {value}, {entries} entries");
    Err(PinError::Layout {
        path: path.to_path_buf(),
        expected: text(wanted),
        found: text(found),
    })
}

fn map_type(kind: MapKind) -> MapType {
    match kind {
        MapKind::Hash => MapType::Hash,
        MapKind::LruHash => MapType::LruHash,
        MapKind::LpmTrie => MapType::LpmTrie,
        MapKind::SkStorage => MapType::SkStorage,
        MapKind::SockHash => MapType::SockHash,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_link_names_it() {
        let pins = Pins {
            base: "/bpf/aquifer".into(),
        };
        let path = pins.pod_link(NetnsCookie::new(0x2a));
        assert_eq!(
            path,
            Path::new("/bpf/aquifer/v1/links/sk_lookup_000000000000002a")
        );
        assert_eq!(
            pod_of_link("sk_lookup_000000000000002a"),
            Some(NetnsCookie::new(0x2a))
        );
        for name in ["aq_connect4", "sk_lookup_", "sk_lookup_000000000000002a_new"] {
            assert_eq!(pod_of_link(name), None, "{name}");
        }
    }

    #[test]
    fn a_folder_elsewhere_is_refused() {
        let folder = std::env::temp_dir().join(format!("aqk-pins-{}", std::process::id()));
        let result = Pins::open(&folder);
        fs::remove_dir_all(&folder).expect("clean up");
        assert!(matches!(result, Err(PinError::NotBpffs { .. })), "{result:?}");
    }
}
