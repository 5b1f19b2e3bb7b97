//! One resource as it is sent: encoded once, shared by every stream.

use std::fmt;
use std::sync::Arc;

use aquifer_xds::pb::envoy::service::discovery::v3::Resource;
use prost::Message;
use prost::encoding::{decode_key, decode_varint, message};
use prost_types::Any;

/// Resources of one type by name; clones share their nodes.
pub type Resources = imbl::OrdMap<Arc<str>, Arc<VersionedResource>>;

/// The field of a `DeltaDiscoveryResponse` that holds resources.
const RESOURCES_FIELD: u32 = 2;

/// A hash of content: equal content has an equal version, also after a restart of the control plane.
///
/// FNV-1a of 128 bits: stable over releases of this program, which what a client claims to have may outlive. It guards
/// against accidents only; nobody gains by a collision with a resource of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version(u128);

impl Version {
    pub fn of(content: &[u8]) -> Self {
        const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
        let hash = content.iter().fold(OFFSET, |hash, byte| {
            (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
        });
        Self(hash)
    }

    /// A version as a client claims it; one that is not in our form equals none of ours.
    pub fn claimed(text: &str) -> Self {
        let ours = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok());
        ours.flatten().map_or_else(|| Self::of(text.as_bytes()), Self)
    }
}

impl serde::Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[derive(Debug, Default)]
pub struct VersionedResource {
    version: Version,
    /// The field of a response, with its tag and length. Empty for what a client claims to have.
    wire: Box<[u8]>,
}

impl VersionedResource {
    /// Versions a resource by its content.
    pub fn new(name: &str, any: Any) -> Self {
        let version = Version::of(&any.value);
        Self::with_version(name, any, version)
    }

    pub fn with_version(name: &str, any: Any, version: Version) -> Self {
        let resource = Resource {
            name: name.to_owned(),
            version: version.to_string(),
            resource: Some(any),
            ..Resource::default()
        };
        let mut wire = Vec::with_capacity(message::encoded_len(RESOURCES_FIELD, &resource));
        message::encode(RESOURCES_FIELD, &resource, &mut wire);
        Self {
            version,
            wire: wire.into(),
        }
    }

    /// What a reconnecting client says it has: the version is all that a comparison needs.
    pub(super) fn claimed(version: &str) -> Self {
        Self {
            version: Version::claimed(version),
            wire: Box::default(),
        }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub(super) fn wire(&self) -> &[u8] {
        &self.wire
    }

    /// The content, decoded again: for people and tests.
    pub fn any(&self) -> Any {
        let mut wire = &*self.wire;
        let field = decode_key(&mut wire).and_then(|_| decode_varint(&mut wire));
        let resource = field.and_then(|_| Resource::decode(wire));
        resource.ok().and_then(|r| r.resource).unwrap_or_default()
    }
}

impl PartialEq for VersionedResource {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}
impl Eq for VersionedResource {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_the_field_of_a_response() {
        use aquifer_xds::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
        let any = Any {
            type_url: "type.googleapis.com/x.Y".into(),
            value: vec![7; 300],
        };
        let resource = VersionedResource::new("name", any.clone());
        let response = DeltaDiscoveryResponse::decode(resource.wire()).unwrap();
        let [only] = response.resources.as_slice() else {
            panic!("{response:?}")
        };
        assert_eq!((only.name.as_str(), only.resource.as_ref()), ("name", Some(&any)));
        assert_eq!(resource.any(), any);
        assert_eq!(Version::claimed(&only.version), resource.version());
        assert_ne!(Version::claimed("1"), Version::claimed("2"));
    }
}
