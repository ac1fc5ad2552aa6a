//! A PIN is set, changed and taken away, and the key behind it stays the same key.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sealing::{
    KeyFile, KeyFileError, Lock, Pin, PinError, Share, StorePublicKey, UnwrapError, change_pin,
    remove_pin, set_pin,
};

fn open(path: &Path, lock: Lock<'_>) -> Result<StorePublicKey, UnwrapError> {
    match KeyFile::load(path).expect("a key file") {
        KeyFile::Wrapped(wrapped) => wrapped.open(lock).map(|key| *key.public_key()),
        KeyFile::Plain(_) => panic!("there is no PIN"),
    }
}

fn is_private(path: &Path) -> bool {
    fs::metadata(path).expect("a file").permissions().mode() & 0o777 == 0o600
}

#[test]
fn a_pin_is_set_changed_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.key");
    let public = *KeyFile::create(&path).unwrap().public_key();
    let plain = fs::read(&path).unwrap();
    assert!(is_private(&path));
    let (first, second) = (
        Pin::new("2468").unwrap(),
        Pin::new("correct horse").unwrap(),
    );
    let share = Share::from_bytes(&[8; 32]);
    let first = Lock {
        pin: &first,
        share: None,
    };
    let second = Lock {
        pin: &second,
        share: Some(&share),
    };

    let refused = remove_pin(&path, first).unwrap_err();
    assert!(matches!(refused, KeyFileError::HasNoPin), "{refused}");
    let refused = change_pin(&path, first, second).unwrap_err();
    assert!(matches!(refused, KeyFileError::HasNoPin), "{refused}");

    set_pin(&path, first).unwrap();
    assert!(is_private(&path));
    let wrapped = fs::read(&path).unwrap();
    assert!(!wrapped.windows(64).any(|w| w == &plain[20..84]));
    let loaded = KeyFile::load(&path).unwrap();
    assert_eq!(*loaded.public_key(), public, "readable without the PIN");
    assert_eq!(open(&path, first), Ok(public));
    let refused = set_pin(&path, second).unwrap_err();
    assert!(matches!(refused, KeyFileError::HasPin), "{refused}");

    let wrong = Pin::new("2469").unwrap();
    let wrong = Lock {
        pin: &wrong,
        share: None,
    };
    assert_eq!(open(&path, wrong), Err(UnwrapError::WrongPin));
    let refused = change_pin(&path, wrong, second).unwrap_err();
    let expected = KeyFileError::Unwrap(UnwrapError::WrongPin);
    assert_eq!(refused.to_string(), expected.to_string());
    assert_eq!(fs::read(&path).unwrap(), wrapped, "nothing was changed");

    change_pin(&path, first, second).unwrap();
    assert_eq!(open(&path, second), Ok(public));
    assert_eq!(open(&path, first), Err(UnwrapError::ShareNeeded));
    let foreign = Share::from_bytes(&[9; 32]);
    let cloned_disk = Lock {
        share: Some(&foreign),
        ..second
    };
    assert_eq!(open(&path, cloned_disk), Err(UnwrapError::WrongPin));

    remove_pin(&path, second).unwrap();
    assert!(is_private(&path));
    assert_eq!(fs::read(&path).unwrap(), plain);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn the_plain_bytes_are_overwritten_when_a_pin_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.key");
    KeyFile::create(&path).unwrap();
    // Another name keeps the old file reachable, as its blocks stay on a disk.
    let old = folder.path().join("old");
    fs::hard_link(&path, &old).unwrap();
    let pin = Pin::new("2468").unwrap();
    let lock = Lock {
        pin: &pin,
        share: None,
    };
    set_pin(&path, lock).unwrap();
    assert!(fs::read(&old).unwrap().iter().all(|byte| *byte == 0));
    assert!(open(&path, lock).is_ok());
}

#[test]
fn a_share_is_not_asked_for_in_vain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.key");
    KeyFile::create(&path).unwrap();
    let pin = Pin::new("2468").unwrap();
    let share = Share::from_bytes(&[8; 32]);
    let alone = Lock {
        pin: &pin,
        share: None,
    };
    set_pin(&path, alone).unwrap();
    let with_share = Lock {
        share: Some(&share),
        ..alone
    };
    assert_eq!(open(&path, with_share), Err(UnwrapError::ShareNotUsed));
}

#[test]
fn other_files_are_refused_by_name_and_without_their_content() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.key");
    for (content, expected) in [
        ("", KeyFileError::Malformed),
        ("chasqui-key-1 secret", KeyFileError::Malformed),
        ("chasqui-store-key-2 secret", KeyFileError::UnknownVersion),
        (
            "chasqui-wrapped-store-key-9\nsecret",
            KeyFileError::UnknownVersion,
        ),
        ("chasqui-store-key-1 secret", KeyFileError::Damaged),
        ("chasqui-wrapped-store-key-1\nsecret", KeyFileError::Damaged),
    ] {
        let _ = fs::remove_file(&path);
        identity::files::create_private(&path, content.as_bytes()).unwrap();
        let refused = KeyFile::load(&path).unwrap_err();
        assert_eq!(refused.to_string(), expected.to_string(), "{content}");
        assert!(!format!("{refused:?}").contains("secret"));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = KeyFile::load(&path).unwrap_err();
    assert!(matches!(refused, KeyFileError::File(_)), "{refused}");
    let refused = KeyFile::create(&path).unwrap_err();
    assert!(matches!(refused, KeyFileError::File(_)), "{refused}");
}

#[test]
fn a_pin_has_a_length() {
    assert_eq!(Pin::new("123").unwrap_err(), PinError::Length);
    assert_eq!(Pin::new(&"1".repeat(129)).unwrap_err(), PinError::Length);
    assert!(Pin::new("1234").is_ok());
}
