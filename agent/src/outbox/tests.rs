//! What a session is given, and given again.

use study::StudyUid;

use super::*;
use crate::vault::tests::{arrival, open_vault};
use crate::vault::{BatchRule, Due, Now, Skipped};

const RULE: BatchRule = BatchRule {
    instances: 1,
    bytes: 1,
    delay_ms: 0,
    quiet_period_ms: 0,
};

/// A vault that holds one revision, which may leave.
async fn vault(folder: &tempfile::TempDir) -> Vault {
    let vault = open_vault(folder.path()).await;
    let study = StudyUid::parse("1.2").unwrap();
    vault
        .hold(arrival("1.2", "1.2.1", "a slice"))
        .await
        .unwrap();
    let Ok(Due::Batch(batch)) = vault.next_batch(RULE, Now::read(), &Skipped::default()) else {
        panic!("a batch is due");
    };
    let units = vec![b"a unit".to_vec()];
    let packed = vault.seal_units(batch, units).unwrap();
    vault.adopt(packed).await.unwrap();
    let basis = journal::ConsentBasis::Spoken;
    vault.record_consent(study, basis, None).await.unwrap();
    vault
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_took_back_is_named_to_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::new(vault(&folder).await).unwrap();
    let [Command::Offer(offer)] = &outbox.commands().await.unwrap()[..] else {
        panic!("one revision is offered");
    };
    let manifest = offer.manifest.digest();
    assert!(outbox.commands().await.unwrap().is_empty());

    // Its bytes could not be read: the session has taken it back, and it is still due.
    outbox.put_off(&manifest);
    assert!(outbox.commands().await.unwrap().is_empty());
    assert!(outbox.take_up());
    let commands = outbox.commands().await.unwrap();
    assert!(matches!(&commands[..],
        [Command::Offer(offer)] if offer.begun == Begun::Perhaps));

    // What was delivered is not offered again, however late the session takes it back.
    outbox.settled(&manifest);
    outbox.put_off(&manifest);
    assert!(!outbox.take_up());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broken_contact_was_given_is_named_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::new(vault(&folder).await).unwrap();
    let given = outbox.commands().await.unwrap();
    assert!(matches!(&given[..], [Command::Offer(_)]));

    // The contact ended on our own side before it could say what was left.
    outbox.begin();
    let again = outbox.commands().await.unwrap();
    assert!(matches!(&again[..], [Command::Offer(offer)] if offer.begun == Begun::Perhaps));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_go_is_withdrawn_and_named_when_it_may_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::new(vault(&folder).await).unwrap();
    assert_eq!(outbox.work().unwrap().most_urgent, Some(Priority::Routine));
    let [Command::Offer(offer)] = &outbox.commands().await.unwrap()[..] else {
        panic!("one revision is offered");
    };
    let manifest = offer.manifest.digest();

    assert!(outbox.limit(Some(Priority::Stat)));
    assert!(!outbox.limit(Some(Priority::Stat)));
    let commands = outbox.commands().await.unwrap();
    assert!(matches!(&commands[..], [Command::Withdraw { manifest: gone }] if *gone == manifest));
    assert!(outbox.commands().await.unwrap().is_empty());
    // It waits all the same.
    assert_eq!(outbox.work().unwrap().most_urgent, Some(Priority::Routine));

    // It may go again before the session has given it back: it would not take it.
    assert!(outbox.limit(Some(Priority::Bulk)));
    assert!(outbox.commands().await.unwrap().is_empty());
    outbox.taken_back(&manifest);
    assert!(outbox.limit(Some(Priority::Bulk)));
    let commands = outbox.commands().await.unwrap();
    assert!(matches!(&commands[..],
        [Command::Offer(offer)] if offer.begun == Begun::Perhaps));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_before_a_limit_is_named_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::new(vault(&folder).await).unwrap();
    assert_eq!(outbox.commands().await.unwrap().len(), 1);
    outbox.begin();
    outbox.limit(None);
    assert!(outbox.commands().await.unwrap().is_empty());
    outbox.limit(Some(Priority::Routine));
    let commands = outbox.commands().await.unwrap();
    assert!(matches!(&commands[..],
        [Command::Offer(offer)] if offer.begun == Begun::Perhaps));
}
