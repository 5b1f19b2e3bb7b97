//! Structural schemas (OpenAPI v3 as Kubernetes takes it) of messages.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::table::{Field, Message, Table};
use crate::types::{Bounds, Scalar, Shape};

/// Go's notation of durations, which users write; a bare 0 is one too.
const DURATION: &str = r"^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+)$";

/// The Gateway API's notation of durations (GEP-2257).
const GEP2257: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

pub(crate) fn message(message: &Message, table: &Table) -> Result<Value> {
    let mut properties = Map::new();
    for field in &message.fields {
        let schema = self::field(field, table).with_context(|| field.name.clone())?;
        properties.insert(field.name.clone(), schema);
    }
    let mut schema = json!({
        "type": "object",
        "description": message.description,
        "properties": properties,
    });
    let required: Vec<&str> = message
        .fields
        .iter()
        .filter(|field| field.kind.required)
        .map(|field| field.name.as_str())
        .collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    add_one_of(&mut schema, &message.one_of);
    add_rules(&mut schema, message);
    Ok(schema)
}

pub(crate) fn has_required(message: &Message) -> bool {
    message.fields.iter().any(|field| field.kind.required)
}

fn field(field: &Field, table: &Table) -> Result<Value> {
    let mut schema = shape(&field.kind.shape, table)?;
    // What the field is for, rather than what its type is.
    schema["description"] = json!(field.description);
    if field.kind.nullable {
        schema["nullable"] = json!(true);
    }
    Ok(schema)
}

fn shape(shape: &Shape, table: &Table) -> Result<Value> {
    Ok(match shape {
        Shape::Scalar(kind) => scalar(*kind),
        Shape::Text(bounds) => bounded(json!({"type": "string"}), *bounds, ["minLength", "maxLength"]),
        Shape::Choice(values) => json!({"type": "string", "enum": values}),
        Shape::Message(name) => message(table.message(name)?, table)?,
        Shape::List { item, bounds, key } => {
            let mut schema = json!({"type": "array", "items": self::shape(item, table)?});
            if let Some(key) = key {
                schema["x-kubernetes-list-type"] = json!("map");
                schema["x-kubernetes-list-map-keys"] = json!([key]);
            }
            bounded(schema, *bounds, ["minItems", "maxItems"])
        }
        Shape::Map { value, bounds } => bounded(
            json!({"type": "object", "additionalProperties": self::shape(value, table)?}),
            *bounds,
            ["minProperties", "maxProperties"],
        ),
    })
}

fn scalar(kind: Scalar) -> Value {
    match kind {
        Scalar::Any => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
        Scalar::Bool => json!({"type": "boolean"}),
        Scalar::Bytes => json!({"type": "string", "format": "byte"}),
        Scalar::Duration => json!({"type": "string", "pattern": DURATION}),
        Scalar::Gep2257 => json!({"type": "string", "pattern": GEP2257}),
        Scalar::Time => json!({"type": "string", "format": "date-time"}),
        Scalar::Percent => json!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 100}),
        Scalar::Weight => json!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 1_000_000}),
        Scalar::RedirectCode => json!({"type": "integer", "enum": [301, 302, 303, 307, 308]}),
        Scalar::Int => json!({"type": "integer", "format": "int32"}),
        Scalar::Count => json!({"type": "integer", "format": "int32", "minimum": 0}),
        Scalar::Uint => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
        Scalar::Uint16 => json!({"type": "integer", "minimum": 0, "maximum": u16::MAX}),
        Scalar::Uint64 => json!({"type": "integer", "minimum": 0}),
        Scalar::Port => json!({"type": "integer", "minimum": 1, "maximum": u16::MAX}),
        Scalar::Status => json!({"type": "integer", "minimum": 100, "maximum": 599}),
        Scalar::Number => json!({"type": "number", "format": "double"}),
        Scalar::Nonnegative => json!({"type": "number", "format": "double", "minimum": 0}),
        Scalar::Percentage => json!({"type": "number", "format": "double", "minimum": 0, "maximum": 100}),
    }
}

fn bounded(mut schema: Value, bounds: Bounds, [least, most]: [&str; 2]) -> Value {
    if let Some(bound) = bounds.least {
        schema[least] = json!(bound);
    }
    if let Some(bound) = bounds.most {
        schema[most] = json!(bound);
    }
    schema
}

/// None of them or exactly one, in the only form that structural schemas allow.
fn at_most_one(fields: &[String]) -> Value {
    let required: Vec<Value> = fields.iter().map(|field| json!({"required": [field]})).collect();
    let mut forms = vec![json!({"not": {"anyOf": required}})];
    forms.extend(required);
    json!(forms)
}

fn add_one_of(schema: &mut Value, groups: &[Vec<String>]) {
    match groups {
        [] => {}
        [group] => schema["oneOf"] = at_most_one(group),
        groups => {
            let all: Vec<Value> = groups
                .iter()
                .map(|group| json!({"oneOf": at_most_one(group)}))
                .collect();
            schema["allOf"] = json!(all);
        }
    }
}

fn add_rules(schema: &mut Value, message: &Message) {
    let exclusive = message.exclusive.iter().map(|fields| {
        let counted: Vec<String> = fields
            .iter()
            .map(|field| format!("(has(self.{field}) ? 1 : 0)"))
            .collect();
        json!({
            "rule": format!("{} <= 1", counted.join(" + ")),
            "message": format!("only one of {} may be set", fields.join(", ")),
        })
    });
    let checks = message
        .rules
        .iter()
        .map(|rule| json!({"rule": rule.rule, "message": rule.message}));
    let rules: Vec<Value> = exclusive.chain(checks).collect();
    if !rules.is_empty() {
        schema["x-kubernetes-validations"] = json!(rules);
    }
}
