//! COSE signatures (RFC 9052) over deterministic CBOR, Ed25519 only, with a domain per document type.
//!
//! One signer: `COSE_Sign1` (tag 18). Several: `COSE_Sign` (tag 98). The protected header is always
//! `{1: -8, 4: signer's public key}`, the unprotected one is empty, and the domain is the
//! `external_aad`. Exactly one encoding of a signed document is accepted, so its digest names it.

use minicbor::data::Tag;
use minicbor::{Decoder, Encoder};
use thiserror::Error;

use crate::key::{NodeId, NodeKey};

/// The largest signed document that is looked at.
pub const SIGNED_BYTES_MAX: usize = 4 << 20;
/// The most signatures on one document.
pub const SIGNERS_MAX: usize = 16;

/// Tag of `COSE_Sign1` (RFC 9052 2).
const TAG_SIGN1: Tag = Tag::new(18);
/// Tag of `COSE_Sign` (RFC 9052 2).
const TAG_SIGN: Tag = Tag::new(98);
/// The protected header up to the key: map of two, 1 (alg): -8 (EdDSA), 4 (kid): 32 bytes.
const PROTECTED_PREFIX: [u8; 6] = [0xa2, 0x01, 0x27, 0x04, 0x58, 0x20];
/// The length of a protected header.
const PROTECTED_BYTES: usize = PROTECTED_PREFIX.len() + 32;

/// Says why bytes are not a signed document.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CoseError {
    /// Longer than [`SIGNED_BYTES_MAX`].
    #[error("the signed document has {0} bytes, {max} are allowed", max = SIGNED_BYTES_MAX)]
    TooLong(usize),
    /// The bytes are not COSE of the expected shape.
    #[error("not a signed document: {0}")]
    Malformed(&'static str),
    /// Readable, but not in the one encoding that is allowed.
    #[error("the signed document is not in deterministic encoding")]
    NotDeterministic,
    /// A header names another algorithm or no key.
    #[error("the signature is not Ed25519 with a named key")]
    UnknownAlgorithm,
    /// More than [`SIGNERS_MAX`] signatures, or none.
    #[error("the document has {0} signatures, 1 to {max} are allowed", max = SIGNERS_MAX)]
    SignerCount(usize),
    /// The same key signed twice.
    #[error("key {} signed twice", .0.short())]
    SignedTwice(NodeId),
    /// The signature does not fit: altered bytes, another key or another kind of document.
    #[error("the signature of key {} is wrong", .0.short())]
    WrongSignature(NodeId),
}

/// A document whose one signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Who signed. Whether that key may is for the caller to judge.
    pub signer: NodeId,
    /// What was signed.
    pub payload: Vec<u8>,
}

/// A document whose every signature was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedMany {
    /// Who signed, in the order of the document; no key is there twice.
    pub signers: Vec<NodeId>,
    /// What was signed.
    pub payload: Vec<u8>,
}

/// Signs `payload` as a document of `domain`.
pub fn sign1(key: &NodeKey, domain: &str, payload: &[u8]) -> Vec<u8> {
    let signer = key.id();
    let signature = key.sign(&to_be_signed(
        "Signature1",
        &[&protected(&signer)],
        domain,
        payload,
    ));
    encode_sign1(&signer, payload, &signature)
}

/// Checks a document signed by one key under `domain`.
pub fn verify1(bytes: &[u8], domain: &str) -> Result<Verified, CoseError> {
    check_length(bytes)?;
    let (signer, payload, signature) = read_sign1(bytes)?;
    if encode_sign1(&signer, payload, &signature) != bytes {
        return Err(CoseError::NotDeterministic);
    }
    let message = to_be_signed("Signature1", &[&protected(&signer)], domain, payload);
    if !signer.verifies(&message, &signature) {
        return Err(CoseError::WrongSignature(signer));
    }
    Ok(Verified {
        signer,
        payload: payload.to_vec(),
    })
}

