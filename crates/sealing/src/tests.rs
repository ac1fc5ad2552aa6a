//! Known answers: the RFC's vectors, and bytes that every later program must still open.

use std::convert::Infallible;
use std::fmt::Write;

use hpke::rand_core::{TryCryptoRng, TryRng};

use crate::key_file::unhex;
use crate::wrapped::{Chance, Cost};
use crate::*;
use crate::{base, document, key_file};

const STUDY: &str = "1.2.826.0.1.3680043.2.1125.7";

/// Gives out 32 bytes that were chosen before.
struct Chosen([u8; 32]);

impl TryRng for Chosen {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("a key pair is made of bytes")
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("a key pair is made of bytes")
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes.copy_from_slice(&self.0);
        Ok(())
    }
}

impl TryCryptoRng for Chosen {}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn cheap(seed: u8) -> Chance {
    Chance {
        cost: Cost {
            memory_kib: 64,
            passes: 1,
            lanes: 1,
        },
        salt: [seed; 16],
        nonce: [seed; 24],
    }
}

// RFC 9180 A.2.1, sequence number 0.
#[test]
fn hpke_is_that_of_rfc_9180() {
    let key = StoreKey::from_secret(
        &unhex("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb").unwrap(),
    );
    assert_eq!(
        key.public_key().to_string(),
        "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a"
    );
    let mut ephemeral =
        Chosen(unhex("909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b").unwrap());
    let info = b"Ode on a Grecian Urn";
    let text = b"Beauty is truth, truth beauty";
    let sealed = base::seal(key.public_key(), info, b"Count-0", text, &mut ephemeral);
    assert_eq!(
        hex(&sealed),
        "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a\
         1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db\
         21993c62ce81883d2dd1b51a28"
    );
    assert_eq!(base::open(&key, info, b"Count-0", &sealed).unwrap(), text);
}

