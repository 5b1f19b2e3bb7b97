//! Objects, statuses, the authority and the election on an API server.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use kube::Client;

use super::backend::{Backend, Duty, pace};
use crate::auth::token_review::TokenReviewVerifier;
use crate::authority::{Keeper, OpenError};
use crate::config::Config;
use crate::kubernetes::authority::AuthoritySecrets;
use crate::kubernetes::backoff::Backoff;
use crate::kubernetes::connect;
use crate::kubernetes::election::Elector;
use crate::sink::kubernetes::{Desk, KubernetesSink, Writer};
use crate::sink::{Left, ObjectSink};
use crate::source::SecretsWatch;
use crate::source::kubernetes::KubernetesSource;
use crate::webhook::Bundle;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

pub(super) async fn open(config: &Config) -> anyhow::Result<Backend> {
    let client = connect(config.kubeconfig.as_deref()).await?;
    let name = name(config)?;
    let desk = Arc::new(Desk::default());
    let elector = Elector::new(client.clone(), &config.namespace, &name);
    let authority = authority(config, &client, (&name, &desk), &elector).await?;
    let mut sink = KubernetesSink::new(client.clone(), desk.clone());
    let left = left(&mut sink).await;
    let writer = Writer::new(client.clone(), desk.clone(), elector.leads(), &name);
    let bundle = config
        .webhook_configuration
        .as_deref()
        .map(|name| Bundle::new(client.clone(), name, authority.active(), elector.leads()));
    let mut duties: Vec<Duty> = vec![Box::new(|cancel| Box::pin(writer.run(cancel)))];
    if let Some(bundle) = bundle {
        duties.push(Box::new(|cancel| Box::pin(bundle.run(cancel))));
    }
    let (secrets_watch, wanted) = SecretsWatch::new();
    Ok(Backend {
        authority,
        verifier: Arc::new(TokenReviewVerifier::new(client.clone())),
        source: Box::new(KubernetesSource::new(client, &config.namespace, desk, wanted)),
        secrets: Some(secrets_watch),
        sink: Box::new(sink),
        left,
        duties,
        election: Some(Box::new(|cancel| Box::pin(elector.run(cancel)))),
    })
}

/// A name that no other replica has.
fn name(config: &Config) -> anyhow::Result<String> {
    match &config.name {
        Some(name) => Ok(name.clone()),
        None => {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
            let host =
                host.context("this replica has no name; give --name, or POD_NAME in the environment")?;
            Ok(format!("{}-{}", host.trim(), std::process::id()))
        }
    }
}

/// The authority of the Secrets; waits for an API server that is away, and ends where there is none that can sign.
async fn authority(
    config: &Config,
    client: &Client,
    (name, desk): (&str, &Arc<Desk>),
    elector: &Elector,
) -> anyhow::Result<Keeper> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let domain = config.trust_domain.clone();
        let store = AuthoritySecrets::new(client.clone(), &config.namespace, name, domain, desk.clone());
        let opened = async {
            store.make_first().await?;
            let clock = Arc::new(SystemTime::now);
            Keeper::open(Box::new(store), elector.leads(), pace(config), clock).await
        };
        match opened.await {
            Ok(keeper) => return Ok(keeper),
            Err(error @ OpenError::Unusable(_)) => return Err(error.into()),
            Err(error) => {
                tracing::warn!(%error, "no certificate authority yet; trying again");
                tokio::time::sleep(backoff.pause()).await;
            }
        }
    }
}

async fn left(sink: &mut KubernetesSink) -> Left {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        match sink.load().await {
            Ok(left) => return left,
            Err(error) => {
                tracing::warn!(%error, "cannot read what an earlier run left; trying again");
                tokio::time::sleep(backoff.pause()).await;
            }
        }
    }
}
