//! What a thief, a locked box and the hub can read of what is held.

use std::path::Path;

use codec::{Decoder, Limits};
use journal::SignedManifest;
use sealing::{DataKey, KeyEnvelope, Pin, StoreKey};
use study::GroupForm;

use super::tests::{World, adopt, arrival, due, hold, later, pack, sop};
use super::*;
use crate::keys::{KeysError, Locked, VaultState};

const PIN: &str = "a long enough pin";

fn pin(text: &str) -> Pin {
    Pin::new(text).unwrap()
}

/// The data key of a revision, as the hub gets it out of the signed manifest.
fn at_hub(hub: &StoreKey, manifest: &SignedManifest) -> DataKey {
    let manifest = manifest.manifest();
    let envelope = KeyEnvelope::from_cbor(manifest.envelope.as_ref().unwrap()).unwrap();
    envelope.open(manifest.study.as_str(), hub).unwrap()
}

fn signed(vault: &Vault, revision: &Revision) -> SignedManifest {
    SignedManifest::open(&vault.manifest(&revision.manifest_digest).unwrap()).unwrap()
}

/// Everything that lies in a folder, file by file.
fn all_bytes(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            bytes.extend(all_bytes(&path));
        } else {
            bytes.extend(std::fs::read(path).unwrap());
        }
    }
    bytes
}

