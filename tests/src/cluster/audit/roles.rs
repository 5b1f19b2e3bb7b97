//! Roles and bindings through time, from the events that changed them.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef, Subject};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::rights::{Account, Right, of_group};
use super::{AuditError, Event};

/// A role or binding: resource, namespace, name.
type Place = (String, String, String);

/// All that there were.
#[derive(Default)]
pub(super) struct Roles {
    /// All rules that each ever had.
    rules: BTreeMap<Place, Vec<PolicyRule>>,
    /// Who got which role by each binding.
    bindings: BTreeMap<Place, BTreeSet<(Account, Place)>>,
    /// Deleted, and not made again.
    gone: BTreeSet<Place>,
}

#[derive(Deserialize)]
struct Role {
    rules: Option<Vec<PolicyRule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    role_ref: RoleRef,
    subjects: Option<Vec<Subject>>,
}

impl Roles {
    pub(super) fn follow(&mut self, event: &Event) -> Result<(), AuditError> {
        let Some(object) = &event.object_ref else {
            return Ok(());
        };
        let place = (
            object.resource.clone(),
            object.namespace.clone(),
            object.name.clone(),
        );
        match (&*event.verb, &*object.resource) {
            ("delete", _) => {
                self.gone.insert(place);
            }
            ("deletecollection", _) => self.empty(&place),
            (_, "roles" | "clusterroles") => self.write_role(&place, written(&place, event)?),
            (_, "rolebindings" | "clusterrolebindings") => {
                self.write_binding(&place, written(&place, event)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn empty(&mut self, of: &Place) {
        let all = self.rules.keys().chain(self.bindings.keys());
        let here = all.filter(|place| (&place.0, &place.1) == (&of.0, &of.1));
        let here: Vec<Place> = here.cloned().collect();
        self.gone.extend(here);
    }

    fn write_role(&mut self, place: &Place, role: Role) {
        self.gone.remove(place);
        let rules = self.rules.entry(place.clone()).or_default();
        for rule in role.rules.into_iter().flatten() {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }

    fn write_binding(&mut self, place: &Place, binding: Binding) {
        self.gone.remove(place);
        let role = match &*binding.role_ref.kind {
            "Role" => ("roles".to_owned(), place.1.clone(), binding.role_ref.name),
            _ => ("clusterroles".to_owned(), String::new(), binding.role_ref.name),
        };
        let subjects = binding.subjects.into_iter().flatten();
        let accounts = subjects.filter_map(|subject| Account::of_subject(&subject));
        let bound = self.bindings.entry(place.clone()).or_default();
        bound.extend(accounts.map(|account| (account, role.clone())));
    }

    /// Whether nothing has been taken from the account.
    pub(super) fn all_stand(&self, account: &Account) -> bool {
        let lacks = |(place, given): (&Place, &BTreeSet<(Account, Place)>)| {
            let mut own = given.iter().filter(|(to, _)| to == account);
            own.any(|(_, role)| self.gone.contains(place) || self.gone.contains(role))
        };
        !self.bindings.iter().any(lacks)
    }

    pub(super) fn given(&self) -> BTreeSet<Right> {
        let mut given = BTreeSet::new();
        for ((_, namespace, _), bound) in &self.bindings {
            let namespace = Some(&**namespace).filter(|namespace| !namespace.is_empty());
            for (account, role) in bound {
                let rules = self.rules.get(role).into_iter().flatten();
                given.extend(rules.flat_map(|rule| rights(account, namespace, rule)));
            }
        }
        given
    }
}

fn written<T: DeserializeOwned>((resource, namespace, name): &Place, event: &Event) -> Result<T, AuditError> {
    let object = event.response_object.clone().unwrap_or_default();
    serde_json::from_value(object).map_err(|source| AuditError::Rights {
        what: format!("{resource} {namespace}/{name}"),
        source,
    })
}

fn rights(account: &Account, namespace: Option<&str>, rule: &PolicyRule) -> Vec<Right> {
    let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let groups = list(&rule.api_groups);
    let resources = list(&rule.resources);
    let of_groups = |resource: &String| {
        groups
            .iter()
            .map(|group| of_group(resource, group))
            .collect::<Vec<_>>()
    };
    let whats: Vec<String> = resources
        .iter()
        .flat_map(of_groups)
        .chain(list(&rule.non_resource_urls))
        .collect();
    let names: Vec<Option<String>> = match list(&rule.resource_names) {
        names if names.is_empty() => vec![None],
        names => names.into_iter().map(Some).collect(),
    };
    let mut rights = Vec::new();
    for verb in &rule.verbs {
        for what in &whats {
            rights.extend(names.iter().map(|name| Right {
                account: account.clone(),
                verb: verb.clone(),
                what: what.clone(),
                name: name.clone(),
                namespace: namespace.map(str::to_owned),
            }));
        }
    }
    rights
}
