//! Carries the desk's differences to the API server, for as long as this replica leads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use kube::api::{
    DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::desk::{Action, Desk, Place};
use super::{event, has_status};
use crate::kubernetes::backoff::Backoff;
use crate::kubernetes::{CALL_TIMEOUT, FIELD_MANAGER, code, explain, kinds};
use crate::objects::ObjectKey;

/// Actions that are taken from the desk at once, and how many of them are under way side by side.
const BATCH: usize = 64;
const AT_ONCE: usize = 8;
/// What the API server refuses is tried again this much later: something else has to change first.
const REFUSED_AGAIN: Duration = Duration::from_secs(60);

pub struct Writer {
    client: Client,
    desk: Arc<Desk>,
    leads: watch::Receiver<bool>,
    /// Name of this replica, in events.
    instance: Arc<str>,
}

impl Writer {
    pub fn new(client: Client, desk: Arc<Desk>, leads: watch::Receiver<bool>, instance: &str) -> Self {
        Self {
            client,
            desk,
            leads,
            instance: instance.into(),
        }
    }

    pub async fn run(mut self, cancel: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut led = false;
        loop {
            let leads = *self.leads.borrow_and_update();
            if leads && !led {
                self.desk.look_again();
            }
            led = leads;
            let (actions, next) = self.desk.due(leads, Instant::now(), BATCH);
            if actions.is_empty() {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = self.desk.work() => {}
                    changed = self.leads.changed() => if changed.is_err() { return },
                    () = at(next) => {}
                }
                continue;
            }
            let places: Vec<Place> = actions.iter().map(|(place, _)| place.clone()).collect();
            let mut lead = self.leads.clone();
            let all_went_well = tokio::select! {
                () = cancel.cancelled() => return,
                // Dropped with everything that is under way.
                _ = lead.wait_for(|leads| *leads != led) => {
                    places.into_iter().for_each(|place| self.desk.put_back(place, None));
                    continue;
                }
                went_well = self.perform(actions, &backoff) => went_well,
            };
            if all_went_well {
                backoff.reset();
            } else {
                backoff.pause();
            }
        }
    }

    /// Deployments come last: their pods need the service account, and would be tried again much later without it.
    async fn perform(&self, actions: Vec<(Place, Action)>, backoff: &Backoff) -> bool {
        let (last, first) = actions.into_iter().partition(|(place, _)| is_deployment(place));
        let first = self.side_by_side(first, backoff).await;
        self.side_by_side(last, backoff).await && first
    }

    async fn side_by_side(&self, actions: Vec<(Place, Action)>, backoff: &Backoff) -> bool {
        let done = stream::iter(actions).map(|(place, action)| {
            let mut backoff = backoff.clone();
            async move {
                let outcome = timeout(CALL_TIMEOUT, self.act(&place, &action)).await;
                self.settle(place, outcome, || backoff.pause())
            }
        });
        let results: Vec<bool> = done.buffer_unordered(AT_ONCE).collect().await;
        results.into_iter().all(|well| well)
    }

    fn settle(
        &self,
        place: Place,
        outcome: Result<Result<Option<Value>, kube::Error>, tokio::time::error::Elapsed>,
        pause: impl FnOnce() -> Duration,
    ) -> bool {
        let now = Instant::now();
        let (Place::Object(key) | Place::Status(key)) = &place;
        let (reason, again) = match outcome {
            Ok(Ok(seen)) => {
                self.desk.done(&place, seen.as_ref(), now);
                return true;
            }
            // The object went meanwhile; the watch says so too.
            Ok(Err(error)) if code(&error) == Some(404) && matches!(place, Place::Status(_)) => {
                self.desk.done(&place, None, now);
                return true;
            }
            Ok(Err(error)) if is_refusal(&error) => (explain(&error), REFUSED_AGAIN),
            Ok(Err(error)) => (explain(&error), pause()),
            Err(_) => ("no answer in time".to_owned(), pause()),
        };
        tracing::warn!(object = %key, reason, again_in = ?again, "cannot write to the API server");
        self.desk.put_back(place, Some(now + again));
        false
    }

    async fn act(&self, place: &Place, action: &Action) -> Result<Option<Value>, kube::Error> {
        let (Place::Object(key) | Place::Status(key)) = place;
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        match action {
            Action::Apply(value) => {
                let Some(api) = self.api(key, value) else {
                    return Ok(None);
                };
                let applied = api.patch(&key.name, &apply, &Patch::Apply(value)).await?;
                tracing::info!(object = %key, "object applied");
                Ok(json(&applied))
            }
            Action::Delete { uid } => {
                self.delete(key, uid).await?;
                Ok(None)
            }
            Action::Status { value, uid, before } if !has_status(key) => {
                self.tell(key, value, uid.as_deref(), before).await;
                let mut said = value.clone();
                said["metadata"]["uid"] = uid.as_deref().into();
                Ok(Some(said))
            }
            Action::Status { value, uid, before } => {
                let Some(api) = self.api(key, value) else {
                    return Ok(None);
                };
                let patched = api.patch_status(&key.name, &apply, &Patch::Apply(value)).await?;
                self.tell(key, value, uid.as_deref(), before).await;
                Ok(json(&patched))
            }
        }
    }

    /// Deletes the object that was seen, not one that took its name since.
    async fn delete(&self, key: &ObjectKey, uid: &str) -> Result<(), kube::Error> {
        let Some(kind) = kinds::of(key) else { return Ok(()) };
        let Some(version) = kind.versions.first() else {
            return Ok(());
        };
        let api = self.api_of(&kind, version, &key.namespace);
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match api.delete(&key.name, &parameters).await {
            // 409: another object has the name now.
            Err(error) if !matches!(code(&error), Some(404 | 409)) => Err(error),
            _ => {
                tracing::info!(object = %key, "object deleted");
                Ok(())
            }
        }
    }

    /// An Event where an object is refused that was not, or for another reason.
    async fn tell(&self, key: &ObjectKey, value: &Value, uid: Option<&str>, before: &Value) {
        let Some(event) = event::of_refusal(key, value, uid, before, &self.instance) else {
            return;
        };
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let api = Api::namespaced(self.client.clone(), &namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(object = %key, reason = explain(&error), "event not written");
        }
    }

    fn api(&self, key: &ObjectKey, value: &Value) -> Option<Api<DynamicObject>> {
        let kind = kinds::of(key)?;
        let api_version = value.get("apiVersion")?.as_str()?;
        let version = api_version.rsplit('/').next()?;
        Some(self.api_of(&kind, version, &key.namespace))
    }

    fn api_of(&self, kind: &kinds::Kind, version: &str, namespace: &str) -> Api<DynamicObject> {
        let (client, resource) = (self.client.clone(), kind.resource(version));
        if kind.is_of_the_cluster() {
            return Api::all_with(client, &resource);
        }
        Api::namespaced_with(client, namespace, &resource)
    }
}

fn is_deployment(place: &Place) -> bool {
    matches!(place, Place::Object(key) if &*key.kind == "Deployment")
}

fn json(object: &DynamicObject) -> Option<Value> {
    let mut value = serde_json::to_value(object).ok()?;
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    Some(value)
}

/// Whether asking again soon would get the same answer.
fn is_refusal(error: &kube::Error) -> bool {
    matches!(code(error), Some(400 | 401 | 403 | 404 | 405 | 422))
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
