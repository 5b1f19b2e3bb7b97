//! What stands in namespaces that `discoverySelectors` leave out, as far as it has addresses: nobody is told of it, and
//! nobody may have its addresses instead.

use crate::compile::inputs::{Table, Way, turn};
use crate::objects::kube::{Pod, Service};
use crate::objects::{Object, ParsedObject};

#[derive(Clone, Debug)]
pub struct LeftOut {
    pub pods: Table<Pod>,
    pub services: Table<Service>,
}

impl Default for LeftOut {
    fn default() -> Self {
        Self {
            pods: Table::by_name(),
            services: Table::by_name(),
        }
    }
}

impl LeftOut {
    pub(super) fn turn(&mut self, object: &ParsedObject, way: Way) {
        match &object.outcome {
            Ok(Object::Pod(spec)) => turn(&mut self.pods, &object.meta, spec, way),
            Ok(Object::Service(spec)) => turn(&mut self.services, &object.meta, spec, way),
            _ => {}
        }
    }
}
