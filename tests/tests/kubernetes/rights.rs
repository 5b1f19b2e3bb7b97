//! What the API server has seen of the mesh's accounts, over all chapters.

use aquifer_tests::cluster::audit;

use super::world::World;

pub(crate) fn every_right_that_was_given_was_used_and_no_other_was_wanted(world: &World) {
    let rights = audit::read(world.cluster().layout()).unwrap();
    eprintln!("{} rights were given", rights.given.len());
    assert!(
        !rights.given.is_empty(),
        "the audit log has no binding of an account"
    );
    let unused: Vec<String> = rights.unused.iter().map(ToString::to_string).collect();
    assert!(
        unused.is_empty() && rights.refused.is_empty(),
        "given and not used: {unused:#?}\nrefused: {:#?}",
        rights.refused
    );
}