fn finds(bytes: &[u8], text: &str) -> bool {
    let wide = |order: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(order).collect::<Vec<u8>>();
    [
        text.as_bytes().to_vec(),
        wide(u16::to_le_bytes),
        wide(u16::to_be_bytes),
    ]
    .iter()
    .any(|needle| bytes.windows(needle.len()).any(|window| window == needle))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_lies_nowhere_in_clear() {
    let world = World::new();
    let vault = world.open().await;
    hold(&vault, "1.2", "1.2.1", "CANARY^OF^INTAKE").await;
    hold(&vault, "1.3", "1.3.1", "CANARY^OF^PACKING").await;
    assert!(!finds(&all_bytes(world.folder.path()), "CANARY"));
    pack(&vault, later()).await;
    pack(&vault, later()).await;
    assert!(!finds(&all_bytes(world.folder.path()), "CANARY"));
    // The search finds what is there.
    assert!(finds(&all_bytes(world.folder.path()), "1.2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_opens_what_crosses_with_its_own_key_and_nobody_else_does() {
    let world = World::new();
    let vault = world.open().await;
    let (_, file) = hold(&vault, "1.2", "1.2.1", "one").await;
    let manifest = signed(&vault, &pack(&vault, later()).await);
    let key = at_hub(&world.hub_store, &manifest);
    let mut decoder = Decoder::new(Limits::default());
    for number in 0..u32::try_from(manifest.manifest().chunks().count()).unwrap() {
        let chunk = vault.chunk(&manifest.digest(), number).unwrap();
        decoder.push(&key.open(&chunk).unwrap()).unwrap();
    }
    assert_eq!(decoder.file(0).unwrap(), file);

    let envelope = manifest.manifest().envelope.as_ref().unwrap();
    let envelope = KeyEnvelope::from_cbor(envelope).unwrap();
    assert!(envelope.open("1.2", &StoreKey::generate()).is_err());
    assert!(envelope.open("1.3", &world.hub_store).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_box_takes_in_packs_and_reads_nothing_back() {
    let world = World::new();
    let vault = world.open().await;
    let (_, before) = hold(&vault, "1.2", "1.2.1", "before").await;
    pack(&vault, later()).await;
    vault.keys().set_pin(None, &pin(PIN)).unwrap();
    assert_eq!(vault.keys().state(), VaultState::Unlocked);
    assert_eq!(vault.file(&sop("1.2.1"), 1).unwrap().bytes, before);
    drop(vault);

    let vault = world.open().await;
    assert_eq!(vault.keys().state(), VaultState::Locked);
    let refused = vault.file(&sop("1.2.1"), 1).unwrap_err();
    assert_eq!(refused.to_string(), "the vault is locked");
    let (held_as, after) = hold(&vault, "1.2", "1.2.2", "after").await;
    assert_eq!(held_as, HeldAs::New);
    let manifest = signed(&vault, &pack(&vault, later()).await);
    assert_eq!(manifest.manifest().groups[0].form, GroupForm::Codec);
    assert!(matches!(
        vault.file(&sop("1.2.2"), 1),
        Err(FetchError::Locked(Locked))
    ));

    vault.keys().unlock(&pin(PIN)).unwrap();
    assert_eq!(vault.file(&sop("1.2.1"), 1).unwrap().bytes, before);
    assert_eq!(vault.file(&sop("1.2.2"), 1).unwrap().bytes, after);
    vault.keys().lock().unwrap();
    assert!(vault.file(&sop("1.2.2"), 1).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_packed_before_the_key_was_gone_crosses_as_it_was_taken_in() {
    let world = World::new();
    let vault = world.open().await;
    vault.keys().set_pin(None, &pin(PIN)).unwrap();
    let (_, small) = hold(&vault, "1.2", "1.2.1", "small").await;
    let mut large = arrival("1.2", "1.2.2", "large");
    // A private element of 3 MiB: four pieces.
    large.file.extend([0x11, 0, 0x10, 0x10]);
    large.file.extend(b"UN\0\0");
    large.file.extend((3_u32 << 20).to_le_bytes());
    large
        .file
        .extend((0..3 << 20).map(|n: u32| n.to_le_bytes()[1]));
    let large_file = large.file.clone();
    vault.hold(large).await.unwrap();
    drop(vault);

    let vault = world.open().await;
    let Due::Batch(batch) = due(&vault, later()) else {
        panic!("a batch is due");
    };
    assert!(matches!(
        vault.intake_file(&batch.items[0]),
        Err(FetchError::Locked(_))
    ));
    let packed = vault.as_taken_in(batch).unwrap();
    let made = vault.adopt(packed).await.unwrap().into_inner();
    // The large one is a batch of its own: the rule has room for 1 MiB.
    let Due::Batch(batch) = due(&vault, later()) else {
        panic!("another batch is due");
    };
    let last = vault
        .adopt(vault.as_taken_in(batch).unwrap())
        .await
        .unwrap();
    assert!(last.get().closed);

    let mut files = Vec::new();
    for revision in [&made, last.get()] {
        let manifest = signed(&vault, revision);
        let key = at_hub(&world.hub_store, &manifest);
        let [group] = &manifest.manifest().groups[..] else {
            panic!("one group for each instance");
        };
        assert_eq!((group.form, group.instances), (GroupForm::File, 1));
        let mut file = Vec::new();
        for number in 0..u32::try_from(group.chunks.len()).unwrap() {
            let chunk = vault.chunk(&manifest.digest(), number).unwrap();
            file.extend(key.open(&chunk).unwrap());
        }
        files.push(file);
    }
    assert_eq!(files, [small.clone(), large_file.clone()]);

    vault.keys().unlock(&pin(PIN)).unwrap();
    assert_eq!(vault.file(&sop("1.2.1"), 1).unwrap().bytes, small);
    assert_eq!(vault.file(&sop("1.2.2"), 1).unwrap().bytes, large_file);
    drop(vault);
    let vault = world.open().await;
    vault.keys().unlock(&pin(PIN)).unwrap();
    assert_eq!(vault.file(&sop("1.2.2"), 1).unwrap().bytes, large_file);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_a_hub_was_known_is_sealed_to_it_later() {
    let world = World::new();
    let vault = world.open().await;
    vault.set_hub(None);
    hold(&vault, "1.2", "1.2.1", "one").await;
    assert!(matches!(due(&vault, later()), Due::Nothing));
    drop(vault);

    let vault = world.open().await;
    let manifest = signed(&vault, &pack(&vault, later()).await);
    at_hub(&world.hub_store, &manifest);

    // And where its key has left memory, it waits for the PIN.
    vault.set_hub(None);
    hold(&vault, "1.3", "1.3.1", "one").await;
    vault.keys().set_pin(None, &pin(PIN)).unwrap();
    drop(vault);
    let vault = world.open().await;
    let Due::Batch(batch) = due(&vault, later()) else {
        panic!("a batch is due");
    };
    let refused = vault.adopt(vault.as_taken_in(batch).unwrap()).await;
    assert!(matches!(refused, Err(VaultError::Key(_))), "{refused:?}");
    vault.keys().unlock(&pin(PIN)).unwrap();
    let Due::Batch(batch) = due(&vault, later()) else {
        panic!("the batch is due still");
    };
    at_hub(
        &world.hub_store,
        &signed(&vault, &adopt(&vault, batch).await),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_key_stops_nothing_once_the_hub_knows_it() {
    let world = World::new();
    let vault = world.open().await;
    let granted = vault.keys().public_key();
    hold(&vault, "1.2", "1.2.1", "one").await;
    drop(vault);
    let path = world.folder.path();
    std::fs::remove_file(path.join("store.key")).unwrap();
    let refused = Keys::open_or_found(path, None);
    assert!(matches!(refused, Err(KeysError::KeyLost(_))));
    let keys = Keys::open_or_found(path, Some(granted)).unwrap();
    assert_eq!(keys.state(), VaultState::Zeroised);
    assert!(matches!(keys.unlock(&pin(PIN)), Err(KeysError::Zeroised)));
    assert_eq!(keys.public_key(), granted);

    // Another key in its place is not sealed to.
    sealing::KeyFile::create(&path.join("store.key")).unwrap();
    let keys = Keys::open_or_found(path, Some(granted)).unwrap();
    assert_eq!(keys.state(), VaultState::Zeroised);
    assert_eq!(keys.public_key(), granted);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_pins_have_to_wait_and_an_idle_vault_locks_itself() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::open_or_found(folder.path(), None).unwrap();
    assert!(matches!(keys.lock(), Err(KeysError::NoPin)));
    keys.set_pin(None, &pin(PIN)).unwrap();
    assert!(keys.set_pin(None, &pin("another pin")).is_err());
    assert!(!keys.lock_if_idle(60_000));
    assert!(keys.lock_if_idle(0));
    assert_eq!(keys.state(), VaultState::Locked);

    let keys = Keys::open_or_found(folder.path(), None).unwrap();
    for _ in 0..3 {
        assert!(matches!(
            keys.unlock(&pin("wrong pin")),
            Err(KeysError::Unwrap(_))
        ));
    }
    assert!(matches!(keys.unlock(&pin(PIN)), Err(KeysError::Wait(1..))));
    assert_eq!(keys.state(), VaultState::Locked);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pins_at_once_are_no_more_tries_than_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let keys = Keys::open_or_found(folder.path(), None).unwrap();
    keys.set_pin(None, &pin(PIN)).unwrap();
    keys.lock().unwrap();
    let guess = |n: u32| {
        let keys = keys.clone();
        let guess = pin(&format!("wrong pin {n}"));
        tokio::task::spawn_blocking(move || keys.unlock(&guess))
    };
    let mut tried = 0;
    for guessed in (0..12).map(guess).collect::<Vec<_>>() {
        tried += u32::from(matches!(guessed.await.unwrap(), Err(KeysError::Unwrap(_))));
    }
    assert_eq!(tried, 3, "the others have to wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_key_is_not_made_anew_where_sealed_segments_lie() {
    let world = World::new();
    let vault = world.open().await;
    hold(&vault, "1.2", "1.2.1", "one").await;
    drop(vault);
    // The index was put aside to be made anew, and the key has gone too.
    Vault::put_index_aside(world.folder.path()).unwrap();
    std::fs::remove_file(world.folder.path().join("store.key")).unwrap();
    let refused = Keys::open_or_found(world.folder.path(), None);
    assert!(matches!(refused.err(), Some(KeysError::KeyLost(_))));
    assert!(!world.folder.path().join("store.key").exists());
}
