//! Roots and their rotation.

use crate::cose::CoseError;
use crate::testing::TestFleet;
use crate::*;

#[test]
fn a_root_needs_its_threshold() {
    let fleet = TestFleet::new();
    let body = fleet.root.body();
    let keys = &fleet.root_keys;
    let short = Root::verify_first(&body.sign(&[&keys[1]])).unwrap_err();
    assert_eq!(
        short,
        RootError::Threshold {
            number: 1,
            have: 1,
            need: 2,
            of: 1
        }
    );
    let padded = Root::verify_first(&body.sign(&[&keys[1], &NodeKey::generate()])).unwrap_err();
    assert_eq!(
        padded,
        RootError::Threshold {
            number: 1,
            have: 1,
            need: 2,
            of: 1
        }
    );
    let twice = Root::verify_first(&body.sign(&[&keys[1], &keys[1]])).unwrap_err();
    assert!(matches!(
        twice,
        RootError::Document(DocumentError::Signature {
            source: CoseError::SignedTwice(_),
            ..
        })
    ));
    assert!(Root::verify_first(&body.sign(&[&keys[1], &keys[2]])).is_ok());
}

#[test]
fn a_root_with_nonsense_keys_is_refused() {
    let fleet = TestFleet::new();
    let keys = &fleet.root_keys;
    let ids: Vec<_> = keys.iter().map(NodeKey::id).collect();
    let delegates = (fleet.issuing.id(), fleet.issuing.id());
    for (threshold, ids) in [
        (0, ids.clone()),
        (4, ids.clone()),
        (1, vec![]),
        (1, vec![ids[0], ids[0]]),
    ] {
        let body = RootBody::first(threshold, ids, delegates, 0);
        let refused = Root::verify_first(&body.sign(&[&keys[0], &keys[1]])).unwrap_err();
        assert_eq!(refused, RootError::Keys);
    }
    let renamed = RootBody {
        threshold: 1,
        ..fleet.root.body().clone()
    };
    let refused = Root::verify_first(&renamed.sign(&[&keys[0]])).unwrap_err();
    assert_eq!(refused, RootError::WrongFleetName);
}

/// Rotates the issuing key and one root key; signed by `signers`.
fn rotated(
    fleet: &TestFleet,
    signers: &[&NodeKey],
    keys: &[NodeKey],
    issuing: &NodeKey,
) -> Vec<u8> {
    let body = RootBody {
        number: 2,
        previous: Some(*fleet.root.digest()),
        keys: keys.iter().map(NodeKey::id).collect(),
        issuing: issuing.id(),
        ..fleet.root.body().clone()
    };
    body.sign(signers)
}

#[test]
fn a_box_that_knows_an_old_root_follows_a_rotation() {
    let mut fleet = TestFleet::new();
    let old = fleet.document();
    let (old_keys, fresh, issuing) = (
        fleet.root_keys.clone(),
        NodeKey::generate(),
        NodeKey::generate(),
    );
    let keys = [old_keys[0].clone(), old_keys[1].clone(), fresh];
    let root = rotated(&fleet, &[&old_keys[0], &old_keys[1]], &keys, &issuing);
    fleet.body.roots.push(root.into());
    let rotated = FleetDocument::parse(&fleet.body.sign(&issuing), &old.anchor()).unwrap();
    assert_eq!(rotated.supersedes(&old), Ok(Standing::Newer));
    assert_eq!(rotated.root().body().number, 2);
    // The old issuing key has no say any more, and the old root does not come back.
    let refused =
        FleetDocument::parse(&fleet.body.sign(&fleet.issuing), &old.anchor()).unwrap_err();
    assert_eq!(refused, FleetError::NotIssuer(fleet.issuing.id()));
    fleet.body.roots.pop();
    fleet.body.version = 9;
    let back = fleet.body.sign(&fleet.issuing);
    assert_eq!(
        FleetDocument::parse(&back, &rotated.anchor()),
        Err(FleetError::NotAnchored)
    );
    let back = FleetDocument::parse(&back, &old.anchor()).unwrap();
    assert_eq!(
        back.supersedes(&rotated),
        Err(SupersedeError::OlderRoot {
            held: 2,
            offered: 1
        })
    );
}

#[test]
fn one_stolen_root_key_rotates_nothing() {
    let fleet = TestFleet::new();
    let stolen = &fleet.root_keys[0];
    let theirs = [stolen.clone(), NodeKey::generate(), NodeKey::generate()];
    let bytes = rotated(
        &fleet,
        &theirs.iter().collect::<Vec<_>>(),
        &theirs,
        &theirs[1],
    );
    let refused = fleet.root.verify_next(&bytes).unwrap_err();
    assert_eq!(
        refused,
        RootError::Threshold {
            number: 2,
            have: 1,
            need: 2,
            of: 1
        }
    );
    let skipped = RootBody {
        number: 3,
        ..fleet.root.body().clone()
    };
    let refused = fleet
        .root
        .verify_next(&skipped.sign(&[&fleet.root_keys[0], &fleet.root_keys[1]]));
    assert_eq!(
        refused.unwrap_err(),
        RootError::NotNext {
            number: 3,
            previous: 1
        }
    );
}
