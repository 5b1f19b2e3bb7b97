//! One kind, listed and watched for ever.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kube::core::{ApiResource, PartialObjectMeta};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::parameters::{Named, note};
use super::trim::trim;
use super::watched::Watched;
use super::{ORIGIN, definition_resource};
use crate::compile::inputs::SECRETS_OF;
use crate::kubernetes::backoff::Backoff;
use crate::kubernetes::kinds::{NOT_FOR_TLS, Reader, Watch, Which};
use crate::kubernetes::{code, explain};
use crate::objects::{ObjectKey, RawObject};
use crate::sink::kubernetes::Desk;
use crate::store::SourceEvent;

/// Objects per answer of a list: what is in memory at once before it is trimmed.
const PAGE: u32 = 500;
/// Seconds after which a watch is begun anew, so that a connection that died in silence is noticed.
const WATCH_SECONDS: u32 = 240;
/// So long without a failure, what failed before works.
const CALM: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// For kinds that are not there or not allowed: nothing but a person changes that.
const LONGEST_ABSENCE: Duration = Duration::from_secs(60);

/// What stopped a watch.
enum Stop {
    /// Nobody listens any more.
    Closed,
    /// The API server does not serve this version of the kind.
    NotServed,
}

/// Why a kind cannot be read, and not only for a moment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lacking {
    /// The API server has none.
    Definition,
    Permission,
}

impl Lacking {
    /// Whether the model does without the kind meanwhile.
    fn is_borne(self, reader: Reader) -> bool {
        match reader {
            Reader::Essential => false,
            Reader::Protective => self == Self::Definition,
            Reader::Model | Reader::Writer => true,
        }
    }
}

/// Texts that every object of the kind has.
struct Names {
    group: Arc<str>,
    kind: Arc<str>,
    origin: Arc<str>,
}

pub(super) struct Follower {
    watch: Watch,
    client: Client,
    /// The control plane's own, or the one that is followed.
    namespace: Arc<str>,
    desk: Arc<Desk>,
    events: mpsc::Sender<SourceEvent>,
    named: Option<Arc<watch::Sender<Named>>>,
    /// The name of the one object that is meant.
    only: Option<Arc<str>>,
    /// Set once the first list is through, or cannot be read: nobody waits for what may never come.
    first: watch::Sender<bool>,
    /// Shared by the keys and events of all objects.
    names: Names,
    /// The objects that were delivered, by namespace and name.
    known: HashSet<ObjectKey>,
    /// Those that the list under way has named so far.
    listed: HashSet<ObjectKey>,
    backoff: Backoff,
    absence: Backoff,
    problem: Option<String>,
}

impl Follower {
    pub(super) fn new(
        watch: Watch,
        client: Client,
        namespace: Arc<str>,
        desk: Arc<Desk>,
        events: mpsc::Sender<SourceEvent>,
        first: watch::Sender<bool>,
    ) -> Self {
        let names = Names {
            group: watch.kind.group.into(),
            kind: watch.kind.kind.into(),
            origin: ORIGIN.into(),
        };
        Self {
            names,
            watch,
            client,
            namespace,
            desk,
            events,
            named: None,
            only: None,
            first,
            known: HashSet::new(),
            listed: HashSet::new(),
            backoff: Backoff::new(FIRST_PAUSE, LONGEST_PAUSE),
            absence: Backoff::new(Duration::from_secs(2), LONGEST_ABSENCE),
            problem: None,
        }
    }

    /// Notes what Gateways name.
    pub(super) fn noting(self, named: &Arc<watch::Sender<Named>>) -> Self {
        let named = Some(named.clone());
        Self { named, ..self }
    }

    fn note_named(&self, key: &ObjectKey, value: Option<&serde_json::Value>) {
        if let Some(named) = &self.named {
            note(named, &self.watch.kind, key, value);
        }
    }

    /// Follows the object of this name alone, in the namespace that was given.
    pub(super) fn only(self, name: &Arc<str>) -> Self {
        let only = Some(name.clone());
        Self { only, ..self }
    }

