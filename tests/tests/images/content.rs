//! What runs in an image, as whom, and what the image says of itself.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::Value;

use super::archive::{Archive, Image, all, folder, list, text};

const MOST_COMPRESSED: u64 = 30_000_000;
const AUTHORITIES: &str = "etc/ssl/certs/ca-certificates.crt";

fn each(look: impl Fn(&Archive, &Image)) {
    for archive in all() {
        for image in &archive.images {
            look(&archive, image);
        }
    }
}

#[test]
fn everything_that_a_cluster_runs_has_an_image() {
    let archives = all();
    let names: Vec<&str> = archives.iter().map(|archive| &*archive.name).collect();
    assert_eq!(names, ["agent", "bookinfo", "cli", "control", "waypoint"]);
}

#[test]
fn programs_are_static() {
    each(|archive, image| {
        let program = archive.file(image, &image.program()).unwrap();
        assert_eq!(
            program.metadata().unwrap().permissions().mode() & 0o777,
            0o755,
            "{}",
            image.reference
        );
        let headers = readelf("--program-headers", &program);
        assert!(headers.contains("LOAD"), "{headers}");
        assert!(
            !headers.contains("INTERP"),
            "{}: an interpreter\n{headers}",
            image.reference
        );
        let dynamic = readelf("--dynamic", &program);
        assert!(
            !dynamic.contains("(NEEDED)"),
            "{}: libraries\n{dynamic}",
            image.reference
        );
        let sections = readelf("--sections", &program);
        for left in [".symtab", ".debug_info"] {
            assert!(!sections.contains(left), "{}: {left}", image.reference);
        }
    });
}

fn readelf(what: &str, program: &Path) -> String {
    let output = Command::new("readelf")
        .args(["--wide", what])
        .arg(program)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A path in a program is another digest on another machine.
#[test]
fn programs_name_no_folder_of_the_machine_that_built_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let home = |variable: &str| std::env::var(variable).ok().filter(|value| value.len() > 1);
    let folders: Vec<String> = [
        home("CARGO_HOME"),
        home("HOME").map(|home| format!("{home}/.cargo")),
    ]
    .into_iter()
    .flatten()
    .chain([root.to_string_lossy().into_owned()])
    .map(|folder| format!("{folder}/"))
    .collect();
    each(|archive, image| {
        let program = fs::read(archive.file(image, &image.program()).unwrap()).unwrap();
        for folder in &folders {
            let needle = folder.as_bytes();
            let found = program.windows(needle.len()).position(|part| part == needle);
            assert_eq!(found, None, "{} names {folder}", image.reference);
        }
    });
}

#[test]
fn an_image_holds_one_program_and_little_else() {
    each(|archive, image| {
        let mut expected = vec!["etc", "etc/group", "etc/nsswitch.conf", "etc/passwd", "tmp"];
        if ["control", "waypoint", "cli"].contains(&&*archive.name) {
            expected.extend(["etc/ssl", "etc/ssl/certs", AUTHORITIES]);
        }
        let program = image.program();
        expected.extend([
            "usr",
            "usr/local",
            "usr/local/bin",
            program.trim_start_matches('/'),
        ]);
        expected.sort_unstable();
        let layers = image.layers();
        let entries = layers.iter().flat_map(|layer| &archive.layers[layer].entries);
        let mut paths: Vec<&str> = entries.map(|entry| &*entry.path).collect();
        paths.sort_unstable();
        assert_eq!(paths, expected, "{}", image.reference);
        // Nobody who is not root writes anywhere but in /tmp, and nobody becomes root.
        for entry in layers.iter().flat_map(|layer| &archive.layers[layer].entries) {
            let (is_tmp, mode) = (entry.path == "tmp", &entry.mode);
            assert_eq!(mode == "drwxrwxrwt", is_tmp, "{entry:?}");
            assert!(is_tmp || mode.as_bytes()[8] != b'w', "{entry:?}");
            assert!(!mode.contains('s'), "{entry:?}");
        }
    });
}

#[test]
fn public_authorities_are_those_of_a_tls_client() {
    each(|archive, image| {
        let Some(path) = archive.file(image, AUTHORITIES) else {
            return;
        };
        let pem = fs::read(path).unwrap();
        let certificates: Vec<CertificateDer<'_>> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .unwrap();
        let (taken, refused) = RootCertStore::empty().add_parsable_certificates(certificates);
        assert!(taken > 100 && refused == 0, "{taken} taken, {refused} refused");
    });
}

#[test]
fn only_the_agent_is_root() {
    each(|archive, image| {
        let user = text(&image.configuration["config"]["User"]);
        let wanted = if archive.name == "agent" {
            "0:0"
        } else {
            "65532:65532"
        };
        assert_eq!(user, wanted, "{}", image.reference);
    });
}

#[test]
fn images_are_small() {
    each(|_, image| {
        let compressed = image.compressed();
        eprintln!("{}: {:.1} MB", image.reference, compressed as f64 / 1e6);
        assert!(compressed < MOST_COMPRESSED, "{}: {compressed}", image.reference);
    });
}

#[test]
fn labels_say_which_commit_it_is() {
    each(|_, image| {
        let labels = &image.configuration["config"]["Labels"];
        let label = |key: &str| text(&labels[format!("org.opencontainers.image.{key}")]);
        assert_eq!(label("version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(label("licenses"), "Apache-2.0");
        assert!(!label("title").is_empty());
        let revision = label("revision");
        let commit = revision.trim_end_matches("-dirty");
        assert!(
            commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{revision}"
        );
        // The commit's time, for a clock would change the digest.
        assert_eq!(
            label("created"),
            text(&image.configuration["created"]),
            "{}",
            image.reference
        );
        assert_eq!(&image.manifest["annotations"], labels);
    });
}

#[test]
fn bills_of_materials_name_what_is_linked() {
    let lock = include_str!("../../../Cargo.lock");
    for (name, linked, absent) in [
        (
            "agent",
            vec!["aya", "rustls", "tokio", "h2", "aquifer-core"],
            vec![],
        ),
        ("waypoint", vec!["rustls", "hyper", "envoy-types"], vec!["aya"]),
        ("control", vec!["kube", "rustls", "tonic"], vec!["aya"]),
        ("cli", vec!["clap", "aquifer-control"], vec!["aya"]),
        ("bookinfo", vec!["hyper"], vec!["aya"]),
    ] {
        let path = folder().join(format!("{name}.cdx.json"));
        let bill: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(bill["bomFormat"], "CycloneDX");
        assert_eq!(bill["metadata"]["component"]["name"], name);
        let components: Vec<(String, String)> = list(&bill["components"])
            .map(|component| (text(&component["name"]), text(&component["version"])))
            .collect();
        for wanted in linked.into_iter().chain(["rust-std", "glibc"]) {
            assert!(
                components.iter().any(|(name, _)| name == wanted),
                "{name}: no {wanted}"
            );
        }
        for unwanted in absent {
            assert!(
                !components.iter().any(|(name, _)| name == unwanted),
                "{name}: {unwanted}"
            );
        }
        for (component, version) in &components {
            if ["rust-std", "glibc"].contains(&&**component) {
                continue;
            }
            let locked = format!("name = \"{component}\"\nversion = \"{version}\"\n");
            assert!(
                lock.contains(&locked),
                "{name}: {component} {version} is not locked"
            );
        }
    }
}
