//! Nothing opens for the wrong person, under the wrong name, or with a bit changed.

use sealing::{
    DataKey, EnvelopeError, Envelopes, HELD_KEYS_MAX, KeyEnvelopes, KeyId, Keyring, KeyringError,
    OVERHEAD_BYTES, OpenError, StoreKey, StorePublicKey, StorePublicKeyError, UnsealError,
    open_with, seal_to,
};

const STUDY: &str = "1.2.840.113619.2.1";
const OTHER_STUDY: &str = "1.2.840.113619.2.2";

/// Every way to change one bit.
fn flipped(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> + '_ {
    (0..bytes.len() * 8).map(|bit| {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        (bit, flipped)
    })
}

#[test]
fn a_body_opens_only_with_its_key() {
    let (ours, theirs) = (DataKey::generate(), DataKey::generate());
    let sealed = ours.seal(b"slice");
    assert_eq!(ours.open(&sealed).unwrap(), b"slice");
    assert_eq!(KeyId::of_sealed(&sealed), Ok(ours.id()));
    assert_eq!(
        theirs.open(&sealed),
        Err(OpenError::OtherKey {
            sealed_with: ours.id(),
            ours: theirs.id()
        })
    );
    // Made out to be theirs.
    let mut renamed = sealed.clone();
    renamed[1..9].copy_from_slice(theirs.id().as_bytes());
    assert_eq!(theirs.open(&renamed), Err(OpenError::Altered));
}

#[test]
fn the_same_body_is_never_sealed_to_the_same_bytes() {
    let key = DataKey::generate();
    assert_ne!(key.seal(b"slice"), key.seal(b"slice"));
    assert_ne!(key.id(), DataKey::generate().id());
}