// RFC 7748 6.1, Alice.
#[test]
fn public_keys_are_those_of_rfc_7748() {
    let key = StoreKey::from_secret(
        &unhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a").unwrap(),
    );
    assert_eq!(
        key.public_key().to_string(),
        "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    );
}

// The golden bytes below were read back by a second implementation, written from the crate's
// documentation. They must open for ever.
const GOLDEN_BODY: &str = "0117461068dc8b265c0404040404040404040404040404040404040404040404040e8c9370f25f1c\
     42786765f2620b68fac356b45c0331";
const GOLDEN_ENVELOPES: &str = "84014817461068dc8b265c8248747b0481b64818855850402802aae25501861e6da002ef9f3e105b\
     9296c3e3c90c92e600ec9a0ff52657ede9274843c9a203bd5685f3004291a31194b30eceaeb11d59\
     0b94620f33592a64c45e65720353ed75d51231bc4066d38248f46d64e7baca68cf585022bb6024bc\
     a0c34dc89f26e9adbe8f8152ba85d8348c70585fa273f0c1a01c6f986aaf6e50109c682090787e17\
     5295d2ab5bfb177ee41718be71563851b31df63c56d41b4a0e20a0e8b6c39be1047a05";
const GOLDEN_FOR_HUB: &str = "83014817461068dc8b265c8248f46d64e7baca68cf585022bb6024bca0c34dc89f26e9adbe8f8152\
     ba85d8348c70585fa273f0c1a01c6f986aaf6e50109c682090787e175295d2ab5bfb177ee41718be\
     71563851b31df63c56d41b4a0e20a0e8b6c39be1047a05";
const GOLDEN_DOCUMENT: &str = "01747b0481b64818855fd47633b5e43fca7bad1bfbe424feacb175d9d4d4a30f166dbd30636f0b44\
     6b41b31ee901368ca2a9533cded667684e7f1764c6ce9e";
const GOLDEN_WRAPPED: &str = "636861737175692d777261707065642d73746f72652d6b65792d310a82855820a4e09292b651c278\
     b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a20983184001015009090909090909090909\
     090909090909f45818090909090909090909090909090909090909090909090909583044f439777b\
     b1a2a1b5118d354c0a14c118def74727699a78bc652b1019191b20c34426dce504d7ba82e1ab5ebc\
     69030817283484ac1d497bbdd3e1e9fddcbd5db064795ed0bec5cb2d64c36f3660f87c";
const GOLDEN_WRAPPED_WITH_SHARE: &str = "636861737175692d777261707065642d73746f72652d6b65792d310a82855820a4e09292b651c278\
     b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a20983184001015009090909090909090909\
     090909090909f55818090909090909090909090909090909090909090909090909583019795319a8\
     0d4900ed042a32d3cc8fddc85de61613686b4ddf86df594399863f714641f2e9150f088fff20106c\
     aea9ef311f9544e01a4b0d6c5231094a0cfac1f0dcd7f8a1fe841f82b9a642e687ed7f";
const GOLDEN_PLAIN: &str = "chasqui-store-key-1 \
     0101010101010101010101010101010101010101010101010101010101010101 \
     a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209\n";

fn keys() -> (StoreKey, StoreKey, DataKey) {
    (
        StoreKey::from_secret(&[1; 32]),
        StoreKey::from_secret(&[2; 32]),
        DataKey::from_secret(&[3; 32]),
    )
}

#[test]
fn a_golden_body_is_written_and_opens() {
    let (_, _, data) = keys();
    let sealed = data.seal_under([4; 24], b"golden");
    assert_eq!(hex(&sealed), GOLDEN_BODY);
    assert_eq!(sealed.len(), b"golden".len() + OVERHEAD_BYTES);
    assert_eq!(data.open(&sealed).unwrap(), b"golden");
}

#[test]
fn golden_envelopes_are_written_and_open() {
    let (to_box, hub, data) = keys();
    let sealed_to = |key: &StoreKey, ephemeral| {
        Envelope::seal_by(&data, STUDY, key.public_key(), &mut Chosen([ephemeral; 32]))
    };
    let envelopes = KeyEnvelopes {
        key: data.id(),
        to_box: sealed_to(&to_box, 5),
        to_hub: Some(sealed_to(&hub, 6)),
    };
    let bytes = envelopes.to_cbor();
    assert_eq!(hex(&bytes), GOLDEN_ENVELOPES);
    assert_eq!(bytes.len(), KEY_ENVELOPES_BYTES_MAX);
    assert_eq!(KeyEnvelopes::from_cbor(&bytes).as_ref(), Ok(&envelopes));
    let opened = envelopes.to_box.open(data.id(), STUDY, &to_box).unwrap();
    assert_eq!(opened.expose(), &[3; 32]);

    let for_hub = envelopes.for_hub().unwrap();
    let bytes = for_hub.to_cbor();
    assert_eq!(hex(&bytes), GOLDEN_FOR_HUB);
    assert_eq!(bytes.len(), KEY_ENVELOPE_BYTES);
    assert_eq!(KeyEnvelope::from_cbor(&bytes).as_ref(), Ok(&for_hub));
    assert_eq!(for_hub.open(STUDY, &hub).unwrap().expose(), &[3; 32]);
}

// Base mode lets anybody seal: one who knows the id of a key may seal another key under it.
#[test]
fn what_an_envelope_gives_is_the_key_that_it_names() {
    let (key, _, data) = keys();
    let info = [
        b"chasqui/data-key/1\0",
        STUDY.as_bytes(),
        b"\0",
        data.id().as_bytes(),
    ]
    .concat();
    let seal = |secret: &[u8; 32]| {
        let sealed = base::seal(key.public_key(), &info, &[], secret, &mut Chosen([5; 32]));
        let honest = Envelope::seal(&data, STUDY, key.public_key());
        let mut bytes = minicbor::to_vec(honest).unwrap();
        let at = bytes.len() - sealed.len();
        bytes[at..].copy_from_slice(&sealed);
        minicbor::decode::<Envelope>(&bytes).unwrap()
    };
    assert!(seal(&[3; 32]).open(data.id(), STUDY, &key).is_ok());
    let refused = seal(&[4; 32]).open(data.id(), STUDY, &key).unwrap_err();
    assert_eq!(refused, UnsealError::Altered);
}

#[test]
fn a_golden_document_is_written_and_opens() {
    let (key, _, _) = keys();
    let sealed = document::seal_by(
        key.public_key(),
        "order/1.2.3",
        b"golden",
        &mut Chosen([7; 32]),
    );
    assert_eq!(hex(&sealed), GOLDEN_DOCUMENT);
    assert_eq!(sealed.len(), b"golden".len() + DOCUMENT_OVERHEAD_BYTES);
    assert_eq!(open_with(&key, "order/1.2.3", &sealed).unwrap(), b"golden");
}

#[test]
fn golden_key_files_are_written_and_open() {
    let (key, _, _) = keys();
    let pin = Pin::new("2468").unwrap();
    let share = Share::from_bytes(&[8; 32]);
    for (share, golden) in [
        (None, GOLDEN_WRAPPED),
        (Some(&share), GOLDEN_WRAPPED_WITH_SHARE),
    ] {
        let lock = Lock { pin: &pin, share };
        let wrapped = WrappedStoreKey::wrap_by(&key, lock, cheap(9)).unwrap();
        let bytes = key_file::wrapped_bytes(&wrapped);
        assert_eq!(hex(&bytes), golden);
        let KeyFile::Wrapped(again) = KeyFile::from_bytes(&bytes).unwrap() else {
            panic!("a wrapped file holds a wrapped key");
        };
        assert_eq!(again.needs_share(), share.is_some());
        assert_eq!(again.open(lock).unwrap().expose(), &[1; 32]);
    }
    let KeyFile::Plain(plain) = KeyFile::from_bytes(GOLDEN_PLAIN.as_bytes()).unwrap() else {
        panic!("a plain file holds a plain key");
    };
    assert_eq!(plain.expose(), &[1; 32]);
    assert_eq!(&key_file::plain_bytes(&plain)[..], GOLDEN_PLAIN.as_bytes());
}

#[test]
fn a_sealed_unit_of_the_codec_stays_a_chunk() {
    // `codec` leaves 64 bytes of each unit, which is at most 1 MiB with them.
    const { assert!(OVERHEAD_BYTES <= 64) };
}

#[test]
fn any_flipped_bit_of_a_key_file_is_damage_and_needs_no_pin() {
    let (key, _, _) = keys();
    let pin = Pin::new("2468").unwrap();
    let lock = Lock {
        pin: &pin,
        share: None,
    };
    let wrapped = WrappedStoreKey::wrap_by(&key, lock, cheap(9)).unwrap();
    for bytes in [
        key_file::wrapped_bytes(&wrapped),
        GOLDEN_PLAIN.as_bytes().to_vec(),
    ] {
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match KeyFile::from_bytes(&flipped) {
                Err(
                    KeyFileError::Malformed | KeyFileError::UnknownVersion | KeyFileError::Damaged,
                ) => {}
                // A letter in capitals, or a bit that RFC 7748 5 clamps.
                Ok(KeyFile::Plain(same)) => assert_eq!(same.public_key(), key.public_key()),
                other => panic!("bit {bit}: {other:?}"),
            }
        }
        for length in 0..bytes.len() - 1 {
            assert!(KeyFile::from_bytes(&bytes[..length]).is_err(), "{length}");
        }
    }
}

