//! Objects from a folder, statuses to another: the lab, and a look without a cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use aquifer_identity::CertificateAuthority;

use super::backend::Backend;
use crate::auth::jwks::JwksVerifier;
use crate::config::Config;
use crate::sink::ObjectSink;
use crate::sink::folder::FolderSink;
use crate::source::folder::FolderSource;

pub(super) async fn open(config: &Config, objects: &Path) -> anyhow::Result<Backend> {
    let authority = Arc::new(authority(config)?);
    let mut sink = FolderSink::new(needed(config.sink.as_ref(), "--sink")?);
    let left = sink.load().await.context("cannot use the sink")?;
    sink.publish_root(&authority.roots_pem())
        .await
        .context("cannot use the sink")?;
    let keys = needed(config.token_keys.as_ref(), "--token-keys")?;
    let verifier = JwksVerifier::open(keys, config.token_issuer.clone())
        .context("cannot check tokens (--token-keys)")?;
    Ok(Backend {
        authority,
        verifier: Arc::new(verifier),
        source: Box::new(FolderSource::new(objects)),
        secrets: None,
        sink: Box::new(sink),
        left,
        duties: Vec::new(),
    })
}

fn needed<'a>(path: Option<&'a PathBuf>, flag: &str) -> anyhow::Result<&'a Path> {
    path.map(PathBuf::as_path)
        .with_context(|| format!("--objects needs {flag}"))
}

fn authority(config: &Config) -> anyhow::Result<CertificateAuthority> {
    let (domain, now) = (config.trust_domain.clone(), SystemTime::now());
    if let Some(folder) = &config.cacerts {
        return CertificateAuthority::load(folder, domain, now)
            .with_context(|| format!("cannot use the authority in {} (--cacerts)", folder.display()));
    }
    let folder = needed(config.state.as_ref(), "--state")?;
    CertificateAuthority::load_or_create(folder, domain, now)
        .with_context(|| format!("cannot use the authority in {} (--state)", folder.display()))
}
