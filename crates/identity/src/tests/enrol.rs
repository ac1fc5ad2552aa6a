//! Vouchers, requests and grants.

use super::{NOW, scene, swapped};
use crate::cose;
use crate::testing::{TestFleet, VALID_UNTIL_MS, store_key};
use crate::*;

#[test]
fn a_box_enrols_with_its_voucher() {
    let mut s = scene();
    let request = s.judge(&s.request(), NOW).unwrap();
    assert_eq!(*request.unit(), s.unit.id());
    let signed = Grant::to_request(&request, NOW).sign(&s.hub);
    let reply = EnrolReply::from_cbor(&EnrolReply::Granted(signed.clone()).to_cbor()).unwrap();
    assert_eq!(reply, EnrolReply::Granted(signed.clone()));
    let grant = Grant::verify_for(&signed, &s.voucher, &s.unit.id()).unwrap();
    assert_eq!(grant.site.as_str(), "Clinic A");
    assert_eq!(grant.consent, ConsentPolicy::Emergency);
    // The box holds on to the root that came with the voucher.
    let document = s.fleet.document();
    assert!(FleetDocument::parse(document.signed(), &s.voucher.root().anchor()).is_ok());
}

#[test]
fn the_hub_enrols_with_a_voucher_that_its_fleet_document_does_not_list_yet() {
    let mut s = scene();
    s.fleet.body.vouchers.clear();
    assert!(s.judge(&s.request(), NOW).is_ok());
}

#[test]
fn an_enrolment_request_gives_the_secret_away_to_nobody() {
    let s = scene();
    let seed = s.voucher.one_time().seed();
    assert!(!s.request().windows(32).any(|w| w == &seed[..]));
}

#[test]
fn an_altered_voucher_is_refused() {
    let mut s = scene();
    let bytes = s.fleet.voucher_bytes("Clinic B", ConsentPolicy::Ask);
    assert!(Voucher::parse(&bytes).is_ok());
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        assert!(Voucher::parse(&altered).is_err(), "byte {at}");
    }
    let mut other_secret = bytes.clone();
    *other_secret.last_mut().unwrap() ^= 1;
    assert_eq!(
        Voucher::parse(&other_secret).unwrap_err(),
        VoucherError::WrongSecret
    );
    assert!(Voucher::parse(&bytes[..bytes.len() - 1]).is_err());
    let huge = vec![0; VOUCHER_BYTES_MAX + 1];
    assert_eq!(
        Voucher::parse(&huge).unwrap_err(),
        VoucherError::TooLong(huge.len())
    );
}

#[test]
fn a_voucher_fits_into_a_qr_code() {
    let mut s = scene();
    let hub = s.fleet.body.hubs.last_mut().unwrap();
    hub.name = Label::parse(&"x".repeat(200)).unwrap();
    hub.address = HubAddress::parse(&format!("{}:65535", "x".repeat(255))).unwrap();
    let bytes = s.fleet.voucher_bytes(&"x".repeat(200), ConsentPolicy::Ask);
    assert!(Voucher::parse(&bytes).is_ok());
    assert!(bytes.len() < 1500, "{}", bytes.len());
}

#[test]
fn a_voucher_that_its_fleets_issuing_key_did_not_sign_is_refused() {
    let s = scene();
    let mallory = NodeKey::generate();
    let one_time = NodeKey::generate();
    let terms = VoucherTerms {
        id: VoucherId::new(one_time.id()),
        ..s.voucher.terms().clone()
    };
    let forged = Voucher::issue(&terms, &mallory, &one_time);
    assert_eq!(
        Voucher::parse(&forged).unwrap_err(),
        VoucherError::NotIssuer(mallory.id())
    );
}

