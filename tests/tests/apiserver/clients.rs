//! Callers of the control plane: for certificates, and as a node agent.

use std::path::PathBuf;

use aquifer_core::identity::SpiffeId;
use aquifer_identity::csr::new_csr;
use aquifer_identity::{CertificateSource, SignError};
use aquifer_xds::ca::{Asking, CaClient};
use aquifer_xds::channel::ControlPlane;
use aquifer_xds::client::{AdsClient, AdsConfig, NodeId, synced};
use aquifer_xds::handler::{Rejected, ResourceHandler, Update};
use aquifer_xds::token::TokenFile;
use aquifer_xds::type_url;
use tokio::runtime::Runtime;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::control::Control;
use crate::world::{PATIENCE, World};

pub(crate) struct Clients<'a> {
    world: &'a World,
    runtime: Runtime,
    address: String,
    root: PathBuf,
}

impl<'a> Clients<'a> {
    pub(crate) fn new(world: &'a World, control: &Control) -> Self {
        let root = world.file("root.pem");
        let pem = [
            "get",
            "configmap",
            "istio-ca-root-cert",
            "-n",
            "istio-system",
            "-o",
            r"jsonpath={.data.root-cert\.pem}",
        ];
        world.until("there is a root certificate", || {
            world
                .try_kubectl(&pem)
                .is_some_and(|pem| std::fs::write(&root, pem).is_ok())
        });
        Self {
            world,
            runtime: Runtime::new().unwrap(),
            address: control.address(),
            root,
        }
    }

    fn control_plane(&self) -> ControlPlane {
        ControlPlane::new(&self.address, &self.root).unwrap()
    }

    fn token(&self, token: &str) -> TokenFile {
        let file = self.world.file("token");
        std::fs::write(&file, token).unwrap();
        TokenFile::new(file)
    }

    fn ask(&self, token: &str, own: &SpiffeId, for_pod: Option<&SpiffeId>) -> Result<Vec<String>, SignError> {
        let asking = if for_pod.is_some() {
            Asking::ForPods
        } else {
            Asking::ForItself
        };
        let identity = for_pod.unwrap_or(own);
        let csr = new_csr(identity).unwrap();
        let (control_plane, token) = (self.control_plane(), self.token(token));
        self.runtime.block_on(async {
            let client = CaClient::new(&control_plane, token, "Kubernetes", asking);
            client.sign(identity, csr.csr_pem()).await
        })
    }

    /// The pod may be younger than what the control plane has seen.
    pub(crate) fn gets(&self, token: &str, own: &SpiffeId, for_pod: Option<&SpiffeId>) {
        self.world.until("a certificate is issued", || {
            self.ask(token, own, for_pod).is_ok()
        });
    }

    pub(crate) fn issues(&self, token: &str, own: &SpiffeId) -> bool {
        self.ask(token, own, None).is_ok()
    }

    pub(crate) fn refuses(&self, token: &str, own: &SpiffeId, for_pod: Option<&SpiffeId>, why: &str) {
        let error = self.ask(token, own, for_pod).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }

    pub(crate) fn is_refused(&self, token: &str, own: &SpiffeId, for_pod: Option<&SpiffeId>) -> bool {
        self.ask(token, own, for_pod).is_err()
    }

    /// A node agent that takes whatever it is told, until dropped.
    pub(crate) fn agent(&self, token: &str, pod: &str) -> DropGuard {
        self.follow(
            token,
            pod,
            &[type_url::TRUST, type_url::ADDRESS, type_url::AUTHORIZATION],
        )
    }

    /// One that does not ask whom to trust, as another mesh's does not.
    pub(crate) fn ignorant_agent(&self, token: &str, pod: &str) -> DropGuard {
        self.follow(token, pod, &[type_url::ADDRESS, type_url::AUTHORIZATION])
    }

    /// A gateway that takes whatever it is told, but for the resources of the type that it refuses; until dropped.
    pub(crate) fn gateway(
        &self,
        token: &str,
        (namespace, pod): (&str, &str),
        refuses: Option<&'static str>,
    ) -> DropGuard {
        let types = [
            type_url::TRUST,
            type_url::ADDRESS,
            type_url::AUTHORIZATION,
            type_url::CLUSTER,
            type_url::ENDPOINTS,
            type_url::LISTENER,
            type_url::ROUTES,
        ];
        let handlers = types.map(|url| match refuses {
            Some(refused) if refused == url => Box::new(Refuses(url)) as Box<dyn ResourceHandler>,
            _ => Box::new(Takes(url)),
        });
        let node = NodeId {
            proxy_type: "router",
            ip: "127.0.0.1",
            pod,
            namespace,
        };
        self.run(token, node, handlers.into())
    }

    fn follow(&self, token: &str, pod: &str, types: &[&'static str]) -> DropGuard {
        let node = NodeId {
            proxy_type: "ztunnel",
            ip: "127.0.0.1",
            pod,
            namespace: "istio-system",
        };
        let handlers = types
            .iter()
            .map(|url| Box::new(Takes(url)) as Box<dyn ResourceHandler>);
        self.run(token, node, handlers.collect())
    }

    /// Answers when each type has come once.
    fn run(&self, token: &str, node: NodeId<'_>, handlers: Vec<Box<dyn ResourceHandler>>) -> DropGuard {
        let config = AdsConfig {
            control_plane: self.control_plane(),
            token: self.token(token),
            cluster: "Kubernetes".to_owned(),
            node: node.into_node("Kubernetes", "node-1"),
        };
        let (client, mut status) = AdsClient::new(config);
        let cancel = CancellationToken::new();
        self.runtime.spawn(client.run(handlers, cancel.clone()));
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, synced(&mut status)).await })
            .expect("the proxy is in sync in time")
            .unwrap();
        cancel.drop_guard()
    }
}

struct Takes(&'static str);

impl ResourceHandler for Takes {
    fn type_url(&self) -> &'static str {
        self.0
    }

    fn apply(&mut self, _: Vec<Update>, _: Vec<String>) -> Result<(), Vec<Rejected>> {
        Ok(())
    }
}

/// What a proxy does that cannot read what it is sent.
struct Refuses(&'static str);

impl Refuses {
    const WHY: &str = "this client cannot read it";
}

impl ResourceHandler for Refuses {
    fn type_url(&self) -> &'static str {
        self.0
    }

    fn apply(&mut self, updates: Vec<Update>, _: Vec<String>) -> Result<(), Vec<Rejected>> {
        let rejected: Vec<Rejected> = updates
            .into_iter()
            .map(|update| Rejected::new(update.name, Self::WHY))
            .collect();
        match rejected.is_empty() {
            true => Ok(()),
            false => Err(rejected),
        }
    }
}