/// Signs `payload` as a document of `domain` with every one of `keys`.
pub fn sign_many(keys: &[&NodeKey], domain: &str, payload: &[u8]) -> Vec<u8> {
    let signatures: Vec<_> = keys
        .iter()
        .map(|key| {
            let signer = key.id();
            (
                signer,
                key.sign(&to_be_signed(
                    "Signature",
                    &[&[], &protected(&signer)],
                    domain,
                    payload,
                )),
            )
        })
        .collect();
    encode_sign(&signatures, payload)
}

/// Checks a document signed by several keys under `domain`: each signature must be right.
pub fn verify_many(bytes: &[u8], domain: &str) -> Result<VerifiedMany, CoseError> {
    check_length(bytes)?;
    let (signatures, payload) = read_sign(bytes)?;
    if encode_sign(&signatures, payload) != bytes {
        return Err(CoseError::NotDeterministic);
    }
    let mut signers = Vec::with_capacity(signatures.len());
    for (signer, signature) in signatures {
        if signers.contains(&signer) {
            return Err(CoseError::SignedTwice(signer));
        }
        let message = to_be_signed("Signature", &[&[], &protected(&signer)], domain, payload);
        if !signer.verifies(&message, &signature) {
            return Err(CoseError::WrongSignature(signer));
        }
        signers.push(signer);
    }
    Ok(VerifiedMany {
        signers,
        payload: payload.to_vec(),
    })
}

type Signature = (NodeId, [u8; 64]);

fn check_length(bytes: &[u8]) -> Result<(), CoseError> {
    if bytes.len() > SIGNED_BYTES_MAX {
        Err(CoseError::TooLong(bytes.len()))
    } else {
        Ok(())
    }
}

fn protected(signer: &NodeId) -> [u8; PROTECTED_BYTES] {
    let mut header = [0; PROTECTED_BYTES];
    header[..PROTECTED_PREFIX.len()].copy_from_slice(&PROTECTED_PREFIX);
    header[PROTECTED_PREFIX.len()..].copy_from_slice(signer.as_bytes());
    header
}

/// The `Sig_structure` of RFC 9052 4.4.
fn to_be_signed(context: &str, headers: &[&[u8]], domain: &str, payload: &[u8]) -> Vec<u8> {
    write(|e| {
        e.array(headers.len() as u64 + 3)?.str(context)?;
        for header in headers {
            e.bytes(header)?;
        }
        e.bytes(domain.as_bytes())?.bytes(payload)?.ok()
    })
}

fn encode_sign1(signer: &NodeId, payload: &[u8], signature: &[u8; 64]) -> Vec<u8> {
    write(|e| {
        e.tag(TAG_SIGN1)?
            .array(4)?
            .bytes(&protected(signer))?
            .map(0)?;
        e.bytes(payload)?.bytes(signature)?.ok()
    })
}

fn encode_sign(signatures: &[Signature], payload: &[u8]) -> Vec<u8> {
    write(|e| {
        e.tag(TAG_SIGN)?
            .array(4)?
            .bytes(&[])?
            .map(0)?
            .bytes(payload)?;
        e.array(signatures.len() as u64)?;
        for (signer, signature) in signatures {
            e.array(3)?
                .bytes(&protected(signer))?
                .map(0)?
                .bytes(signature)?;
        }
        Ok(())
    })
}

fn read_sign1(bytes: &[u8]) -> Result<(NodeId, &[u8], [u8; 64]), CoseError> {
    let mut d = Decoder::new(bytes);
    expect_head(&mut d, TAG_SIGN1)?;
    let signer = read_signer(&mut d)?;
    let payload = d.bytes().map_err(|_| CoseError::Malformed("no payload"))?;
    let signature = read_signature(&mut d)?;
    expect_end(&d)?;
    Ok((signer, payload, signature))
}

