//! Rights given and rights used, from the events of an audit log.

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::rbac::v1::Subject;

use super::roles::Roles;
use super::{AuditError, Event, Object};

/// Of roles and bindings.
pub(super) const GROUP: &str = "rbac.authorization.k8s.io";
const ACCOUNT: &str = "system:serviceaccount:";
/// Kubernetes' own accounts.
const KUBERNETES: &str = "kube-system";
const FORBIDDEN: u16 = 403;
const CREATED: u16 = 201;
/// Said with 403 as well, of what the account may do elsewhere.
const ENDING: &str = "because it is being terminated";

/// `NAMESPACE/NAME` of a service account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Account(String);

/// What an account may do, in the smallest parts; nothing is a wildcard.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    pub(super) account: Account,
    pub(super) verb: String,
    pub(super) what: String,
    /// The only object.
    pub(super) name: Option<String>,
    /// The only namespace.
    pub(super) namespace: Option<String>,
}

/// What an account asked for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    account: Account,
    verb: String,
    what: String,
    name: String,
    namespace: String,
}

/// Of the whole time, whatever was taken back meanwhile.
#[derive(Debug)]
pub struct Rights {
    pub given: BTreeSet<Right>,
    /// Those among them that no request needed.
    pub unused: BTreeSet<Right>,
    /// What accounts were refused, and had not been given, while they had all that they were given: the request and the
    /// API server's words.
    pub refused: BTreeSet<String>,
}

impl Rights {
    pub(super) fn of(mut events: Vec<Event>) -> Result<Self, AuditError> {
        // Those that were long under way are written late.
        events.sort_by(|a, b| a.received.cmp(&b.received));
        let (mut roles, mut used, mut refused) = (Roles::default(), BTreeSet::new(), BTreeSet::new());
        for event in events {
            if event.changes_rights() {
                roles.follow(&event)?;
            }
            let Some(request) = event.request() else { continue };
            if !event.is_refused() {
                used.extend(event.also_created().then(|| request.creating()));
                used.insert(request);
            } else if roles.all_stand(&request.account) && !event.is_too_early(&request, &roles) {
                refused.insert(format!("{request}: {}", event.answer.message));
            }
        }
        let given = roles.given();
        let idle = |right: &&Right| !used.iter().any(|request| right.allows(request));
        let unused = given.iter().filter(idle).cloned().collect();
        Ok(Self {
            given,
            unused,
            refused,
        })
    }
}

impl Event {
    fn changes_rights(&self) -> bool {
        let is_of_rbac = |object: &Object| object.api_group == GROUP;
        let succeeded = (200..300).contains(&self.answer.code);
        succeeded && self.object_ref.as_ref().is_some_and(is_of_rbac) && !self.uri.contains("dryRun=")
    }

    fn request(&self) -> Option<Request> {
        let account = Account::of_user(&self.user.username)?;
        let path = || self.uri.split('?').next().unwrap_or_default().to_owned();
        let object = self.object_ref.as_ref();
        let text = |field: fn(&Object) -> &String| object.map(field).cloned().unwrap_or_default();
        Some(Request {
            account,
            verb: self.verb.clone(),
            what: object.map_or_else(path, Object::what),
            name: text(|object| &object.name),
            namespace: text(|object| &object.namespace),
        })
    }

    fn is_refused(&self) -> bool {
        self.answer.code == FORBIDDEN && !self.answer.message.contains(ENDING)
    }

    /// What was given already, and the API server's authorizer had not heard of it, as just after its start.
    fn is_too_early(&self, request: &Request, roles: &Roles) -> bool {
        let words = format!("User \"{}\" cannot ", self.user.username);
        self.answer.message.contains(&words) && roles.given().iter().any(|right| right.allows(request))
    }

    /// Applying what is not there takes the right to create it as well.
    fn also_created(&self) -> bool {
        self.answer.code == CREATED && self.verb == "patch"
    }
}

impl Object {
    /// As a rule and its group name it: `pods/status`, `leases.coordination.k8s.io`.
    fn what(&self) -> String {
        let resource = match &*self.subresource {
            "" => self.resource.clone(),
            subresource => format!("{}/{subresource}", self.resource),
        };
        of_group(&resource, &self.api_group)
    }
}

pub(super) fn of_group(resource: &str, group: &str) -> String {
    match group {
        "" => resource.to_owned(),
        group => format!("{resource}.{group}"),
    }
}

impl Account {
    fn of_user(user: &str) -> Option<Self> {
        let (namespace, name) = user.strip_prefix(ACCOUNT)?.split_once(':')?;
        Self::new(namespace, name)
    }

    pub(super) fn of_subject(subject: &Subject) -> Option<Self> {
        let namespace = subject.namespace.as_deref()?;
        (subject.kind == "ServiceAccount").then_some(())?;
        Self::new(namespace, &subject.name)
    }

    fn new(namespace: &str, name: &str) -> Option<Self> {
        (namespace != KUBERNETES).then(|| Self(format!("{namespace}/{name}")))
    }
}

impl Right {
    fn allows(&self, request: &Request) -> bool {
        let only = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        self.account == request.account
            && self.verb == request.verb
            && self.what == request.what
            && only(&self.name, &request.name)
            && only(&self.namespace, &request.namespace)
    }
}

impl Request {
    fn creating(&self) -> Self {
        Self {
            verb: "create".to_owned(),
            ..self.clone()
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.account.0, self.verb, self.what)?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in {namespace}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.account.0, self.verb, self.what)?;
        write!(f, " {}/{}", self.namespace, self.name)
    }
}
