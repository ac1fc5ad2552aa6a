//! What leaves on a stick, as the rest of the box knows it.

use std::collections::BTreeSet;

use codec::Tier;
use identity::ConsentPolicy;
use identity::testing::TestFleet;
use study::StudyUid;
use sync_proto::{Begun, Command};

use super::*;
use crate::commands::Rooms;
use crate::config::VaultConfig;
use crate::outbox::Outbox;
use crate::vault::tests::{hold, later, pack};

/// A box that knows its hub, in its own folder.
async fn unit(folder: &Path) -> Rooms {
    let mut fleet = TestFleet::new();
    fleet.add_hub("127.0.0.1:4433");
    let voucher = fleet.voucher_bytes("north clinic", ConsentPolicy::Ask);
    let config = VaultConfig {
        reserve_percent: 0,
        ..VaultConfig::default()
    };
    let membership = Membership::open_or_found(folder).unwrap();
    membership.take_voucher(&voucher).unwrap();
    let folder = folder.to_owned();
    let opened = tokio::task::spawn_blocking(move || Rooms::open(&folder, membership, config));
    opened.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_on_a_stick_stays_as_it_is_and_the_link_names_it() {
    let (folder, stick) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rooms = unit(folder.path()).await;
    let vault = &rooms.vault;
    hold(vault, "1.2", "1.2.1", "a slice").await;
    pack(vault, later()).await;
    let basis = journal::ConsentBasis::Spoken;
    let study = StudyUid::parse("1.2").unwrap();
    vault.record_consent(study, basis, None).await.unwrap();
    let may_be_packed_again = || {
        let waiting = vault.waiting(Tier::Archive, &BTreeSet::new()).unwrap();
        !waiting.is_empty()
    };
    let mut link = Outbox::new(vault.clone()).unwrap();
    assert!(may_be_packed_again());

    let export = BundleRequest::Export {
        path: stick.path().to_owned(),
        part_bytes: 1 << 20,
    };
    let output = rooms.bundles.execute(export).await.unwrap();
    assert_eq!(output["bundles"][0]["revisions"], 1);
    assert_eq!(output["bundles"][0]["left_out"], serde_json::json!([]));

    assert!(!may_be_packed_again());
    let commands = link.commands().await.unwrap();
    assert!(matches!(&commands[..],
        [Command::Offer(offer)] if offer.begun == Begun::Perhaps));
}
