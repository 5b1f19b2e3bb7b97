//! Why a CONNECT was refused, in the `proxy-status` header (RFC 9209): `aquifer; details="..."`.

use http::HeaderValue;

pub(crate) const HEADER: &str = "proxy-status";
const MAX_DETAILS: usize = 512;

/// The header's value; what a string of RFC 8941 cannot hold is replaced.
pub(crate) fn encode(reason: &str) -> HeaderValue {
    let mut value = String::from("aquifer; details=\"");
    for c in reason.chars().take(MAX_DETAILS) {
        match c {
            '"' | '\\' => value.extend(['\\', c]),
            ' '..='~' => value.push(c),
            _ => value.push('?'),
        }
    }
    value.push('"');
    HeaderValue::try_from(value).expect("only printable ASCII was put in")
}

/// The details of a peer's header, if it has any.
pub(crate) fn decode(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?;
    let (_, quoted) = text.split_once("details=\"")?;
    let mut details = String::new();
    let mut chars = quoted.chars();
    while details.len() < MAX_DETAILS {
        match chars.next()? {
            '"' => break,
            '\\' => details.push(chars.next()?),
            c => details.push(c),
        }
    }
    Some(details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn printable_reasons_round_trip(reason in "[ -~]{0,200}") {
            prop_assert_eq!(decode(&encode(&reason)), Some(reason));
        }

        #[test]
        fn never_panics(reason in "\\PC{0,600}", header in "[ -~]{0,200}") {
            prop_assert!(decode(&encode(&reason)).is_some());
            let _ = decode(&HeaderValue::try_from(header).unwrap());
        }
    }

    #[test]
    fn reads_what_other_proxies_write() {
        let value =
            HeaderValue::from_static("envoy; error=connection_refused; details=\"say \\\"hi\\\"\"; x=1");
        assert_eq!(decode(&value).unwrap(), "say \"hi\"");
        assert_eq!(decode(&HeaderValue::from_static("envoy")), None);
    }
}
