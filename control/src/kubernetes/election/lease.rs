//! The Lease object: read, written, given back.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Candidate, LEASE, RETRY, Record, Step};
use crate::kubernetes::{CALL_TIMEOUT, MADE_BY, MADE_BY_LABEL, code, explain};

const NAME: &str = "aquifer-leader";

/// Takes part in the election until cancelled; tells who asks whether this replica leads.
pub struct Elector {
    leases: Api<Lease>,
    identity: String,
    candidate: Candidate,
    leads: watch::Sender<bool>,
    /// The Lease as it was read or written last.
    current: Option<Lease>,
    /// The same failure is logged once.
    complained: Option<String>,
}

impl Elector {
    pub fn new(client: Client, namespace: &str, identity: &str) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            identity: identity.to_owned(),
            candidate: Candidate::new(identity),
            leads: watch::Sender::new(false),
            current: None,
            complained: None,
        }
    }

    pub fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            let end = self.candidate.leads_until();
            let turn = tokio::select! {
                () = cancel.cancelled() => break,
                turn = timeout(CALL_TIMEOUT.min(RETRY * 2), self.turn()) => turn,
                () = at(end) => Ok(Ok(())),
            };
            match turn {
                Ok(Ok(())) => self.complained = None,
                Ok(Err(error)) => self.complain(explain(&error)),
                Err(_) => self.complain("no answer in time".to_owned()),
            }
            self.tell();
            let end = self.candidate.leads_until();
            tokio::select! {
                () = cancel.cancelled() => break,
                () = tokio::time::sleep(RETRY) => {}
                () = at(end.filter(|end| *end > Instant::now())) => self.tell(),
            }
        }
        self.release().await;
    }

    fn complain(&mut self, reason: String) {
        if self.complained.as_ref() != Some(&reason) {
            tracing::warn!(
                lease = NAME,
                reason,
                "cannot take part in the election; trying again"
            );
            self.complained = Some(reason);
        }
    }

    fn tell(&mut self) {
        let leads = self.candidate.leads(Instant::now());
        if !leads {
            self.candidate.lost();
        }
        let changed = self
            .leads
            .send_if_modified(|now| std::mem::replace(now, leads) != leads);
        if changed {
            tracing::info!(leads, identity = self.identity, "leadership changed");
        }
    }

    /// One look at the lease, and what follows from it.
    async fn turn(&mut self) -> Result<(), kube::Error> {
        // The holder writes without looking: the write fails where another one wrote.
        if !self.candidate.leads(Instant::now()) || self.current.is_none() {
            self.current = self.leases.get_opt(NAME).await?;
        }
        let sent = Instant::now();
        let step = self.candidate.step(self.current.as_ref().map(record), sent);
        let written = match step {
            Step::Wait => {
                self.candidate.lost();
                self.current = None;
                return Ok(());
            }
            Step::Create => {
                self.leases
                    .create(&PostParams::default(), &self.lease(None))
                    .await
            }
            Step::Take | Step::Renew => {
                let lease = self.lease(self.current.as_ref());
                self.leases.replace(NAME, &PostParams::default(), &lease).await
            }
        };
        self.take_note(written, sent)
    }

    fn take_note(&mut self, written: Result<Lease, kube::Error>, sent: Instant) -> Result<(), kube::Error> {
        match written {
            Ok(lease) => {
                self.current = Some(lease);
                self.candidate.wrote(sent);
                Ok(())
            }
            // Another one was quicker; the next look says who.
            Err(error) if matches!(code(&error), Some(409)) => {
                self.current = None;
                self.candidate.lost();
                Ok(())
            }
            Err(error) => {
                self.current = None;
                Err(error)
            }
        }
    }

    fn lease(&self, old: Option<&Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let mut spec = old.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |n| n.saturating_add(1)));
            spec.acquire_time = Some(now.clone());
        }
        Lease {
            metadata: metadata(old),
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(LEASE.as_secs().try_into().unwrap_or(i32::MAX)),
                renew_time: Some(now),
                ..spec
            }),
        }
    }

    /// Lets the next one start at once instead of after the lease's duration.
    async fn release(&mut self) {
        self.leads.send_replace(false);
        if !self.candidate.leads(Instant::now()) {
            return;
        }
        let Some(mut lease) = self.current.take() else {
            return;
        };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
        }
        lease.metadata.managed_fields = None;
        let parameters = PostParams::default();
        let write = self.leases.replace(NAME, &parameters, &lease);
        if !matches!(timeout(RETRY, write).await, Ok(Ok(_))) {
            tracing::info!(
                lease = NAME,
                "not given back; another replica takes it when it has run out"
            );
        }
    }
}

fn metadata(old: Option<&Lease>) -> ObjectMeta {
    ObjectMeta {
        name: Some(NAME.to_owned()),
        labels: Some([(MADE_BY_LABEL.to_owned(), MADE_BY.to_owned())].into()),
        // The API server refuses the write where the version is not the newest.
        resource_version: old.and_then(|lease| lease.metadata.resource_version.clone()),
        ..ObjectMeta::default()
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    Record {
        holder: spec.holder_identity.unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
        duration: Duration::from_secs(seconds.max(1).unsigned_abs().into()),
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