fn read_sign(bytes: &[u8]) -> Result<(Vec<Signature>, &[u8]), CoseError> {
    let mut d = Decoder::new(bytes);
    expect_head(&mut d, TAG_SIGN)?;
    if !d
        .bytes()
        .map_err(|_| CoseError::Malformed("no body header"))?
        .is_empty()
    {
        return Err(CoseError::UnknownAlgorithm);
    }
    expect_empty_map(&mut d)?;
    let payload = d.bytes().map_err(|_| CoseError::Malformed("no payload"))?;
    let count = read_array(&mut d)?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count == 0 || count > SIGNERS_MAX {
        return Err(CoseError::SignerCount(count));
    }
    let mut signatures = Vec::with_capacity(count);
    for _ in 0..count {
        if read_array(&mut d)? != 3 {
            return Err(CoseError::Malformed("a signature has three parts"));
        }
        signatures.push((read_signer(&mut d)?, read_signature(&mut d)?));
    }
    expect_end(&d)?;
    Ok((signatures, payload))
}

fn expect_head(d: &mut Decoder<'_>, tag: Tag) -> Result<(), CoseError> {
    if d.tag().ok() != Some(tag) {
        return Err(CoseError::Malformed("another tag"));
    }
    if read_array(d)? != 4 {
        return Err(CoseError::Malformed("four parts are needed"));
    }
    Ok(())
}

/// Reads a protected header and the empty unprotected one after it.
fn read_signer(d: &mut Decoder<'_>) -> Result<NodeId, CoseError> {
    let header = d
        .bytes()
        .map_err(|_| CoseError::Malformed("no protected header"))?;
    let key = header
        .strip_prefix(&PROTECTED_PREFIX)
        .ok_or(CoseError::UnknownAlgorithm)?;
    let key = key.try_into().map_err(|_| CoseError::UnknownAlgorithm)?;
    expect_empty_map(d)?;
    Ok(NodeId::from_bytes(key))
}

fn read_signature(d: &mut Decoder<'_>) -> Result<[u8; 64], CoseError> {
    let bytes = d
        .bytes()
        .map_err(|_| CoseError::Malformed("no signature"))?;
    bytes
        .try_into()
        .map_err(|_| CoseError::Malformed("a signature has 64 bytes"))
}

fn read_array(d: &mut Decoder<'_>) -> Result<u64, CoseError> {
    d.array()
        .ok()
        .flatten()
        .ok_or(CoseError::Malformed("no array of definite length"))
}

fn expect_empty_map(d: &mut Decoder<'_>) -> Result<(), CoseError> {
    if matches!(d.map(), Ok(Some(0))) {
        Ok(())
    } else {
        Err(CoseError::Malformed("the unprotected header is not empty"))
    }
}

fn expect_end(d: &Decoder<'_>) -> Result<(), CoseError> {
    if d.position() == d.input().len() {
        Ok(())
    } else {
        Err(CoseError::Malformed("bytes after the end"))
    }
}

