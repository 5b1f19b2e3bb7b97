//! The loop: events in, one compilation, publication, statuses.
//!
//! A pod that changes is told of at once. Rules wait a moment for others that belong to them. Where much changes, models
//! are published as fast as they can be made and taken, and no faster: what comes meanwhile goes along with the next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::compile::gateway_api::listeners;
use crate::compile::inputs::Inputs;
use crate::compile::report::{PodName, bound_waypoint};
use crate::compile::selected::Selected;
use crate::compile::waypoints::{MANAGED_BY, MANAGED_LABEL, WaypointKey};
use crate::compile::{
    Carry, Compiled, Moment, Settings, compile, credentials, discovery, is_endpoint, report,
};
use crate::mesh_config::MeshConfig;
use crate::metrics::ModelMetrics;
use crate::objects::{ObjectKey, ParsedObject};
use crate::peers::Elsewhere;
use crate::serve::registry::ProxyRegistry;
use crate::sink::{Batch, Left, ObjectSink};
use crate::snapshots::Snapshots;
use crate::source::SecretsWatch;
use crate::status::Statuses;
use crate::store::{Changes, SourceEvent, Store};

/// Rules and services are compiled when nothing came for this long: they come in groups that belong together.
const QUIET: Duration = Duration::from_millis(10);
/// Any change is compiled this long after it came.
const LONGEST: Duration = Duration::from_millis(100);
/// What telling one proxy of a change takes, about: a new model waits until the last one may have been told.
const PER_PROXY: Duration = Duration::from_micros(50);
/// Acknowledgements that come within this time are written as one.
const STATUS_PAUSE: Duration = Duration::from_millis(50);
/// A sink that failed is tried again.
const SINK_RETRY: Duration = Duration::from_secs(2);

/// For the first look at the Secrets of gateways.
const LONGEST_LOOK: Duration = Duration::from_secs(30);

/// What the debug endpoints read. The lock protects both against being half updated; never held over an await.
#[derive(Default)]
pub struct View {
    pub store: Store,
    pub statuses: Statuses,
}

pub struct Pipeline {
    settings: Arc<Settings>,
    view: Arc<RwLock<View>>,
    snapshots: Arc<Snapshots>,
    registry: ProxyRegistry,
    elsewhere: watch::Receiver<Arc<Elsewhere>>,
    sink: Box<dyn ObjectSink>,
    secrets: Option<SecretsWatch>,
    metrics: ModelMetrics,
    carry: Arc<Carry>,
    /// The carry has bindings of another replica that no status has yet.
    heard_bindings: bool,
    compiled: Option<Arc<Compiled>>,
    /// What waypoints had in effect when it was last looked at.
    in_effect: BTreeMap<PodName, u64>,
    /// The next model is not published before.
    pace: Instant,
    /// Objects that are in the sink.
    applied: BTreeMap<ObjectKey, serde_json::Value>,
    /// Statuses and objects that a failing sink has not taken yet.
    pending: Batch,
    ready: watch::Sender<bool>,
}

/// What a pipeline works with.
pub struct Parts {
    pub settings: Arc<Settings>,
    pub view: Arc<RwLock<View>>,
    pub snapshots: Arc<Snapshots>,
    pub registry: ProxyRegistry,
    /// What is in effect at the proxies of other replicas.
    pub elsewhere: watch::Receiver<Arc<Elsewhere>>,
    pub sink: Box<dyn ObjectSink>,
    /// Told which Secrets the model needs, where the source does not bring all.
    pub secrets: Option<SecretsWatch>,
    pub metrics: ModelMetrics,
}

impl Pipeline {
    /// Continues where the run that left `left` stopped.
    pub fn new(parts: Parts, left: Left) -> Self {
        let carry = carry_of(&left);
        *parts.view.write() = View {
            store: Store::of_mesh(&parts.settings.namespace),
            statuses: Statuses::starting_with(left.statuses),
        };
        Self {
            settings: parts.settings,
            view: parts.view,
            snapshots: parts.snapshots,
            registry: parts.registry,
            elsewhere: parts.elsewhere,
            sink: parts.sink,
            secrets: parts.secrets,
            metrics: parts.metrics,
            carry: Arc::new(carry),
            compiled: None,
            in_effect: BTreeMap::new(),
            pace: Instant::now(),
            heard_bindings: false,
            applied: left.objects,
            pending: Batch::default(),
            ready: watch::Sender::new(false),
        }
    }

