//! The root that the API server checks the webhook's certificate with, kept in the webhook's configuration.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::authority::Active;
use crate::kubernetes::{CALL_TIMEOUT, FIELD_MANAGER};

/// The chart's name of the one webhook in the configuration; the API server merges the list by it.
const WEBHOOK: &str = "validation.aquifer.istio.io";
/// An upgrade may have taken the root out; writing what is there already changes nothing.
const AGAIN: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);

/// Writes the root for as long as this replica leads.
pub struct Bundle {
    client: Client,
    /// Name of the ValidatingWebhookConfiguration.
    configuration: String,
    authority: Active,
    leads: watch::Receiver<bool>,
}

impl Bundle {
    pub fn new(client: Client, configuration: &str, authority: Active, leads: watch::Receiver<bool>) -> Self {
        Self {
            client,
            configuration: configuration.to_owned(),
            authority,
            leads,
        }
    }

    pub async fn run(mut self, cancel: CancellationToken) {
        loop {
            let pause = if *self.leads.borrow_and_update() {
                self.write().await
            } else {
                AGAIN
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = self.leads.changed() => if changed.is_err() { return },
                changed = self.authority.changed() => if changed.is_err() { return },
                () = sleep(pause) => {}
            }
        }
    }

    /// How long to wait until the next look.
    async fn write(&self) -> Duration {
        let api: Api<ValidatingWebhookConfiguration> = Api::all(self.client.clone());
        let roots = self.authority.borrow().roots_pem();
        let patch = Patch::Strategic(patch(&roots));
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let call = api.patch(&self.configuration, &parameters, &patch);
        let problem = match timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(_)) => return AGAIN,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the API server did not answer".to_owned(),
        };
        tracing::warn!(configuration = %self.configuration, error = %problem, "cannot write the webhook's root; trying again");
        RETRY
    }
}

fn patch(roots: &str) -> Value {
    let client = json!({ "caBundle": STANDARD.encode(roots) });
    json!({ "webhooks": [{ "name": WEBHOOK, "clientConfig": client }] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_root_is_written() {
        let patch = patch("PEM");
        assert_eq!(patch["webhooks"][0]["name"], WEBHOOK);
        assert_eq!(
            patch["webhooks"][0]["clientConfig"],
            json!({ "caBundle": "UEVN" })
        );
    }
}