#[test]
fn a_voucher_with_another_fleets_root_is_refused() {
    let s = scene();
    let other = TestFleet::new();
    let one_time = NodeKey::generate();
    let mixed = VoucherTerms {
        id: VoucherId::new(one_time.id()),
        root: other.root.signed().to_vec(),
        ..s.voucher.terms().clone()
    };
    let bytes = Voucher::issue(&mixed, &other.issuing, &one_time);
    assert_eq!(
        Voucher::parse(&bytes).unwrap_err(),
        VoucherError::OtherFleet(s.fleet.id())
    );
}

#[test]
fn another_fleets_voucher_is_refused_by_the_hub() {
    let mut s = scene();
    let stranger = scene();
    let refused = s.judge(&stranger.request(), NOW).unwrap_err();
    assert_eq!(refused, EnrolRefusal::OtherFleet(stranger.fleet.id()));
    // The same with our fleet's name in it: the root inside is not ours.
    let mut terms = stranger.voucher.terms().clone();
    terms.fleet = s.fleet.id();
    let mut body = stranger.fleet.root.body().clone();
    body.fleet = s.fleet.id();
    let keys = &stranger.fleet.root_keys;
    terms.root = body.sign(&[&keys[0], &keys[1]]);
    let bytes = Voucher::issue(&terms, &stranger.fleet.issuing, stranger.voucher.one_time());
    let forged = Voucher::parse(&bytes).expect("nothing in it contradicts itself");
    let request = EnrolRequest::sign(&forged, &s.unit, &s.store, NOW);
    assert_eq!(s.judge(&request, NOW).unwrap_err(), EnrolRefusal::NotIssuer);
}

#[test]
fn a_voucher_for_another_hub_is_refused() {
    let mut s = scene();
    let request = s.request();
    s.hub = s.fleet.add_hub("other.example.org:4433");
    let first = s.voucher.terms().hub.key;
    assert_eq!(
        s.judge(&request, NOW).unwrap_err(),
        EnrolRefusal::OtherHub(first)
    );
}

#[test]
fn the_hub_judges_a_vouchers_expiry_and_renewal_prolongs_it() {
    let mut s = scene();
    let request = s.request();
    assert!(s.judge(&request, VALID_UNTIL_MS).is_ok());
    let late = VALID_UNTIL_MS + 1;
    assert_eq!(
        s.judge(&request, late).unwrap_err(),
        EnrolRefusal::Expired(VALID_UNTIL_MS)
    );
    s.fleet.body.vouchers[0].not_after_ms = late;
    assert!(s.judge(&request, late).is_ok());
}

#[test]
fn revoked_vouchers_and_boxes_are_refused() {
    let mut s = scene();
    let request = s.request();
    let plain = s.fleet.clone();
    s.fleet.revoke(*s.voucher.terms().id.key(), NOW);
    assert_eq!(
        s.judge(&request, NOW).unwrap_err(),
        EnrolRefusal::VoucherRevoked
    );
    assert!(
        s.fleet
            .document()
            .unit_is_revoked(&s.unit.id(), &s.voucher.terms().id)
    );
    s.fleet = plain;
    assert!(
        !s.fleet
            .document()
            .unit_is_revoked(&s.unit.id(), &s.voucher.terms().id)
    );
    s.fleet.revoke(s.unit.id(), NOW);
    assert_eq!(
        s.judge(&request, NOW).unwrap_err(),
        EnrolRefusal::UnitRevoked(s.unit.id())
    );
    assert!(
        s.fleet
            .document()
            .unit_is_revoked(&s.unit.id(), &s.voucher.terms().id)
    );
}

#[test]
fn a_request_signed_by_fewer_or_others_is_refused() {
    let mut s = scene();
    let payload = cose::verify_many(&s.request(), "chasqui/enrol/1")
        .unwrap()
        .payload;
    let mallory = NodeKey::generate();
    for keys in [
        vec![&s.unit],
        vec![s.voucher.one_time()],
        vec![&mallory, s.voucher.one_time()],
    ] {
        let forged = cose::sign_many(&keys, "chasqui/enrol/1", &payload);
        let document = s.fleet.document();
        let refused = EnrolRequest::verify(&forged, &document, &s.hub.id(), NOW).unwrap_err();
        assert_eq!(refused, EnrolRefusal::WrongSigners);
    }
}

