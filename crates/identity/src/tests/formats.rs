//! The one encoding of each document.

use super::scene;
use crate::cose;
use crate::testing::TestFleet;
use crate::*;

#[test]
fn a_format_of_the_future_is_named_as_such() {
    let mut fleet = TestFleet::new();
    fleet.body.format = 2;
    let refused = FleetDocument::parse_own(&fleet.body.sign(&fleet.issuing)).unwrap_err();
    let (what, version) = ("fleet document", 2);
    assert_eq!(
        refused,
        FleetError::Document(DocumentError::UnknownVersion { what, version })
    );
    assert_eq!(
        refused.to_string(),
        "the fleet document has format 2, this program knows format 1"
    );
}

/// The store key whose secret is 32 times 1.
fn golden_store() -> StorePublicKey {
    let text = "a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209";
    text.parse().unwrap()
}

/// A fleet of fixed keys and times, and the voucher terms that its one entry speaks of.
fn fixed_fleet() -> (FleetBody, VoucherTerms, Credential) {
    let key = |n| NodeKey::from_seed(&[n; 32]);
    let label = |text| Label::parse(text).unwrap();
    let ids = (1..=3).map(|n| key(n).id()).collect();
    let root = RootBody::first(2, ids, (key(4).id(), key(5).id()), 1).sign(&[&key(1), &key(2)]);
    let root = Root::verify_first(&root).unwrap();
    let fleet = root.body().fleet;
    let address = HubAddress::parse("hub:1").unwrap();
    let hub = HubEntry {
        name: label("hub"),
        address,
        key: key(6).id(),
        store: golden_store(),
    };
    let (id, site, consent) = (
        VoucherId::new(key(7).id()),
        label("site"),
        ConsentPolicy::Ask,
    );
    let (format, made_at_ms, not_after_ms) = (1, 5, 6);
    let credential = Credential {
        format,
        fleet,
        key: key(9).id(),
        name: label("name"),
        licence: label("licence"),
        valid_from_ms: 2,
        valid_until_ms: 3,
    };
    let entry = VoucherEntry {
        id,
        site: site.clone(),
        consent,
        hub: hub.key,
        made_at_ms,
        not_after_ms,
    };
    let mut body = FleetBody::first(&root);
    body.hubs.push(hub.clone());
    body.credentials.push(credential.clone());
    body.revocations.push(Revocation {
        subject: key(10).id(),
        at_ms: 4,
        reason: label("lost"),
    });
    body.vouchers.push(entry);
    let root = root.signed().to_vec();
    let terms = VoucherTerms {
        format,
        fleet,
        id,
        hub,
        site,
        consent,
        made_at_ms,
        not_after_ms,
        root,
    };
    (body, terms, credential)
}

#[test]
fn a_credential_of_the_future_inside_a_fleet_document_is_named_as_such() {
    let mut fleet = TestFleet::new();
    fleet.add_radiologist("Dr. A. Reader");
    fleet.body.credentials[0].format = 2;
    let refused = FleetDocument::parse_own(&fleet.body.sign(&fleet.issuing)).unwrap_err();
    let (what, version) = ("credential", 2);
    assert_eq!(
        refused,
        FleetError::Document(DocumentError::UnknownVersion { what, version })
    );
}

// A change of a single byte on the wire shows here.
#[test]
fn the_formats_are_fixed() {
    let key = |n| NodeKey::from_seed(&[n; 32]);
    let (body, terms, credential) = fixed_fleet();
    let document = FleetDocument::parse_own(&body.sign(&key(4))).unwrap();
    let voucher_bytes = Voucher::issue(&terms, &key(4), &key(7));
    let voucher = Voucher::parse(&voucher_bytes).unwrap();
    let request = EnrolRequest::sign(&voucher, &key(8), &golden_store(), 7);
    let seen = EnrolRequest::verify(&request, &document, &key(6).id(), 6).unwrap();
    let grant = Grant::to_request(&seen, 8).sign(&key(6));
    let reply = EnrolReply::Granted(grant.clone()).to_cbor();
    let credential = credential.sign(&key(4));
    let pin = |bytes: &[u8]| format!("{} {}", bytes.len(), &blake3::hash(bytes).to_hex()[..16]);
    assert_eq!(pin(document.root().signed()), "435 a32ba85751d5bccf");
    assert_eq!(pin(document.signed()), "875 883e563595753c05");
    assert_eq!(pin(&voucher_bytes), "746 5e7f031349da8d56");
    assert_eq!(pin(&request), "1006 24b3c0cd809fc4d6");
    assert_eq!(pin(&grant), "256 7eff75aa83442366");
    assert_eq!(pin(&reply), "262 333466d99cb5a7a6");
    assert_eq!(pin(&credential), "196 2065b2c238e04fb2");
}

