//! Commitment, and who may call, between our own two roles with a vault on a real disk.

use std::time::Duration;

use dimse::scp::{self, Event, Operation, OperationKind, StoreCommand, StoreFault, StoreRequest};
use dimse::scu::{Association, Proposal, ScuConfig, ScuError};
use dimse::{Answer, COMMITMENT, COMMITMENT_INSTANCE, DataSet, Status, tag};
use study::{AeTitle, SopClassUid, SopInstanceUid, TransferSyntaxUid};
use tokio::sync::mpsc;

use super::tests::{World, data_set, send, title};
use super::*;
use crate::config::CommitLevel;
use crate::vault::Drawer;

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
const MR: &str = "1.2.840.10008.5.1.4.1.1.4";
/// Nothing here takes longer unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn request(transaction: &str, references: &[(&str, &str)]) -> Operation {
    let references = references.iter().map(|(class, sop)| {
        DataSet::default()
            .with(tag::REFERENCED_SOP_CLASS, *class)
            .with(tag::REFERENCED_SOP_INSTANCE, *sop)
    });
    Operation {
        sop_class: SopClassUid::parse(COMMITMENT).unwrap(),
        sop: SopInstanceUid::parse(COMMITMENT_INSTANCE).unwrap(),
        kind: OperationKind::Action(1),
        data_set: DataSet::default()
            .with(tag::TRANSACTION, transaction)
            .with_items(tag::REFERENCED_SOPS, references.collect()),
    }
}

async fn associate(world: &World) -> Association {
    let proposal = |class: &str| Proposal {
        sop_class: SopClassUid::parse(class).unwrap(),
        transfer_syntaxes: vec![TransferSyntaxUid::parse("1.2.840.10008.1.2.1").unwrap()],
    };
    let config = ScuConfig::new(title("SCANNER"), title("CHASQUI"));
    let proposals = [proposal(CT), proposal(COMMITMENT)];
    Association::open(world.address, config, &proposals)
        .await
        .unwrap()
}

/// What an event says: committed, and failed with the reason.
fn said(event: &Event) -> (Vec<String>, Vec<(String, u16)>) {
    let sop = |item: &DataSet| item.ascii(tag::REFERENCED_SOP_INSTANCE).unwrap().to_owned();
    let committed = event
        .data_set
        .items(tag::REFERENCED_SOPS)
        .unwrap_or_default();
    let failed = event.data_set.items(tag::FAILED_SOPS).unwrap_or_default();
    (
        committed.iter().map(sop).collect(),
        failed
            .iter()
            .map(|item| (sop(item), item.u16(tag::FAILURE_REASON).unwrap()))
            .collect(),
    )
}

async fn event(association: &mut Association) -> Event {
    let event = tokio::time::timeout(PATIENCE, association.event());
    event.await.expect("an event").unwrap()
}

