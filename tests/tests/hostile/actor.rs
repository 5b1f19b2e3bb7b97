//! This program once more, inside a pod: the server of many behaviours, and its clients.
//!
//! The lab starts it with a cleared environment; what to do is in the one variable that its command sets. What it has
//! to say stands on lines that begin with a mark, between those of the test harness.

use std::io::{self, Read, Write};

use crate::transparency::{client, server};
use crate::{calls, requests, tokens};

const VARIABLE: &str = "AQH_PART";
/// This function, as the test harness names it.
const ENTRY: &str = "actor::actor_process";
const MARK: &str = "~ ";

/// Not a test: what an actor runs. Empty unless this process is one.
#[test]
fn actor_process() {
    let Ok(part) = std::env::var(VARIABLE) else { return };
    let words: Vec<&str> = part.split_whitespace().collect();
    let ended = match words.as_slice() {
        ["serve"] => server::serve().and_then(|()| requests::server::serve()),
        ["converse", target] => client::converse(target),
        ["parallel", target, count] => client::parallel(target, count.parse().unwrap()),
        ["sequence", target, count] => client::sequence(target, count.parse().unwrap()),
        ["pipe", target] => requests::pipe(target),
        ["get", target] => calls::get(target),
        ["hold", target] => calls::hold(target),
        ["load", target, per_connection] => calls::load(target, per_connection.parse().unwrap()),
        ["sign", token, identity, asking] => tokens::sign(token, identity, asking),
        other => Err(io::Error::other(format!("no such part: {other:?}"))),
    };
    if let Err(error) = ended {
        // Not the whole part: it may hold a token.
        let _ = writeln!(io::stderr(), "{}: {error}", words[0]);
        std::process::exit(1);
    }
    std::process::exit(0);
}

/// The command line of an actor, as words.
pub(crate) fn words(part: &str) -> Vec<String> {
    let program = std::env::current_exe().expect("our own path");
    let words = [
        "env",
        &format!("{VARIABLE}={part}"),
        &program.to_string_lossy(),
        ENTRY,
        "--exact",
        "--nocapture",
        "--test-threads=1",
    ];
    words.map(str::to_owned).to_vec()
}

/// The same as the lab's mapping of an image wants it.
pub(crate) fn command(part: &str) -> String {
    words(part).join(" ")
}

/// Says something to whoever started this actor.
pub(crate) fn say(line: &str) {
    let mut out = io::stdout().lock();
    // Nobody listens any more: nobody needs it.
    let _ = writeln!(out, "{MARK}{line}");
    let _ = out.flush();
}

/// What an actor has said among all that was printed.
pub(crate) fn said(printed: &[u8]) -> String {
    let text = String::from_utf8_lossy(printed);
    // The harness ends its own line only after the test: the first mark may stand behind its words.
    let lines = text.lines().filter_map(|line| Some(line.split_once(MARK)?.1));
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// Until whoever started this actor lets go of it.
pub(crate) fn until_released() {
    let _ = io::stdin().read_to_end(&mut Vec::new());
}
