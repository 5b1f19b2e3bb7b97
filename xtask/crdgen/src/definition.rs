//! A kind as a CustomResourceDefinition.

use anyhow::Result;
use serde_json::{Value, json};

use crate::schema;
use crate::table::{Kind, Table};
use crate::yaml;

pub(crate) const GATEWAY_API: &str = "gateway.networking.k8s.io";
/// The version of the Gateway API whose kinds the tables follow.
const BUNDLE: &str = "v1.4.0";
/// The API server takes a definition of a `k8s.io` group only with the place of its review.
const REVIEW: &str = "https://github.com/kubernetes-sigs/gateway-api/pull/1538";

/// All versions have the same schema: they differ in name only, and nothing has to be converted.
const SCHEMA: &str = "schema";

/// As YAML. The schema is written once; the versions after the first refer to it.
pub(crate) fn definition(kind: &Kind, table: &Table) -> Result<String> {
    let schema = schema(kind, table)?;
    let versions: Vec<Value> = kind
        .versions
        .iter()
        .enumerate()
        .map(|(index, version)| {
            json!({
                "name": version,
                "served": true,
                "storage": index == 0,
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns(kind),
                "schema": {"openAPIV3Schema": if index == 0 { yaml::anchor(SCHEMA, &schema) } else { yaml::alias(SCHEMA) }},
            })
        })
        .collect();
    Ok(yaml::document(&json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": kind.crd_name(),
            "labels": {"app.kubernetes.io/part-of": "aquifer"},
            "annotations": annotations(kind),
        },
        "spec": {
            "group": kind.group,
            "names": names(kind),
            "scope": kind.scope,
            "versions": versions,
        },
    })))
}

fn annotations(kind: &Kind) -> Value {
    // Deleting a definition deletes every object of its kind.
    let mut annotations = json!({"helm.sh/resource-policy": "keep"});
    if kind.group == GATEWAY_API {
        annotations["api-approved.kubernetes.io"] = json!(REVIEW);
        annotations["gateway.networking.k8s.io/bundle-version"] = json!(BUNDLE);
        annotations["gateway.networking.k8s.io/channel"] = json!(channel(kind));
    }
    annotations
}

/// A kind that is stored as an alpha is of the API's experimental channel.
fn channel(kind: &Kind) -> &'static str {
    let is_alpha = kind.versions.first().is_some_and(|v| v.contains("alpha"));
    if is_alpha { "experimental" } else { "standard" }
}

fn names(kind: &Kind) -> Value {
    let mut names = json!({
        "kind": kind.name,
        "listKind": format!("{}List", kind.name),
        "singular": kind.singular(),
        "plural": kind.plural(),
        "categories": categories(kind),
    });
    if let Some(short) = &kind.short {
        names["shortNames"] = json!([short]);
    }
    names
}

fn categories(kind: &Kind) -> Vec<String> {
    if kind.group == GATEWAY_API {
        return vec!["gateway-api".to_owned()];
    }
    vec!["istio-io".to_owned(), kind.group.replace('.', "-")]
}

fn columns(kind: &Kind) -> Vec<Value> {
    let own = kind.columns.iter().map(|column| {
        json!({
            "name": column.name,
            "type": column.kind,
            "jsonPath": column.path,
            "description": column.description,
        })
    });
    let accepted = json!({
        "name": "Accepted",
        "type": "string",
        "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status",
        "description": "Whether the mesh takes the object; its status says why not",
    });
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
    let accepted = kind.status.is_none().then_some(accepted);
    own.chain(accepted).chain([age]).collect()
}

fn schema(kind: &Kind, table: &Table) -> Result<Value> {
    let mut schema = json!({
        "type": "object",
        "description": kind.spec.description,
        "properties": {
            "spec": schema::message(&kind.spec, table)?,
            "status": match &kind.status {
                Some(name) => schema::message(table.message(name)?, table)?,
                None => status(),
            },
        },
    });
    schema["properties"]["spec"]["description"] = json!("What is wanted.");
    if schema::has_required(&kind.spec) {
        schema["required"] = json!(["spec"]);
    }
    Ok(schema)
}

/// What the mesh reports. Others may write here too, so nothing is pruned.
fn status() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    let generation =
        |description: &str| json!({"type": "integer", "format": "int64", "description": description});
    json!({
        "type": "object",
        "description": "What the mesh reports about the object.",
        "x-kubernetes-preserve-unknown-fields": true,
        "properties": {
            "observedGeneration": generation("The generation of the object that the report is about."),
            "conditions": {
                "type": "array",
                "description": "Whether the object is accepted, whether what it refers to exists, and where it is in effect.",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status"],
                    "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {
                        "type": text("What the condition is about."),
                        "status": text("True, False or Unknown."),
                        "reason": text("One word for programs."),
                        "message": text("A sentence for people."),
                        "observedGeneration": generation("The generation that the condition is about."),
                        "lastTransitionTime": {
                            "type": "string",
                            "format": "date-time",
                            "description": "When the status last changed.",
                        },
                    },
                },
            },
        },
    })
}
