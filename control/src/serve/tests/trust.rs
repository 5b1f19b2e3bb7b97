//! What the mesh trusts, from the control plane's port to a proxy's certificates.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer_core::identity::{SpiffeId, TrustDomain};
use aquifer_identity::{
    CertificateAuthority, CertificateManager, ManagerConfig, TrustBundle, WorkloadCertificate,
};
use aquifer_xds::ca::Asking;
use aquifer_xds::trust::TrustHandler;
use aquifer_xds::{AdsClient, CaClient};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::fixture::{ControlFixture, DEADLINE, agent};
use crate::serve::trust::version;

/// A proxy that trusts what it is told and has certificates.
struct Proxy {
    trust: TrustBundle,
    certificates: CertificateManager,
    _tasks: JoinSet<()>,
}

impl Proxy {
    fn start(fixture: &ControlFixture) -> Self {
        let trust = TrustBundle::default();
        let plane = fixture.control_plane().trusting(trust.clone());
        let token = fixture.token_of(&agent());
        let source = CaClient::new(&plane, token, "Kubernetes", Asking::ForPods);
        let limits = ManagerConfig {
            trust: trust.clone(),
            ..ManagerConfig::default()
        };
        let (certificates, driver) = CertificateManager::new(Arc::new(source), limits);
        let mut config = fixture.config(&agent());
        config.control_plane = plane;
        let (client, _status) = AdsClient::new(config);
        let handler = Box::new(TrustHandler::new(certificates.clone()));
        let mut tasks = JoinSet::new();
        tasks.spawn(driver);
        tasks.spawn(client.run(vec![handler], CancellationToken::new()));
        Self {
            trust,
            certificates,
            _tasks: tasks,
        }
    }

    async fn certificate(&self) -> Arc<WorkloadCertificate> {
        self.certificates.certificate(&id()).await.unwrap()
    }
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/istio-system/sa/ztunnel").unwrap()
}

/// Until every proxy trusts the roots of this authority.
async fn known(fixture: &ControlFixture, authority: &CertificateAuthority) {
    let version = version(authority);
    let mut changes = fixture.registry.changes();
    let all = async {
        loop {
            changes.mark_unchanged();
            let mut proxies = fixture.registry.trusting(version).peekable();
            if proxies.peek().is_some() && proxies.all(|(_, trusts)| trusts) {
                return;
            }
            changes.changed().await.unwrap();
        }
    };
    timeout(DEADLINE, all)
        .await
        .expect("every proxy knows the roots in time");
}

fn other() -> CertificateAuthority {
    CertificateAuthority::new_self_signed(TrustDomain::default(), SystemTime::now()).unwrap()
}

#[tokio::test]
async fn proxies_learn_new_roots_acknowledge_them_and_renew_when_another_signs() {
    let fixture = ControlFixture::start().await;
    let (a, b) = (fixture.authority.borrow().clone(), other());
    let proxy = Proxy::start(&fixture);
    known(&fixture, &a).await;
    let first = proxy.certificate().await;
    // Announced: the same certificate, more roots, for connections of this certificate too.
    let both = |x: &CertificateAuthority, y: &CertificateAuthority| [x.roots(), y.roots()].concat();
    let announced = Arc::new(a.trusting(both(&a, &b)));
    fixture.authority.send_replace(announced.clone());
    known(&fixture, &announced).await;
    assert_eq!(proxy.trust.roots_pem(), Some(announced.roots_pem()));
    assert_eq!(first.roots_pem(), announced.roots_pem());
    assert_eq!(proxy.certificate().await.serial(), first.serial());
    // Switched: it is renewed early. The control plane's own certificate is of the new root now, which the file of
    // this proxy does not have.
    let switched = Arc::new(b.trusting(both(&b, &a)));
    fixture.authority.send_replace(switched.clone());
    known(&fixture, &switched).await;
    let due = proxy.certificates.list()[0].next_fetch;
    let soon = SystemTime::now() + Duration::from_secs(301);
    assert!(due.is_none_or(|due| due <= soon), "half of a day is too late");
    let dropped = Arc::new(b.trusting(b.roots().to_vec()));
    fixture.authority.send_replace(dropped.clone());
    known(&fixture, &dropped).await;
    assert_eq!(first.roots_pem(), b.roots_pem());
}

#[tokio::test]
async fn a_reconnecting_proxy_counts_without_being_told_again() {
    let mut fixture = ControlFixture::start().await;
    let authority = fixture.authority.borrow().clone();
    let _proxy = Proxy::start(&fixture);
    known(&fixture, &authority).await;
    fixture.stop().await;
    fixture.serve().await;
    known(&fixture, &authority).await;
}
