//! `aquifer ca`: who signs the mesh's certificates, how far a change of that has got, and the wish for another.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;
use serde_json::Value;

use crate::kubectl::{Kubectl, require_cluster};
use crate::reach::Reach;
use crate::table::{Output, print, say, structured};

const GIVEN: &str = "cacerts";
const MADE: &str = "istio-ca-secret";
/// What the control plane looks for on the Secret of its own authority.
const RENEW: &str = "aquifer.io/renew";

#[derive(clap::Subcommand)]
pub(crate) enum Action {
    /// Who signs, what is trusted, and at how many proxies; exit status 1 where what is wanted cannot be used.
    Status,
    /// Has the control plane replace the authority that it made itself, without a request that fails.
    ///
    /// An authority of your own is replaced by editing the Secret cacerts; the stages are the same.
    Rotate,
}

/// Exit status 1 where what is wanted cannot be used.
pub(crate) fn run(
    action: &Action,
    reach: &Reach,
    kubectl: &Kubectl,
    namespace: &str,
    output: Output,
) -> anyhow::Result<ExitCode> {
    match action {
        Action::Status if !status(reach, output)? => return Ok(ExitCode::FAILURE),
        Action::Status => {}
        Action::Rotate => rotate(kubectl, namespace)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether all is well.
fn status(reach: &Reach, output: Output) -> anyhow::Result<bool> {
    let view = reach.control("/debug/ca")?;
    let well = view["problem"].is_null();
    if structured(output, &view)? {
        return Ok(well);
    }
    let text = |name: &str| view[name].as_str().unwrap_or("-").to_owned();
    say(&format!("STAGE    {}: {}", text("stage"), meaning(&view)));
    say(&format!("FROM     {}", text("origin")));
    say(&format!(
        "TRUSTED  by {} of {} proxies, since {}",
        view["inEffect"],
        view["of"],
        text("since")
    ));
    if !well {
        say(&format!("PROBLEM  {}", text("problem")));
    }
    say("");
    let roots = view["roots"].as_array().into_iter().flatten();
    let signer = row("signs", &view["signer"]);
    let rows = std::iter::once(signer).chain(roots.map(|root| row(role(root), root)));
    print(&["ROLE", "SUBJECT", "NOT AFTER", "SHA-256"], rows.collect());
    Ok(well)
}

fn meaning(view: &Value) -> String {
    match view["stage"].as_str().unwrap_or_default() {
        "settled" => "what is wanted is in effect".to_owned(),
        "announcing" => "new roots are made known; the authority before signs on".to_owned(),
        "renewing" => format!(
            "the new authority signs; old roots are dropped at {}, or later where proxies lack behind",
            view["retiresAt"].as_str().unwrap_or("-")
        ),
        other => format!("unknown to this program ({other}); is it older than the control plane?"),
    }
}

fn role(root: &Value) -> &'static str {
    if root["wanted"] == true {
        "root"
    } else {
        "old root"
    }
}

fn row(role: &str, certificate: &Value) -> Vec<String> {
    let text = |name: &str| certificate[name].as_str().unwrap_or("-").to_owned();
    vec![
        role.to_owned(),
        text("subject"),
        text("notAfter"),
        text("fingerprint"),
    ]
}

fn rotate(kubectl: &Kubectl, namespace: &str) -> anyhow::Result<()> {
    require_cluster(kubectl)?;
    // By name only: the key has no business here.
    let is_there = |name: &str| {
        let found = kubectl.text(&[
            "get",
            "secret",
            name,
            "-n",
            namespace,
            "--ignore-not-found",
            "-o",
            "name",
        ]);
        Ok::<bool, anyhow::Error>(!found?.trim().is_empty())
    };
    if is_there(GIVEN)? {
        bail!(
            "the authority is yours (Secret {namespace}/{GIVEN}): put another one into that Secret; \
             `aquifer ca status` shows the stages"
        );
    }
    if !is_there(MADE)? {
        bail!("there is no Secret {namespace}/{MADE}; is the mesh installed? `aquifer check` says what is");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wish = format!("{RENEW}={}", now.as_secs());
    kubectl.text(&["annotate", "secret", MADE, "-n", namespace, "--overwrite", &wish])?;
    say("asked for; `aquifer ca status` shows the stages");
    Ok(())
}
