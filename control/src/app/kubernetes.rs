//! Objects, statuses, the authority and the election on an API server.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use aquifer_identity::CertificateAuthority;

use super::backend::{Backend, Duty};
use crate::auth::token_review::TokenReviewVerifier;
use crate::config::Config;
use crate::kubernetes::authority::{AuthoritySecrets, NotThere};
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
/// Within which replicas end when their authority is replaced.
const OUT_OF_STEP: Duration = Duration::from_secs(10);

pub(super) async fn open(config: &Config) -> anyhow::Result<Backend> {
    let client = connect(config.kubeconfig.as_deref()).await?;
    let name = name(config)?;
    let secrets = AuthoritySecrets::new(
        client.clone(),
        &config.namespace,
        &name,
        config.trust_domain.clone(),
    );
    let authority = Arc::new(authority(&secrets).await?);
    let desk = Arc::new(Desk::default());
    let mut sink = KubernetesSink::new(client.clone(), desk.clone());
    let left = left(&mut sink).await;
    sink.publish_root(&authority.roots_pem()).await?;
    let elector = Elector::new(client.clone(), &config.namespace, &name);
    let writer = Writer::new(client.clone(), desk.clone(), elector.leads(), &name);
    let bundle = config
        .webhook_configuration
        .as_deref()
        .map(|name| Bundle::new(client.clone(), name, authority.clone(), elector.leads()));
    let mut duties: Vec<Duty> = vec![
        Box::new(|cancel| Box::pin(elector.run(cancel))),
        Box::new(|cancel| Box::pin(writer.run(cancel))),
    ];
    duties.push(watch_authority(secrets, authority.clone()));
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
    })
}

/// Ends the process in order where another authority is in the Secrets: it is started anew, and reads that one. Nothing
/// that carries traffic depends on the control plane meanwhile; replicas do it one after the other.
fn watch_authority(secrets: AuthoritySecrets, current: Arc<CertificateAuthority>) -> Duty {
    Box::new(|cancel| {
        Box::pin(async move {
            let replaced = async {
                secrets.replaced(&current).await;
                tracing::info!("the certificate authority was replaced; starting anew with it");
                tokio::time::sleep(OUT_OF_STEP.mul_f64(rand::random())).await;
            };
            tokio::select! {
                () = cancel.cancelled() => {}
                () = replaced => cancel.cancel(),
            }
        })
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

/// The authority of the Secrets; waits for an API server that is away, and ends where the Secret cannot be used.
async fn authority(secrets: &AuthoritySecrets) -> anyhow::Result<CertificateAuthority> {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        match secrets.load_or_create().await {
            Ok(authority) => return Ok(authority),
            Err(NotThere::Unusable { secret, source }) => {
                return Err(
                    anyhow::Error::from(source).context(format!("cannot use the authority in {secret}"))
                );
            }
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
