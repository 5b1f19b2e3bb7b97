//! `exportTo`: which namespaces see an object.

use std::collections::BTreeSet;
use std::sync::Arc;

use aquifer_core::names::is_dns_label;

use crate::model::field::shorten;
use crate::objects::Rejection;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visibility {
    All,
    /// Only these; empty for nobody.
    Namespaces(BTreeSet<Arc<str>>),
}

impl Visibility {
    /// `*` all, `.` the object's own namespace, `~` nobody, or names.
    pub fn parse(export_to: &[Arc<str>], namespace: &Arc<str>) -> Result<Self, Rejection> {
        if export_to.is_empty() || export_to.iter().any(|e| &**e == "*") {
            return Ok(Self::All);
        }
        let mut names = BTreeSet::new();
        for (i, entry) in export_to.iter().enumerate() {
            match &**entry {
                "~" => {}
                "." => drop(names.insert(namespace.clone())),
                name if is_dns_label(name) => drop(names.insert(entry.clone())),
                other => {
                    let reason = format!(
                        "{:?} is none of \"*\", \".\", \"~\" and a namespace",
                        shorten(other)
                    );
                    return Err(Rejection::invalid(format!("spec.exportTo[{i}]"), reason));
                }
            }
        }
        Ok(Self::Namespaces(names))
    }

    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(names) => names.contains(namespace),
        }
    }
}
