//! `cargo xtask cluster`: installs what a cluster of real parts stands on. The cluster itself, with the building of its
//! parts, is the program `aquifer-cluster` of `tests/`.

use std::path::Path;

use anyhow::Result;

use crate::setup::{self, Needs};

/// The suites that need it.
pub(crate) const SUITES: &[&str] = &["apiserver", "cluster", "images", "kubernetes"];

/// Any of these files says that the package is there.
const PACKAGES: &[(&[&str], &str)] = &[
    (&["/usr/include/seccomp.h"], "libseccomp-dev"),
    (&["/usr/lib/cni/bridge"], "containernetworking-plugins"),
    (&["/usr/sbin/iptables", "/sbin/iptables"], "iptables"),
    (&["/usr/bin/tar", "/bin/tar"], "tar"),
];

/// Debian packages; Go, kubectl and helm are installed below the user's cache when the parts are built.
pub(crate) fn install() -> Result<()> {
    setup::install(Needs::Lab)?;
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(files, _)| !files.iter().any(|file| Path::new(file).exists()))
        .map(|(_, package)| *package)
        .collect();
    setup::install_packages(&missing)?;
    setup::pypi::ensure_pip()
}