fn write(
    build: impl FnOnce(
        &mut Encoder<&mut Vec<u8>>,
    ) -> Result<(), minicbor::encode::Error<std::convert::Infallible>>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    build(&mut Encoder::new(&mut bytes)).expect("writing to a Vec does not fail");
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::key::hex;

    fn key(n: u8) -> NodeKey {
        NodeKey::from_seed(&[n; 32])
    }

    #[test]
    fn what_was_signed_comes_back_with_its_signer() {
        let signed = sign1(&key(1), "chasqui/test/1", b"payload");
        let verified = verify1(&signed, "chasqui/test/1").unwrap();
        assert_eq!(
            (verified.signer, &verified.payload[..]),
            (key(1).id(), &b"payload"[..])
        );
        let signed = sign_many(&[&key(1), &key(2)], "chasqui/test/1", b"payload");
        let verified = verify_many(&signed, "chasqui/test/1").unwrap();
        assert_eq!(verified.signers, [key(1).id(), key(2).id()]);
        assert_eq!(verified.payload, b"payload");
    }

    #[test]
    fn a_document_of_another_kind_is_refused() {
        let signed = sign1(&key(1), "chasqui/test/1", b"payload");
        let refused = Err(CoseError::WrongSignature(key(1).id()));
        assert_eq!(verify1(&signed, "chasqui/test/2"), refused);
        let signed = sign_many(&[&key(1)], "chasqui/test/1", b"payload");
        let refused = Err(CoseError::WrongSignature(key(1).id()));
        assert_eq!(verify_many(&signed, "chasqui/test/2"), refused);
        assert_eq!(
            verify1(&signed, "chasqui/test/1"),
            Err(CoseError::Malformed("another tag"))
        );
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let one = sign1(&key(1), "d", b"payload");
        let many = sign_many(&[&key(1), &key(2)], "d", b"payload");
        for bit in 0..one.len() * 8 {
            let mut altered = one.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(verify1(&altered, "d").is_err(), "bit {bit}");
        }
        for bit in 0..many.len() * 8 {
            let mut altered = many.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(verify_many(&altered, "d").is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_encoding_of_the_same_document_is_refused() {
        let signed = sign1(&key(1), "d", b"payload");
        // d2 84 58 26 ..: the same length written with two bytes.
        assert_eq!(signed[..4], [0xd2, 0x84, 0x58, 0x26]);
        let longer = [&[0xd2, 0x84, 0x59, 0x00, 0x26][..], &signed[4..]].concat();
        assert_eq!(verify1(&longer, "d"), Err(CoseError::NotDeterministic));
        let trailing = [&signed[..], &[0]].concat();
        assert_eq!(
            verify1(&trailing, "d"),
            Err(CoseError::Malformed("bytes after the end"))
        );
    }

    #[test]
    fn signing_twice_and_not_at_all_are_refused() {
        let twice = sign_many(&[&key(1), &key(1)], "d", b"p");
        assert_eq!(
            verify_many(&twice, "d"),
            Err(CoseError::SignedTwice(key(1).id()))
        );
        assert_eq!(
            verify_many(&sign_many(&[], "d", b"p"), "d"),
            Err(CoseError::SignerCount(0))
        );
        let keys: Vec<_> = (1..=17).map(key).collect();
        let crowd = sign_many(&keys.iter().collect::<Vec<_>>(), "d", b"p");
        assert_eq!(verify_many(&crowd, "d"), Err(CoseError::SignerCount(17)));
    }

    #[test]
    fn a_document_over_the_limit_is_not_looked_at() {
        let long = vec![0; SIGNED_BYTES_MAX + 1];
        assert_eq!(verify1(&long, "d"), Err(CoseError::TooLong(long.len())));
        assert_eq!(verify_many(&long, "d"), Err(CoseError::TooLong(long.len())));
    }

    // The bytes themselves, so that a second implementation can be held against them.
    #[test]
    fn the_format_is_fixed() {
        let signed = sign1(&key(1), "chasqui/test/1", b"abc");
        let head = format!("d2845826a201270458 20{}a043616263584", key(1).id()).replace(' ', "");
        assert!(hex(&signed).starts_with(&head), "{}", hex(&signed));
        assert_eq!(signed.len(), 113);
        // Sig_structure of RFC 9052 4.4, by hand.
        let message = to_be_signed("Signature1", &[&protected(&key(1).id())], "d", b"abc");
        let by_hand = format!(
            "846a5369676e6174757265315826a2012704 5820{}416443616263",
            key(1).id()
        );
        assert_eq!(hex(&message), by_hand.replace(' ', ""));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(verify1(&bytes, "d").is_err());
            prop_assert!(verify_many(&bytes, "d").is_err());
        }

        #[test]
        fn any_payload_comes_back(payload in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let signed = sign1(&key(3), "d", &payload);
            prop_assert_eq!(&signed, &sign1(&key(3), "d", &payload));
            prop_assert_eq!(verify1(&signed, "d").unwrap().payload, payload);
        }
    }
}
