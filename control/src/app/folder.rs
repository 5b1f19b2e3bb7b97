//! Objects from a folder, statuses to another: the lab, and a look without a cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use tokio::sync::watch;

use super::backend::{Backend, pace};
use crate::auth::jwks::JwksVerifier;
use crate::authority::{FolderAuthority, Keeper};
use crate::config::Config;
use crate::sink::ObjectSink;
use crate::sink::folder::FolderSink;
use crate::source::folder::FolderSource;

pub(super) async fn open(config: &Config, objects: &Path) -> anyhow::Result<Backend> {
    let (folder, state) = (
        needed(config.sink.as_ref(), "--sink")?,
        needed(config.state.as_ref(), "--state")?,
    );
    let mut sink = FolderSink::new(folder);
    let left = sink.load().await.context("cannot use the sink")?;
    let given = config.cacerts.as_deref();
    let store = FolderAuthority::new(given, state, folder, config.trust_domain.clone());
    // There is nobody else who could decide.
    let (_, leads) = watch::channel(true);
    let authority = Keeper::open(Box::new(store), leads, pace(config), Arc::new(SystemTime::now)).await?;
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
        election: None,
    })
}

fn needed<'a>(path: Option<&'a PathBuf>, flag: &str) -> anyhow::Result<&'a Path> {
    path.map(PathBuf::as_path)
        .with_context(|| format!("--objects needs {flag}"))
}
