//! curl, and what it says.

use std::path::Path;

use crate::authority::Issued;
use crate::world::World;

/// One call of curl from outside of the cluster.
pub(crate) struct Curl<'w> {
    world: &'w World,
    arguments: Vec<String>,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// 000 where there was none.
    pub(crate) code: String,
    pub(crate) version: String,
    pub(crate) redirect: String,
    pub(crate) body: String,
    /// What curl complained about.
    pub(crate) error: String,
}

impl<'w> Curl<'w> {
    /// `address` is where the host of the URL is.
    pub(super) fn new(world: &'w World, address: &str, url: &str) -> Self {
        let authority = world.authority.certificate();
        let curl = Self {
            world,
            arguments: Vec::new(),
        };
        let curl = curl.with(&[
            "-sS",
            "--max-time",
            "60",
            "-w",
            "\n%{http_code} %{http_version} %{redirect_url}",
        ]);
        let host = url.split("//").nth(1).unwrap_or(url);
        let host = host.split('/').next().unwrap_or(host);
        let (host, port) = host
            .split_once(':')
            .unwrap_or_else(|| (host, if url.starts_with("https") { "443" } else { "80" }));
        let to = format!("{host}:{port}:{address}");
        curl.with(&["--resolve", &to, "--cacert", path(&authority), url])
    }

    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|a| (*a).to_owned()));
        self
    }

    /// Shows a certificate.
    pub(crate) fn showing(self, own: &Issued) -> Self {
        self.with(&["--cert", path(&own.certificate), "--key", path(&own.key)])
    }

    pub(crate) fn send(&self) -> Answer {
        let mut argv = vec!["curl"];
        argv.extend(self.arguments.iter().map(String::as_str));
        let output = self.world.lab.node("world", &argv).unwrap();
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, last) = stdout.rsplit_once('\n').unwrap_or(("", ""));
        let mut facts = last.split(' ').map(str::to_owned);
        let mut fact = || facts.next().unwrap_or_default();
        Answer {
            code: fact(),
            version: fact(),
            redirect: fact(),
            body: body.to_owned(),
            error: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Answer {
    pub(crate) fn is_ok(&self) -> bool {
        self.code == "200"
    }

    /// The value of a line `KEY VALUE` of the answer.
    pub(crate) fn field(&self, key: &str) -> &str {
        let line = self
            .body
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.unwrap_or_default()
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
