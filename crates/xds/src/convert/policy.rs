//! `istio.security.Authorization`.

use aquifer_core::policy::{
    Action, Authorization, Group, Match, Rule, Scope, ServiceAccountMatch, StringMatch,
};
use ipnet::IpNet;

use super::{ConvertError, address};
use crate::pb::istio::security as pb;
use crate::pb::istio::workload::Extension;
use pb::string_match::MatchType;

pub fn authorization_from_pb(wire: pb::Authorization) -> Result<Authorization, ConvertError> {
    if wire.name.is_empty() {
        return Err(ConvertError::Missing { field: "name" });
    }
    refuse_extensions(&wire.extensions)?;
    Ok(Authorization {
        scope: scope(wire.scope)?,
        action: action(wire.action)?,
        groups: wire.groups.into_iter().map(group).collect::<Result<_, _>>()?,
        dry_run: wire.dry_run,
        name: wire.name.into(),
        namespace: wire.namespace.into(),
    })
}

/// A condition that is not understood may widen an ALLOW or narrow a DENY: such a policy is not applied in part.
fn refuse_extensions(extensions: &[Extension]) -> Result<(), ConvertError> {
    match extensions.first() {
        None => Ok(()),
        Some(extension) => Err(ConvertError::unsupported(
            "extensions",
            format!("condition {:?}", extension.name),
        )),
    }
}

fn scope(wire: i32) -> Result<Scope, ConvertError> {
    match pb::Scope::try_from(wire) {
        Ok(pb::Scope::Global) => Ok(Scope::Global),
        Ok(pb::Scope::Namespace) => Ok(Scope::Namespace),
        Ok(pb::Scope::WorkloadSelector) => Ok(Scope::WorkloadSelector),
        Err(_) => Err(ConvertError::unsupported(
            "scope",
            format!("unknown number {wire}"),
        )),
    }
}

fn action(wire: i32) -> Result<Action, ConvertError> {
    match pb::Action::try_from(wire) {
        Ok(pb::Action::Allow) => Ok(Action::Allow),
        Ok(pb::Action::Deny) => Ok(Action::Deny),
        Err(_) => Err(ConvertError::unsupported(
            "action",
            format!("unknown number {wire}"),
        )),
    }
}

fn group(wire: pb::Group) -> Result<Group, ConvertError> {
    Ok(Group {
        rules: wire.rules.into_iter().map(rule).collect::<Result<_, _>>()?,
    })
}

fn rule(wire: pb::Rules) -> Result<Rule, ConvertError> {
    Ok(Rule {
        matches: wire
            .matches
            .into_iter()
            .map(one_match)
            .collect::<Result<_, _>>()?,
    })
}

fn one_match(wire: pb::Match) -> Result<Match, ConvertError> {
    refuse_extensions(&wire.extensions)?;
    Ok(Match {
        namespaces: strings("namespaces", wire.namespaces)?,
        not_namespaces: strings("not_namespaces", wire.not_namespaces)?,
        service_accounts: accounts(wire.service_accounts),
        not_service_accounts: accounts(wire.not_service_accounts),
        principals: strings("principals", wire.principals)?,
        not_principals: strings("not_principals", wire.not_principals)?,
        source_ips: ranges("source_ips", &wire.source_ips)?,
        not_source_ips: ranges("not_source_ips", &wire.not_source_ips)?,
        destination_ips: ranges("destination_ips", &wire.destination_ips)?,
        not_destination_ips: ranges("not_destination_ips", &wire.not_destination_ips)?,
        destination_ports: ports("destination_ports", &wire.destination_ports)?,
        not_destination_ports: ports("not_destination_ports", &wire.not_destination_ports)?,
    })
}

fn strings(field: &'static str, wire: Vec<pb::StringMatch>) -> Result<Vec<StringMatch>, ConvertError> {
    wire.into_iter().map(|value| string_match(field, value)).collect()
}

fn string_match(field: &'static str, wire: pb::StringMatch) -> Result<StringMatch, ConvertError> {
    match wire.match_type {
        Some(MatchType::Exact(text)) => Ok(StringMatch::Exact(text.into())),
        Some(MatchType::Prefix(text)) => Ok(StringMatch::Prefix(text.into())),
        Some(MatchType::Suffix(text)) => Ok(StringMatch::Suffix(text.into())),
        Some(MatchType::Presence(())) => Ok(StringMatch::Presence),
        None => Err(ConvertError::unsupported(
            field,
            "a kind of match that is not exact, prefix, suffix or presence",
        )),
    }
}

