//! Identifiers that are made here: of studies, of orders, of patients whom nobody knows.

use study::StudyUid;

/// Digits that are told apart when they are read out or written by hand (Crockford's base 32).
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// A Study Instance UID from a random UUID (PS3.5 B.2).
pub(super) fn study_uid() -> StudyUid {
    let mut bytes: [u8; 16] = random();
    // Version 4, variant 1 (RFC 9562 5.4).
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    let uid = format!("2.25.{}", u128::from_be_bytes(bytes));
    StudyUid::parse(&uid).expect("digits and dots, at most 44")
}

/// An accession number, of which no other box makes the same.
pub(super) fn accession_number() -> String {
    format!("C{}", digits::<11>())
}

/// The tag of a patient whom nobody knows yet.
pub(super) fn patient_tag() -> String {
    format!("UNK-{}", digits::<8>())
}

fn digits<const N: usize>() -> String {
    let bytes: [u8; N] = random();
    bytes
        .iter()
        .map(|byte| char::from(DIGITS[usize::from(byte % 32)]))
        .collect()
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has randomness to give");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_have_their_form_and_are_not_made_twice() {
        let uid = study_uid();
        assert!(uid.as_str().starts_with("2.25."), "{uid}");
        assert_ne!(uid, study_uid());
        assert_eq!(accession_number().len(), 12);
        assert_ne!(accession_number(), accession_number());
        assert_eq!(patient_tag().len(), 12);
    }
}