    /// Ends only when nobody takes the events any more.
    pub(super) async fn run(&mut self, mut definitions: watch::Receiver<u64>) {
        loop {
            for version in self.watch.kind.versions {
                match self.follow(version).await {
                    Stop::Closed => return,
                    Stop::NotServed => {}
                }
            }
            let problem = format!("the API server has no kind {}", self.watch.kind.name());
            if self.unreadable(Lacking::Definition, problem).await.is_err() {
                return;
            }
            let pause = self.absence.pause();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                changed = definitions.changed() => if changed.is_err() { tokio::time::sleep(pause).await },
            }
        }
    }

    fn api(&self, resource: &ApiResource) -> (Api<Watched>, watcher::Config) {
        let config = watcher::Config::default().page_size(PAGE).timeout(WATCH_SECONDS);
        let all = || Api::all_with(self.client.clone(), resource);
        match self.watch.which {
            Which::All => (all(), config),
            Which::Named(name) => (all(), config.fields(&format!("metadata.name={name}"))),
            Which::Labelled(label) => (all(), config.labels(label)),
            Which::OfNamespace => {
                let own = Api::namespaced_with(self.client.clone(), &self.namespace, resource);
                (own, config.fields(NOT_FOR_TLS))
            }
            Which::OwnNamed(name) => {
                let own = Api::namespaced_with(self.client.clone(), &self.namespace, resource);
                (own, config.fields(&format!("metadata.name={name}")))
            }
            Which::Given => {
                let name = self.only.as_deref().unwrap_or_default();
                let given = Api::namespaced_with(self.client.clone(), &self.namespace, resource);
                (given, config.fields(&format!("metadata.name={name}")))
            }
        }
    }

    async fn follow(&mut self, version: &str) -> Stop {
        let resource = self.watch.kind.resource(version);
        let (api, config) = self.api(&resource);
        let mut events = pin!(watcher(api, config));
        loop {
            let next = match self.problem {
                None => Ok(events.next().await),
                Some(_) => timeout(CALM, events.next()).await,
            };
            let taken = match next {
                // A watch that was taken up again says nothing until something changes.
                Err(_) => self.readable().await,
                Ok(None) => return Stop::Closed,
                Ok(Some(event)) => match event {
                    Ok(event) => self.take(event, &resource).await,
                    Err(error) if not_served(&error) => return Stop::NotServed,
                    Err(error) => self.failed(&error).await,
                },
            };
            if taken.is_err() {
                return Stop::Closed;
            }
        }
    }

    async fn take(&mut self, event: Event<Watched>, resource: &ApiResource) -> Result<(), Closed> {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                self.listed.insert(self.key(&object));
                self.apply(object, resource).await?;
            }
            Event::InitDone => return self.list_done().await,
            Event::Apply(object) => {
                self.readable().await?;
                self.apply(object, resource).await?;
            }
            Event::Delete(object) => {
                self.readable().await?;
                let key = self.key(&object);
                self.delete(key).await?;
            }
        }
        Ok(())
    }

    /// What the new list does not name was deleted while nobody watched.
    async fn list_done(&mut self) -> Result<(), Closed> {
        let listed = std::mem::take(&mut self.listed);
        let gone: Vec<ObjectKey> = self.known.difference(&listed).cloned().collect();
        for key in gone {
            self.delete(key).await?;
        }
        self.first.send_replace(true);
        self.readable().await
    }

    async fn readable(&mut self) -> Result<(), Closed> {
        self.backoff.reset();
        self.absence.reset();
        if self.problem.take().is_some() {
            tracing::info!(kind = self.watch.kind.name(), "kind can be read now");
            self.report(Vec::new()).await?;
        }
        Ok(())
    }

    fn key(&self, object: &Watched) -> ObjectKey {
        ObjectKey {
            group: self.names.group.clone(),
            kind: self.names.kind.clone(),
            namespace: object.namespace().into(),
            name: object.name().into(),
        }
    }

    async fn apply(&mut self, object: Watched, resource: &ApiResource) -> Result<(), Closed> {
        let key = self.key(&object);
        let mut value = object.value;
        value["apiVersion"] = resource.api_version.as_str().into();
        value["kind"] = resource.kind.as_str().into();
        self.known.insert(key.clone());
        self.show_desk(&key, Some(&value));
        self.note_named(&key, Some(&value));
        if self.watch.reader == Reader::Writer {
            return Ok(());
        }
        trim(&key.group, &key.kind, &mut value);
        let object = RawObject {
            api_version: resource.api_version.as_str().into(),
            key,
            value,
        };
        self.send(SourceEvent::Applied {
            origin: self.names.origin.clone(),
            object: Arc::new(object),
        })
        .await
    }

    async fn delete(&mut self, key: ObjectKey) -> Result<(), Closed> {
        self.known.remove(&key);
        self.show_desk(&key, None);
        self.note_named(&key, None);
        if self.watch.reader == Reader::Writer {
            return Ok(());
        }
        self.send(SourceEvent::Deleted {
            origin: self.names.origin.clone(),
            key,
        })
        .await
    }

    /// Nobody writes Secrets, and nothing that holds a key is kept beside the model.
    fn show_desk(&self, key: &ObjectKey, value: Option<&serde_json::Value>) {
        if self.watch.which != Which::OfNamespace {
            self.desk.saw(key, value);
        }
    }

    /// Takes back everything that was delivered: nobody wants it any more.
    pub(super) async fn forget(&mut self) {
        for key in std::mem::take(&mut self.known) {
            if self.delete(key).await.is_err() {
                return;
            }
        }
        if self.problem.take().is_some() {
            // Whoever does not listen any more needs no taking back.
            let _ = self.report(Vec::new()).await;
        }
    }

    async fn send(&self, event: SourceEvent) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }

    /// A list or watch failed; the watcher goes on where it was after the pause.
    async fn failed(&mut self, error: &watcher::Error) -> Result<(), Closed> {
        if is_expired(error) {
            tracing::debug!(kind = self.watch.kind.name(), "watch is too old; listing again");
            return Ok(());
        }
        if matches!(status_code(error), Some(403)) {
            self.unreadable(Lacking::Permission, reason(error)).await?;
            let pause = self.absence.pause();
            tokio::time::sleep(pause).await;
            return Ok(());
        }
        // One that breaks off once is daily life: connections end, API servers restart.
        let pause = self.backoff.pause();
        if pause > Duration::from_secs(1) {
            self.note(reason(error)).await?;
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    async fn unreadable(&mut self, lacking: Lacking, problem: String) -> Result<(), Closed> {
        if lacking.is_borne(self.watch.reader) {
            self.first.send_replace(true);
        }
        self.note(problem).await
    }

    async fn note(&mut self, problem: String) -> Result<(), Closed> {
        if self.problem.as_ref() == Some(&problem) {
            return Ok(());
        }
        self.problem = Some(problem.clone());
        self.report(vec![problem]).await
    }

    async fn report(&self, problems: Vec<String>) -> Result<(), Closed> {
        let kind = self.watch.kind.name();
        let origin = match (self.watch.which, &self.only) {
            (Which::OfNamespace, _) => format!("{SECRETS_OF}{}", self.namespace).into(),
            (_, Some(name)) => format!("{kind} {}/{name}", self.namespace).into(),
            _ => kind.into(),
        };
        self.send(SourceEvent::Unreadable { origin, problems }).await
    }
}

/// Nobody takes the events any more.
struct Closed;

fn status_code(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(e)
        | watcher::Error::WatchStartFailed(e)
        | watcher::Error::WatchFailed(e) => code(e),
        watcher::Error::WatchError(status) => Some(status.code),
        watcher::Error::NoResourceVersion => None,
    }
}

fn is_expired(error: &watcher::Error) -> bool {
    matches!(status_code(error), Some(410))
}

/// 404 for a list is a kind that is not there; 405 one that cannot be listed.
fn not_served(error: &watcher::Error) -> bool {
    matches!(status_code(error), Some(404 | 405))
}

fn reason(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(e) => format!("cannot be listed: {}", explain(e)),
        watcher::Error::WatchStartFailed(e) | watcher::Error::WatchFailed(e) => {
            format!("cannot be watched: {}", explain(e))
        }
        other => format!("cannot be watched: {other}"),
    }
}

/// Counts up when a definition came or changed: a kind that was missing may be there now.
pub(super) async fn definitions(client: Client, changes: watch::Sender<u64>, served_after: Duration) {
    let api: Api<PartialObjectMeta<Watched>> = Api::all_with(client, &definition_resource());
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_ABSENCE);
    let mut events = pin!(watcher(api, watcher::Config::default()));
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(_)) => {
                backoff.reset();
                tokio::time::sleep(served_after).await;
                changes.send_modify(|count| *count += 1);
            }
            Ok(_) => {}
            // Without it a kind that comes is found by its own back-off.
            Err(_) => tokio::time::sleep(backoff.pause()).await,
        }
    }
}