// As an attacker does it: with the check at the end made to fit.
#[test]
fn an_altered_wrapped_key_does_not_open() {
    let (key, _, _) = keys();
    let pin = Pin::new("2468").unwrap();
    let lock = Lock {
        pin: &pin,
        share: None,
    };
    let wrapped = WrappedStoreKey::wrap_by(&key, lock, cheap(9)).unwrap();
    let bytes = key_file::wrapped_bytes(&wrapped);
    let content = bytes.len() - 32;
    for bit in 28 * 8..content * 8 {
        let mut altered = bytes[..content].to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        let check = blake3::hash(&altered);
        altered.extend_from_slice(check.as_bytes());
        let Ok(KeyFile::Wrapped(altered)) = KeyFile::from_bytes(&altered) else {
            continue;
        };
        let refused = altered.open(lock).unwrap_err();
        assert!(
            matches!(
                refused,
                UnwrapError::WrongPin | UnwrapError::TooCostly | UnwrapError::ShareNeeded
            ),
            "bit {bit}: {refused:?}"
        );
    }
}

#[test]
fn a_file_cannot_demand_the_machines_memory_or_time() {
    let (key, _, _) = keys();
    let pin = Pin::new("2468").unwrap();
    let lock = Lock {
        pin: &pin,
        share: None,
    };
    let modest = cheap(0).cost;
    for cost in [
        Cost {
            memory_kib: 100 << 20,
            ..modest
        },
        Cost {
            memory_kib: (256 << 10) + 1,
            ..modest
        },
        Cost {
            passes: 17,
            ..modest
        },
        Cost { lanes: 5, ..modest },
        Cost {
            memory_kib: 0,
            ..modest
        },
    ] {
        let greedy = Chance { cost, ..cheap(0) };
        let refused = WrappedStoreKey::wrap_by(&key, lock, greedy).unwrap_err();
        assert_eq!(refused, UnwrapError::TooCostly);
    }
}

#[test]
fn what_is_printed_has_no_secret() {
    let (key, _, data) = keys();
    let envelopes = KeyEnvelopes::seal(&data, STUDY, key.public_key(), None);
    let mut ring = Keyring::unlocked(StoreKey::from_secret(&[1; 32]));
    ring.admit(STUDY, &envelopes).unwrap();
    let pin = Pin::new("24682468").unwrap();
    let share = Share::from_bytes(&[8; 32]);
    let lock = Lock {
        pin: &pin,
        share: Some(&share),
    };
    let wrapped = WrappedStoreKey::wrap_by(&key, lock, cheap(1)).unwrap();
    let printed = format!(
        "{key:?} {data:?} {ring:?} {lock:?} {wrapped:?} {:?}",
        KeyFile::Plain(StoreKey::from_secret(&[1; 32]))
    );
    for secret in ["0101", "1, 1", "0303", "3, 3", "2468", "8, 8", "0808"] {
        assert!(!printed.contains(secret), "{secret} in {printed}");
    }
}
