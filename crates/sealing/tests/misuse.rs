//! Nothing opens for the wrong person, under the wrong name, or with a bit changed.

use std::sync::Arc;

use sealing::{
    DataKey, EnvelopeError, HELD_KEYS_MAX, KeyEnvelope, KeyEnvelopes, KeyId, Keyring, KeyringError,
    OVERHEAD_BYTES, OpenError, StoreKey, UnsealError, open_with, seal_to,
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

/// Opens a body with the key that it names, as the owner of a keyring does.
fn open(ring: &Keyring, sealed: &[u8]) -> Result<Vec<u8>, KeyringError> {
    let key = ring.data_key(KeyId::of_sealed(sealed).expect("a sealed body"))?;
    Ok(key.open(sealed).expect("a whole body"))
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
fn what_travels_to_the_hub_opens_there_for_its_study_alone() {
    let (clinic, hub) = (StoreKey::generate(), StoreKey::generate());
    let data = DataKey::generate();
    let alone = KeyEnvelopes::seal(&data, STUDY, clinic.public_key(), None);
    assert_eq!(alone.for_hub(), None);
    let sealed = KeyEnvelopes::seal(&data, STUDY, clinic.public_key(), Some(hub.public_key()));
    let for_hub = sealed.for_hub().unwrap();
    assert_eq!(for_hub.key, data.id());
    let arrived = KeyEnvelope::from_cbor(&for_hub.to_cbor()).unwrap();
    let opened = arrived.open(STUDY, &hub).unwrap();
    assert_eq!(opened.open(&data.seal(b"slice")).unwrap(), b"slice");
    let refused = arrived.open(OTHER_STUDY, &hub).unwrap_err();
    assert_eq!(refused, UnsealError::Altered);
    let refused = arrived.open(STUDY, &clinic).unwrap_err();
    assert!(matches!(refused, UnsealError::OtherRecipient { .. }));
    // Under the name of another key.
    let renamed = KeyEnvelope {
        key: DataKey::generate().id(),
        ..arrived
    };
    let refused = renamed.open(STUDY, &hub).unwrap_err();
    assert_eq!(refused, UnsealError::Altered);
}

#[test]
fn envelopes_with_a_bit_changed_do_not_open_or_are_no_envelopes() {
    let (clinic, hub) = (StoreKey::generate(), StoreKey::generate());
    let data = DataKey::generate();
    let sealed = KeyEnvelopes::seal(&data, STUDY, clinic.public_key(), Some(hub.public_key()));
    let bytes = sealed.to_cbor();
    for (bit, flipped) in flipped(&bytes) {
        let Ok(envelopes) = KeyEnvelopes::from_cbor(&flipped) else {
            continue;
        };
        let opens = |key: &StoreKey| {
            let envelope = envelopes.to(key.public_key().id());
            envelope.is_some_and(|e| e.open(envelopes.key, STUDY, key).is_ok())
        };
        assert!(!(opens(&clinic) && opens(&hub)), "bit {bit}");
    }
    let for_hub = sealed.for_hub().unwrap().to_cbor();
    for (bit, flipped) in flipped(&for_hub) {
        if let Ok(envelope) = KeyEnvelope::from_cbor(&flipped) {
            assert!(envelope.open(STUDY, &hub).is_err(), "bit {bit}");
        }
    }
    for length in 0..bytes.len() {
        assert!(KeyEnvelopes::from_cbor(&bytes[..length]).is_err());
    }
    for length in 0..for_hub.len() {
        assert!(KeyEnvelope::from_cbor(&for_hub[..length]).is_err());
    }
}

#[test]
fn envelopes_have_one_form_and_a_version() {
    let (clinic, hub) = (StoreKey::generate(), StoreKey::generate());
    let data = DataKey::generate();
    let sealed = KeyEnvelopes::seal(&data, STUDY, clinic.public_key(), Some(hub.public_key()));
    let read_both = |bytes: &[u8]| KeyEnvelopes::from_cbor(bytes).map(drop);
    let read_one = |bytes: &[u8]| KeyEnvelope::from_cbor(bytes).map(drop);
    let (both, one) = (sealed.to_cbor(), sealed.for_hub().unwrap().to_cbor());
    assert!(read_both(&one).is_err() && read_one(&both).is_err());
    check_form(&both, read_both);
    check_form(&one, read_one);
}

fn check_form(bytes: &[u8], read: impl Fn(&[u8]) -> Result<(), EnvelopeError>) {
    assert_eq!(read(bytes), Ok(()));
    let mut later = bytes.to_vec();
    later[1] = 2;
    assert_eq!(read(&later), Err(EnvelopeError::UnknownVersion(2)));
    // Whatever else a later version brings.
    later.resize(5000, 0);
    assert_eq!(read(&later), Err(EnvelopeError::UnknownVersion(2)));
    let huge = read(&[bytes, &[0; 5000]].concat());
    assert!(
        matches!(huge, Err(EnvelopeError::TooLong { .. })),
        "{huge:?}"
    );
    assert!(read(&[bytes, &[0]].concat()).is_err(), "a byte after it");
    // The same in more bytes: the version in two, the array without a length, one more part.
    let long = [&bytes[..1], &[0x18], &bytes[1..]].concat();
    let indefinite = [&[0x9f], &bytes[1..], &[0xff]].concat();
    let wider = [&[bytes[0] + 1], &bytes[1..], &[0xf6]].concat();
    for other in [long, indefinite, wider] {
        assert!(read(&other).is_err(), "{other:02x?}");
    }
}

#[test]
fn another_form_is_refused_even_where_it_is_no_longer() {
    let clinic = StoreKey::generate();
    let sealed = KeyEnvelopes::seal(&DataKey::generate(), STUDY, clinic.public_key(), None);
    let bytes = sealed.to_cbor();
    // There is room for it: without the hub's envelope the limit is far.
    let long = [&bytes[..1], &[0x18], &bytes[1..]].concat();
    let refused = KeyEnvelopes::from_cbor(&long).unwrap_err();
    assert!(matches!(refused, EnvelopeError::Malformed(_)), "{refused}");
    // `undefined` in the place of `null`.
    let undefined = [&bytes[..bytes.len() - 1], &[0xf7]].concat();
    let refused = KeyEnvelopes::from_cbor(&undefined).unwrap_err();
    assert!(matches!(refused, EnvelopeError::Malformed(_)), "{refused}");
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
    let envelopes = sealed.to_cbor();
    let sealed = &envelopes[envelopes.len() - 1 - 80..envelopes.len() - 1];
    let passed_off = [&[1], &key.public_key().id().as_bytes()[..], sealed].concat();
    for domain in ["", STUDY, "chasqui/data-key/1"] {
        let refused = open_with(&key, domain, &passed_off);
        assert_eq!(refused, Err(UnsealError::Altered));
    }
}

#[test]
fn a_locked_keyring_takes_in_and_reads_nothing_back_after_it_lost_its_keys() {
    let key = StoreKey::generate();
    let hub = StoreKey::generate();
    let mut ring = Keyring::locked(*key.public_key());
    let (envelopes, made) = ring.make(STUDY, Some(hub.public_key()));
    let sealed = made.seal(b"slice");
    drop(made);
    let order = ring.seal_document("order/1", b"a name");
    // What is being packed is read back with the key in hand.
    assert_eq!(open(&ring, &sealed).unwrap(), b"slice");
    let refused = ring.open_document("order/1", &order);
    assert_eq!(refused, Err(KeyringError::Locked));

    ring.lock_idle();
    assert_eq!(open(&ring, &sealed).unwrap(), b"slice");
    ring.lock();
    let refused = open(&ring, &sealed);
    assert_eq!(refused, Err(KeyringError::NotHeld(envelopes.key)));
    assert_eq!(ring.admit(STUDY, &envelopes), Err(KeyringError::Locked));

    ring.unlock(key).unwrap();
    assert!(ring.is_unlocked());
    let refused = ring.admit(OTHER_STUDY, &envelopes).unwrap_err();
    assert_eq!(refused, KeyringError::Unseal(UnsealError::Altered));
    ring.admit(STUDY, &envelopes).unwrap();
    assert_eq!(open(&ring, &sealed).unwrap(), b"slice");
    assert_eq!(ring.open_document("order/1", &order).unwrap(), b"a name");

    // What the store key opened goes with it.
    ring.lock_idle();
    assert!(!ring.is_unlocked());
    let refused = open(&ring, &sealed);
    assert_eq!(refused, Err(KeyringError::NotHeld(envelopes.key)));

    let mut at_hub = Keyring::unlocked(hub);
    at_hub.admit(STUDY, &envelopes).unwrap();
    assert_eq!(open(&at_hub, &sealed).unwrap(), b"slice");
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
    let (envelopes, _) = Keyring::unlocked(theirs).make(STUDY, None);
    ring.unlock(ours).unwrap();
    let refused = ring.admit(STUDY, &envelopes);
    assert_eq!(refused, Err(KeyringError::NotForUs(envelopes.key)));
    assert_eq!(envelopes.to_box.recipient(), given);
}

#[test]
fn a_hub_that_comes_later_gets_its_envelope() {
    let (clinic, hub) = (StoreKey::generate(), StoreKey::generate());
    let mut ring = Keyring::unlocked(clinic);
    let (alone, key) = ring.make(STUDY, None);
    assert_eq!(alone.to_hub, None);
    let sealed = key.seal(b"slice");
    let with_hub = ring.add_hub(STUDY, &alone, hub.public_key()).unwrap();
    assert_eq!(with_hub.to_box, alone.to_box);
    let mut at_hub = Keyring::unlocked(hub);
    at_hub.admit(STUDY, &with_hub).unwrap();
    assert_eq!(open(&at_hub, &sealed).unwrap(), b"slice");
}

#[test]
fn a_hubs_old_envelope_is_replaced_and_its_own_is_kept() {
    let (clinic, old, new) = (
        StoreKey::generate(),
        StoreKey::generate(),
        StoreKey::generate(),
    );
    let mut ring = Keyring::locked(*clinic.public_key());
    let (first, _) = ring.make(STUDY, Some(old.public_key()));
    let second = ring.add_hub(STUDY, &first, new.public_key()).unwrap();
    let for_hub = second.for_hub().unwrap();
    assert_eq!(for_hub.open(STUDY, &new).unwrap().id(), first.key);
    assert!(for_hub.open(STUDY, &old).is_err());
    assert_eq!(second.to_box, first.to_box);
    ring.forget(first.key);
    let again = ring.add_hub(STUDY, &second, new.public_key());
    assert_eq!(again.as_ref(), Ok(&second), "needs no key");
    let refused = ring.add_hub(STUDY, &second, old.public_key());
    assert_eq!(refused, Err(KeyringError::NotHeld(first.key)));
}

#[test]
fn a_data_key_works_outside_of_its_keyring_for_as_long_as_it_is_held_there() {
    let mut ring = Keyring::locked(*StoreKey::generate().public_key());
    let (envelopes, made) = ring.make(STUDY, None);
    let held = ring.data_key(envelopes.key).unwrap();
    assert!(Arc::ptr_eq(&made, &held), "one copy of the secret");
    let sealed = held.seal(b"slice");
    assert_eq!(open(&ring, &sealed).unwrap(), b"slice");
    ring.forget(envelopes.key);
    let refused = ring.data_key(envelopes.key).unwrap_err();
    assert_eq!(refused, KeyringError::NotHeld(envelopes.key));
    // Who is at work ends it; the secret goes with the last of them.
    assert_eq!(made.open(&sealed).unwrap(), b"slice");
    let watch = Arc::downgrade(&made);
    drop((made, held));
    assert!(watch.upgrade().is_none());
}

#[test]
fn a_locked_keyring_holds_no_data_key_back() {
    let clinic = StoreKey::generate();
    let mut ring = Keyring::locked(*clinic.public_key());
    let (_, made) = ring.make(STUDY, None);
    let (envelopes, _) = Keyring::locked(*clinic.public_key()).make(STUDY, None);
    ring.unlock(clinic).unwrap();
    ring.admit(STUDY, &envelopes).unwrap();
    let watch = [made, ring.data_key(envelopes.key).unwrap()].map(|key| Arc::downgrade(&key));
    assert!(watch.iter().all(|key| key.upgrade().is_some()));
    ring.lock();
    assert!(watch.iter().all(|key| key.upgrade().is_none()));
}

#[test]
fn a_keyring_stays_small_and_its_oldest_key_comes_back_by_its_envelope() {
    let mut ring = Keyring::unlocked(StoreKey::generate());
    let (first, _) = ring.make(STUDY, None);
    for _ in 0..HELD_KEYS_MAX {
        ring.make(STUDY, None);
    }
    assert!(!ring.holds(first.key));
    ring.admit(STUDY, &first).unwrap();
    assert!(ring.holds(first.key));
}
