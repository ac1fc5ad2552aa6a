//! Bytes from outside never panic, and what was read is written the same.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use sealing::{DataKey, KeyEnvelope, KeyEnvelopes, KeyFile, KeyId, StoreKey, open_with};

/// What starts like the real thing comes further.
fn opening() -> impl Strategy<Value = Vec<u8>> {
    let head = prop_oneof![
        Just(vec![]),
        Just(vec![1]),
        Just(b"chasqui-store-key-1 ".to_vec()),
        Just(b"chasqui-wrapped-store-key-1\n".to_vec()),
        Just(vec![0x83, 1, 0x48]),
        Just(vec![0x84, 1, 0x48]),
        // A length of 2^64 - 1.
        Just(vec![
            0x83, 1, 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff
        ]),
    ];
    (head, vec(any::<u8>(), 0..600)).prop_map(|(head, tail)| [head, tail].concat())
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in opening()) {
        let (store, data) = (StoreKey::generate(), DataKey::generate());
        let mut ours = bytes.clone();
        prop_assert!(data.open(&bytes).is_err());
        prop_assert!(open_with(&store, "order/1", &bytes).is_err());
        let _ = KeyId::of_sealed(&bytes);
        let _ = KeyFile::from_bytes(&bytes);
        prop_assert!(KeyEnvelope::from_cbor(&bytes).is_err());
        prop_assert!(KeyEnvelopes::from_cbor(&bytes).is_err());
        // Addressed to the right key.
        if let Some(id) = ours.get_mut(1..9) {
            id.copy_from_slice(data.id().as_bytes());
            prop_assert!(data.open(&ours).is_err());
        }
        if let Some(id) = ours.get_mut(1..9) {
            id.copy_from_slice(store.public_key().id().as_bytes());
            prop_assert!(open_with(&store, "order/1", &ours).is_err());
        }
        // A whole check, so that the content is looked at.
        let checked = [&bytes[..], blake3::hash(&bytes).as_bytes()].concat();
        let _ = KeyFile::from_bytes(&checked);
    }

    #[test]
    fn a_bent_envelope_is_refused_or_written_the_same(at in any::<Index>(), to in any::<u8>()) {
        let (store, data) = (StoreKey::generate(), DataKey::generate());
        let public = store.public_key();
        let sealed = KeyEnvelopes::seal(&data, "1.2.3", public, Some(public));
        let mut bytes = sealed.to_cbor();
        *at.get_mut(&mut bytes) = to;
        if let Ok(read) = KeyEnvelopes::from_cbor(&bytes) {
            prop_assert_eq!(read.to_cbor(), bytes);
        }
        let mut bytes = sealed.for_hub().unwrap().to_cbor();
        *at.get_mut(&mut bytes) = to;
        if let Ok(read) = KeyEnvelope::from_cbor(&bytes) {
            prop_assert_eq!(read.to_cbor(), bytes);
        }
    }

    #[test]
    fn what_is_sealed_opens(body in vec(any::<u8>(), 0..5000)) {
        let key = DataKey::generate();
        prop_assert_eq!(key.open(&key.seal(&body)).unwrap(), body);
    }

    #[test]
    fn texts_go_there_and_back(text in vec(any::<u8>(), 0..2000), domain in ".{0,80}") {
        let key = StoreKey::generate();
        let sealed = sealing::seal_to(key.public_key(), &domain, &text);
        prop_assert_eq!(open_with(&key, &domain, &sealed).unwrap(), text);
    }
}
