//! Envoy v3 resources, built from what the model decided.
//!
//! A real Envoy accepts the route configurations; listeners and clusters follow the mesh's own shape (names, endpoint
//! metadata), which the waypoint reads. Nothing is decided here.

pub mod action;
pub mod cluster;
pub mod listener;
pub mod matching;
pub mod server_tls;
pub mod values;

use std::collections::BTreeMap;
use std::sync::Arc;

use aquifer_xds::envoy::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
use prost::Message;

use crate::serve::{Version, VersionedResource};

/// A named resource with its version.
pub type Named = (Arc<str>, Arc<VersionedResource>);

/// Versions a message whose encoding is the same for equal content: one without maps of several entries.
pub fn resource<M: Message>(type_url: &str, name: &str, message: &M) -> Named {
    let any = aquifer_xds::convert::encode(type_url, message);
    (name.into(), Arc::new(VersionedResource::new(name, any)))
}

/// Versions a message by `content` instead of its encoding, in which the order of map entries is random.
pub fn resource_by_content<M: Message>(type_url: &str, name: &str, message: &M, content: &[u8]) -> Named {
    let any = aquifer_xds::convert::encode(type_url, message);
    let resource = VersionedResource::with_version(name, any, Version::of(content));
    (name.into(), Arc::new(resource))
}

/// A route table whose virtual hosts match the host alone, without its port.
pub fn route_configuration(name: &str, hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: hosts,
        ignore_port_in_host_matching: true,
        validate_clusters: Some(values::bool_value(false)),
        ..RouteConfiguration::default()
    }
}

pub fn virtual_host(name: &str, domains: Vec<String>, routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: name.to_owned(),
        domains,
        routes,
        ..VirtualHost::default()
    }
}

/// The content of a route table in one order: per-filter configuration is a map of up to two entries.
pub fn route_content(config: &RouteConfiguration) -> Vec<u8> {
    let mut config = config.clone();
    let mut maps = Vec::new();
    for route in config.virtual_hosts.iter_mut().flat_map(|h| &mut h.routes) {
        let map: BTreeMap<_, _> = std::mem::take(&mut route.typed_per_filter_config)
            .into_iter()
            .collect();
        maps.push(map);
    }
    let mut content = config.encode_to_vec();
    for (name, any) in maps.iter().flatten() {
        content.extend_from_slice(name.as_bytes());
        content.extend_from_slice(&any.encode_to_vec());
    }
    content.extend(maps.iter().flat_map(|m| [0xff, m.len() as u8]));
    content
}
