//! Whether an object of the Gateway API is for this mesh: other implementations' objects stand beside ours, and what is
//! wrong with them is for those to say.

use serde_json::Value;

use crate::compile::gateway_api::attach::ownership;
use crate::compile::gateway_api::classes::{self, Class};
use crate::compile::inputs::Inputs;
use crate::compile::waypoints::opted_in;
use crate::model::http_route::{ParentKind, parents_of};
use crate::objects::{GATEWAY_API, ParsedObject};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    Ours,
    /// Shared with others, or not to be told yet.
    Unclear,
    Others,
}

/// Whose the object is; one that is of no kind of the Gateway API is ours.
pub fn of(inputs: &Inputs, object: &ParsedObject) -> Ownership {
    let key = &object.raw.key;
    if &*key.group != GATEWAY_API {
        return Ownership::Ours;
    }
    match &*key.kind {
        kind if kind.ends_with("Route") => of_route(inputs, object),
        "Gateway" => {
            let class = object.raw.value.pointer("/spec/gatewayClassName");
            match classes::of(inputs, class.and_then(Value::as_str).unwrap_or_default()) {
                Class::Foreign => Ownership::Others,
                Class::Gateway | Class::Waypoint | Class::Unsupported => Ownership::Ours,
            }
        }
        _ => Ownership::Unclear,
    }
}

fn of_route(inputs: &Inputs, object: &ParsedObject) -> Ownership {
    let parents = parents_of(&object.raw, &object.meta);
    // A Service outside this mesh may be in another one, whose routes may have fields that ours do not know.
    let owned = parents.iter().map(|parent| match parent.kind {
        ParentKind::Service if !opted_in(inputs, &parent.namespace) => None,
        _ => ownership(inputs, parent),
    });
    let owned: Vec<Option<bool>> = owned.collect();
    if owned.is_empty() {
        return Ownership::Unclear;
    }
    if owned.iter().all(|o| *o == Some(true)) {
        return Ownership::Ours;
    }
    match owned.iter().all(|o| *o == Some(false)) {
        true => Ownership::Others,
        false => Ownership::Unclear,
    }
}
