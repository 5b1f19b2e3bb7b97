//! DNS messages (RFC 1035): one question in, its answer out.

use std::net::IpAddr;

use super::{Record, Zone};

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const INTERNET: u16 = 1;
const HEADER: usize = 12;
/// Short: a Service's addresses change with its pods.
const TTL: u32 = 5;

const NO_ERROR: u8 = 0;
const FORMAT_ERROR: u8 = 1;
const NAME_ERROR: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

/// The answer to a message, or none where answering would be wrong (an answer, or no header).
pub(crate) fn answer(message: &[u8], zone: &Zone, transport: Transport) -> Option<Vec<u8>> {
    let header = message.get(..HEADER)?;
    let is_answer = header[2] & 0x80 != 0;
    if is_answer {
        return None;
    }
    let standard_query = header[2] & 0x78 == 0;
    let questions = u16::from_be_bytes([header[4], header[5]]);
    let Some(question) = Question::parse(message).filter(|_| questions == 1) else {
        return Some(reply(message, &[], FORMAT_ERROR, &[], false));
    };
    let asked = &message[HEADER..question.end];
    if !standard_query || question.class != INTERNET {
        return Some(reply(message, asked, NOT_IMPLEMENTED, &[], false));
    }
    let Some(record) = zone.records.get(&question.name) else {
        return Some(reply(message, asked, NAME_ERROR, &[], false));
    };
    let answers = resource_records(&question, record, zone);
    let limit = size_limit(message, transport);
    let full = reply(message, asked, NO_ERROR, &answers, false);
    if full.len() <= limit {
        return Some(full);
    }
    // The client asks again over TCP.
    Some(reply(message, asked, NO_ERROR, &[], true))
}

struct Question {
    /// Lower case, without the final dot.
    name: String,
    kind: u16,
    class: u16,
    /// Where the question ends in the message.
    end: usize,
}

impl Question {
    fn parse(message: &[u8]) -> Option<Self> {
        let (mut at, mut labels) = (HEADER, Vec::new());
        loop {
            let length = usize::from(*message.get(at)?);
            at += 1;
            if length == 0 {
                break;
            }
            // Compression has no place in the first name of a message.
            if length > 63 || at - HEADER > 255 {
                return None;
            }
            let label = std::str::from_utf8(message.get(at..at + length)?).ok()?;
            labels.push(label.to_ascii_lowercase());
            at += length;
        }
        let rest = message.get(at..at + 4)?;
        Some(Self {
            name: labels.join("."),
            kind: u16::from_be_bytes([rest[0], rest[1]]),
            class: u16::from_be_bytes([rest[2], rest[3]]),
            end: at + 4,
        })
    }
}

/// A client that sends an additional record (EDNS) takes what fits the usual path.
fn size_limit(message: &[u8], transport: Transport) -> usize {
    let additional = u16::from_be_bytes([message[10], message[11]]);
    match transport {
        Transport::Tcp => usize::from(u16::MAX),
        Transport::Udp if additional > 0 => 1232,
        Transport::Udp => 512,
    }
}

fn resource_records(question: &Question, record: &Record, zone: &Zone) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut addresses = &record.addresses;
    // The owner of the records is a pointer to the question's name, until an alias gives another.
    let mut owner = vec![0xc0, 0x0c];
    if let Some(alias) = &record.alias {
        let name = encode_name(alias);
        records.push(resource_record(&owner, CNAME, &name));
        owner = name;
        if let Some(target) = zone.records.get(alias) {
            addresses = &target.addresses;
        }
    }
    for address in addresses {
        match (address, question.kind) {
            (IpAddr::V4(ip), A) => records.push(resource_record(&owner, A, &ip.octets())),
            (IpAddr::V6(ip), AAAA) => records.push(resource_record(&owner, AAAA, &ip.octets())),
            _ => {}
        }
    }
    records
}

fn encode_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        bytes.push(u8::try_from(label.len()).unwrap_or(63));
        bytes.extend_from_slice(label);
    }
    bytes.push(0);
    bytes
}

fn resource_record(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = owner.to_vec();
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&INTERNET.to_be_bytes());
    bytes.extend_from_slice(&TTL.to_be_bytes());
    bytes.extend_from_slice(&u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

fn reply(message: &[u8], question: &[u8], code: u8, answers: &[Vec<u8>], truncated: bool) -> Vec<u8> {
    let opcode_and_recursion = message[2] & 0x79;
    // An answer with authority; recursion is "available", or resolvers warn.
    let flags = 0x84 | opcode_and_recursion | if truncated { 0x02 } else { 0 };
    let count = u16::try_from(answers.len()).unwrap_or(u16::MAX);
    let mut bytes = vec![message[0], message[1], flags, 0x80 | code];
    bytes.extend_from_slice(&u16::from(!question.is_empty()).to_be_bytes());
    bytes.extend_from_slice(&count.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(question);
    bytes.extend(answers.iter().flatten());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(encode_name(name));
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&INTERNET.to_be_bytes());
        message
    }

    fn zone() -> Zone {
        let mut zone = Zone::default();
        let web = Record {
            addresses: vec!["10.96.0.11".parse().unwrap()],
            alias: None,
        };
        let many = Record {
            addresses: (0..60).map(|n| IpAddr::from([10, 244, 1, n])).collect(),
            alias: None,
        };
        let outside = Record {
            addresses: Vec::new(),
            alias: Some("web.default.svc.cluster.local".to_owned()),
        };
        zone.records
            .insert("web.default.svc.cluster.local".to_owned(), web);
        zone.records
            .insert("many.default.svc.cluster.local".to_owned(), many);
        zone.records
            .insert("outside.default.svc.cluster.local".to_owned(), outside);
        zone
    }

    fn code_and_count(message: &[u8], transport: Transport) -> (u8, u8, bool) {
        let answer = answer(message, &zone(), transport).unwrap();
        (answer[3] & 0xf, answer[7], answer[2] & 2 != 0)
    }

    #[test]
    fn answers_what_is_known_and_denies_the_rest() {
        let web = "Web.Default.svc.cluster.local";
        assert_eq!(
            code_and_count(&query(web, A), Transport::Udp),
            (NO_ERROR, 1, false)
        );
        assert_eq!(
            code_and_count(&query(web, AAAA), Transport::Udp),
            (NO_ERROR, 0, false)
        );
        assert_eq!(
            code_and_count(&query("example.com", A), Transport::Udp),
            (NAME_ERROR, 0, false)
        );
        let alias = query("outside.default.svc.cluster.local", A);
        assert_eq!(code_and_count(&alias, Transport::Udp), (NO_ERROR, 2, false));
    }

    #[test]
    fn long_answers_go_over_tcp() {
        let many = query("many.default.svc.cluster.local", A);
        assert_eq!(code_and_count(&many, Transport::Udp), (NO_ERROR, 0, true));
        assert_eq!(code_and_count(&many, Transport::Tcp), (NO_ERROR, 60, false));
    }

    #[test]
    fn nonsense_is_answered_or_dropped_but_never_trusted() {
        let good = query("web.default.svc.cluster.local", A);
        for cut in 0..good.len() {
            let answered = answer(&good[..cut], &zone(), Transport::Udp);
            assert_eq!(answered.is_some(), cut >= HEADER, "{cut}");
        }
        let mut an_answer = good.clone();
        an_answer[2] |= 0x80;
        assert_eq!(answer(&an_answer, &zone(), Transport::Udp), None);
        let mut loops = good;
        loops[HEADER] = 0xc0;
        assert_eq!(code_and_count(&loops, Transport::Udp).0, FORMAT_ERROR);
    }
}
