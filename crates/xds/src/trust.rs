//! The roots that the mesh trusts, on the wire.
//!
//! One resource of type [`type_url::TRUST`]. It is sent beside the roots that come with each certificate, because a new
//! root has to be known everywhere before the first certificate of it is shown, and its acknowledgement says so.

use aquifer_identity::CertificateManager;
use prost::Message;

use crate::handler::{Rejected, ResourceHandler, Update};
use crate::pb::istio::mesh::v1alpha1::ProxyConfig;
use crate::type_url;

/// Name of the one resource.
pub const NAME: &str = "default";

/// The resource that tells `roots_pem`, the root that is signed under first.
pub fn to_any(roots_pem: &str) -> prost_types::Any {
    let config = ProxyConfig {
        ca_certificates_pem: vec![roots_pem.to_owned()],
    };
    prost_types::Any {
        type_url: type_url::TRUST.to_owned(),
        value: config.encode_to_vec(),
    }
}

/// Hands the roots to the certificates of this process.
pub struct TrustHandler {
    certificates: CertificateManager,
}

impl TrustHandler {
    pub fn new(certificates: CertificateManager) -> Self {
        Self { certificates }
    }

    fn take(&self, update: &Update) -> Result<(), Rejected> {
        let rejected = |reason: &dyn std::fmt::Display| Rejected::new(&update.name, reason);
        let config = ProxyConfig::decode(&*update.resource.value).map_err(|e| rejected(&e))?;
        let roots = config.ca_certificates_pem.join("\n");
        self.certificates.trust(&roots).map_err(|e| rejected(&e))
    }
}

impl ResourceHandler for TrustHandler {
    fn type_url(&self) -> &'static str {
        type_url::TRUST
    }

    /// A removal changes nothing: without roots nobody could be trusted.
    fn apply(&mut self, updates: Vec<Update>, _removals: Vec<String>) -> Result<(), Vec<Rejected>> {
        let rejected: Vec<_> = updates
            .iter()
            .filter_map(|update| self.take(update).err())
            .collect();
        if rejected.is_empty() {
            Ok(())
        } else {
            Err(rejected)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use aquifer_core::identity::SpiffeId;
    use aquifer_identity::{CertificateAuthority, CertificateSource, ManagerConfig, SignError, TrustBundle};

    use super::*;

    struct Nobody;

    #[async_trait::async_trait]
    impl CertificateSource for Nobody {
        async fn sign(&self, _: &SpiffeId, _: &str) -> Result<Vec<String>, SignError> {
            Err(SignError::Refused("a test".to_owned()))
        }
    }

    fn update(resource: prost_types::Any) -> Update {
        Update {
            name: NAME.to_owned(),
            version: "1".to_owned(),
            resource,
        }
    }

    fn authority() -> CertificateAuthority {
        CertificateAuthority::new_self_signed("cluster.local".parse().unwrap(), SystemTime::now()).unwrap()
    }

    #[test]
    fn roots_are_taken_whole_or_not_at_all() {
        let trust = TrustBundle::default();
        let config = ManagerConfig {
            trust: trust.clone(),
            ..ManagerConfig::default()
        };
        let (certificates, _driver) = CertificateManager::new(Arc::new(Nobody), config);
        let mut handler = TrustHandler::new(certificates);
        let both = format!("{}{}", authority().roots_pem(), authority().roots_pem());
        handler.apply(vec![update(to_any(&both))], vec![]).unwrap();
        assert_eq!(trust.roots_pem().as_deref(), Some(&*both));
        for bad in [
            "",
            "no PEM",
            &format!("{both}-----BEGIN CERTIFICATE-----\n!"),
            &both.repeat(20),
        ] {
            let rejected = handler.apply(vec![update(to_any(bad))], vec![]).unwrap_err();
            assert_eq!(rejected[0].name, NAME);
        }
        handler.apply(vec![], vec![NAME.to_owned()]).unwrap();
        assert_eq!(trust.roots_pem().as_deref(), Some(&*both));
    }
}
