//! Header mutations.

use aquifer_core::http::mutation::{HeaderMutations, HeaderSet, SetMode};
use http::{HeaderName, HeaderValue};

use super::pb::envoy::config::core::v3::HeaderValueOption;
use super::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use super::{FieldError, Result, fields, text};

/// The `…_headers_to_add` and `…_headers_to_remove` of one message; `field` is what both names begin with.
pub(super) fn mutations(
    field: &str,
    add: &[HeaderValueOption],
    remove: &[String],
) -> Result<HeaderMutations> {
    let added =
        |(i, option)| header_set(option).map_err(|e: FieldError| e.within(format!("{field}_to_add[{i}]")));
    Ok(HeaderMutations {
        remove: remove
            .iter()
            .map(|name| mutable_name(&format!("{field}_to_remove"), name))
            .collect::<Result<_>>()?,
        set: add
            .iter()
            .enumerate()
            .map(added)
            .filter_map(Result::transpose)
            .collect::<Result<_>>()?,
    })
}

/// `None` where the value is empty and an empty value is to be left out.
fn header_set(option: &HeaderValueOption) -> Result<Option<HeaderSet>> {
    fields!(option => HeaderValueOption { read: [header, append, append_action, keep_empty_value], harmless: [], refused: [] });
    let header = option
        .header
        .as_ref()
        .ok_or_else(|| FieldError::new("header", "is missing"))?;
    if !header.raw_value.is_empty() && !header.value.is_empty() {
        return Err(FieldError::new("header", "has both value and raw_value"));
    }
    let name = mutable_name("header.key", &header.key)?;
    let value = literal(&header.value)?;
    let bytes = if header.raw_value.is_empty() {
        value.as_bytes()
    } else {
        &header.raw_value
    };
    if bytes.is_empty() && !option.keep_empty_value {
        return Ok(None);
    }
    let value = HeaderValue::from_bytes(bytes)
        .map_err(|_| FieldError::new("header.value", "holds characters that no header may"))?;
    Ok(Some(HeaderSet {
        name,
        value,
        mode: mode(option)?,
    }))
}

fn mode(option: &HeaderValueOption) -> Result<SetMode> {
    #[allow(deprecated, reason = "append is still what many servers send")]
    if let Some(append) = option.append {
        return Ok(if append.value {
            SetMode::Append
        } else {
            SetMode::Overwrite
        });
    }
    match HeaderAppendAction::try_from(option.append_action) {
        Ok(HeaderAppendAction::AppendIfExistsOrAdd) => Ok(SetMode::Append),
        Ok(HeaderAppendAction::AddIfAbsent) => Ok(SetMode::IfAbsent),
        Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => Ok(SetMode::Overwrite),
        Ok(HeaderAppendAction::OverwriteIfExists) => Ok(SetMode::OverwriteIfPresent),
        Err(_) => Err(FieldError::new("append_action", "is unknown")),
    }
}

/// Envoy refuses changes of pseudo headers and `host` here: a host is rewritten by the route's action.
fn mutable_name(field: &str, name: &str) -> Result<HeaderName> {
    let name = text::not_empty(field, name)?;
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        let reason = format!("{name:?} cannot be changed as a header; use host_rewrite_literal for the host");
        return Err(FieldError::new(field, reason));
    }
    HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| FieldError::new(field, format!("{name:?} is not a header name")))
}

/// `%%` is a percent sign; a `%COMMAND%` is not supported.
fn literal(value: &str) -> Result<String> {
    let plain = value.replace("%%", "");
    if plain.contains('%') {
        let reason = "holds a %COMMAND%, which this proxy does not support; write %% for a percent sign";
        return Err(FieldError::new("header.value", reason));
    }
    Ok(value.replace("%%", "%"))
}