    /// True once the first model is published.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    pub async fn run(mut self, mut events: mpsc::Receiver<SourceEvent>, cancel: CancellationToken) {
        if !self.first(&mut events, &cancel).await {
            return;
        }
        let mut changes = self.registry.changes();
        let mut again_at = self.compile(&Changes::default(), Instant::now()).await;
        self.ready.send_replace(true);
        let mut statuses_at = None;
        loop {
            let retry = (!self.pending.is_empty()).then(|| Instant::now() + SINK_RETRY);
            tokio::select! {
                () = cancel.cancelled() => return,
                event = events.recv() => {
                    let Some(event) = event else { return };
                    let changed_at = Instant::now();
                    let changes = self.gather(event, &mut events, changed_at).await;
                    if !changes.is_empty() {
                        again_at = self.compile(&changes, changed_at).await;
                    }
                }
                _ = changes.changed() => {
                    statuses_at = statuses_at.or_else(|| Some(Instant::now() + STATUS_PAUSE));
                    if self.is_outdated() {
                        again_at = self.compile(&Changes::default(), Instant::now()).await;
                    }
                }
                () = news(&mut self.elsewhere) => {
                    if self.hear() {
                        again_at = self.compile(&Changes::default(), Instant::now()).await;
                    }
                    statuses_at = statuses_at.or_else(|| Some(Instant::now() + STATUS_PAUSE));
                }
                () = at(statuses_at) => {
                    statuses_at = None;
                    self.write_statuses().await;
                }
                () = at(again_at) => again_at = self.compile(&Changes::default(), Instant::now()).await,
                () = at(retry) => self.write(Batch::default()).await,
            }
        }
    }

    /// Takes everything that was there at the start.
    async fn first(&mut self, events: &mut mpsc::Receiver<SourceEvent>, cancel: &CancellationToken) -> bool {
        loop {
            let event = tokio::select! {
                () = cancel.cancelled() => return false,
                event = events.recv() => event,
            };
            match event {
                None => return false,
                Some(SourceEvent::Synced) => {
                    tracing::info!("the objects have been read");
                    return self.first_settings(events, cancel).await
                        && self.first_secrets(events, cancel).await;
                }
                Some(event) => drop(self.view.write().store.apply(event)),
            }
        }
    }

    /// Waits for settings of the mesh that can be applied, where those that are there cannot: nobody knows then which
    /// namespaces they mean to leave out. To look at all of them would bring in what is another mesh's; to look at none
    /// would take waypoints and policies from pods that are in the mesh. Proxies go on with what they have meanwhile,
    /// and replicas that accepted settings before go on serving.
    async fn first_settings(
        &mut self,
        events: &mut mpsc::Receiver<SourceEvent>,
        cancel: &CancellationToken,
    ) -> bool {
        let mut told: Option<Arc<ParsedObject>> = None;
        loop {
            let Some(refused) = self.view.read().store.refused_settings().cloned() else {
                return true;
            };
            if told.as_ref().is_none_or(|told| !Arc::ptr_eq(told, &refused)) {
                self.refuse_to_start(&refused).await;
                told = Some(refused);
            }
            tokio::select! {
                () = cancel.cancelled() => return false,
                event = events.recv() => match event {
                    None => return false,
                    Some(event) => drop(self.view.write().store.apply(event)),
                },
            }
        }
    }

    async fn refuse_to_start(&mut self, settings: &ParsedObject) {
        let reason = settings
            .outcome
            .as_ref()
            .err()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(object = %settings.raw.key, reason, "the mesh's settings are rejected, and none were accepted before; nobody is served until they are corrected");
        let status = self.view.write().statuses.before_all(settings, SystemTime::now());
        self.write(Batch {
            statuses: [status].into(),
            ..Batch::default()
        })
        .await;
    }

    /// Takes the Secrets that the other objects ask for. A model without them would take certificates from gateways
    /// that have them, at every start.
    async fn first_secrets(
        &mut self,
        events: &mut mpsc::Receiver<SourceEvent>,
        cancel: &CancellationToken,
    ) -> bool {
        let Some(mut secrets) = self.secrets.take() else {
            return true;
        };
        secrets.want(self.first_wanted());
        let mut looking = Box::pin(tokio::time::timeout(LONGEST_LOOK, secrets.looked()));
        loop {
            tokio::select! {
                () = cancel.cancelled() => return false,
                event = events.recv() => match event {
                    None => return false,
                    Some(event) => drop(self.view.write().store.apply(event)),
                },
                looked = &mut looking => {
                    if looked.is_err() {
                        tracing::warn!("Secrets of gateways have not been read yet; going on without");
                    }
                    break;
                }
            }
        }
        drop(looking);
        while let Ok(event) = events.try_recv() {
            self.view.write().store.apply(event);
        }
        self.secrets = Some(secrets);
        true
    }

    fn first_wanted(&self) -> BTreeSet<Arc<str>> {
        let store = &self.view.read().store;
        let mut inputs = Inputs::default();
        let scope = MeshConfig::of(store, &self.settings).scope;
        inputs.apply(store, &store.as_changes(), &scope);
        let gateways = listeners::gateways(&inputs);
        credentials::namespaces(&inputs, &Selected::default(), gateways.values())
    }

    /// Takes the events that belong together.
    async fn gather(
        &mut self,
        first: SourceEvent,
        events: &mut mpsc::Receiver<SourceEvent>,
        since: Instant,
    ) -> Changes {
        let mut changes = Changes::default();
        let mut in_groups = self.take(first, &mut changes);
        let end = since + LONGEST;
        loop {
            let now = Instant::now();
            let quiet = if in_groups { now + QUIET } else { now };
            let until = quiet.max(self.pace).min(end);
            match tokio::time::timeout_at(until.into(), events.recv()).await {
                Ok(Some(event)) => in_groups |= self.take(event, &mut changes),
                Ok(None) | Err(_) => return changes,
            }
            if now >= end {
                return changes;
            }
        }
    }

    /// Notes what an event changes; whether it is something that comes in groups.
    fn take(&self, event: SourceEvent, changes: &mut Changes) -> bool {
        let Some(change) = self.view.write().store.apply(event) else {
            return false;
        };
        let in_groups = !is_endpoint(&change.key);
        changes.note(change);
        in_groups
    }

    async fn compile(&mut self, changes: &Changes, changed_at: Instant) -> Option<Instant> {
        let started = Instant::now();
        let moment = self.moment(started);
        let compiled = Arc::new(self.next(changes, &moment));
        self.metrics.compiled(&compiled, started.elapsed());
        if let Some(secrets) = &self.secrets {
            let gateways = compiled.gateway_api.gateways.values();
            secrets.want(credentials::namespaces(
                &compiled.inputs,
                &compiled.selected,
                gateways,
            ));
        }
        let before = self.compiled.replace(compiled.clone());
        tell_of_settings(&compiled, before.as_deref());
        if before.is_some() && compiled.delta.is_nothing() {
            return compiled.again_at;
        }
        if std::mem::take(&mut self.heard_bindings) || self.is_newly_bound(&compiled) {
            // Written first: a restart must not forget a binding that proxies already rely on.
            self.note(&compiled, moment.generation);
            self.write_statuses().await;
            self.sink.settle().await;
        }
        self.carry = compiled.carry.clone();
        let generation = self.snapshots.publish(&compiled, changed_at);
        self.note(&compiled, generation);
        tracing::debug!(generation, took = ?started.elapsed(), "model published");
        self.pace = Instant::now() + self.pause(started.elapsed());
        let batch = self.object_changes(&compiled, before.as_deref());
        self.write(batch).await;
        self.write_statuses().await;
        compiled.again_at
    }

    fn next(&self, changes: &Changes, moment: &Moment) -> Compiled {
        let view = self.view.read();
        match &self.compiled {
            Some(before) => before.next(&view.store, changes, &self.carry, moment),
            None => compile(&view.store, &self.settings, &self.carry, moment),
        }
    }

    fn is_newly_bound(&self, compiled: &Compiled) -> bool {
        use imbl::ordmap::DiffItem;
        let mut changes = self.carry.bound.diff(&compiled.carry.bound);
        let mut awake = compiled.carry.awake.difference(&self.carry.awake);
        awake.next().is_some() || changes.any(|item| !matches!(item, DiffItem::Remove(..)))
    }

    /// How long a model that took so long to make is left to the proxies.
    fn pause(&self, took: Duration) -> Duration {
        let streams = u32::try_from(self.registry.len()).unwrap_or(u32::MAX);
        PER_PROXY
            .saturating_mul(streams)
            .saturating_add(took)
            .min(LONGEST)
    }

    fn moment(&self, now: Instant) -> Moment {
        let proxies = self.registry.waypoints();
        // A reconnecting proxy has two streams for a moment: the older one says less.
        let mut in_effect = BTreeMap::new();
        for proxy in proxies {
            let generation = in_effect.entry((proxy.namespace, proxy.pod)).or_insert(0);
            *generation = proxy.generation_in_effect.unwrap_or_default().max(*generation);
        }
        Moment {
            now,
            generation: self.snapshots.generation() + 1,
            in_effect,
        }
    }

    /// Whether a waypoint that was waited for has brought its resources into effect.
    fn is_outdated(&mut self) -> bool {
        let moment = self.moment(Instant::now());
        if moment.in_effect == self.in_effect {
            return false;
        }
        self.in_effect.clone_from(&moment.in_effect);
        let compiled = self.compiled.as_ref();
        compiled.is_some_and(|c| c.waypoints.is_outdated(&moment))
    }

    /// Takes what other replicas said; whether a service is now served by all pods of the waypoint that it waits for.
    fn hear(&mut self) -> bool {
        let elsewhere = self.elsewhere.borrow_and_update().clone();
        self.view.write().statuses.hear(elsewhere.clone());
        let Some(compiled) = &self.compiled else {
            return false;
        };
        let waiting = compiled.waypoints.waiting(&self.moment(Instant::now()));
        let mut bound = false;
        for (place, lacking) in waiting {
            if lacking.iter().all(|pod| elsewhere.serves(&place, pod)) {
                Arc::make_mut(&mut self.carry).bound.insert(place.0, place.1);
                bound = true;
            }
        }
        self.heard_bindings |= bound;
        bound
    }

    fn note(&self, compiled: &Compiled, generation: u64) {
        let mut view = self.view.write();
        let View { store, statuses } = &mut *view;
        statuses.observe(store, compiled, generation);
    }

    /// Objects to apply and to delete, against what the sink has.
    fn object_changes(&mut self, compiled: &Compiled, before: Option<&Compiled>) -> Batch {
        let mut batch = Batch::default();
        if before.is_some_and(|before| Arc::ptr_eq(&before.rendered, &compiled.rendered)) {
            return batch;
        }
        for (key, value) in compiled.rendered.iter() {
            if self.applied.get(key) != Some(value) {
                batch.objects.insert(key.clone(), Some(value.clone()));
            }
        }
        for key in self
            .applied
            .keys()
            .filter(|key| !compiled.rendered.contains_key(*key))
        {
            batch.objects.insert(key.clone(), None);
        }
        self.applied.clone_from(&compiled.rendered);
        batch
    }

    async fn write_statuses(&mut self) {
        let proxies = self.registry.present();
        let statuses = self.view.write().statuses.changed(&proxies, SystemTime::now());
        self.write(Batch {
            statuses,
            ..Batch::default()
        })
        .await;
    }

    /// Writes the batch after what a failing sink left; keeps both where it fails again.
    async fn write(&mut self, batch: Batch) {
        self.pending.objects.extend(batch.objects);
        self.pending.statuses.extend(batch.statuses);
        if self.pending.is_empty() {
            return;
        }
        match self.sink.write(&self.pending).await {
            Ok(()) => self.pending = Batch::default(),
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "cannot write objects and statuses; trying again");
            }
        }
    }
}

