//! The authority on disk, under the file names of Istio's `cacerts` secret.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aquifer_core::identity::{SpiffeId, TrustDomain};
use rcgen::{Issuer, KeyPair};
use zeroize::Zeroizing;

use super::{CertificateAuthority, SignRequestError, Signer, validity};
use crate::certificate::WorkloadCertificate;
use crate::csr::new_csr;
use crate::pem::{self, PemError};

const CA_CERT: &str = "ca-cert.pem";
const CA_KEY: &str = "ca-key.pem";
const CERT_CHAIN: &str = "cert-chain.pem";
const ROOT_CERT: &str = "root-cert.pem";

/// The four texts of Istio's `cacerts`.
///
/// It has no `Debug`: a key must not reach a log line.
pub struct AuthorityFiles {
    /// The signing certificate.
    pub ca_cert: String,
    /// Its private key: PKCS #8, SEC 1 or PKCS #1.
    pub ca_key: Zeroizing<String>,
    /// From the signing certificate up to the root; with or without either.
    pub cert_chain: String,
    /// The roots that workloads trust.
    pub root_cert: String,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("cannot read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("{CA_CERT} cannot be used: {0}")]
    Certificate(String),
    #[error("{CA_KEY} is no private key that can sign: {0}")]
    Key(String),
    #[error(
        "a certificate signed with these files is not accepted: {0}; do key, certificate, chain and root belong together?"
    )]
    Unusable(String),
    #[error("cannot create an authority: {0}")]
    Create(#[from] SignRequestError),
    #[error(transparent)]
    Save(#[from] SaveError),
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}")]
pub struct SaveError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl CertificateAuthority {
    /// Loads the authority saved in `directory`, or makes one and saves it there.
    pub fn load_or_create(
        directory: &Path,
        trust_domain: TrustDomain,
        now: SystemTime,
    ) -> Result<Self, LoadError> {
        // The signing certificate is written last: where it is, the rest is.
        if directory.join(CA_CERT).exists() {
            return Self::load(directory, trust_domain, now);
        }
        let authority = Self::new_self_signed(trust_domain, now)?;
        authority.save(directory)?;
        Ok(authority)
    }

    /// Loads the four files of Istio's `cacerts` from a folder.
    pub fn load(directory: &Path, trust_domain: TrustDomain, now: SystemTime) -> Result<Self, LoadError> {
        let files = AuthorityFiles {
            ca_cert: read(directory, CA_CERT)?,
            ca_key: Zeroizing::new(read(directory, CA_KEY)?),
            cert_chain: read(directory, CERT_CHAIN)?,
            root_cert: read(directory, ROOT_CERT)?,
        };
        Self::from_pem(&files, trust_domain, now)
    }

    /// Puts an authority together and proves it by signing a certificate and verifying that.
    pub fn from_pem(
        files: &AuthorityFiles,
        trust_domain: TrustDomain,
        now: SystemTime,
    ) -> Result<Self, LoadError> {
        let certificate = pem::certificates(files.ca_cert.as_bytes(), CA_CERT)?.remove(0);
        let roots = pem::certificates(files.root_cert.as_bytes(), ROOT_CERT)?;
        let mut intermediates = vec![certificate.clone()];
        if !files.cert_chain.trim().is_empty() {
            intermediates.extend(pem::certificates(files.cert_chain.as_bytes(), CERT_CHAIN)?);
        }
        intermediates.dedup();
        intermediates.retain(|c| !roots.contains(c));
        let key = KeyPair::from_pem(&files.ca_key).map_err(|e| LoadError::Key(e.to_string()))?;
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(|e| LoadError::Certificate(e.to_string()))?;
        let (not_before, not_after) =
            validity(&certificate).map_err(|e| LoadError::Certificate(e.to_string()))?;
        let signer = Arc::new(Signer {
            trust_domain,
            issuer,
            not_before,
            not_after,
            certificate,
            intermediates,
        });
        let authority = Self { signer, roots };
        authority.prove(now)?;
        Ok(authority)
    }

    /// The authority as texts, for keeping it somewhere else than in a folder.
    pub fn files(&self) -> AuthorityFiles {
        AuthorityFiles {
            ca_cert: pem::encode_certificates([&self.signer.certificate]),
            ca_key: Zeroizing::new(self.signer.issuer.key().serialize_pem()),
            cert_chain: pem::encode_certificates(&self.signer.intermediates),
            root_cert: self.roots_pem(),
        }
    }

    /// Finds a wrong key, a wrong root or a certificate that may not sign at once, not at the first workload.
    fn prove(&self, now: SystemTime) -> Result<(), LoadError> {
        let unusable = |e: &dyn std::fmt::Display| LoadError::Unusable(e.to_string());
        let identity =
            SpiffeId::new(self.trust_domain(), "istio-system", "probe").map_err(|e| unusable(&e))?;
        let request = new_csr(&identity).map_err(|e| unusable(&e))?;
        let answer = self.sign_workload(request.csr_pem(), &identity, Duration::ZERO, now)?;
        WorkloadCertificate::from_answer(&answer, &request, &identity).map_err(|e| unusable(&e))?;
        Ok(())
    }

    /// Saves the authority; only the owner may read the key.
    ///
    /// Each file is replaced whole, and [`Self::load_or_create`] tolerates a crash between any two.
    pub fn save(&self, directory: &Path) -> Result<(), SaveError> {
        fs::create_dir_all(directory).map_err(|source| SaveError {
            path: directory.to_owned(),
            source,
        })?;
        let files = self.files();
        write(directory, CA_KEY, &files.ca_key, 0o600)?;
        write(directory, CERT_CHAIN, &files.cert_chain, 0o644)?;
        write(directory, ROOT_CERT, &files.root_cert, 0o644)?;
        write(directory, CA_CERT, &files.ca_cert, 0o644)
    }
}

fn read(directory: &Path, name: &str) -> Result<String, LoadError> {
    let path = directory.join(name);
    fs::read_to_string(&path).map_err(|source| LoadError::Read { path, source })
}

fn write(directory: &Path, name: &str, text: &str, mode: u32) -> Result<(), SaveError> {
    let path = directory.join(name);
    replace(directory, &path, text, mode).map_err(|source| SaveError { path, source })
}

fn replace(directory: &Path, path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    // A left-over of a crash might have another mode.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}
