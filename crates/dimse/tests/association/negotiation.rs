//! Who and what is accepted.

use dimse::scp::{ContextRefusal, Rejection, ScpConfig};
use dimse::scu::{Proposal, ScuError};
use dimse::{STORAGE_CLASSES, Status, TRANSFER_SYNTAXES, VERIFICATION};
use study::{SopClassUid, TransferSyntaxUid};

use crate::bench::{Bench, CT, Heard, config, proposals};

#[tokio::test]
async fn an_echo_is_answered() {
    let bench = Bench::new().await;
    let mut association = bench.associate().await;
    assert_eq!(association.echo().await.unwrap(), Status::SUCCESS);
    association.release().await.unwrap();
}

#[tokio::test]
async fn another_called_title_is_rejected_with_the_right_reason() {
    let mut bench = Bench::new().await;
    let error = bench
        .try_associate("ARCHIVE", &proposals(&[CT]))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ScuError::Rejected(reason) if reason == "called AE title not recognized"),
        "{error}"
    );
    assert_eq!(
        bench.ending().await,
        Heard::Rejected(Rejection::CalledTitle)
    );
}

#[tokio::test]
async fn any_called_title_is_taken_where_that_is_configured() {
    let bench = Bench::with(ScpConfig {
        accept_any_called: true,
        ..config()
    })
    .await;
    bench
        .try_associate("ARCHIVE", &proposals(&[CT]))
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
}

#[tokio::test]
async fn a_class_or_transfer_syntax_that_is_not_served_is_refused_alone() {
    let mut bench = Bench::new().await;
    let mut wanted = proposals(&[CT, "1.2.840.113619.4.26", CT]);
    wanted[2].transfer_syntaxes = vec![TransferSyntaxUid::parse("1.2.840.113619.5.2").unwrap()];
    let association = bench.try_associate("CHASQUI", &wanted).await.unwrap();
    let contexts = bench.opened().await;
    assert_eq!(contexts.accepted, 1);
    let refused = |number: usize, why| (Some(wanted[number].sop_class.clone()), why);
    assert_eq!(
        contexts.refused,
        [
            refused(1, ContextRefusal::AbstractSyntax),
            refused(2, ContextRefusal::TransferSyntaxes)
        ]
    );
    assert!(association.accepts(&wanted[0].sop_class, &wanted[0].transfer_syntaxes[0]));
    assert!(!association.accepts(&wanted[1].sop_class, &wanted[1].transfer_syntaxes[0]));
    assert!(!association.accepts(&wanted[2].sop_class, &wanted[2].transfer_syntaxes[0]));
}

#[tokio::test]
async fn every_transfer_syntax_and_every_storage_class_is_accepted() {
    let bench = Bench::new().await;
    let ct = SopClassUid::parse(CT).unwrap();
    let syntax = |uid: &&str| TransferSyntaxUid::parse(uid).unwrap();
    let by_syntax: Vec<Proposal> = TRANSFER_SYNTAXES
        .iter()
        .map(|(uid, _, _)| Proposal {
            sop_class: ct.clone(),
            transfer_syntaxes: vec![syntax(uid)],
        })
        .collect();
    let association = bench.try_associate("CHASQUI", &by_syntax).await.unwrap();
    for (uid, name, _) in TRANSFER_SYNTAXES {
        assert!(association.accepts(&ct, &syntax(uid)), "{name}");
    }
    for classes in STORAGE_CLASSES.chunks(128) {
        let uids: Vec<&str> = classes.iter().map(|(uid, _)| *uid).collect();
        let by_class = proposals(&uids);
        let association = bench.try_associate("CHASQUI", &by_class).await.unwrap();
        for proposal in &by_class {
            let accepted = association.accepts(&proposal.sop_class, &proposal.transfer_syntaxes[0]);
            assert!(accepted, "{}", proposal.sop_class);
        }
    }
}

#[tokio::test]
async fn the_largest_request_there_is_is_accepted() {
    let mut bench = Bench::new().await;
    let all: Vec<_> = TRANSFER_SYNTAXES
        .iter()
        .map(|t| TransferSyntaxUid::parse(t.0).unwrap())
        .collect();
    let wanted: Vec<Proposal> = STORAGE_CLASSES[..128]
        .iter()
        .map(|(uid, _)| Proposal {
            sop_class: SopClassUid::parse(uid).unwrap(),
            transfer_syntaxes: all.clone(),
        })
        .collect();
    bench
        .try_associate("CHASQUI", &wanted)
        .await
        .unwrap()
        .release()
        .await
        .unwrap();
    assert_eq!(bench.opened().await.accepted, 128);
    let error = bench
        .try_associate("CHASQUI", &vec![wanted[0].clone(); 129])
        .await
        .unwrap_err();
    assert!(matches!(error, ScuError::Proposals(129)));
}

#[tokio::test]
async fn one_association_too_many_is_rejected_until_another_ends() {
    let mut bench = Bench::with(ScpConfig {
        associations_max: 2,
        ..config()
    })
    .await;
    let first = bench.associate().await;
    let _second = bench.associate().await;
    let error = bench
        .try_associate("CHASQUI", &proposals(&[VERIFICATION]))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, ScuError::Rejected(reason) if reason == "local limit exceeded"),
        "{error}"
    );
    assert_eq!(
        bench.ending().await,
        Heard::Rejected(Rejection::LocalLimit(2))
    );
    first.release().await.unwrap();
    bench.assert_alive().await;
}