/// Waits until nothing is owed any more.
async fn settled(world: &World) {
    let mut changed = world.vault.watch();
    let settled = async {
        loop {
            changed.mark_unchanged();
            let owed = world.vault.documents(Drawer::Commitments).unwrap();
            if owed.is_empty() {
                return;
            }
            changed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, settled)
        .await
        .expect("nothing is owed");
}

fn patient(patience: &str) -> IntakeConfig {
    IntakeConfig {
        commit_patience: patience.parse().unwrap(),
        ..IntakeConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_is_committed_and_what_is_not_is_named_with_its_reason() {
    let world = World::of(patient("1ms")).await;
    let mut association = associate(&world).await;
    let bytes = data_set(CT, "1.2.1", "1.2", "one");
    assert_eq!(
        send(&mut association, "1.2.1", &bytes).await,
        Answer::success()
    );
    let asked = request("1.9.1", &[(CT, "1.2.1")]);
    assert_eq!(
        association.operate(&asked).await.unwrap(),
        Answer::success()
    );
    let all = event(&mut association).await;
    assert_eq!(all.event_type, 1);
    assert_eq!(said(&all), (vec!["1.2.1".to_owned()], Vec::new()));
    let asked = request("1.9.2", &[(CT, "1.2.1"), (CT, "1.2.9")]);
    association.operate(&asked).await.unwrap();
    let some = event(&mut association).await;
    assert_eq!(some.event_type, 2);
    let failed = vec![("1.2.9".to_owned(), 0x0112)];
    assert_eq!(said(&some), (vec!["1.2.1".to_owned()], failed));
    let asked = request("1.9.3", &[(MR, "1.2.1")]);
    association.operate(&asked).await.unwrap();
    let conflict = event(&mut association).await;
    let failed = vec![("1.2.1".to_owned(), 0x0119)];
    assert_eq!(said(&conflict), (Vec::new(), failed));
    settled(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commitment_waits_for_what_is_still_coming() {
    let world = World::of(patient("1h")).await;
    let mut association = associate(&world).await;
    let asked = request("1.9.1", &[(CT, "1.2.1")]);
    association.operate(&asked).await.unwrap();
    // The same again, as the answer might have been lost.
    assert_eq!(
        association.operate(&asked).await.unwrap(),
        Answer::success()
    );
    let other = request("1.9.1", &[(CT, "1.2.2")]);
    let refused = association.operate(&other).await.unwrap();
    assert_eq!(refused.status, Status::DUPLICATE_TRANSACTION);
    let mut second = associate(&world).await;
    let bytes = data_set(CT, "1.2.1", "1.2", "one");
    send(&mut second, "1.2.1", &bytes).await;
    let told = event(&mut association).await;
    assert_eq!(said(&told), (vec!["1.2.1".to_owned()], Vec::new()));
    settled(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_is_not_said_to_have_what_only_the_box_has() {
    let world = World::of(IntakeConfig {
        commit: CommitLevel::Hub,
        commit_deadline: "300ms".parse().unwrap(),
        ..IntakeConfig::default()
    })
    .await;
    let mut association = associate(&world).await;
    let bytes = data_set(CT, "1.2.1", "1.2", "one");
    send(&mut association, "1.2.1", &bytes).await;
    let asked = request("1.9.1", &[(CT, "1.2.1")]);
    association.operate(&asked).await.unwrap();
    let told = event(&mut association).await;
    let failed = vec![("1.2.1".to_owned(), 0x0110)];
    assert_eq!(said(&told), (Vec::new(), failed));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_make_no_sense_get_their_status() {
    let world = World::new().await;
    let mut association = associate(&world).await;
    let good = request("1.9.1", &[(CT, "1.2.1")]);
    let no_uid = request("x", &[(CT, "1.2.1")]);
    let other_action = Operation {
        kind: OperationKind::Action(2),
        ..good.clone()
    };
    let other_instance = Operation {
        sop: SopInstanceUid::parse("1.2.3").unwrap(),
        ..good
    };
    for (asked, status) in [
        (no_uid, Status::INVALID_ARGUMENT_VALUE),
        (request("1.9.1", &[]), Status::INVALID_ARGUMENT_VALUE),
        (
            request("1.9.1", &[(CT, "../x")]),
            Status::INVALID_ARGUMENT_VALUE,
        ),
        (other_action, Status::NO_SUCH_ACTION),
        (other_instance, Status::NO_SUCH_SOP_INSTANCE),
    ] {
        let answer = association.operate(&asked).await.unwrap();
        assert_eq!(answer.status, status, "{asked:?}");
    }
    assert_eq!(world.vault.documents(Drawer::Commitments).unwrap(), []);
}

/// A scanner that is called back.
struct Scanner(mpsc::UnboundedSender<Contexts>);
struct Call;

impl Services for Scanner {
    type Visit = Call;
    fn opened(&self, _: &Peer, contexts: &Contexts) -> Call {
        self.0.send(contexts.clone()).unwrap();
        Call
    }
    fn rejected(&self, _: &Peer, _: &Rejection) {}
    fn failed(&self, _: &Peer, _: &Ending) {}
}

impl scp::Visit for Call {
    fn admit(&mut self, _: &StoreCommand) -> Result<Vec<u8>, Answer> {
        Ok(Vec::new())
    }
    async fn store(&mut self, _: StoreRequest) -> Answer {
        Answer::success()
    }
    fn refuse(&mut self, _: &StoreFault) -> Answer {
        Answer::success()
    }
    fn closed(self, _: &Ending, _: &scp::Tally) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scanner_that_has_gone_is_called_where_it_was_entered_and_stays_owed() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (told, mut calls) = mpsc::unbounded_channel();
    let config = ScpConfig {
        services: vec![Service::Commitment],
        ..ScpConfig::new(title("SCANNER"))
    };
    let served = scp::serve(
        listener,
        config,
        Arc::new(Scanner(told)),
        std::future::pending(),
    );
    tokio::spawn(served);
    let modalities = &world.desk.modalities;
    let host = at.ip().to_string();
    modalities
        .add(&title("SCANNER"), host, at.port())
        .await
        .unwrap();
    let mut association = associate(&world).await;
    let bytes = data_set(CT, "1.2.1", "1.2", "one");
    send(&mut association, "1.2.1", &bytes).await;
    let asked = request("1.9.1", &[(CT, "1.2.1")]);
    association.operate(&asked).await.unwrap();
    association.abort().await;
    // It is called as the provider; this one answers that it does not serve events.
    let call = tokio::time::timeout(PATIENCE, calls.recv()).await;
    assert_eq!(call.expect("a call").unwrap().accepted, 1);
    let failure = async {
        loop {
            let known = modalities.list();
            if let Some(failure) = known.iter().find_map(|m| m.last_failure.clone()) {
                return failure;
            }
            tokio::task::yield_now().await;
        }
    };
    let failure = tokio::time::timeout(PATIENCE, failure).await.unwrap();
    assert!(failure.contains("0x0211"), "{failure}");
    let owed = world.vault.documents(Drawer::Commitments).unwrap();
    assert_eq!(owed.len(), 1, "it is tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_scanner_is_taken_in_and_named_or_rejected_where_only_known_ones_may_call() {
    let world = World::new().await;
    world.associate().await.release().await.unwrap();
    let known = world.desk.modalities.list();
    assert_eq!(
        (known[0].ae_title.as_str(), known[0].accepted),
        ("SCANNER", false)
    );

    let world = World::of(IntakeConfig {
        known_only: true,
        ..IntakeConfig::default()
    })
    .await;
    let rejected = world.call("CHASQUI").await;
    assert!(
        matches!(rejected, Err(ScuError::Rejected(_))),
        "{rejected:?}"
    );
    let known = world.desk.modalities.list();
    let failure = known[0].last_failure.as_deref().unwrap_or_default();
    assert!(failure.contains("modality accept"), "{failure}");
    let scanner = AeTitle::parse("SCANNER").unwrap();
    world.desk.modalities.accept(&scanner).await.unwrap();
    world.associate().await.release().await.unwrap();
}
