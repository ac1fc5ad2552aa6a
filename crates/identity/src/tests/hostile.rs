//! Bytes from outside never panic, and none of them are a document.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::{NOW, Scene, scene};
use crate::cose;
use crate::*;

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
    let s = LazyLock::force(&SCENE);
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

static SCENE: LazyLock<Scene> = LazyLock::new(scene);