#[test]
fn a_body_with_a_bit_changed_or_cut_off_does_not_open() {
    let key = DataKey::generate();
    for body in [&b""[..], b"x", &[7; 100]] {
        let sealed = key.seal(body);
        assert_eq!(sealed.len(), body.len() + OVERHEAD_BYTES);
        for (bit, flipped) in flipped(&sealed) {
            assert!(key.open(&flipped).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            let refused = key.open(&sealed[..length]).unwrap_err();
            if length < OVERHEAD_BYTES {
                assert_eq!(refused, OpenError::Truncated, "{length}");
            } else {
                assert_eq!(refused, OpenError::Altered, "{length}");
            }
        }
        let longer = [&sealed[..], &[0]].concat();
        assert_eq!(key.open(&longer), Err(OpenError::Altered));
    }
    let mut later = key.seal(b"x");
    later[0] = 2;
    assert_eq!(key.open(&later), Err(OpenError::UnknownVersion(2)));
}

#[test]
fn an_envelope_opens_only_for_its_recipient_study_and_key() {
    let (clinic, hub, thief) = (
        StoreKey::generate(),
        StoreKey::generate(),
        StoreKey::generate(),
    );
    let data = DataKey::generate();
    let sealed = KeyEnvelopes::seal(&data, STUDY, clinic.public_key(), Some(hub.public_key()));
    let to_hub = sealed.to_hub.as_ref().unwrap();
    let chunk = data.seal(b"slice");
    for (envelope, key) in [(&sealed.to_box, &clinic), (to_hub, &hub)] {
        let opened = envelope.open(data.id(), STUDY, key).unwrap();
        assert_eq!(opened.open(&chunk).unwrap(), b"slice");
    }
    assert_eq!(
        to_hub.open(data.id(), STUDY, &thief).unwrap_err(),
        UnsealError::OtherRecipient {
            sealed_to: hub.public_key().id(),
            ours: thief.public_key().id()
        }
    );
    let refused = to_hub.open(data.id(), OTHER_STUDY, &hub).unwrap_err();
    assert_eq!(refused, UnsealError::Altered);
    let other = DataKey::generate().id();
    let refused = to_hub.open(other, STUDY, &hub).unwrap_err();
    assert_eq!(refused, UnsealError::Altered);
    // A study's text cannot run over into the key's id.
    let odd = format!("{STUDY}\0");
    let refused = to_hub.open(data.id(), &odd, &hub).unwrap_err();
    assert_eq!(refused, UnsealError::Altered);
}

#[test]
fn envelopes_with_a_bit_changed_do_not_open_or_are_no_envelopes() {
    let (clinic, hub) = (StoreKey::generate(), StoreKey::generate());
    let data = DataKey::generate();
    let sealed = KeyEnvelopes::seal(&data, STUDY, clinic.public_key(), Some(hub.public_key()));
    let bytes = Envelopes::new(vec![sealed]).unwrap().to_cbor();
    for (bit, flipped) in flipped(&bytes) {
        let Ok(envelopes) = Envelopes::from_cbor(&flipped) else {
            continue;
        };
        let [entry] = envelopes.keys() else {
            panic!("bit {bit}: another number of keys");
        };
        let opens = |key: &StoreKey| {
            let envelope = entry.to(key.public_key().id());
            envelope.is_some_and(|e| e.open(entry.key, STUDY, key).is_ok())
        };
        assert!(!(opens(&clinic) && opens(&hub)), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(Envelopes::from_cbor(&bytes[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_list_of_envelopes_keeps_its_limits() {
    let clinic = StoreKey::generate();
    let entries = |count: usize| -> Vec<_> {
        (0..count)
            .map(|_| KeyEnvelopes::seal(&DataKey::generate(), STUDY, clinic.public_key(), None))
            .collect()
    };
    let full = Envelopes::new(entries(64)).unwrap();
    assert_eq!(Envelopes::from_cbor(&full.to_cbor()), Ok(full));
    let refused = Envelopes::new(entries(65)).unwrap_err();
    assert_eq!(refused, EnvelopeError::OverLimit("keys"));
    let refused = Envelopes::from_cbor(&vec![0; (16 << 10) + 1]).unwrap_err();
    assert_eq!(refused, EnvelopeError::OverLimit("bytes"));
    let twice = [entries(1), entries(1)].concat();
    let twice = vec![twice[0].clone(), twice[0].clone()];
    assert_eq!(
        Envelopes::new(twice.clone()),
        Err(EnvelopeError::Twice(twice[0].key))
    );

    let one = Envelopes::new(entries(1)).unwrap().to_cbor();
    let mut later = one.clone();
    later[1] = 2;
    let refused = Envelopes::from_cbor(&later).unwrap_err();
    assert_eq!(refused, EnvelopeError::UnknownVersion(2));
    // The same number in two bytes.
    let long = [&one[..1], &[0x18], &one[1..]].concat();
    let refused = Envelopes::from_cbor(&long).unwrap_err();
    assert!(matches!(refused, EnvelopeError::Malformed(_)), "{refused}");
    let tail = [&one[..], &[0]].concat();
    assert!(Envelopes::from_cbor(&tail).is_err());
}

#[test]
fn the_largest_list_of_envelopes_fits_its_limit() {
    let key = StoreKey::generate();
    let entries = (0..64)
        .map(|_| {
            let data = DataKey::generate();
            KeyEnvelopes::seal(&data, STUDY, key.public_key(), Some(key.public_key()))
        })
        .collect();
    let bytes = Envelopes::new(entries).unwrap().to_cbor();
    assert!(Envelopes::from_cbor(&bytes).is_ok(), "{}", bytes.len());
}

#[test]
fn a_document_opens_only_for_its_recipient_and_domain() {
    let (ours, thief) = (StoreKey::generate(), StoreKey::generate());
    let sealed = seal_to(ours.public_key(), "order/1", b"a name");
    assert_eq!(open_with(&ours, "order/1", &sealed).unwrap(), b"a name");
    let refused = open_with(&ours, "order/2", &sealed);
    assert_eq!(refused, Err(UnsealError::Altered));
    assert_eq!(
        open_with(&thief, "order/1", &sealed),
        Err(UnsealError::OtherRecipient {
            sealed_to: ours.public_key().id(),
            ours: thief.public_key().id()
        })
    );
    for (bit, flipped) in flipped(&sealed) {
        assert!(open_with(&ours, "order/1", &flipped).is_err(), "bit {bit}");
    }
    for length in 0..sealed.len() {
        assert!(open_with(&ours, "order/1", &sealed[..length]).is_err());
    }
    assert_ne!(seal_to(ours.public_key(), "order/1", b"a name"), sealed);
}

#[test]
fn an_envelope_is_no_document() {
    let key = StoreKey::generate();
    let data = DataKey::generate();
    let sealed = KeyEnvelopes::seal(&data, STUDY, key.public_key(), None);
    let envelopes = Envelopes::new(vec![sealed]).unwrap().to_cbor();
    let sealed = &envelopes[envelopes.len() - 1 - 80..envelopes.len() - 1];
    let passed_off = [&[1], &key.public_key().id().as_bytes()[..], sealed].concat();
    for domain in ["", STUDY, "chasqui/data-key/1"] {
        let refused = open_with(&key, domain, &passed_off);
        assert_eq!(refused, Err(UnsealError::Altered));
    }
}

#[test]
fn weak_and_second_ways_to_write_a_public_key_are_refused() {
    // Points of small order, then coordinates that are not reduced.
    for text in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "f6ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0900000000000000000000000000000000000000000000000000000000000080",
    ] {
        let refused = text.parse::<StorePublicKey>();
        assert_eq!(refused, Err(StorePublicKeyError::Weak), "{text}");
    }
    let refused = "09".parse::<StorePublicKey>();
    assert_eq!(refused, Err(StorePublicKeyError::NotHex));
    let key = *StoreKey::generate().public_key();
    assert_eq!(key.to_string().parse(), Ok(key));
    let cbor = minicbor::to_vec(key).unwrap();
    assert_eq!(minicbor::decode::<StorePublicKey>(&cbor).unwrap(), key);
    let weak = [&cbor[..2], &[0; 32]].concat();
    assert!(minicbor::decode::<StorePublicKey>(&weak).is_err());
}

#[test]
fn a_locked_keyring_takes_in_and_reads_nothing_back_after_it_lost_its_keys() {
    let key = StoreKey::generate();
    let hub = StoreKey::generate();
    let mut ring = Keyring::locked(*key.public_key());
    let envelopes = ring.make(STUDY, Some(hub.public_key()));
    let sealed = ring.seal(envelopes.key, b"slice").unwrap();
    let order = ring.seal_document("order/1", b"a name");
    // What is being packed is read back with the key in hand.
    assert_eq!(ring.open(&sealed).unwrap(), b"slice");
    let refused = ring.open_document("order/1", &order);
    assert_eq!(refused, Err(KeyringError::Locked));

    ring.lock_idle();
    assert_eq!(ring.open(&sealed).unwrap(), b"slice");
    ring.lock();
    let refused = ring.open(&sealed);
    assert_eq!(refused, Err(KeyringError::NotHeld(envelopes.key)));
    let refused = ring.seal(envelopes.key, b"slice");
    assert_eq!(refused, Err(KeyringError::NotHeld(envelopes.key)));
    assert_eq!(ring.admit(STUDY, &envelopes), Err(KeyringError::Locked));

    ring.unlock(key).unwrap();
    assert!(ring.is_unlocked());
    let refused = ring.admit(OTHER_STUDY, &envelopes).unwrap_err();
    assert_eq!(refused, KeyringError::Unseal(UnsealError::Altered));
    ring.admit(STUDY, &envelopes).unwrap();
    assert_eq!(ring.open(&sealed).unwrap(), b"slice");
    assert_eq!(ring.open_document("order/1", &order).unwrap(), b"a name");

    // What the store key opened goes with it.
    ring.lock_idle();
    assert!(!ring.is_unlocked());
    let refused = ring.open(&sealed);
    assert_eq!(refused, Err(KeyringError::NotHeld(envelopes.key)));

    let mut at_hub = Keyring::unlocked(hub);
    at_hub.admit(STUDY, &envelopes).unwrap();
    assert_eq!(at_hub.open(&sealed).unwrap(), b"slice");
    at_hub.forget(envelopes.key);
    assert!(!at_hub.holds(envelopes.key));
}

#[test]
fn a_keyring_takes_only_its_own_keys() {
    let (ours, theirs) = (StoreKey::generate(), StoreKey::generate());
    let mut ring = Keyring::locked(*ours.public_key());
    let given = theirs.public_key().id();
    let refused = ring.unlock(StoreKey::generate()).unwrap_err();
    assert!(matches!(refused, KeyringError::OtherStoreKey { .. }));
    assert!(!ring.is_unlocked());
    let envelopes = Keyring::unlocked(theirs).make(STUDY, None);
    ring.unlock(ours).unwrap();
    let refused = ring.admit(STUDY, &envelopes);
    assert_eq!(refused, Err(KeyringError::NotForUs(envelopes.key)));
    assert_eq!(envelopes.to_box.recipient(), given);
}

#[test]
fn a_hub_that_comes_later_gets_its_envelope() {
    let (clinic, hub) = (StoreKey::generate(), StoreKey::generate());
    let mut ring = Keyring::unlocked(clinic);
    let alone = ring.make(STUDY, None);
    assert_eq!(alone.to_hub, None);
    let sealed = ring.seal(alone.key, b"slice").unwrap();
    let with_hub = ring.add_hub(STUDY, &alone, hub.public_key()).unwrap();
    assert_eq!(with_hub.to_box, alone.to_box);
    let mut at_hub = Keyring::unlocked(hub);
    at_hub.admit(STUDY, &with_hub).unwrap();
    assert_eq!(at_hub.open(&sealed).unwrap(), b"slice");
}

#[test]
fn a_keyring_stays_small_and_its_oldest_key_comes_back_by_its_envelope() {
    let mut ring = Keyring::unlocked(StoreKey::generate());
    let first = ring.make(STUDY, None);
    for _ in 0..HELD_KEYS_MAX {
        ring.make(STUDY, None);
    }
    assert!(!ring.holds(first.key));
    ring.admit(STUDY, &first).unwrap();
    assert!(ring.holds(first.key));
}
