//! PEM in and out, with errors that say which input was wrong.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// What is wrong with a PEM input; `what` names the input, such as `certificate chain`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    #[error("{what} is not PEM: {cause}")]
    Malformed { what: &'static str, cause: String },
    #[error("{what} holds no certificate; expected at least one BEGIN CERTIFICATE section")]
    Empty { what: &'static str },
}

/// Reads every certificate of a PEM text, in order; at least one.
pub(crate) fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| PemError::Malformed {
            what,
            cause: e.to_string(),
        })?;
    if found.is_empty() {
        return Err(PemError::Empty { what });
    }
    Ok(found)
}

/// Writes certificates one after another, as RFC 7468 section 5.1 describes them.
pub(crate) fn encode_certificates<'a, 'd: 'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'d>>,
) -> String {
    certificates
        .into_iter()
        .map(|der| encode("CERTIFICATE", der))
        .collect()
}

const LINE: usize = 64;

fn encode(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    // The output of base64 is ASCII, so that a line never splits a character.
    for line in STANDARD.encode(der).as_bytes().chunks(LINE) {
        text.extend(line.iter().map(|b| char::from(*b)));
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn certificates_round_trip(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 1..4)) {
            let ders: Vec<_> = bodies.into_iter().map(CertificateDer::from).collect();
            let text = encode_certificates(&ders);
            prop_assert_eq!(certificates(text.as_bytes(), "test").unwrap(), ders);
        }

        #[test]
        fn never_panics(text in "\\PC{0,300}") {
            let _ = certificates(text.as_bytes(), "test");
        }
    }

    #[test]
    fn nothing_is_an_error_that_names_the_input() {
        let error = certificates(b"", "root certificate").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("root certificate holds no certificate"),
            "{error}"
        );
    }
}
