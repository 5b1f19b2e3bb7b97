//! An agent speaks for the pods of its own node: for their certificates, and in its reports on them.

use aquifer_core::identity::SpiffeId;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::clients::Clients;
use crate::forge;
use crate::world::{World, helm_template};

/// A node that nobody runs, and an agent and a pod on it.
const FAR: &str = r"
apiVersion: v1
kind: Node
metadata: {name: far-away}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: far, namespace: default}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: default}
spec:
  nodeName: far-away
  serviceAccountName: far
  containers: [{name: far, image: 'aquifer-cluster/app:1', args: [serve, '8080']}]
---
apiVersion: v1
kind: Pod
metadata: {name: far-agent, namespace: istio-system}
spec:
  nodeName: far-away
  serviceAccountName: aquifer-agent
  containers: [{name: agent, image: 'aquifer-cluster/app:1', args: [serve, '8080']}]
";
const FAR_PODS: [(&str, &str); 2] = [("default", "far"), ("istio-system", "far-agent")];
const RUNS: &str = r#"{"status":{"phase":"Running","podIP":"192.0.2.7","podIPs":[{"ip":"192.0.2.7"}],"conditions":[{"type":"Ready","status":"True"}]}}"#;

const REPORT: &str = "ambient.istio.io/redirection";
const OTHER_NODE: &str = "an agent may change pods of its own node only";
const OTHER_FIELD: &str = "an agent may change the annotation ambient.istio.io/redirection only";

/// Pod `web` and agent `agent` run on the one real node.
pub(crate) fn agents_speak_for_their_own_node_alone(world: &World, clients: &Clients<'_>) {
    world.apply(FAR);
    for (namespace, pod) in FAR_PODS {
        let status = "--subresource=status";
        world.kubectl(&["patch", "pod", pod, "-n", namespace, status, "-p", RUNS]);
    }
    certificates(world, clients);
    reports(world);
    for (namespace, pod) in FAR_PODS {
        world.kubectl(&["delete", "pod", pod, "-n", namespace, "--force"]);
    }
    world.kubectl(&["delete", "node", "far-away"]);
}

/// Tokens of TokenRequest, bound to the agents' pods.
fn certificates(world: &World, clients: &Clients<'_>) {
    let id = |text: &str| SpiffeId::parse(&format!("spiffe://cluster.local/ns/{text}")).unwrap();
    let (far, web) = (id("default/sa/far"), id("default/sa/web"));
    let agent = id("istio-system/sa/aquifer-agent");
    let token = |pod: &str, audience: &str| world.token("istio-system", "aquifer-agent", pod, audience);
    let (here, there) = (token("agent", "istio-ca"), token("far-agent", "istio-ca"));
    clients.gets(&there, &agent, None);
    // Each gets what the other is refused.
    clients.gets(&there, &far, Some(&far));
    clients.refuses(&here, &far, Some(&far), "no running pod of node node-1");
    clients.gets(&here, &web, Some(&web));
    clients.refuses(&there, &web, Some(&web), "no running pod of node far-away");
    clients.refuses(&forge(&here), &web, Some(&web), "does not accept");
    clients.refuses(&token("agent", "vault"), &web, Some(&web), "audience");
}

/// By the chart's admission policy: RBAC lets an agent patch any pod.
fn reports(world: &World) {
    let policy = "templates/agent/admission-policy.yaml";
    let chart = ["aquifer", "-n", "istio-system", "-s", policy];
    world.apply(&helm_template("deploy/chart", &chart));
    let (here, there) = (Agent::new(world, "agent"), Agent::new(world, "far-agent"));
    world.until_said("the policy is in effect", || {
        match here.tries("far", &report(REPORT)) {
            Err(said) if said.contains(OTHER_NODE) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    here.patches("web", &report(REPORT)).unwrap();
    there.patches("far", &report(REPORT)).unwrap();
    let withdrawn = json!({"metadata": {"annotations": {REPORT: null}}});
    here.patches("web", &withdrawn).unwrap();
    for (agent, pod) in [(&here, "far"), (&there, "web")] {
        let said = agent.patches(pod, &report(REPORT)).unwrap_err();
        assert!(said.contains(OTHER_NODE), "{said}");
    }
    for patch in [
        report("example.com/other"),
        json!({"metadata": {"annotations": {REPORT: "enabled", "example.com/other": "enabled"}}}),
        json!({"metadata": {"labels": {"app": "other"}}}),
        json!({"metadata": {"finalizers": ["example.com/other"]}}),
        json!({"spec": {"containers": [{"name": "web", "image": "example.com/other"}]}}),
        json!({"spec": {"activeDeadlineSeconds": 1}}),
    ] {
        let said = here.patches("web", &patch).unwrap_err();
        assert!(said.contains(OTHER_FIELD), "{patch}: {said}");
    }
    for said in [here.patches_status("web"), here.deletes("web")] {
        let said = said.unwrap_err();
        assert!(said.contains("forbidden"), "{said}");
    }
}

fn report(annotation: &str) -> Value {
    json!({"metadata": {"annotations": {annotation: "enabled"}}})
}

/// An agent's way to the API server, with the token of its pod.
struct Agent {
    runtime: Runtime,
    client: Client,
}

impl Agent {
    fn new(world: &World, pod: &str) -> Self {
        let bound = format!("--bound-object-name={pod}");
        let account = ["create", "token", "aquifer-agent", "-n", "istio-system"];
        let token = world.kubectl(&[&account[..], &["--bound-object-kind=Pod", &bound]].concat());
        let kubeconfig = Kubeconfig::read_from(world.kubeconfig_with(&token, pod)).unwrap();
        let runtime = Runtime::new().unwrap();
        let client = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .unwrap();
            Client::try_from(config).unwrap()
        });
        Self { runtime, client }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    fn patches(&self, pod: &str, patch: &Value) -> Result<(), String> {
        self.patch(pod, patch, false)
    }

    /// Without its being stored.
    fn tries(&self, pod: &str, patch: &Value) -> Result<(), String> {
        self.patch(pod, patch, true)
    }

    fn patch(&self, pod: &str, patch: &Value, dry_run: bool) -> Result<(), String> {
        let parameters = PatchParams {
            dry_run,
            field_manager: Some("aquifer-agent".to_owned()),
            ..PatchParams::default()
        };
        let (pods, patch) = (self.pods(), Patch::Strategic(patch));
        let call = pods.patch_metadata(pod, &parameters, &patch);
        self.runtime
            .block_on(call)
            .map(drop)
            .map_err(|error| error.to_string())
    }

    fn patches_status(&self, pod: &str) -> Result<(), String> {
        let (pods, patch) = (self.pods(), Patch::Merge(json!({"status": {"phase": "Failed"}})));
        let parameters = PatchParams::default();
        let call = pods.patch_status(pod, &parameters, &patch);
        self.runtime
            .block_on(call)
            .map(drop)
            .map_err(|error| error.to_string())
    }

    fn deletes(&self, pod: &str) -> Result<(), String> {
        let (pods, parameters) = (self.pods(), DeleteParams::default());
        let call = pods.delete(pod, &parameters);
        self.runtime
            .block_on(call)
            .map(drop)
            .map_err(|error| error.to_string())
    }
}
