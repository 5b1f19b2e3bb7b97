//! AuthorizationPolicy to groups of matches.

use std::sync::Arc;

use aquifer_core::policy::{Action, Group, Match, Rule, ServiceAccountMatch, StringMatch};
use ipnet::IpNet;

use crate::model::field::shorten;
use crate::model::policy::{Labels, selector};
use crate::model::virtual_service::indexed;
use crate::objects::istio as raw;
use crate::objects::{Meta, Notice, Rejection};

#[derive(Clone, Debug)]
pub struct AuthorizationPolicy {
    pub name: Arc<str>,
    pub namespace: Arc<str>,
    pub selector: Option<Labels>,
    pub action: Action,
    pub groups: Vec<Group>,
    pub dry_run: bool,
    /// Paths of the fields that need a request, with what was done instead; empty where all is enforced as written.
    pub request_fields: Vec<Notice>,
}

impl AuthorizationPolicy {
    pub fn parse(
        spec: raw::AuthorizationPolicy,
        meta: &Meta,
        notices: &mut Vec<Notice>,
    ) -> Result<Self, Rejection> {
        let action = action(&spec.action)?;
        if spec.target_ref.is_some() || !spec.target_refs.is_empty() {
            let reason = "policies for waypoints and gateways are not supported by this version; nothing of it is in effect";
            return Err(Rejection::unsupported("spec.targetRefs", reason));
        }
        if spec.provider.is_some() {
            return Err(Rejection::invalid("spec.provider", "is only for action CUSTOM"));
        }
        let mut request_fields = Vec::new();
        let mut groups = Vec::new();
        for (i, rule) in spec.rules.iter().enumerate() {
            let converted = convert_rule(rule, &meta.namespace, &format!("spec.rules[{i}]"))?;
            groups.extend(converted.settle(action, &mut request_fields));
        }
        notices.extend(request_fields.iter().cloned());
        Ok(Self {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            selector: selector(spec.selector),
            action,
            groups,
            dry_run: meta.is_dry_run(),
            request_fields,
        })
    }
}

fn action(text: &str) -> Result<Action, Rejection> {
    match text {
        "" | "ALLOW" => Ok(Action::Allow),
        "DENY" => Ok(Action::Deny),
        "AUDIT" | "CUSTOM" => {
            let reason =
                format!("{text} is not supported by this version; nothing of the policy is in effect");
            Err(Rejection::unsupported("spec.action", reason))
        }
        other => {
            let reason = format!("is {:?}; expected ALLOW, DENY, AUDIT or CUSTOM", shorten(other));
            Err(Rejection::invalid("spec.action", reason))
        }
    }
}

/// One API rule: the connection part, and the fields that need a request.
struct Converted {
    group: Group,
    request_fields: Vec<String>,
}

impl Converted {
    fn settle(self, action: Action, notices: &mut Vec<Notice>) -> Option<Group> {
        let done = match action {
            Action::Allow => {
                "needs a request, which a node agent does not see: the rule is left out and allows nothing"
            }
            Action::Deny => {
                "needs a request, which a node agent does not see: the rule denies without looking at it"
            }
        };
        let keep = action == Action::Deny || self.request_fields.is_empty();
        notices.extend(
            self.request_fields
                .into_iter()
                .map(|field| Notice::not_supported(field, done)),
        );
        keep.then_some(self.group)
    }
}

fn convert_rule(rule: &raw::PolicyRule, ns: &Arc<str>, field: &str) -> Result<Converted, Rejection> {
    let mut request = Vec::new();
    let mut group = Group::default();
    let from = indexed(&rule.from, &format!("{field}.from"), |from, field| {
        convert_source(from, ns, &format!("{field}.source"), &mut request)
    })?;
    let to = indexed(&rule.to, &format!("{field}.to"), |to, field| {
        convert_operation(to, &format!("{field}.operation"), &mut request)
    })?;
    for matches in [from, to] {
        // A member without any condition matches everything, and so does the OR that it is in.
        if !matches.is_empty() && !matches.contains(&Match::default()) {
            group.rules.push(Rule { matches });
        }
    }
    for (i, when) in rule.when.iter().enumerate() {
        if let Some(m) = convert_when(when, &format!("{field}.when[{i}]"), &mut request)? {
            group.rules.push(Rule { matches: vec![m] });
        }
    }
    Ok(Converted {
        group,
        request_fields: request,
    })
}

fn convert_source(
    from: &raw::From,
    ns: &Arc<str>,
    field: &str,
    request: &mut Vec<String>,
) -> Result<Match, Rejection> {
    let Some(s) = &from.source else {
        return Err(Rejection::invalid(field, "is missing"));
    };
    let at = |name: &str| format!("{field}.{name}");
    for (name, list) in [
        ("requestPrincipals", &s.request_principals),
        ("notRequestPrincipals", &s.not_request_principals),
        ("remoteIpBlocks", &s.remote_ip_blocks),
        ("notRemoteIpBlocks", &s.not_remote_ip_blocks),
    ] {
        if !list.is_empty() {
            request.push(at(name));
        }
    }
    Ok(Match {
        namespaces: strings(&s.namespaces),
        not_namespaces: strings(&s.not_namespaces),
        principals: strings(&s.principals),
        not_principals: strings(&s.not_principals),
        service_accounts: accounts(&s.service_accounts, ns, &at("serviceAccounts"))?,
        not_service_accounts: accounts(&s.not_service_accounts, ns, &at("notServiceAccounts"))?,
        source_ips: blocks(&s.ip_blocks, &at("ipBlocks"))?,
        not_source_ips: blocks(&s.not_ip_blocks, &at("notIpBlocks"))?,
        ..Match::default()
    })
}

