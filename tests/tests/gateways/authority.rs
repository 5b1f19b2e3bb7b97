//! Certificates as people make them: by the commands of Istio's and other manuals.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder with an authority and what it has issued.
pub(crate) struct Authority {
    folder: tempfile::TempDir,
}

/// A certificate and its key, as files.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Programs in pods run as other users.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let authority = Self { folder };
        authority.openssl(
            "req -x509 -sha256 -nodes -days 365 -newkey rsa:2048 -keyout ca.key -out ca.crt",
            &["-subj", "/O=example Inc./CN=example.com"],
        );
        authority
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.file("ca.crt")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// With names as a browser wants them.
    pub(crate) fn issue(&self, file: &str, hosts: &[&str]) -> Issued {
        let names: Vec<String> = hosts.iter().map(|host| format!("DNS:{host}")).collect();
        std::fs::write(
            self.file("names.cnf"),
            format!("subjectAltName={}\n", names.join(",")),
        )
        .unwrap();
        self.sign(file, RSA, "-extfile names.cnf")
    }

    /// With a key on an elliptic curve.
    pub(crate) fn issue_elliptic(&self, file: &str, host: &str) -> Issued {
        std::fs::write(self.file("names.cnf"), format!("subjectAltName=DNS:{host}\n")).unwrap();
        self.sign(file, ELLIPTIC, "-extfile names.cnf")
    }

    /// As `openssl x509 -req` does it without a word more: version 1 with OpenSSL 3.0, no names.
    pub(crate) fn issue_plainly(&self, file: &str) -> Issued {
        self.sign(file, RSA, "")
    }

    fn sign(&self, file: &str, key: &str, more: &str) -> Issued {
        self.openssl(
            &format!("req {key} -nodes -out {file}.csr -keyout {file}.key"),
            &["-subj", &format!("/CN={file}/O=example organization")],
        );
        self.openssl(
            &format!(
                "x509 -req -sha256 -days 365 -CA ca.crt -CAkey ca.key -CAcreateserial -in {file}.csr -out {file}.crt {more}"
            ),
            &[],
        );
        Issued {
            certificate: self.file(&format!("{file}.crt")),
            key: self.file(&format!("{file}.key")),
        }
    }

    fn openssl(&self, command: &str, more: &[&str]) {
        let output = Command::new("openssl")
            .args(command.split_whitespace())
            .args(more)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {command}: {said}");
    }
}

const RSA: &str = "-newkey rsa:2048";
const ELLIPTIC: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256";

impl Issued {
    /// A `kubernetes.io/tls` Secret beside the gateway.
    pub(crate) fn secret(&self, name: &str) -> String {
        self.secret_in("istio-system", name)
    }

    pub(crate) fn secret_in(&self, namespace: &str, name: &str) -> String {
        let (certificate, key) = (indented(&self.certificate), indented(&self.key));
        format!(
            "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: {name}, namespace: {namespace}}}\nstringData:\n  tls.crt: |\n{certificate}\n  tls.key: |\n{key}\n"
        )
    }
}

/// A Secret with authorities of clients.
pub(crate) fn authorities_secret(name: &str, certificate: &Path) -> String {
    let certificate = indented(certificate);
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: istio-system}}\nstringData:\n  cacert: |\n{certificate}\n"
    )
}

fn indented(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}
