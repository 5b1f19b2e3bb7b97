//! Pod labels, which the workload API has no field for: they travel as an extension that other peers skip.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use prost_types::value::Kind;
use prost_types::{Any, Struct, Value};

use super::ConvertError;
use crate::pb::istio::workload::Extension;

/// The extension's name; its configuration is a `google.protobuf.Struct` of strings.
pub const LABELS_EXTENSION: &str = "aquifer.labels";

const STRUCT_URL: &str = "type.googleapis.com/google.protobuf.Struct";

pub(super) fn to_extension(labels: &BTreeMap<Arc<str>, Arc<str>>) -> Option<Extension> {
    if labels.is_empty() {
        return None;
    }
    let fields = labels
        .iter()
        .map(|(key, value)| {
            (
                key.to_string(),
                Value {
                    kind: Some(Kind::StringValue(value.to_string())),
                },
            )
        })
        .collect();
    Some(Extension {
        name: LABELS_EXTENSION.to_owned(),
        config: Some(Any {
            type_url: STRUCT_URL.to_owned(),
            value: Struct { fields }.encode_to_vec(),
        }),
    })
}

/// The labels among a workload's extensions; none where there is no such extension.
pub(super) fn from_extensions(
    extensions: &[Extension],
) -> Result<BTreeMap<Arc<str>, Arc<str>>, ConvertError> {
    let Some(extension) = extensions.iter().find(|e| e.name == LABELS_EXTENSION) else {
        return Ok(BTreeMap::new());
    };
    let config = extension.config.as_ref().ok_or(ConvertError::Missing {
        field: "extensions.config",
    })?;
    if config.type_url != STRUCT_URL {
        return Err(ConvertError::invalid(
            "extensions",
            format!("labels are a {STRUCT_URL}"),
        ));
    }
    let fields: Struct = super::decode("google.protobuf.Struct", config)?;
    fields.fields.into_iter().map(label).collect()
}

fn label((key, value): (String, Value)) -> Result<(Arc<str>, Arc<str>), ConvertError> {
    match value.kind {
        Some(Kind::StringValue(text)) => Ok((key.into(), text.into())),
        _ => Err(ConvertError::invalid(
            "extensions",
            format!("label {key:?} is not a string"),
        )),
    }
}
