use super::*;

const DAY: Duration = Duration::from_secs(86_400);
const PACE: Pace = Pace {
    announce: Duration::from_secs(60),
    life: DAY,
};
const ALL: Reach = Reach { in_effect: 3, of: 3 };
const SOME: Reach = Reach { in_effect: 2, of: 3 };

/// The machine compares certificates and never reads them.
fn certificate(name: &str) -> Certificate {
    Certificate::from(name.as_bytes().to_vec())
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

/// An authority in a Secret: who signs, under which root, and what is to be trusted.
struct Wanted {
    signer: Certificate,
    own_root: Certificate,
    roots: Vec<Certificate>,
}

fn wanted(signer: &str, own_root: &str, roots: &[&str]) -> Wanted {
    Wanted {
        signer: certificate(signer),
        own_root: certificate(own_root),
        roots: roots.iter().map(|name| certificate(name)).collect(),
    }
}

impl Wanted {
    fn target(&self) -> Target<'_> {
        Target {
            signer: &self.signer,
            own_root: &self.own_root,
            roots: &self.roots,
        }
    }
}

/// A mesh in simulated time.
struct Mesh {
    state: Succession,
    now: u64,
}

impl Mesh {
    /// Everybody has known the authority for long.
    fn settled(first: &Wanted) -> Self {
        let state = Succession::starting(&first.target(), at(0));
        let mut mesh = Self { state, now: 0 };
        mesh.step(first, ALL, 0);
        assert_eq!(mesh.state.stage(&first.target()), Stage::Settled);
        mesh
    }

    fn step(&mut self, wanted: &Wanted, reach: Reach, later: u64) -> Stage {
        self.step_with(wanted, reach, later, Signer::Usable)
    }

    fn step_with(&mut self, wanted: &Wanted, reach: Reach, later: u64, signer: Signer) -> Stage {
        self.now += later;
        let now = at(self.now);
        self.state = self
            .state
            .step(&wanted.target(), reach, signer, now, &PACE)
            .unwrap();
        let again = self
            .state
            .step(&wanted.target(), SOME, signer, now, &PACE)
            .unwrap();
        assert_eq!(
            again, self.state,
            "a second look at the same moment changes nothing"
        );
        self.state.stage(&wanted.target())
    }

    fn roots(&self) -> Vec<String> {
        let name = |root: &TrustedRoot| String::from_utf8(root.certificate.to_vec()).unwrap();
        self.state.roots.iter().map(name).collect()
    }

    fn signer(&self) -> &[u8] {
        &self.state.signer
    }
}

#[test]
fn a_new_root_is_known_before_it_signs_and_the_old_one_goes_when_its_certificates_are_over() {
    let (a, b) = (wanted("a", "a", &["a"]), wanted("b", "b", &["b"]));
    let mut mesh = Mesh::settled(&a);
    assert_eq!(mesh.step(&b, ALL, 1000), Stage::Announcing);
    assert_eq!(mesh.roots(), ["a", "b"], "the old signer's root stays the first");
    assert_eq!(
        mesh.step(&b, SOME, 3600),
        Stage::Announcing,
        "one proxy does not know it yet"
    );
    assert_eq!(mesh.signer(), b"a");
    assert_eq!(mesh.step(&b, ALL, 1), Stage::Renewing);
    assert_eq!(
        (mesh.signer(), mesh.roots()),
        (&b"b"[..], vec!["b".to_owned(), "a".to_owned()])
    );
    // A replica that still signs as before counts until the last proxy has heard of the switch.
    assert_eq!(mesh.step(&b, SOME, 50_000), Stage::Renewing);
    assert_eq!(mesh.step(&b, ALL, 1), Stage::Renewing);
    assert_eq!(mesh.step(&b, SOME, 86_399), Stage::Renewing);
    assert_eq!(mesh.step(&b, SOME, 1), Stage::Settled);
    assert_eq!(mesh.roots(), ["b"]);
}

#[test]
fn a_root_is_announced_for_a_while_although_all_know_it() {
    let (a, b) = (wanted("a", "a", &["a"]), wanted("b", "b", &["b"]));
    let mut mesh = Mesh::settled(&a);
    mesh.step(&b, ALL, 100);
    assert_eq!(mesh.step(&b, ALL, 59), Stage::Announcing);
    assert_eq!(mesh.step(&b, ALL, 1), Stage::Renewing);
}

