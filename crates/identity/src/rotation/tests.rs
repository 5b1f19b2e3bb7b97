use super::*;

const LIMITS: RotationLimits = RotationLimits {
    concurrent: 2,
    identities: 5,
};
const DAY: Duration = Duration::from_secs(86_400);

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/test/sa/{name}")).unwrap()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

fn started(rotation: &mut Rotation, now: SystemTime) -> Vec<String> {
    std::iter::from_fn(|| rotation.start(now))
        .map(|(id, _)| id.service_account().to_owned())
        .collect()
}

/// Fetches one identity and has it succeed for a day.
fn fetched(rotation: &mut Rotation, name: &str, now: SystemTime) -> Finished {
    rotation.want(&id(name), Urgency::Demand, now);
    let (identity, attempt) = rotation.start(now).unwrap();
    rotation.succeeded(&identity, attempt, now + DAY, now, 0.0)
}

#[test]
fn renews_at_half_of_the_life() {
    let mut rotation = Rotation::new(LIMITS);
    assert_eq!(
        fetched(&mut rotation, "a", at(0)),
        Finished::Next { due: at(43_200) }
    );
    assert_eq!(rotation.deadline(), Some(at(43_200)));
    assert!(started(&mut rotation, at(43_199)).is_empty());
    assert_eq!(started(&mut rotation, at(43_200)), ["a"]);
}

#[test]
fn jitter_brings_a_renewal_forward_by_at_most_a_tenth() {
    let mut rotation = Rotation::new(LIMITS);
    rotation.want(&id("a"), Urgency::Demand, at(0));
    let (identity, attempt) = rotation.start(at(0)).unwrap();
    let finished = rotation.succeeded(&identity, attempt, at(0) + DAY, at(0), 1.0);
    assert_eq!(finished, Finished::Next { due: at(38_880) });
}

#[test]
fn a_certificate_that_is_already_over_is_not_fetched_in_a_tight_loop() {
    let mut rotation = Rotation::new(LIMITS);
    rotation.want(&id("a"), Urgency::Demand, at(10));
    let (identity, attempt) = rotation.start(at(10)).unwrap();
    let finished = rotation.succeeded(&identity, attempt, at(0), at(10), 0.5);
    assert_eq!(finished, Finished::Next { due: at(11) });
}

#[test]
fn failures_back_off_doubling_up_to_150_seconds() {
    let mut rotation = Rotation::new(LIMITS);
    rotation.want(&id("a"), Urgency::Demand, at(0));
    let mut now = at(0);
    let mut waits = Vec::new();
    for _ in 0..10 {
        let (identity, attempt) = rotation.start(now).unwrap();
        let Finished::Next { due } = rotation.failed(&identity, attempt, now, 0.5) else {
            panic!("the identity is wanted");
        };
        waits.push(due.duration_since(now).unwrap().as_secs());
        assert_eq!(
            rotation.want(&identity, Urgency::Demand, now),
            Wanted::BackingOff { until: due }
        );
        now = due;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 150, 150]);
}

#[test]
fn back_off_jitter_is_a_fifth() {
    assert_eq!(backoff(1, 0.0), Duration::from_millis(800));
    assert_eq!(backoff(1, 1.0), Duration::from_millis(1200));
    assert_eq!(backoff(u32::MAX, 1.0), BACKOFF_MAX);
}

#[test]
fn success_ends_the_back_off() {
    let mut rotation = Rotation::new(LIMITS);
    rotation.want(&id("a"), Urgency::Demand, at(0));
    let (identity, attempt) = rotation.start(at(0)).unwrap();
    rotation.failed(&identity, attempt, at(0), 0.5);
    let (identity, attempt) = rotation.start(at(1)).unwrap();
    rotation.succeeded(&identity, attempt, at(1) + DAY, at(1), 0.0);
    let (identity, attempt) = rotation.start(at(50_000)).unwrap();
    let finished = rotation.failed(&identity, attempt, at(50_000), 0.5);
    assert_eq!(finished, Finished::Next { due: at(50_001) });
}

#[test]
fn no_more_than_the_limit_run_at_once() {
    let mut rotation = Rotation::new(LIMITS);
    for name in ["a", "b", "c"] {
        rotation.want(&id(name), Urgency::Demand, at(0));
    }
    let (first, attempt) = rotation.start(at(0)).unwrap();
    assert_eq!(started(&mut rotation, at(0)), ["b"]);
    rotation.succeeded(&first, attempt, at(0) + DAY, at(0), 0.0);
    assert_eq!(started(&mut rotation, at(0)), ["c"]);
}

#[test]
fn waiting_callers_overtake_warm_up_and_renewals() {
    let mut rotation = Rotation::new(RotationLimits {
        concurrent: 9,
        ..LIMITS
    });
    fetched(&mut rotation, "renewal", at(0));
    rotation.want(&id("warm"), Urgency::Warmup, at(43_200));
    rotation.want(&id("late"), Urgency::Warmup, at(43_200));
    rotation.want(&id("late"), Urgency::Demand, at(43_200));
    assert_eq!(started(&mut rotation, at(43_200)), ["late", "warm", "renewal"]);
}

#[test]
fn one_fetch_serves_many_wishes() {
    let mut rotation = Rotation::new(LIMITS);
    for _ in 0..100 {
        assert_eq!(rotation.want(&id("a"), Urgency::Demand, at(0)), Wanted::Pending);
    }
    assert_eq!(started(&mut rotation, at(0)), ["a"]);
    assert_eq!(rotation.want(&id("a"), Urgency::Demand, at(0)), Wanted::Pending);
    assert!(started(&mut rotation, at(0)).is_empty());
}

#[test]
fn too_many_identities_are_refused_until_one_is_forgotten() {
    let mut rotation = Rotation::new(LIMITS);
    for name in ["a", "b", "c", "d", "e"] {
        rotation.want(&id(name), Urgency::Demand, at(0));
    }
    assert_eq!(rotation.want(&id("f"), Urgency::Demand, at(0)), Wanted::Refused);
    rotation.forget(&id("a"));
    assert_eq!(rotation.want(&id("f"), Urgency::Demand, at(0)), Wanted::Pending);
}

#[test]
fn a_forgotten_fetch_is_stale_and_frees_its_place() {
    let mut rotation = Rotation::new(LIMITS);
    rotation.want(&id("a"), Urgency::Demand, at(0));
    let (identity, first) = rotation.start(at(0)).unwrap();
    rotation.forget(&identity);
    rotation.want(&identity, Urgency::Demand, at(0));
    let (_, second) = rotation.start(at(0)).unwrap();
    assert_eq!(
        rotation.succeeded(&identity, first, at(0) + DAY, at(0), 0.0),
        Finished::Stale
    );
    assert_ne!(
        rotation.succeeded(&identity, second, at(0) + DAY, at(0), 0.0),
        Finished::Stale
    );
    rotation.forget(&identity);
    assert_eq!(rotation.deadline(), None);
    for name in ["b", "c"] {
        rotation.want(&id(name), Urgency::Demand, at(0));
    }
    assert_eq!(started(&mut rotation, at(0)), ["b", "c"]);
}

#[test]
fn a_wish_with_nothing_in_force_is_fetched_although_the_renewal_is_not_due() {
    let mut rotation = Rotation::new(LIMITS);
    fetched(&mut rotation, "a", at(0));
    assert_eq!(rotation.want(&id("a"), Urgency::Demand, at(1)), Wanted::Pending);
    assert_eq!(started(&mut rotation, at(1)), ["a"]);
    assert_eq!(rotation.deadline(), None);
}
