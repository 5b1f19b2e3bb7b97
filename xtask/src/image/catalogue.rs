//! Which images there are, and how each runs.
//!
//! `deploy/Dockerfile` says the same for those who have an engine; a test compares the two.

/// Numeric: Kubernetes cannot tell whether a name is root's.
pub(super) const ROOT: &str = "0:0";
pub(super) const NOT_ROOT: &str = "65532:65532";

/// Tag of the bookinfo sample whose manifests are in `deploy/samples`.
const SAMPLE_TAG: &str = "1.20.3";

pub(super) struct Image {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) package: &'static str,
    pub(super) binary: &'static str,
    pub(super) user: &'static str,
    pub(super) ports: &'static [&'static str],
    /// Whether it may meet servers of the public internet: JWKS, TLS origination, a hosted API server.
    pub(super) public_authorities: bool,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Program,
    /// One image for each part of the sample, named as its manifests name them, so that they run unchanged.
    Parts(&'static [&'static str]),
}

/// What one image of the archive is called and how its program is started.
pub(super) struct Variant {
    /// With registry and organisation; none for those of the hub.
    pub(super) repository: Option<String>,
    pub(super) tag: Option<&'static str>,
    pub(super) arguments: Vec<String>,
}

pub(super) const CATALOGUE: &[Image] = &[
    Image {
        name: "agent",
        title: "Aquifer node agent",
        package: "aquifer-agent",
        binary: "aquifer-agent",
        // Opens pods' network namespaces and the kernel's objects; the chart drops what it does not need.
        user: ROOT,
        ports: &["15020/tcp", "15021/tcp"],
        public_authorities: false,
        kind: Kind::Program,
    },
    Image {
        name: "waypoint",
        title: "Aquifer waypoint and gateway",
        package: "aquifer-waypoint",
        binary: "aquifer-waypoint",
        user: NOT_ROOT,
        ports: &["15008/tcp", "15020/tcp", "15021/tcp"],
        public_authorities: true,
        kind: Kind::Program,
    },
    Image {
        name: "control",
        title: "Aquifer control plane",
        package: "aquifer-control",
        binary: "aquifer-control",
        user: NOT_ROOT,
        ports: &["15012/tcp", "15014/tcp", "15017/tcp"],
        public_authorities: true,
        kind: Kind::Program,
    },
    Image {
        name: "cli",
        title: "Aquifer command line",
        package: "aquifer-cli",
        binary: "aquifer",
        user: NOT_ROOT,
        ports: &[],
        public_authorities: true,
        kind: Kind::Program,
    },
    Image {
        name: "bookinfo",
        title: "Stand-in for the bookinfo sample",
        package: "aquifer-tests",
        binary: "bookinfo",
        user: NOT_ROOT,
        ports: &[],
        public_authorities: false,
        kind: Kind::Parts(&[
            "productpage-v1",
            "details-v1",
            "reviews-v1",
            "reviews-v2",
            "reviews-v3",
            "ratings-v1",
            "ratings-v2",
            "mongodb",
        ]),
    },
];

impl Image {
    pub(super) fn variants(&self) -> Vec<Variant> {
        match self.kind {
            Kind::Program => vec![Variant {
                repository: None,
                tag: None,
                arguments: Vec::new(),
            }],
            Kind::Parts(parts) => parts.iter().map(|part| Variant::of_part(part)).collect(),
        }
    }
}

impl Variant {
    fn of_part(part: &str) -> Self {
        Self {
            repository: Some(format!("istio/examples-bookinfo-{part}")),
            tag: Some(SAMPLE_TAG),
            arguments: vec![part.to_owned()],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn repository_file(path: &str) -> String {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
    }

    #[test]
    fn the_samples_manifests_name_images_that_are_made() {
        let made: Vec<String> = CATALOGUE
            .iter()
            .flat_map(Image::variants)
            .filter_map(|variant| Some(format!("docker.io/{}:{}", variant.repository?, variant.tag?)))
            .collect();
        for file in ["bookinfo.yaml", "bookinfo-db.yaml", "bookinfo-ratings-v2.yaml"] {
            let text = repository_file(&format!("deploy/samples/bookinfo/{file}"));
            for image in text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("image: "))
            {
                assert!(made.iter().any(|name| name == image), "{file} wants {image}");
            }
        }
    }

    #[test]
    fn the_dockerfile_runs_each_program_as_the_archives_do() {
        let dockerfile = repository_file("deploy/Dockerfile");
        for image in CATALOGUE {
            let stage = dockerfile
                .split("\nFROM ")
                .find(|stage| {
                    stage
                        .lines()
                        .next()
                        .is_some_and(|line| line.ends_with(&format!(" AS {}", image.name)))
                })
                .unwrap_or_else(|| panic!("no stage {}", image.name));
            assert!(stage.contains(&format!("\nUSER {}\n", image.user)), "{stage}");
            assert!(
                stage.contains(&format!("\nENTRYPOINT [\"/usr/local/bin/{}\"]", image.binary)),
                "{stage}"
            );
            assert_eq!(
                stage.contains("ca-certificates"),
                image.public_authorities,
                "{stage}"
            );
        }
    }
}
