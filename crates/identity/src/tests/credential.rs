//! Credentials of radiologists.

use super::NOW;
use crate::testing::{MADE_AT_MS, TestFleet, VALID_UNTIL_MS};
use crate::*;

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