/// Other ways to write the array that begins with `format`: what they say is the same.
fn other_ways(content: &[u8], format: u8) -> [Vec<u8>; 4] {
    let [head, first, rest @ ..] = content else {
        panic!("an array of some length");
    };
    assert_eq!(*first, format);
    [
        [&[*head, 0x18, format], rest].concat(),
        [&[0x98, head & 0x1f, format], rest].concat(),
        [&[0x9f, format], rest, &[0xff]].concat(),
        // One part more, that this program would pass over.
        [&[head + 1, format], rest, &[0xf6]].concat(),
    ]
}

/// Checks that `read` takes the content as it is and in no other form.
fn check_one_way<E: std::error::Error>(content: &[u8], read: impl Fn(&[u8]) -> Result<(), E>) {
    assert!(read(content).is_ok());
    for other in other_ways(content, 1) {
        let refused = read(&other).expect_err("another form");
        let said = EnrolReply::refused(&refused);
        let EnrolReply::Refused(said) = said else {
            panic!("a refusal")
        };
        assert!(
            said.contains("not in the one deterministic form"),
            "{said}: {other:02x?}"
        );
    }
}

// Signed by the right keys, so that nothing but the form is wrong.
#[test]
fn what_is_signed_has_one_form() {
    let s = scene();
    let (hub, issuing) = (&s.hub, &s.fleet.issuing);
    let document = FleetDocument::parse_own(&s.fleet.body.sign(issuing)).unwrap();
    let sign1 = |key: &NodeKey, domain: &str, content: &[u8]| cose::sign1(key, domain, content);

    check_one_way(&wire::encode(&s.fleet.body), |content| {
        FleetDocument::parse_own(&sign1(issuing, "chasqui/fleet/1", content)).map(drop)
    });
    check_one_way(&wire::encode(s.voucher.terms()), |content| {
        VoucherTerms::open(&sign1(issuing, "chasqui/voucher/1", content)).map(drop)
    });
    check_one_way(&wire::encode(s.fleet.root.body()), |content| {
        let keys: Vec<_> = s.fleet.root_keys.iter().collect();
        Root::verify_first(&cose::sign_many(&keys, "chasqui/root/1", content)).map(drop)
    });
    let request = cose::verify_many(&s.request(), "chasqui/enrol/1").unwrap();
    let judge = |request: &[u8]| EnrolRequest::verify(request, &document, &hub.id(), 0);
    check_one_way(&request.payload, |content| {
        let keys = [&s.unit, s.voucher.one_time()];
        judge(&cose::sign_many(&keys, "chasqui/enrol/1", content)).map(drop)
    });
    let grant = Grant::to_request(&judge(&s.request()).unwrap(), 8);
    check_one_way(&wire::encode(&grant), |content| {
        Grant::verify(&sign1(hub, "chasqui/grant/1", content), &hub.id()).map(drop)
    });
    let credential = fixed_fleet().2;
    let credential = Credential {
        fleet: s.fleet.id(),
        ..credential
    };
    check_one_way(&wire::encode(&credential), |content| {
        let signed = sign1(issuing, "chasqui/credential/1", content);
        Credential::verify(&signed, &s.fleet.root).map(drop)
    });
}

#[test]
fn what_is_not_signed_has_one_form_too() {
    let mut s = scene();
    let voucher = s.fleet.voucher_bytes("Clinic B", ConsentPolicy::Ask);
    check_one_way(&voucher, |bytes| Voucher::parse(bytes).map(drop));
    let reply = EnrolReply::Granted(vec![7]).to_cbor();
    for other in other_ways(&reply, 1) {
        assert!(EnrolReply::from_cbor(&other).is_err(), "{other:02x?}");
    }
    let sealed = seal_key(&NodeKey::generate(), b"p");
    for other in other_ways(&sealed, 1) {
        let refused = open_sealed_key(&other, b"p").unwrap_err();
        assert!(matches!(refused, SealedKeyError::Document(_)), "{refused}");
    }
}
