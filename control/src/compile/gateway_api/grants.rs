//! ReferenceGrants: what of a namespace objects of another one may refer to.

use std::sync::Arc;

use crate::compile::inputs::Inputs;
use crate::objects::GATEWAY_API;
use crate::objects::gateway_api::GrantTo;

/// Who refers: objects of one kind of the Gateway API, in one namespace.
#[derive(Clone, Copy, Debug)]
pub struct Referrer<'a> {
    pub kind: &'static str,
    pub namespace: &'a str,
}

/// Of kinds of the core.
#[derive(Clone, Copy, Debug)]
pub struct Referent<'a> {
    pub kind: &'static str,
    pub namespace: &'a str,
    pub name: &'a str,
}

/// Whether the reference is allowed: within one namespace it always is.
pub fn allow(inputs: &Inputs, from: Referrer<'_>, to: Referent<'_>) -> bool {
    if from.namespace == to.namespace {
        return true;
    }
    let may = |t: &GrantTo| {
        t.group.is_empty() && &*t.kind == to.kind && t.name.as_ref().is_none_or(|n| is_any_or(n, to.name))
    };
    let mut grants = inputs.grants.in_namespace(to.namespace);
    grants.any(|grant| {
        let comes =
            grant.spec.from.iter().any(|f| {
                &*f.group == GATEWAY_API && &*f.kind == from.kind && *f.namespace == *from.namespace
            });
        comes && grant.spec.to.iter().any(may)
    })
}

fn is_any_or(granted: &Arc<str>, name: &str) -> bool {
    granted.is_empty() || **granted == *name
}

/// What is said where it is not.
pub fn missing(from: Referrer<'_>, to: Referent<'_>) -> String {
    format!(
        "no ReferenceGrant of namespace {} allows {}s of namespace {} to refer to {} {}",
        to.namespace, from.kind, from.namespace, to.kind, to.name
    )
}
