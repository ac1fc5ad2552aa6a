//! The documents together, as box, hub and authority use them.

use proptest::prelude::*;

use crate::cose::{self, CoseError};
use crate::testing::{MADE_AT_MS, TestFleet, VALID_UNTIL_MS};
use crate::*;

const NOW: u64 = MADE_AT_MS + 1000;

struct Scene {
    fleet: TestFleet,
    hub: NodeKey,
    voucher: Voucher,
    unit: NodeKey,
}

fn scene() -> Scene {
    let mut fleet = TestFleet::new();
    let hub = fleet.add_hub("hub.example.org:4433");
    let voucher = fleet.add_voucher("Clinic A", ConsentPolicy::Emergency);
    Scene {
        fleet,
        hub,
        voucher,
        unit: NodeKey::generate(),
    }
}

impl Scene {
    fn request(&self) -> Vec<u8> {
        EnrolRequest::sign(&self.voucher, &self.unit, NOW)
    }

    fn judge(&mut self, request: &[u8], now_ms: u64) -> Result<EnrolRequest, EnrolRefusal> {
        EnrolRequest::verify(request, &self.fleet.document(), &self.hub.id(), now_ms)
    }
}

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
    let site = "x".repeat(200);
    assert!(s.fleet.voucher_bytes(&site, ConsentPolicy::Ask).len() < 1500);
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
    let request = EnrolRequest::sign(&forged, &s.unit, NOW);
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

#[test]
fn a_credential_counts_in_its_time_and_until_it_is_revoked() {
    let mut fleet = TestFleet::new();
    let doctor = fleet.add_radiologist("Dr. A. Reader").id();
    let document = fleet.document();
    let at = |ms| {
        document
            .credential_at(&doctor, ms)
            .map(|c| c.name.to_string())
    };
    assert_eq!(at(MADE_AT_MS), Ok("Dr. A. Reader".into()));
    assert_eq!(at(VALID_UNTIL_MS), Ok("Dr. A. Reader".into()));
    let (key, from_ms, until_ms) = (doctor, MADE_AT_MS, VALID_UNTIL_MS);
    assert_eq!(
        at(MADE_AT_MS - 1),
        Err(CredentialFault::NotYet { key, from_ms })
    );
    assert_eq!(
        at(VALID_UNTIL_MS + 1),
        Err(CredentialFault::Expired { key, until_ms })
    );
    let nobody = NodeKey::generate().id();
    assert_eq!(
        document.credential_at(&nobody, NOW),
        Err(CredentialFault::None(nobody))
    );
    fleet.revoke(doctor, NOW);
    let document = fleet.document();
    assert!(document.credential_at(&doctor, NOW - 1).is_ok());
    let revoked = CredentialFault::Revoked { key, at_ms: NOW };
    assert_eq!(document.credential_at(&doctor, NOW), Err(revoked));
}

#[test]
fn a_renewed_credential_leaves_the_old_one_for_its_time() {
    let mut fleet = TestFleet::new();
    let doctor = fleet.add_radiologist("Dr. A. Reader").id();
    let mut renewed = fleet.body.credentials[0].clone();
    renewed.valid_from_ms = VALID_UNTIL_MS + 10;
    renewed.valid_until_ms = VALID_UNTIL_MS + 20;
    fleet.body.credentials.push(renewed);
    let document = fleet.document();
    assert!(document.credential_at(&doctor, NOW).is_ok());
    assert!(document.credential_at(&doctor, VALID_UNTIL_MS + 15).is_ok());
    let (key, from_ms, until_ms) = (doctor, VALID_UNTIL_MS + 10, VALID_UNTIL_MS + 20);
    let gap = document
        .credential_at(&doctor, VALID_UNTIL_MS + 5)
        .unwrap_err();
    assert_eq!(gap, CredentialFault::NotYet { key, from_ms });
    let after = document
        .credential_at(&doctor, VALID_UNTIL_MS + 21)
        .unwrap_err();
    assert_eq!(after, CredentialFault::Expired { key, until_ms });
}

