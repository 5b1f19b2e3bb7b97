//! What the API server would say to an object, without one: as much of OpenAPI v3 as the definitions use.
//!
//! CEL rules are left to the real one.

use regex::Regex;
use serde_json::Value;

use crate::helm::{list, texts};

/// `PATH: what is wrong`, of which an object may have several.
pub(crate) type Problems = Vec<String>;

/// What is wrong with a whole object; `apiVersion`, `kind` and `metadata` are the API server's own business.
pub(crate) fn problems(schema: &Value, object: &Value) -> Problems {
    let mut found = Problems::new();
    let mut object = object.clone();
    for own in ["apiVersion", "kind", "metadata"] {
        object.as_object_mut().unwrap().remove(own);
    }
    check(schema, &object, "", &mut found);
    found
}

fn check(schema: &Value, value: &Value, path: &str, found: &mut Problems) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if !has_type(schema, value) {
        found.push(format!("{path}: is no {}", schema["type"]));
        return;
    }
    let mut wrong = |what: String| found.push(format!("{path}: {what}"));
    if schema["enum"].is_array() && !list(&schema["enum"]).any(|known| known == value) {
        wrong(format!("{value} is none of {}", schema["enum"]));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && !value
            .as_str()
            .is_some_and(|text| Regex::new(pattern).unwrap().is_match(text))
    {
        wrong(format!("{value} does not match {pattern}"));
    }
    for (least, most, size) in sizes(value) {
        let size = size as f64;
        if schema[least].as_f64().is_some_and(|bound| size < bound)
            || schema[most].as_f64().is_some_and(|bound| size > bound)
        {
            wrong(format!("{value} is out of bounds"));
        }
    }
    if !fits_alternatives(schema, value) {
        wrong("more than one of several that exclude each other".to_owned());
    }
    match value {
        Value::Object(fields) => {
            for required in texts(&schema["required"]) {
                if !fields.contains_key(required) {
                    wrong(format!("{required} is missing"));
                }
            }
            for (key, inner) in fields {
                check_field(schema, key, inner, path, found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

fn check_field(schema: &Value, key: &str, value: &Value, path: &str, found: &mut Problems) {
    let path = if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    };
    if let Some(known) = schema["properties"].get(key) {
        check(known, value, &path, found);
    } else if schema["additionalProperties"].is_object() {
        check(&schema["additionalProperties"], value, &path, found);
    } else if schema["x-kubernetes-preserve-unknown-fields"] != true {
        found.push(format!("{path}: would be pruned"));
    }
}

fn has_type(schema: &Value, value: &Value) -> bool {
    if schema["x-kubernetes-int-or-string"] == true {
        return value.is_i64() || value.is_string();
    }
    match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        _ => false,
    }
}

/// Names of the bounds that apply to this kind of value, and what is measured.
fn sizes(value: &Value) -> Vec<(&'static str, &'static str, i64)> {
    match value {
        Value::String(text) => vec![("minLength", "maxLength", text.chars().count() as i64)],
        Value::Array(items) => vec![("minItems", "maxItems", items.len() as i64)],
        Value::Object(fields) => vec![("minProperties", "maxProperties", fields.len() as i64)],
        Value::Number(number) => number
            .as_i64()
            .map(|number| ("minimum", "maximum", number))
            .into_iter()
            .collect(),
        _ => Vec::new(),
    }
}

/// `oneOf` and `allOf` in the one form that the generator writes: which fields are there.
fn fits_alternatives(schema: &Value, value: &Value) -> bool {
    let one = schema["oneOf"].is_null()
        || list(&schema["oneOf"])
            .filter(|form| fits_form(form, value))
            .count()
            == 1;
    one && list(&schema["allOf"]).all(|all| fits_alternatives(all, value))
}

fn fits_form(form: &Value, value: &Value) -> bool {
    match form.get("not") {
        Some(not) => !list(&not["anyOf"]).any(|inner| fits_form(inner, value)),
        None => texts(&form["required"])
            .iter()
            .all(|field| value.get(field).is_some()),
    }
}
