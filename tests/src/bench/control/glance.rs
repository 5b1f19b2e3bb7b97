//! What a made-up client reads of a response: enough to answer it, and what it is about.
//!
//! Hundreds of clients share the machine with what they measure, and first pictures have many megabytes: their resources
//! are passed over.

use aquifer_xds::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, Resource};
use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// A response with more bytes is a first picture, whose resources nobody waits for by name.
const PICTURE: usize = 256 * 1024;
const RESOURCES: u32 = 2;
const TYPE_URL: u32 = 4;
const NONCE: u32 = 5;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Glance {
    pub(super) bytes: usize,
    pub(super) type_url: String,
    pub(super) nonce: String,
    /// Of the resources of a response that is not a first picture.
    pub(super) names: Vec<String>,
}

impl Glance {
    fn at(message: &mut impl Buf) -> Result<Self, DecodeError> {
        let mut glance = Self {
            bytes: message.remaining(),
            ..Self::default()
        };
        let named = glance.bytes <= PICTURE;
        while message.has_remaining() {
            match decode_key(message)? {
                (RESOURCES, WireType::LengthDelimited) if named => {
                    glance.names.push(Resource::decode(field(message)?)?.name);
                }
                (TYPE_URL, WireType::LengthDelimited) => glance.type_url = text(message)?,
                (NONCE, WireType::LengthDelimited) => glance.nonce = text(message)?,
                (tag, kind) => skip_field(kind, tag, message, DecodeContext::default())?,
            }
        }
        Ok(glance)
    }
}

fn field(message: &mut impl Buf) -> Result<bytes::Bytes, DecodeError> {
    let length = usize::try_from(decode_varint(message)?).unwrap_or(usize::MAX);
    // A length beyond the end leaves what is not a message.
    Ok(message.copy_to_bytes(length.min(message.remaining())))
}

fn text(message: &mut impl Buf) -> Result<String, DecodeError> {
    let bytes = field(message)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The codec of a client.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Glances;

impl Codec for Glances {
    type Encode = DeltaDiscoveryRequest;
    type Decode = Glance;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Glances {
    type Item = DeltaDiscoveryRequest;
    type Error = Status;

    fn encode(&mut self, request: DeltaDiscoveryRequest, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request
            .encode(to)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Glances {
    type Item = Glance;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Glance>, Status> {
        let glance = Glance::at(from).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Some(glance))
    }
}

#[cfg(test)]
mod tests {
    use aquifer_xds::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;

    use super::*;

    fn response(resources: usize) -> DeltaDiscoveryResponse {
        let resource = |n: usize| Resource {
            name: format!("r{n}"),
            version: "v".repeat(100),
            ..Resource::default()
        };
        DeltaDiscoveryResponse {
            type_url: "t".into(),
            nonce: "n".into(),
            resources: (0..resources).map(resource).collect(),
            removed_resources: vec!["gone".into()],
            ..DeltaDiscoveryResponse::default()
        }
    }

    #[test]
    fn a_small_response_tells_its_names_and_a_large_one_does_not() {
        for (resources, names) in [(2, vec!["r0", "r1"]), (5000, Vec::new())] {
            let bytes = response(resources).encode_to_vec();
            let glance = Glance::at(&mut &*bytes).expect("a response");
            assert_eq!(
                (&*glance.type_url, &*glance.nonce, glance.bytes),
                ("t", "n", bytes.len())
            );
            assert_eq!(glance.names, names);
        }
    }
}
