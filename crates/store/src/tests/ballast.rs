use std::os::unix::fs::MetadataExt;

use crate::Ballast;

const BYTES: u64 = 3_000_000;

#[test]
fn the_room_is_really_taken_and_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ballast");
    let ballast = Ballast::new(&path, BYTES);
    assert!(!ballast.is_whole());
    assert!(!ballast.release().unwrap(), "there is none yet");
    ballast.ensure().unwrap();
    let file = path.metadata().unwrap();
    assert_eq!(file.len(), BYTES);
    assert!(file.blocks() * 512 >= BYTES, "{} sectors", file.blocks());
    assert_eq!(file.mode() & 0o777, 0o600);
    assert!(ballast.is_whole());
    ballast.ensure().unwrap();
    assert!(ballast.release().unwrap());
    assert!(!path.exists() && !ballast.is_whole());
}

#[test]
fn a_file_that_only_looks_like_a_ballast_is_made_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ballast");
    let ballast = Ballast::new(&path, BYTES);
    std::fs::File::create(&path)
        .unwrap()
        .set_len(BYTES)
        .unwrap();
    assert!(!ballast.is_whole(), "a hole takes no room");
    ballast.ensure().unwrap();
    assert!(ballast.is_whole());

    let smaller = Ballast::new(&path, BYTES / 2);
    smaller.ensure().unwrap();
    assert!(smaller.is_whole() && !ballast.is_whole());
    let none = Ballast::new(&path, 0);
    none.ensure().unwrap();
    assert!(none.is_whole());
}

#[test]
fn a_ballast_that_cannot_be_had_is_an_error_and_leaves_no_half_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ballast");
    // More than any file can have.
    let failed = Ballast::new(&path, u64::MAX / 2).ensure();
    assert!(failed.is_err());
    assert!(!path.exists());
}