fn accounts(wire: Vec<pb::ServiceAccountMatch>) -> Vec<ServiceAccountMatch> {
    wire.into_iter()
        .map(|account| ServiceAccountMatch {
            namespace: account.namespace.into(),
            service_account: account.service_account.into(),
        })
        .collect()
}

fn ranges(field: &'static str, wire: &[pb::Address]) -> Result<Vec<IpNet>, ConvertError> {
    wire.iter().map(|range| ip_range(field, range)).collect()
}

fn ip_range(field: &'static str, wire: &pb::Address) -> Result<IpNet, ConvertError> {
    let ip = address::ip(field, &wire.address)?;
    // An IPv4 range written as a mapped IPv6 one counts its prefix from the 96 bits that were dropped.
    let mapped = wire.address.len() == 16 && ip.is_ipv4();
    let length = if mapped {
        wire.length.checked_sub(96)
    } else {
        Some(wire.length)
    };
    length
        .and_then(|length| u8::try_from(length).ok())
        .and_then(|length| IpNet::new(ip, length).ok())
        .ok_or_else(|| ConvertError::invalid(field, format!("{ip} has no prefix of length {}", wire.length)))
}

fn ports(field: &'static str, wire: &[u32]) -> Result<Vec<u16>, ConvertError> {
    wire.iter().map(|number| address::port(field, *number)).collect()
}

pub fn authorization_to_pb(policy: &Authorization) -> pb::Authorization {
    pb::Authorization {
        name: policy.name.to_string(),
        namespace: policy.namespace.to_string(),
        scope: scope_to_pb(policy.scope).into(),
        action: action_to_pb(policy.action).into(),
        groups: policy.groups.iter().map(group_to_pb).collect(),
        dry_run: policy.dry_run,
        extensions: Vec::new(),
    }
}

fn scope_to_pb(scope: Scope) -> pb::Scope {
    match scope {
        Scope::Global => pb::Scope::Global,
        Scope::Namespace => pb::Scope::Namespace,
        Scope::WorkloadSelector => pb::Scope::WorkloadSelector,
    }
}

fn action_to_pb(action: Action) -> pb::Action {
    match action {
        Action::Allow => pb::Action::Allow,
        Action::Deny => pb::Action::Deny,
    }
}

fn group_to_pb(group: &Group) -> pb::Group {
    pb::Group {
        rules: group.rules.iter().map(rule_to_pb).collect(),
    }
}

fn rule_to_pb(rule: &Rule) -> pb::Rules {
    pb::Rules {
        matches: rule.matches.iter().map(match_to_pb).collect(),
    }
}

fn match_to_pb(model: &Match) -> pb::Match {
    pb::Match {
        namespaces: strings_to_pb(&model.namespaces),
        not_namespaces: strings_to_pb(&model.not_namespaces),
        principals: strings_to_pb(&model.principals),
        not_principals: strings_to_pb(&model.not_principals),
        source_ips: ranges_to_pb(&model.source_ips),
        not_source_ips: ranges_to_pb(&model.not_source_ips),
        destination_ips: ranges_to_pb(&model.destination_ips),
        not_destination_ips: ranges_to_pb(&model.not_destination_ips),
        destination_ports: ports_to_pb(&model.destination_ports),
        not_destination_ports: ports_to_pb(&model.not_destination_ports),
        service_accounts: accounts_to_pb(&model.service_accounts),
        not_service_accounts: accounts_to_pb(&model.not_service_accounts),
        extensions: Vec::new(),
    }
}

fn strings_to_pb(values: &[StringMatch]) -> Vec<pb::StringMatch> {
    values
        .iter()
        .map(|value| pb::StringMatch {
            match_type: Some(match_type(value)),
        })
        .collect()
}

fn match_type(value: &StringMatch) -> MatchType {
    match value {
        StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
        StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
        StringMatch::Presence => MatchType::Presence(()),
    }
}

fn ranges_to_pb(ranges: &[IpNet]) -> Vec<pb::Address> {
    ranges
        .iter()
        .map(|range| pb::Address {
            address: address::ip_bytes(range.addr()),
            length: range.prefix_len().into(),
        })
        .collect()
}

fn ports_to_pb(ports: &[u16]) -> Vec<u32> {
    ports.iter().map(|port| u32::from(*port)).collect()
}

fn accounts_to_pb(accounts: &[ServiceAccountMatch]) -> Vec<pb::ServiceAccountMatch> {
    accounts
        .iter()
        .map(|account| pb::ServiceAccountMatch {
            namespace: account.namespace.to_string(),
            service_account: account.service_account.to_string(),
        })
        .collect()
}
