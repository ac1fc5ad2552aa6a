//! Fleet documents.

use super::{NOW, scene, swapped};
use crate::cose::{self, CoseError};
use crate::testing::{TestFleet, store_key};
use crate::*;

#[test]
fn a_fleet_document_only_goes_forward() {
    let mut fleet = TestFleet::new();
    let one = fleet.document();
    let mut fork = fleet.clone();
    fork.add_hub("evil.example.org:1");
    let two = fleet.document();
    assert_eq!(two.supersedes(&one), Ok(Standing::Newer));
    assert_eq!(two.supersedes(&two), Ok(Standing::Same));
    assert_eq!(
        one.supersedes(&two),
        Err(SupersedeError::Older {
            held: 2,
            offered: 1
        })
    );
    assert_eq!(
        fork.document().supersedes(&two),
        Err(SupersedeError::Fork(2))
    );
    let mut other = TestFleet::new();
    let stranger = other.document();
    assert_eq!(
        stranger.supersedes(&two),
        Err(SupersedeError::OtherFleet(other.id()))
    );
}

#[test]
fn a_fleet_document_of_another_fleet_or_key_is_refused() {
    let mut fleet = TestFleet::new();
    let anchor = fleet.root.anchor();
    let mut other = TestFleet::new();
    let refused = FleetDocument::parse(other.document().signed(), &anchor).unwrap_err();
    assert_eq!(refused, FleetError::OtherFleet(other.id()));
    let mallory = NodeKey::generate();
    let refused = FleetDocument::parse(&fleet.body.sign(&mallory), &anchor).unwrap_err();
    assert_eq!(refused, FleetError::NotIssuer(mallory.id()));
    // A voucher is no fleet document, though the same key signed it.
    let voucher = VoucherTerms {
        ..scene().voucher.terms().clone()
    };
    let bytes = cose::sign1(&fleet.issuing, "chasqui/voucher/1", &wire::encode(&voucher));
    let refused = FleetDocument::parse(&bytes, &anchor).unwrap_err();
    let source = CoseError::WrongSignature(fleet.issuing.id());
    let what = "fleet document";
    assert_eq!(
        refused,
        FleetError::Document(DocumentError::Signature { what, source })
    );
    // A credential of another fleet inside.
    other.add_radiologist("Dr. Elsewhere");
    fleet.body.credentials = other.body.credentials.clone();
    let refused = FleetDocument::parse(&fleet.body.sign(&fleet.issuing), &anchor).unwrap_err();
    assert_eq!(refused, FleetError::ForeignCredential(other.id()));
}

#[test]
fn a_swapped_hub_key_is_refused() {
    let mut s = scene();
    let document = s.fleet.document();
    let (hub, mallory) = (s.hub.id(), NodeKey::generate().id());
    let at = document
        .signed()
        .windows(32)
        .position(|w| w == hub.as_bytes())
        .unwrap();
    let mut altered = document.signed().to_vec();
    altered[at..at + 32].copy_from_slice(mallory.as_bytes());
    assert!(FleetDocument::parse(&altered, &s.fleet.root.anchor()).is_err());
    assert!(document.hub(&hub).is_some() && document.hub(&mallory).is_none());
    s.fleet.revoke(hub, NOW);
    assert!(
        s.fleet.document().hub(&hub).is_none(),
        "a revoked hub is no hub"
    );
}

#[test]
fn a_swapped_store_key_of_a_hub_is_refused() {
    let mut s = scene();
    let document = s.fleet.document();
    let store = document.hub(&s.hub.id()).unwrap().store;
    let theirs = store_key();
    let altered = swapped(document.signed(), &store, &theirs);
    let refused = FleetDocument::parse(&altered, &s.fleet.root.anchor()).unwrap_err();
    let source = CoseError::WrongSignature(s.fleet.issuing.id());
    let what = "fleet document";
    assert_eq!(
        refused,
        FleetError::Document(DocumentError::Signature { what, source })
    );
    let file = s.fleet.voucher_bytes("Clinic B", ConsentPolicy::Ask);
    assert_eq!(Voucher::parse(&file).unwrap().terms().hub.store, store);
    let refused = Voucher::parse(&swapped(&file, &store, &theirs)).unwrap_err();
    let source = CoseError::WrongSignature(s.fleet.issuing.id());
    let what = "voucher";
    assert_eq!(
        refused,
        VoucherError::Document(DocumentError::Signature { what, source })
    );
}

// Signed by the right key: a slip of the authority must not make boxes seal to everybody.
#[test]
fn a_hub_with_a_weak_store_key_is_refused() {
    let s = scene();
    let content = wire::encode(&s.fleet.body);
    let store = s.fleet.body.hubs[0].store;
    let at = content
        .windows(32)
        .position(|w| w == store.as_bytes())
        .unwrap();
    let mut weak = content.clone();
    weak[at..at + 32].fill(0);
    let sign = |content: &[u8]| cose::sign1(&s.fleet.issuing, "chasqui/fleet/1", content);
    assert!(FleetDocument::parse_own(&sign(&content)).is_ok());
    let refused = FleetDocument::parse_own(&sign(&weak)).unwrap_err();
    assert!(
        refused.to_string().contains("not a valid X25519 key"),
        "{refused}"
    );
}

#[test]
fn any_altered_byte_of_a_fleet_document_is_refused() {
    let mut s = scene();
    s.fleet.add_radiologist("Dr. A. Reader");
    let document = s.fleet.document();
    for at in 0..document.signed().len() {
        let mut altered = document.signed().to_vec();
        altered[at] ^= 0x10;
        assert!(FleetDocument::parse_own(&altered).is_err(), "byte {at}");
    }
}
