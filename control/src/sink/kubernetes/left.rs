//! What an earlier run, or another replica, left: objects it made, and which services are behind a waypoint.

use kube::api::{DynamicObject, ListParams};
use kube::{Api, Client};
use serde_json::Value;

use crate::compile::report::bound_waypoint;
use crate::compile::waypoints::MANAGED_LABEL;
use crate::kubernetes::kinds::{self, Kind};
use crate::kubernetes::{MADE_BY, MADE_BY_LABEL};
use crate::objects::ObjectKey;
use crate::sink::Left;

const PAGE: u32 = 500;

pub(super) async fn load(client: &Client) -> Result<Left, Box<kube::Error>> {
    let mut left = Left::default();
    let made = format!("{MADE_BY_LABEL}={MADE_BY},{MANAGED_LABEL}");
    for (group, kind) in [
        ("", "ServiceAccount"),
        ("", "Service"),
        ("apps", "Deployment"),
        ("autoscaling", "HorizontalPodAutoscaler"),
        ("policy", "PodDisruptionBudget"),
    ] {
        let parameters = ListParams::default().labels(&made);
        let objects = list(client, group, kind, &parameters, Some).await?;
        left.objects.extend(objects);
    }
    let bound = |service: Value| bound_waypoint(&service).is_some().then_some(service);
    let services = list(client, "", "Service", &ListParams::default(), bound).await?;
    left.statuses.extend(services);
    Ok(left)
}

/// Every object of a kind for which `keep` keeps something, a page at a time.
async fn list(
    client: &Client,
    group: &str,
    kind: &str,
    parameters: &ListParams,
    keep: impl Fn(Value) -> Option<Value>,
) -> Result<Vec<(ObjectKey, Value)>, Box<kube::Error>> {
    let Some(known) = kinds::of(&ObjectKey::new(group, kind, "", "")) else {
        return Ok(Vec::new());
    };
    let api = api(client, &known);
    let mut parameters = parameters.clone().limit(PAGE);
    let mut found = Vec::new();
    loop {
        let page = api.list(&parameters).await?;
        for object in page.items {
            let (namespace, name) = (object.metadata.namespace.clone(), object.metadata.name.clone());
            let key = ObjectKey::new(
                group,
                kind,
                &namespace.unwrap_or_default(),
                &name.unwrap_or_default(),
            );
            let value = serde_json::to_value(object).ok();
            found.extend(value.and_then(&keep).map(|value| (key, value)));
        }
        parameters.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if parameters.continue_token.is_none() {
            return Ok(found);
        }
    }
}

fn api(client: &Client, kind: &Kind) -> Api<DynamicObject> {
    let version = kind.versions.first().copied().unwrap_or("v1");
    Api::all_with(client.clone(), &kind.resource(version))
}
