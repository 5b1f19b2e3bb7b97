//! The API server, filled as fast as it takes objects.

use std::path::Path;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use http::{Method, Request};
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use super::ControlBenchError;
use super::fleet::Client;
use super::objects::{self, Patch, Wanted};

/// Requests under way at a time; the API server has two processors to itself and us.
const PARALLEL: usize = 48;
const MERGE_PATCH: &str = "application/merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";

#[derive(Clone)]
pub(super) struct Api(kube::Client);

impl Api {
    pub(super) async fn open(kubeconfig: &Path) -> Result<Self, ControlBenchError> {
        let read = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        Ok(Self(kube::Client::try_from(config)?))
    }

    /// Creates all; what is there already is replaced in what it says.
    pub(super) async fn fill(&self, wanted: impl Iterator<Item = Wanted>) -> Result<(), ControlBenchError> {
        stream::iter(wanted.map(Ok))
            .try_for_each_concurrent(PARALLEL, |one| self.put(one))
            .await
    }

    /// Creates all of what is not there yet: half the work of [`Api::fill`].
    pub(super) async fn create(&self, wanted: impl Iterator<Item = Wanted>) -> Result<(), ControlBenchError> {
        stream::iter(wanted.map(Ok))
            .try_for_each_concurrent(PARALLEL, |one| self.post(one))
            .await
    }

    async fn post(&self, wanted: Wanted) -> Result<(), ControlBenchError> {
        self.send(Method::POST, &wanted.collection, None, &wanted.object)
            .await?;
        self.set_status(&wanted).await
    }

    async fn put(&self, wanted: Wanted) -> Result<(), ControlBenchError> {
        let name = wanted.object["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{}/{name}", wanted.collection);
        let applied = format!("{path}?fieldManager=bench&force=true");
        self.send(Method::PATCH, &applied, Some(APPLY_PATCH), &wanted.object)
            .await?;
        self.set_status(&wanted).await
    }

    async fn set_status(&self, wanted: &Wanted) -> Result<(), ControlBenchError> {
        let Some(status) = &wanted.status else {
            return Ok(());
        };
        let name = wanted.object["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{}/{name}/status", wanted.collection);
        let body = json!({"status": status});
        self.send(Method::PATCH, &path, Some(MERGE_PATCH), &body)
            .await
            .map(drop)
    }

    pub(super) async fn patch(&self, (path, body): &Patch) -> Result<(), ControlBenchError> {
        self.send(Method::PATCH, path, Some(MERGE_PATCH), body)
            .await
            .map(drop)
    }

    /// A token of the mesh's audience that is bound to a pod.
    pub(super) async fn token(
        &self,
        namespace: &str,
        account: &str,
        pod: &str,
    ) -> Result<String, ControlBenchError> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": ["istio-ca"],
                "expirationSeconds": 7200,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod},
            },
        });
        let answer = self.send(Method::POST, &path, None, &body).await?;
        Ok(answer["status"]["token"].as_str().unwrap_or_default().to_owned())
    }

    /// The clients with their tokens.
    pub(super) async fn tokens(
        &self,
        clients: impl Iterator<Item = Client>,
    ) -> Result<Vec<(Client, String)>, ControlBenchError> {
        let token = async |client: Client| {
            let (namespace, pod) = client.pod();
            let account = match client {
                Client::Agent(_) => objects::AGENT_ACCOUNT,
                Client::Waypoint(_) => objects::WAYPOINT,
            };
            let token = self.token(&namespace, account, &pod).await?;
            Ok((client, token))
        };
        stream::iter(clients.map(token))
            .buffered(PARALLEL)
            .try_collect()
            .await
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, ControlBenchError> {
        let request = Request::get(path).body(Vec::new())?;
        Ok(self.0.request(request).await?)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content: Option<&str>,
        body: &Value,
    ) -> Result<Value, ControlBenchError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content.unwrap_or("application/json"))
            .body(body.to_string().into_bytes())?;
        Ok(self.0.request(request).await?)
    }
}
