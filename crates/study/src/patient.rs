//! Who a study is of, as far as two studies can be told to be of one person.

use crate::dataset::{DatasetError, Encoding, Tag, Walk, inflate, is_deflated};
use crate::redacted::Redacted;
use crate::uid::TransferSyntaxUid;

const PATIENT_ID: Tag = Tag(0x0010, 0x0020);
const ISSUER: Tag = Tag(0x0010, 0x0021);
/// The last tag that is read.
const LAST: Tag = ISSUER;

/// A patient's ID and who issued it (PS3.3 C.7.1.1), byte for byte less padding. It is compared and
/// never shown; nothing of it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patient {
    id: Redacted<Vec<u8>>,
    issuer: Redacted<Vec<u8>>,
}

impl Patient {
    /// Reads who an instance is of; none when it does not say.
    pub fn read(
        data_set: &[u8],
        transfer_syntax: &TransferSyntaxUid,
    ) -> Result<Option<Self>, DatasetError> {
        let encoding = Encoding::of(transfer_syntax);
        if is_deflated(transfer_syntax) {
            return Self::read_plain(&inflate(data_set)?, encoding);
        }
        Self::read_plain(data_set, encoding)
    }

    fn read_plain(data_set: &[u8], encoding: Encoding) -> Result<Option<Self>, DatasetError> {
        let (mut id, mut issuer) = (Vec::new(), Vec::new());
        for element in Walk::new(data_set, encoding) {
            let element = element?;
            let value = || unpadded(data_set.get(element.value.clone()).unwrap_or_default());
            match element.tag {
                PATIENT_ID => id = value(),
                ISSUER => issuer = value(),
                tag if tag > LAST => break,
                _ => {}
            }
        }
        let known = !id.is_empty();
        let (id, issuer) = (Redacted::new(id), Redacted::new(issuer));
        Ok(known.then_some(Self { id, issuer }))
    }
}

/// Spaces around an LO value mean nothing (PS3.5 6.2).
fn unpadded(value: &[u8]) -> Vec<u8> {
    let value = value.strip_suffix(b"\0").unwrap_or(value);
    value.trim_ascii().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patient(elements: &[(u16, &[u8])]) -> Option<Patient> {
        let mut data_set = Vec::new();
        for (element, value) in elements {
            data_set.extend_from_slice(&[0x10, 0]);
            data_set.extend_from_slice(&element.to_le_bytes());
            data_set.extend_from_slice(b"LO");
            data_set.extend_from_slice(&u16::try_from(value.len()).unwrap().to_le_bytes());
            data_set.extend_from_slice(value);
        }
        let explicit = TransferSyntaxUid::parse("1.2.840.10008.1.2.1").unwrap();
        Patient::read(&data_set, &explicit).unwrap()
    }

    #[test]
    fn the_same_id_of_the_same_issuer_is_the_same_patient_and_nobody_else() {
        let here = patient(&[(0x20, b"P-7 "), (0x21, b"CLINIC")]);
        assert!(here.is_some());
        assert_eq!(here, patient(&[(0x20, b" P-7"), (0x21, b"CLINIC\0")]));
        assert_ne!(here, patient(&[(0x20, b"p-7 "), (0x21, b"CLINIC")]));
        assert_ne!(here, patient(&[(0x20, b"P-7 "), (0x21, b"OTHER ")]));
        assert_ne!(here, patient(&[(0x20, b"P-7 ")]));
    }

    #[test]
    fn who_has_no_id_is_nobodys_patient_and_none_is_printed() {
        assert_eq!(patient(&[(0x21, b"CLINIC")]), None);
        assert_eq!(patient(&[(0x20, b"  "), (0x21, b"CLINIC")]), None);
        let printed = format!("{:?}", patient(&[(0x20, b"P-7 ")]));
        assert!(
            !printed.contains("P-7") && !printed.contains("80"),
            "{printed}"
        );
    }
}