#[test]
fn another_intermediate_under_the_same_root_signs_at_once() {
    let (one, two) = (wanted("i1", "r", &["r"]), wanted("i2", "r", &["r"]));
    let mut mesh = Mesh::settled(&one);
    assert_eq!(mesh.step(&two, SOME, 1000), Stage::Settled);
    assert_eq!((mesh.signer(), mesh.roots()), (&b"i2"[..], vec!["r".to_owned()]));
    assert!(mesh.state.known_at.is_some(), "nothing has to be made known");
}

#[test]
fn the_three_edits_of_istios_documentation_do_the_same() {
    let mut mesh = Mesh::settled(&wanted("a", "a", &["a"]));
    let both = wanted("a", "a", &["a", "b"]);
    assert_eq!(mesh.step(&both, ALL, 10), Stage::Settled);
    assert_eq!(mesh.step(&both, ALL, 100), Stage::Settled);
    let switched = wanted("b", "b", &["a", "b"]);
    assert_eq!(mesh.step(&switched, ALL, 1), Stage::Settled);
    assert_eq!(mesh.roots(), ["b", "a"]);
    // Too early: certificates of the old root are in use.
    let dropped = wanted("b", "b", &["b"]);
    assert_eq!(mesh.step(&dropped, ALL, 10), Stage::Renewing);
    assert_eq!(mesh.roots(), ["b", "a"]);
    assert_eq!(mesh.step(&dropped, ALL, 86_400), Stage::Settled);
    assert_eq!(mesh.roots(), ["b"]);
}

#[test]
fn a_root_that_never_signed_goes_as_soon_as_it_is_taken_out() {
    let mut mesh = Mesh::settled(&wanted("a", "a", &["a"]));
    mesh.step(&wanted("a", "a", &["a", "neighbour"]), ALL, 10);
    assert_eq!(mesh.roots(), ["a", "neighbour"]);
    mesh.step(&wanted("a", "a", &["a"]), SOME, 1);
    assert_eq!(mesh.roots(), ["a"]);
}

#[test]
fn who_never_answers_holds_it_up_for_no_longer_than_a_certificate_lives() {
    let (a, b) = (wanted("a", "a", &["a"]), wanted("b", "b", &["b"]));
    let mut mesh = Mesh::settled(&a);
    mesh.step(&b, SOME, 1);
    assert_eq!(mesh.step(&b, SOME, 86_399), Stage::Announcing);
    assert_eq!(mesh.step(&b, SOME, 1), Stage::Renewing);
    let due = mesh.state.retires_at(&b.target(), &PACE).unwrap();
    assert_eq!(due, at(mesh.now) + DAY * 2);
    mesh.step(&b, SOME, 86_400);
    assert_eq!(mesh.step(&b, SOME, 86_399), Stage::Renewing);
    assert_eq!(mesh.step(&b, SOME, 1), Stage::Settled);
}

#[test]
fn a_signer_whose_key_is_gone_is_not_waited_for() {
    let (a, b) = (wanted("a", "a", &["a"]), wanted("b", "b", &["b"]));
    let mut mesh = Mesh::settled(&a);
    assert_eq!(mesh.step_with(&b, SOME, 1, Signer::Gone), Stage::Renewing);
    assert_eq!(
        (mesh.signer(), mesh.roots()),
        (&b"b"[..], vec!["b".to_owned(), "a".to_owned()])
    );
}

#[test]
fn a_change_of_mind_while_announcing_keeps_the_old_signer() {
    let (a, b, c) = (
        wanted("a", "a", &["a"]),
        wanted("b", "b", &["b"]),
        wanted("c", "c", &["c"]),
    );
    let mut mesh = Mesh::settled(&a);
    mesh.step(&b, SOME, 1);
    assert_eq!(mesh.step(&c, ALL, 100), Stage::Announcing);
    assert_eq!(mesh.roots(), ["a", "b", "c"]);
    assert_eq!(mesh.step(&a, ALL, 1), Stage::Settled);
    assert_eq!(mesh.roots(), ["a"], "what never signed is dropped");
}

#[test]
fn too_many_roots_change_nothing() {
    let many: Vec<String> = (0..MAX_ROOTS).map(|n| format!("r{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mesh = Mesh::settled(&wanted("a", "a", &["a"]));
    let target = wanted("r0", "r0", &many);
    let error = mesh
        .state
        .step(&target.target(), ALL, Signer::Usable, at(1), &PACE)
        .unwrap_err();
    assert!(error.to_string().contains("33 root certificates"), "{error}");
}

#[test]
fn an_authority_of_the_meshs_own_is_renewed_with_a_fifth_of_its_life_left() {
    assert_eq!(renewal_due(at(0), at(1000)), at(800));
}
