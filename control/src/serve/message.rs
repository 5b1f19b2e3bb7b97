//! A response on its way: one gRPC message, however large, handed over in small pieces.
//!
//! A first picture of a large mesh has tens of megabytes, and hundreds of proxies may ask for it at once. It is never
//! put together as a whole: the pieces are copied from the resources as the connection takes them.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use aquifer_xds::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;

use super::{Resources, VersionedResource};

/// About so many bytes are handed over at a time.
const PIECE: usize = 64 * 1024;
/// From so many resources on, a response is one of those that are sent a few at a time.
const LARGE: usize = 1000;
/// Flags (none), and the length in four bytes.
const PREFIX: usize = 5;

/// The resources of a response.
#[derive(Debug)]
pub(super) enum Additions {
    /// All that there is: the map itself, since a first picture is the same for many.
    Whole(Resources),
    Some(Vec<(Arc<str>, Arc<VersionedResource>)>),
}

impl Default for Additions {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

impl Additions {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Whole(all) => all.len(),
            Self::Some(list) => list.len(),
        }
    }

    /// By name; for all that there is the map itself.
    pub(super) fn resources(&self) -> Resources {
        match self {
            Self::Whole(all) => all.clone(),
            Self::Some(list) => list.iter().cloned().collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn is_large(&self) -> bool {
        self.len() >= LARGE
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Whole(all) => all.values().map(|r| r.wire().len()).sum(),
            Self::Some(list) => list.iter().map(|(_, r)| r.wire().len()).sum(),
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a response of {0} bytes is more than a gRPC message can have")]
pub(super) struct TooLarge(usize);

/// A gRPC message of which a part has been handed over.
pub(super) struct Message {
    head: Bytes,
    left: Left,
}

enum Left {
    /// The map, and the last name that was handed over.
    Whole(Resources, Option<Arc<str>>),
    Some(VecDeque<Arc<VersionedResource>>),
}

impl Message {
    /// `head` is the response without its resources.
    pub(super) fn new(head: &DeltaDiscoveryResponse, resources: Additions) -> Result<Self, TooLarge> {
        let length = head.encoded_len() + resources.bytes();
        let prefix = u32::try_from(length).map_err(|_| TooLarge(length))?;
        let mut bytes = BytesMut::with_capacity(PREFIX + head.encoded_len());
        bytes.put_u8(0);
        bytes.put_u32(prefix);
        bytes.put_slice(&head.encode_to_vec());
        let left = match resources {
            Additions::Whole(all) => Left::Whole(all, None),
            Additions::Some(list) => Left::Some(list.into_iter().map(|(_, resource)| resource).collect()),
        };
        Ok(Self {
            head: bytes.freeze(),
            left,
        })
    }

    /// The next piece; none when all of it has been handed over.
    pub(super) fn piece(&mut self) -> Option<Bytes> {
        let head = std::mem::take(&mut self.head);
        let mut piece = BytesMut::from(head);
        match &mut self.left {
            Left::Whole(all, last) => *last = fill_in_order(&mut piece, all, last.as_deref()),
            Left::Some(list) => {
                while piece.len() < PIECE
                    && let Some(resource) = list.pop_front()
                {
                    piece.put_slice(resource.wire());
                }
            }
        }
        (!piece.is_empty()).then(|| piece.freeze())
    }
}

/// Adds resources after the one of that name; gives the last one's name.
fn fill_in_order(piece: &mut BytesMut, all: &Resources, after: Option<&str>) -> Option<Arc<str>> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut last = None;
    for (name, resource) in all.range::<_, str>((start, Bound::Unbounded)) {
        if piece.is_empty() {
            piece.reserve(PIECE);
        }
        piece.put_slice(resource.wire());
        last = Some(name);
        if piece.len() >= PIECE {
            break;
        }
    }
    last.cloned().or_else(|| after.map(Arc::from))
}

#[cfg(test)]
pub(super) mod tests {
    use prost_types::Any;

    use super::*;

    /// What a client makes of the message.
    pub(in crate::serve) fn read(
        head: &DeltaDiscoveryResponse,
        resources: Additions,
    ) -> DeltaDiscoveryResponse {
        let mut message = Message::new(head, resources).unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = message.piece() {
            bytes.extend_from_slice(&piece);
        }
        assert_eq!(
            bytes[..PREFIX],
            [&[0][..], &(bytes.len() as u32 - 5).to_be_bytes()].concat()
        );
        DeltaDiscoveryResponse::decode(&bytes[PREFIX..]).unwrap()
    }

    fn many() -> Resources {
        let resource = |n: u32| {
            let any = Any {
                type_url: "t".into(),
                value: vec![1; 100],
            };
            let name = format!("{n:05}");
            (Arc::from(&*name), Arc::new(VersionedResource::new(&name, any)))
        };
        (0..5000).map(resource).collect()
    }

    #[test]
    fn a_large_message_comes_in_pieces_and_whole() {
        let head = DeltaDiscoveryResponse {
            nonce: "n".into(),
            removed_resources: vec!["gone".into()],
            ..DeltaDiscoveryResponse::default()
        };
        let all = many();
        let mut message = Message::new(&head, Additions::Whole(all.clone())).unwrap();
        let first = message.piece().unwrap();
        assert!((PIECE..PIECE + 1000).contains(&first.len()), "{}", first.len());
        let list = all.iter().map(|(n, r)| (n.clone(), r.clone())).collect();
        let (whole, some) = (
            read(&head, Additions::Whole(all)),
            read(&head, Additions::Some(list)),
        );
        assert_eq!(whole, some);
        let names: Vec<_> = whole.resources.iter().map(|r| r.name.clone()).collect();
        let wanted: Vec<String> = (0..5000).map(|n| format!("{n:05}")).collect();
        assert_eq!(names, wanted);
        assert_eq!((&*whole.nonce, whole.removed_resources.len()), ("n", 1));
    }

    #[test]
    fn a_message_without_resources_is_its_head() {
        let head = DeltaDiscoveryResponse {
            nonce: "n".into(),
            ..DeltaDiscoveryResponse::default()
        };
        assert_eq!(read(&head, Additions::default()), head);
        assert_eq!(read(&head, Additions::Whole(Resources::new())), head);
    }
}
