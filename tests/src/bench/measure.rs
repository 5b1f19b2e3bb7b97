//! iperf3 and wrk inside a pod, and what they print.

use serde_json::Value;
use thiserror::Error;

use crate::lab::{Lab, LabError};

use super::manifests::{HTTP_PORT, IPERF_PORT};
use super::plan::Measurement;

/// Beyond the measured time, for starting and ending.
const SLACK: u32 = 20;

#[derive(Debug, Error)]
pub enum MeasureError {
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error("{program} in {client} failed: {output}")]
    Failed {
        program: &'static str,
        client: String,
        output: String,
    },
    #[error("{program} in {client} printed nothing that could be read: {output}")]
    Unreadable {
        program: &'static str,
        client: String,
        output: String,
    },
}

/// One turn's figures; those that a measurement does not have are absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) gigabits: Option<f64>,
    /// Requests, or connections, per second.
    pub(super) rate: Option<f64>,
    pub(super) p50_micros: Option<f64>,
    pub(super) p99_micros: Option<f64>,
    pub(super) requests: u64,
    /// Requests that were not answered with success.
    pub(super) errors: u64,
}

pub(super) fn measure(
    lab: &Lab,
    client: &str,
    measurement: Measurement,
    seconds: u32,
) -> Result<Sample, MeasureError> {
    match measurement {
        Measurement::Throughput => iperf3(lab, client, seconds),
        Measurement::OneConnection => wrk(lab, client, seconds, 1, &[]),
        Measurement::ManyConnections => wrk(lab, client, seconds, 64, &[]),
        Measurement::NewConnections => wrk(lab, client, seconds, 16, &["-H", "Connection: close"]),
    }
}

fn iperf3(lab: &Lab, client: &str, seconds: u32) -> Result<Sample, MeasureError> {
    let (time, port) = (seconds.to_string(), IPERF_PORT.to_string());
    let arguments = ["iperf3", "-c", "iperf", "-p", &port, "-t", &time, "-J"];
    let output = run(lab, client, "iperf3", seconds, &arguments)?;
    parse_iperf3(&output).ok_or_else(|| unreadable("iperf3", client, output))
}

fn wrk(
    lab: &Lab,
    client: &str,
    seconds: u32,
    connections: u32,
    more: &[&str],
) -> Result<Sample, MeasureError> {
    let (time, connections) = (format!("-d{seconds}s"), format!("-c{connections}"));
    let url = format!("http://http:{HTTP_PORT}/");
    let mut arguments = vec!["wrk", "-t1", &connections, &time, "--latency"];
    arguments.extend(more);
    arguments.push(&url);
    let output = run(lab, client, "wrk", seconds, &arguments)?;
    parse_wrk(&output).ok_or_else(|| unreadable("wrk", client, output))
}

fn run(
    lab: &Lab,
    client: &str,
    program: &'static str,
    seconds: u32,
    arguments: &[&str],
) -> Result<String, MeasureError> {
    let limit = (seconds + SLACK).to_string();
    let bounded: Vec<&str> = ["timeout", &limit]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    let output = lab.exec(client, &bounded)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let output = format!(
        "{}: {text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Err(MeasureError::Failed {
        program,
        client: client.to_owned(),
        output,
    })
}

fn unreadable(program: &'static str, client: &str, output: String) -> MeasureError {
    MeasureError::Unreadable {
        program,
        client: client.to_owned(),
        output,
    }
}

fn parse_iperf3(text: &str) -> Option<Sample> {
    let report: Value = serde_json::from_str(text).ok()?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64()?;
    Some(Sample {
        gigabits: Some(bits / 1e9),
        ..Sample::default()
    })
}

fn parse_wrk(text: &str) -> Option<Sample> {
    let after = |name: &str| {
        let line = text.lines().map(str::trim).find(|line| line.starts_with(name))?;
        line[name.len()..].split_whitespace().next()
    };
    let errors = after("Non-2xx or 3xx responses:")
        .and_then(|count| count.parse().ok())
        .unwrap_or(0);
    Some(Sample {
        rate: Some(after("Requests/sec:")?.parse().ok()?),
        p50_micros: Some(micros(after("50%")?)?),
        p99_micros: Some(micros(after("99%")?)?),
        requests: requests(text)?,
        errors: errors + socket_errors(text),
        ..Sample::default()
    })
}

/// `Socket errors: connect 0, read 3, write 0, timeout 0`; a read error is an answer that broke off.
fn socket_errors(text: &str) -> u64 {
    let Some((_, line)) = text.split_once("Socket errors:") else {
        return 0;
    };
    line.lines()
        .next()
        .unwrap_or_default()
        .split(',')
        .filter_map(|part| part.trim().split_once(' '))
        .filter_map(|(_, count)| count.parse::<u64>().ok())
        .sum()
}

fn requests(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains(" requests in "))?;
    line.split_whitespace().next()?.parse().ok()
}

fn micros(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 1.0), ("ms", 1e3), ("m", 6e7), ("s", 1e6)] {
        if let Some(number) = text.strip_suffix(unit) {
            return number.parse::<f64>().ok().map(|number| number * factor);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 2s test @ http://http:8080/\n  1 threads and 64 connections\n  Latency Distribution\n     \
        50%  812.00us\n     75%    1.10ms\n     90%    2.00ms\n     99%    5.25ms\n  70000 requests in 2.00s, 9MB read\n  \
        Socket errors: connect 1, read 7, write 0, timeout 2\n  Non-2xx or 3xx responses: 4\nRequests/sec:  35000.50\n";

    #[test]
    fn wrk_is_read() {
        let sample = parse_wrk(WRK).unwrap();
        assert_eq!(sample.rate, Some(35000.5));
        assert_eq!(
            (sample.p50_micros, sample.p99_micros),
            (Some(812.0), Some(5250.0))
        );
        assert_eq!((sample.requests, sample.errors), (70000, 14));
    }

    #[test]
    fn iperf3_is_read() {
        let text = r#"{"end":{"sum_received":{"bits_per_second":14500000000.0}}}"#;
        assert_eq!(parse_iperf3(text).unwrap().gigabits, Some(14.5));
    }

    #[test]
    fn other_output_is_refused() {
        assert_eq!(parse_wrk("unable to connect"), None);
        assert_eq!(parse_iperf3("{\"error\":\"x\"}"), None);
    }
}
