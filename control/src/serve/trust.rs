//! Whom to trust, as one more resource of every proxy's snapshot, which changes on its own.

use std::sync::Arc;

use aquifer_identity::CertificateAuthority;
use aquifer_xds::trust::{NAME, to_any};
use aquifer_xds::type_url::TRUST;

use super::{ResourceSnapshot, Resources, Version, VersionedResource};
use crate::authority::Active;

/// The version of the roots: what a proxy that trusts them has acknowledged.
pub(crate) fn version(authority: &CertificateAuthority) -> Version {
    resource(authority).version()
}

fn resource(authority: &CertificateAuthority) -> VersionedResource {
    VersionedResource::new(NAME, to_any(&authority.roots_pem()))
}

/// The roots that are told, encoded when they change.
#[derive(Clone)]
pub(super) struct Trust {
    authority: Active,
    resource: Arc<VersionedResource>,
}

impl Trust {
    pub(super) fn new(mut authority: Active) -> Self {
        let resource = Arc::new(resource(&authority.borrow_and_update()));
        Self { authority, resource }
    }

    fn resource(&mut self) -> Arc<VersionedResource> {
        if self.authority.has_changed().unwrap_or(false) {
            *self = Self::new(self.authority.clone());
        }
        self.resource.clone()
    }
}

/// The snapshot with the roots.
pub(super) fn with(snapshot: Arc<ResourceSnapshot>, trust: Option<&mut Trust>) -> Arc<ResourceSnapshot> {
    let Some(trust) = trust else { return snapshot };
    let mut snapshot = Arc::unwrap_or_clone(snapshot);
    let resources = Resources::unit(NAME.into(), trust.resource());
    snapshot.types.insert(TRUST, resources);
    Arc::new(snapshot)
}

/// Pending for ever where there is nothing to tell or nobody left who could.
pub(super) async fn changed(trust: Option<&mut Trust>) {
    if let Some(trust) = trust
        && trust.authority.changed().await.is_ok()
    {
        trust.resource = Arc::new(resource(&trust.authority.borrow()));
        return;
    }
    std::future::pending().await
}
