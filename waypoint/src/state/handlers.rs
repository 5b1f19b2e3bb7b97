//! The xDS resource handlers: decode, hand to the writer, name what was rejected.

use std::sync::Arc;

use aquifer_core::http::cluster::{Cluster, Endpoints};
use aquifer_core::http::listener::Listener;
use aquifer_core::http::table::RouteTable;
use aquifer_core::snapshot::Change;
use aquifer_xds::convert::{Address, decode_authorization};
use aquifer_xds::envoy::{Resource, Secret, decode};
use aquifer_xds::handler::{Rejected, ResourceHandler, Update};
use aquifer_xds::type_url;
use parking_lot::Mutex;

use super::{Changes, StateWriter};

/// Handlers run on the stream's task, one at a time, and answers of name servers come on the same thread: the lock is
/// never contended, and never held over an await.
pub(crate) type Writer = Arc<Mutex<StateWriter>>;

/// One handler for each type: policies before the workloads that list them, clusters and endpoints before the routes
/// that lead to them, secrets before the listeners that name them.
pub(crate) fn all(writer: &Writer) -> Vec<Box<dyn ResourceHandler>> {
    vec![
        Box::new(PolicyHandler(writer.clone())),
        Box::new(MeshHandler(writer.clone())),
        Box::new(EnvoyHandler::<Secret>::new(
            type_url::SECRET,
            writer,
            StateWriter::secrets,
        )),
        Box::new(EnvoyHandler::<Cluster>::new(
            type_url::CLUSTER,
            writer,
            StateWriter::clusters,
        )),
        Box::new(EnvoyHandler::<Endpoints>::new(
            type_url::ENDPOINTS,
            writer,
            StateWriter::endpoints,
        )),
        Box::new(EnvoyHandler::<Listener>::new(
            type_url::LISTENER,
            writer,
            StateWriter::listeners,
        )),
        Box::new(EnvoyHandler::<RouteTable>::new(
            type_url::ROUTES,
            writer,
            StateWriter::routes,
        )),
    ]
}

/// Handler of one Envoy type.
struct EnvoyHandler<R> {
    type_url: &'static str,
    writer: Writer,
    apply: fn(&mut StateWriter, Changes<R>),
}

impl<R> EnvoyHandler<R> {
    fn new(type_url: &'static str, writer: &Writer, apply: fn(&mut StateWriter, Changes<R>)) -> Self {
        Self {
            type_url,
            writer: writer.clone(),
            apply,
        }
    }
}

impl<R: Resource + Send> ResourceHandler for EnvoyHandler<R> {
    fn type_url(&self) -> &'static str {
        self.type_url
    }

    fn apply(&mut self, updates: Vec<Update>, removals: Vec<String>) -> Result<(), Vec<Rejected>> {
        let (put, rejected) = split(updates.iter().map(decode::<R>));
        (self.apply)(
            &mut self.writer.lock(),
            Changes {
                put,
                remove: removals,
            },
        );
        outcome(rejected)
    }
}

/// Handler of the policies of the workloads behind this proxy.
struct PolicyHandler(Writer);

impl ResourceHandler for PolicyHandler {
    fn type_url(&self) -> &'static str {
        type_url::AUTHORIZATION
    }

    fn apply(&mut self, updates: Vec<Update>, removals: Vec<String>) -> Result<(), Vec<Rejected>> {
        let (policies, rejected) = split(updates.iter().map(decode_authorization));
        let removed = removals.into_iter().map(|name| Change::RemovePolicy(name.into()));
        let put = policies
            .into_iter()
            .map(|policy| Change::Policy(Arc::new(policy)));
        self.0.lock().mesh(removed.chain(put).collect());
        outcome(rejected)
    }
}

/// Handler of the workload API: source labels and telemetry.
struct MeshHandler(Writer);

impl ResourceHandler for MeshHandler {
    fn type_url(&self) -> &'static str {
        type_url::ADDRESS
    }

    fn apply(&mut self, updates: Vec<Update>, removals: Vec<String>) -> Result<(), Vec<Rejected>> {
        let (addresses, rejected) = split(updates.iter().map(Address::decode));
        let removed = removals
            .into_iter()
            .map(|name| Change::RemoveAddress(name.into()));
        let put = addresses.into_iter().map(|address| match address {
            Address::Workload(workload) => Change::Workload(Arc::from(workload)),
            Address::Service(service) => Change::Service(Arc::from(service)),
        });
        self.0.lock().mesh(removed.chain(put).collect());
        outcome(rejected)
    }
}

fn split<T>(decoded: impl Iterator<Item = Result<T, Rejected>>) -> (Vec<T>, Vec<Rejected>) {
    let mut good = Vec::new();
    let mut bad = Vec::new();
    for result in decoded {
        match result {
            Ok(resource) => good.push(resource),
            Err(rejected) => bad.push(rejected),
        }
    }
    (good, bad)
}

fn outcome(rejected: Vec<Rejected>) -> Result<(), Vec<Rejected>> {
    if rejected.is_empty() {
        Ok(())
    } else {
        Err(rejected)
    }
}
