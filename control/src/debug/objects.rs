//! `/debug/objects`: every object of the mesh's own kinds, and everything that was not taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::compile::report::{Condition, ObjectReport, before_all};
use crate::debug::DebugState;
use crate::objects::ObjectKey;
use crate::status::{Reach, programmed};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Objects {
    generation: u64,
    objects: Vec<ObjectStatus>,
    /// Files, or parts of files, that hold no readable object.
    unreadable: BTreeMap<Arc<str>, Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectStatus {
    api_version: Arc<str>,
    kind: Arc<str>,
    namespace: Arc<str>,
    name: Arc<str>,
    /// Where the object stands, such as its file.
    origin: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reach: Option<Reach>,
    #[serde(flatten)]
    report: ObjectReport,
}

pub(super) fn all(state: &DebugState) -> Objects {
    let proxies = state.registry.present();
    let view = state.view.read();
    let compiled = state.snapshots.compiled();
    let reach = view.statuses.reaches(&proxies);
    let refused = view.store.refused_settings();
    let report = |key: &ObjectKey| match &compiled {
        Some(compiled) => compiled.reports.get(key).map(|r| ObjectReport::clone(r)),
        // What keeps the first model from being made.
        None => refused.filter(|o| o.raw.key == *key).map(|o| before_all(o)),
    };
    let describe = |key: &ObjectKey, origin: &Arc<str>, api_version: &Arc<str>| {
        let mut report = report(key)?;
        let reach = reach(key).filter(|_| report.accepted);
        report
            .conditions
            .extend(reach.as_ref().map(|r| -> Condition { programmed(r) }));
        Some(ObjectStatus {
            api_version: api_version.clone(),
            kind: key.kind.clone(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            origin: origin.clone(),
            reach,
            report,
        })
    };
    let objects = view
        .store
        .objects()
        .filter_map(|(key, origin, o)| describe(key, origin, &o.raw.api_version));
    Objects {
        generation: state.snapshots.generation(),
        objects: objects.collect(),
        unreadable: view.store.unreadable().clone(),
    }
}
