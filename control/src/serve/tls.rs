//! The serving certificate: issued by the mesh's own authority, replaced long before it ends and with the authority.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer_identity::authority::{Certificate, SignRequestError};
use aquifer_identity::tls::TlsConfigError;
use aquifer_identity::{CertificateAuthority, control_server_config, webhook_server_config};
use arc_swap::ArcSwap;
use tokio_rustls::rustls::ServerConfig;

use crate::authority::Active;

/// The longest sleep between looks at the clock, which may have been set meanwhile.
const LOOK: Duration = Duration::from_secs(3600);
/// After a failure to renew.
const RETRY: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    #[error("cannot issue the control plane's serving certificate: {0}")]
    Issue(#[from] SignRequestError),
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
}

/// The TLS configuration that new connections are answered with.
pub struct ServingCertificate {
    authority: Active,
    dns_names: Vec<String>,
    current: ArcSwap<Issued>,
}

struct Issued {
    config: Arc<ServerConfig>,
    webhook: Arc<ServerConfig>,
    renew_at: SystemTime,
    /// The certificate of the authority that issued it.
    issuer: Certificate,
}

impl ServingCertificate {
    /// Issues the first certificate; `dns_names` are what proxies dial.
    pub fn new(authority: Active, dns_names: Vec<String>, now: SystemTime) -> Result<Self, ServingError> {
        let first = issue(&authority.borrow(), &dns_names, now)?;
        Ok(Self {
            authority,
            dns_names,
            current: ArcSwap::from_pointee(first),
        })
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.current.load().config.clone()
    }

    /// For the webhook's port.
    pub(crate) fn webhook_config(&self) -> Arc<ServerConfig> {
        self.current.load().webhook.clone()
    }

    /// Renews at half of the certificate's life and when another authority signs, for ever.
    pub(super) async fn keep_fresh(&self) -> std::convert::Infallible {
        let mut authority = self.authority.clone();
        loop {
            let now = SystemTime::now();
            let other = *authority.borrow_and_update().certificate() != self.current.load().issuer;
            let due = other || self.current.load().renew_at <= now;
            let pause = if due && !self.renew(now) {
                RETRY
            } else {
                let left = self.current.load().renew_at.duration_since(now);
                left.unwrap_or_default().min(LOOK)
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = authority.changed() => {}
            }
        }
    }

    fn renew(&self, now: SystemTime) -> bool {
        match issue(&self.authority.borrow(), &self.dns_names, now) {
            Ok(issued) => {
                self.current.store(Arc::new(issued));
                tracing::info!("serving certificate renewed");
                true
            }
            Err(error) => {
                tracing::error!(%error, "serving certificate not renewed");
                false
            }
        }
    }
}

fn issue(
    authority: &CertificateAuthority,
    dns_names: &[String],
    now: SystemTime,
) -> Result<Issued, ServingError> {
    let certificate = authority.issue_server(dns_names, now)?;
    let life = certificate.not_after().duration_since(now).unwrap_or_default();
    Ok(Issued {
        config: control_server_config(&certificate)?,
        webhook: webhook_server_config(&certificate)?,
        renew_at: now + life / 2,
        issuer: authority.certificate().clone(),
    })
}