#[test]
fn a_grant_from_elsewhere_or_for_another_is_refused() {
    let mut s = scene();
    let request = s.judge(&s.request(), NOW).unwrap();
    let grant = Grant::to_request(&request, NOW);
    let (unit, hub, mallory) = (s.unit.id(), s.hub.id(), NodeKey::generate());
    let verify = |bytes: &[u8]| Grant::verify_for(bytes, &s.voucher, &unit).unwrap_err();
    let forged = verify(&grant.sign(&mallory));
    assert_eq!(
        forged,
        GrantError::NotHub {
            signer: mallory.id(),
            hub
        }
    );
    let other_unit = Grant {
        unit: mallory.id(),
        ..grant.clone()
    };
    assert_eq!(
        verify(&other_unit.sign(&s.hub)),
        GrantError::OtherUnit(mallory.id())
    );
    let other_policy = Grant {
        consent: ConsentPolicy::Ask,
        ..grant.clone()
    };
    assert_eq!(
        verify(&other_policy.sign(&s.hub)),
        GrantError::NotAsPromised
    );
    let voucher = VoucherId::new(mallory.id());
    assert_eq!(
        verify(&Grant { voucher, ..grant }.sign(&s.hub)),
        GrantError::NotAsPromised
    );
}

#[test]
fn a_grant_names_the_store_key_that_was_asked_for() {
    let mut s = scene();
    let request = s.judge(&s.request(), NOW).unwrap();
    assert_eq!(*request.store(), s.store);
    let grant = Grant::to_request(&request, NOW);
    let read =
        |grant: &Grant| Grant::verify_for(&grant.sign(&s.hub), &s.voucher, &s.unit.id()).unwrap();
    assert_eq!(read(&grant).store, s.store);
    assert_eq!(read(&grant).check_store(&s.store), Ok(()));
    let other = Grant {
        store: store_key(),
        ..grant
    };
    let (granted, ours) = (other.store.id(), s.store.id());
    assert_eq!(
        read(&other).check_store(&s.store),
        Err(GrantError::OtherStoreKey { granted, ours })
    );
}

#[test]
fn a_swapped_store_key_in_a_request_or_a_grant_is_refused() {
    let mut s = scene();
    let (request, theirs) = (s.request(), store_key());
    let refused = s
        .judge(&swapped(&request, &s.store, &theirs), NOW)
        .unwrap_err();
    let source = cose::CoseError::WrongSignature(s.unit.id());
    let what = "enrolment request";
    let expected = DocumentError::Signature { what, source };
    assert_eq!(refused, EnrolRefusal::Document(expected));
    let request = s.judge(&request, NOW).unwrap();
    let grant = Grant::to_request(&request, NOW).sign(&s.hub);
    let refused = Grant::verify(&swapped(&grant, &s.store, &theirs), &s.hub.id()).unwrap_err();
    let source = cose::CoseError::WrongSignature(s.hub.id());
    let what = "grant";
    let expected = DocumentError::Signature { what, source };
    assert_eq!(refused, GrantError::Document(expected));
}

#[test]
fn a_refusal_carries_its_reason_and_nothing_that_does_not_print() {
    let refusal = EnrolRefusal::Voucher(VoucherError::WrongSecret);
    let reply = EnrolReply::refused(&refusal);
    let EnrolReply::Refused(reason) = EnrolReply::from_cbor(&reply.to_cbor()).unwrap() else {
        panic!("a refusal")
    };
    assert_eq!(
        reason,
        "the request carries no valid voucher: the voucher's one-time secret does not belong to it"
    );
    for reason in ["\u{1b}[2J".to_string(), "x".repeat(1000)] {
        assert!(EnrolReply::from_cbor(&EnrolReply::Refused(reason).to_cbor()).is_err());
    }
}