#[test]
fn a_credential_file_speaks_only_for_its_fleet() {
    let mut fleet = TestFleet::new();
    fleet.add_radiologist("Dr. A. Reader");
    let credential = fleet.body.credentials[0].clone();
    let signed = credential.sign(&fleet.issuing);
    assert_eq!(
        Credential::verify(&signed, &fleet.root),
        Ok(credential.clone())
    );
    let other = TestFleet::new();
    let refused = Credential::verify(&signed, &other.root).unwrap_err();
    assert_eq!(refused, CredentialError::OtherFleet(fleet.id()));
    let forged = credential.sign(&other.issuing);
    let refused = Credential::verify(&forged, &fleet.root).unwrap_err();
    assert_eq!(refused, CredentialError::NotIssuer(other.issuing.id()));
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

// A change of a single byte on the wire shows here.
#[test]
fn the_formats_are_fixed() {
    let key = |n| NodeKey::from_seed(&[n; 32]);
    let (body, terms, credential) = fixed_fleet();
    let document = FleetDocument::parse_own(&body.sign(&key(4))).unwrap();
    let voucher_bytes = Voucher::issue(&terms, &key(4), &key(7));
    let voucher = Voucher::parse(&voucher_bytes).unwrap();
    let request = EnrolRequest::sign(&voucher, &key(8), 7);
    let seen = EnrolRequest::verify(&request, &document, &key(6).id(), 6).unwrap();
    let grant = Grant::to_request(&seen, 8).sign(&key(6));
    let reply = EnrolReply::Granted(grant.clone()).to_cbor();
    let credential = credential.sign(&key(4));
    let pin = |bytes: &[u8]| format!("{} {}", bytes.len(), &blake3::hash(bytes).to_hex()[..16]);
    assert_eq!(pin(document.root().signed()), "435 a32ba85751d5bccf");
    assert_eq!(pin(document.signed()), "841 d4a6c7196f0c4625");
    assert_eq!(pin(&voucher_bytes), "712 6d122c3bff193d78");
    assert_eq!(pin(&request), "938 e93e419da0fbca1c");
    assert_eq!(pin(&grant), "222 2ed3cc34a086c26e");
    assert_eq!(pin(&reply), "227 ad59be0a08fc6c71");
    assert_eq!(pin(&credential), "196 2065b2c238e04fb2");
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        check_nothing_accepts(&bytes);
    }

    // Bytes that get past the signature: signed by a key, with a content of anything.
    #[test]
    fn no_signed_content_panics(content in proptest::collection::vec(any::<u8>(), 0..400)) {
        let key = NodeKey::from_seed(&[1; 32]);
        for domain in ["fleet", "voucher", "grant", "credential"] {
            check_nothing_accepts(&cose::sign1(&key, &format!("chasqui/{domain}/1"), &content));
        }
        for domain in ["root", "enrol"] {
            check_nothing_accepts(&cose::sign_many(&[&key], &format!("chasqui/{domain}/1"), &content));
        }
    }

    // Content that is nearly right: one byte of a real one changed, then signed again by the right key.
    #[test]
    fn no_bent_content_panics(at in any::<proptest::sample::Index>(), to in any::<u8>()) {
        let mut s = scene();
        s.fleet.add_radiologist("Dr. A. Reader");
        let mut content = wire::encode(&s.fleet.body);
        let at = at.index(content.len());
        content[at] = to;
        let _ = FleetDocument::parse_own(&cose::sign1(&s.fleet.issuing, "chasqui/fleet/1", &content));
        let mut content = wire::encode(s.voucher.terms());
        let at = at % content.len();
        content[at] = to;
        let terms = cose::sign1(&s.fleet.issuing, "chasqui/voucher/1", &content);
        let _ = VoucherTerms::open(&terms);
    }
}

fn check_nothing_accepts(bytes: &[u8]) {
    let s = std::sync::LazyLock::force(&SCENE);
    assert!(FleetDocument::parse_own(bytes).is_err());
    assert!(Voucher::parse(bytes).is_err());
    assert!(VoucherTerms::open(bytes).is_err());
    assert!(Root::verify_alone(bytes).is_err());
    assert!(Grant::verify(bytes, &s.hub.id()).is_err());
    assert!(Credential::verify(bytes, &s.fleet.root).is_err());
    assert!(open_sealed_key(bytes, b"p").is_err());
    let document = FleetDocument::parse_own(&s.fleet.body.sign(&s.fleet.issuing)).unwrap();
    assert!(EnrolRequest::verify(bytes, &document, &s.hub.id(), NOW).is_err());
    let _ = EnrolReply::from_cbor(bytes);
}

static SCENE: std::sync::LazyLock<Scene> = std::sync::LazyLock::new(scene);