fn convert_operation(to: &raw::To, field: &str, request: &mut Vec<String>) -> Result<Match, Rejection> {
    let Some(o) = &to.operation else {
        return Err(Rejection::invalid(field, "is missing"));
    };
    let at = |name: &str| format!("{field}.{name}");
    for (name, list) in [
        ("hosts", &o.hosts),
        ("notHosts", &o.not_hosts),
        ("methods", &o.methods),
        ("notMethods", &o.not_methods),
        ("paths", &o.paths),
        ("notPaths", &o.not_paths),
    ] {
        if !list.is_empty() {
            request.push(at(name));
        }
    }
    Ok(Match {
        destination_ports: ports(&o.ports, &at("ports"))?,
        not_destination_ports: ports(&o.not_ports, &at("notPorts"))?,
        ..Match::default()
    })
}

fn convert_when(
    when: &raw::Condition,
    field: &str,
    request: &mut Vec<String>,
) -> Result<Option<Match>, Rejection> {
    if when.values.is_empty() && when.not_values.is_empty() {
        return Err(Rejection::invalid(field, "has neither values nor notValues"));
    }
    let (values, not_values) = (format!("{field}.values"), format!("{field}.notValues"));
    let mut m = Match::default();
    match &*when.key {
        "source.ip" => {
            m.source_ips = blocks(&when.values, &values)?;
            m.not_source_ips = blocks(&when.not_values, &not_values)?;
        }
        "source.namespace" => {
            m.namespaces = strings(&when.values);
            m.not_namespaces = strings(&when.not_values);
        }
        "source.principal" => {
            m.principals = strings(&when.values);
            m.not_principals = strings(&when.not_values);
        }
        "destination.ip" => {
            m.destination_ips = blocks(&when.values, &values)?;
            m.not_destination_ips = blocks(&when.not_values, &not_values)?;
        }
        "destination.port" => {
            m.destination_ports = ports(&when.values, &values)?;
            m.not_destination_ports = ports(&when.not_values, &not_values)?;
        }
        key if is_request_key(key) => {
            request.push(format!("{field}.key"));
            return Ok(None);
        }
        other => {
            let reason = format!("{:?} is not a condition of this API", shorten(other));
            return Err(Rejection::invalid(format!("{field}.key"), reason));
        }
    }
    Ok(Some(m))
}

fn is_request_key(key: &str) -> bool {
    ["request.", "connection.", "experimental.", "remote.ip"]
        .iter()
        .any(|p| key.starts_with(p))
}

fn strings(list: &[Arc<str>]) -> Vec<StringMatch> {
    list.iter().map(string).collect()
}

/// `*` any, `x*` prefix, `*x` suffix, else exact. A principal may be written with or without its scheme.
fn string(text: &Arc<str>) -> StringMatch {
    let text = text
        .strip_prefix("spiffe://")
        .map_or_else(|| text.clone(), Arc::from);
    match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => StringMatch::Presence,
        (Some(suffix), _) => StringMatch::Suffix(suffix.into()),
        (None, Some(prefix)) => StringMatch::Prefix(prefix.into()),
        (None, None) => StringMatch::Exact(text),
    }
}

/// `namespace/name`, or `name` in the policy's own namespace.
fn accounts(list: &[Arc<str>], ns: &Arc<str>, field: &str) -> Result<Vec<ServiceAccountMatch>, Rejection> {
    indexed(list, field, |text, field| {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (namespace.into(), name.into()),
            None => (ns.clone(), text.clone()),
        };
        if namespace.is_empty() || name.is_empty() || name.contains('/') {
            let reason = format!("{:?} is neither NAME nor NAMESPACE/NAME", shorten(text));
            return Err(Rejection::invalid(field, reason));
        }
        Ok(ServiceAccountMatch {
            namespace,
            service_account: name,
        })
    })
}

fn blocks(list: &[Arc<str>], field: &str) -> Result<Vec<IpNet>, Rejection> {
    indexed(list, field, |text, field| {
        let parsed = text
            .parse::<IpNet>()
            .ok()
            .or_else(|| text.parse().ok().map(|ip: std::net::IpAddr| ip.into()));
        parsed.map(|net| net.trunc()).ok_or_else(|| {
            Rejection::invalid(
                field,
                format!("{:?} is neither an IP address nor a CIDR block", shorten(text)),
            )
        })
    })
}

fn ports(list: &[Arc<str>], field: &str) -> Result<Vec<u16>, Rejection> {
    indexed(list, field, |text, field| {
        let port = text.parse::<u16>().ok().filter(|p| *p > 0);
        port.ok_or_else(|| {
            Rejection::invalid(
                field,
                format!("{:?} is not a port from 1 to 65535", shorten(text)),
            )
        })
    })
}