/// A line of the log where other settings are without effect than before.
fn tell_of_settings(compiled: &Compiled, before: Option<&Compiled>) {
    let of = |compiled: &Compiled| report::of_settings(compiled).map(|r| report::joined(&r.notices));
    let now = of(compiled).filter(|text| !text.is_empty());
    if let Some(settings) = now.filter(|now| before.and_then(of).as_ref() != Some(now)) {
        tracing::warn!(
            settings,
            "settings of the mesh without effect; `aquifer check` names all"
        );
    }
}

/// Waits for ever where nobody will ever say anything.
async fn news(elsewhere: &mut watch::Receiver<Arc<Elsewhere>>) {
    if elsewhere.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// What the compiler has to know of an earlier run: bindings that must stay, waypoints that it rendered.
fn carry_of(left: &Left) -> Carry {
    let services = left
        .statuses
        .iter()
        .filter(|(key, _)| &*key.kind == "Service" && key.group.is_empty());
    let bound = services.filter_map(|(key, status)| {
        let host = discovery::hostname(&key.name, &key.namespace);
        let service = aquifer_core::names::NamespacedHostname::new(&key.namespace, &host);
        Some((service, bound_waypoint(status)?))
    });
    let is_waypoint = |value: &serde_json::Value| {
        let labels = value.pointer("/metadata/labels");
        labels
            .and_then(|l| l.get(MANAGED_LABEL))
            .is_some_and(|by| by == MANAGED_BY)
    };
    let deployments = || {
        let all = left.objects.iter().filter(|(key, _)| &*key.kind == "Deployment");
        all.filter(|(_, value)| is_waypoint(value))
    };
    let waypoint = |key: &ObjectKey| WaypointKey::new(&key.namespace, &key.name);
    let is_owned = |value: &serde_json::Value| value.pointer("/metadata/ownerReferences/0").is_some();
    Carry {
        bound: bound.collect(),
        owned: deployments()
            .filter(|(_, value)| is_owned(value))
            .map(|(key, _)| waypoint(key))
            .collect(),
        rendered: deployments().map(|(key, _)| waypoint(key)).collect(),
        ..Carry::default()
    }
}

#[cfg(test)]
mod tests;
