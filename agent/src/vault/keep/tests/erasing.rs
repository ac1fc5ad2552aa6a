//! What is erased on a person's word, and what comes of it when it comes again.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn erasing_is_refused_on_hold_and_where_something_would_be_lost() {
    let mut clinic = Clinic::new().await;
    let vault = clinic.vault.clone();
    clinic.study_at_hub("1.2").await;
    hold(&vault, "1.2", "1.2.2", "late").await;
    let refused = vault.erase(uid("1.2"), "AB".into(), false).await;
    let text = refused.unwrap_err().to_string();
    assert!(
        text.contains("1 of its 2 instance(s) would be lost"),
        "{text}"
    );
    vault
        .set_legal_hold(uid("1.2"), true, "AB".into())
        .await
        .unwrap();
    let refused = vault.erase(uid("1.2"), "AB".into(), true).await;
    assert!(matches!(refused, Err(EraseError::Held(_))));
    let unknown = vault.erase(uid("9.9"), "AB".into(), true).await;
    let unknown = unknown.unwrap_err();
    assert!(matches!(
        unknown,
        EraseError::Vault(VaultError::UnknownStudy(_))
    ));
    assert_eq!(clinic.overview("1.2").erased, 0);
    let on_hold = Fact::LegalHold(LegalHold {
        study: uid("1.2"),
        held: true,
        by: "AB".into(),
    });
    assert_eq!(clinic.said().last(), Some(&on_hold));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_an_erased_key_is_left_and_the_same_bytes_come_in_anew() {
    let clinic = Clinic::new().await;
    let (_, file) = hold(&clinic.vault, "1.2", "1.2.1", "one").await;
    clinic.consent("1.2").await;
    let envelopes = clinic.envelopes();
    let traces = [&envelopes.to_box, envelopes.to_hub.as_ref().unwrap()].map(trace);
    for trace in &traces {
        assert!(!files_with(clinic.folder(), trace).is_empty());
    }
    let before = clinic.said().len();
    let erased = clinic
        .vault
        .erase(uid("1.2"), "AB".into(), true)
        .await
        .unwrap();
    assert_eq!((erased.instances, erased.lost), (1, 1));
    assert!(erased.log_emptied);
    for trace in &traces {
        assert_eq!(files_with(clinic.folder(), trace), Vec::<String>::new());
    }
    assert!(!clinic.has_segments());
    assert!(clinic.vault.keys().in_hand(envelopes.key).is_none());
    let fact = Fact::Erased(journal::Erased {
        study: uid("1.2"),
        root: root_over(&[("1.2.1", &file)]),
        instances: 1,
        by: "AB".into(),
    });
    assert_eq!(clinic.said()[before..], [fact]);
    let again = clinic.vault.erase(uid("1.2"), "AB".into(), true).await;
    assert!(matches!(again, Err(EraseError::Already(_))));
    assert_eq!(clinic.overview("1.2").custody, Custody::Erased);
    assert!(matches!(due(&clinic.vault, later()), Due::Nothing));
    let clinic = clinic.restart().await;
    assert!(matches!(due(&clinic.vault, later()), Due::Nothing));
    let gone = clinic.vault.file(&sop("1.2.1"), 1);
    assert!(matches!(gone, Err(FetchError::Gone(_))));

    let (held_as, file) = hold(&clinic.vault, "1.2", "1.2.1", "one").await;
    assert_eq!(held_as, HeldAs::New);
    assert_ne!(clinic.envelopes().key, envelopes.key);
    assert_eq!(clinic.vault.file(&sop("1.2.1"), 1).unwrap().bytes, file);
    assert_eq!(pack(&clinic.vault, later()).await.revision, 1);
    let overview = clinic.overview("1.2");
    assert_eq!((overview.instances, overview.erased), (1, 0));
    // All of this an index made anew knows too.
    let (clinic, absorbed) = clinic.rebuild().await;
    assert_eq!((absorbed.revisions, absorbed.incomplete), (1, 0));
    assert_eq!(clinic.vault.file(&sop("1.2.1"), 1).unwrap().bytes, file);
}

#[tokio::test(flavor = "multi_thread")]
async fn revisions_without_a_receipt_are_taken_back_when_their_study_is_erased() {
    let mut clinic = Clinic::new().await;
    let first = clinic.study_at_hub("1.2").await;
    hold(&clinic.vault, "1.2", "1.2.2", "late").await;
    assert_eq!(pack(&clinic.vault, later()).await.revision, 2);
    assert_eq!(clinic.vault.offerable().unwrap().len(), 1);
    let erased = clinic
        .vault
        .erase(uid("1.2"), "AB".into(), true)
        .await
        .unwrap();
    assert_eq!((erased.instances, erased.lost), (2, 1));
    assert!(clinic.vault.offerable().unwrap().is_empty());

    // What comes then continues what the hub has; the root is over what the hub has or gets.
    for rebuilt in [false, true] {
        if rebuilt {
            clinic = clinic.rebuild().await.0;
            assert_eq!(clinic.overview("1.2").revision, 2);
        }
        let name = if rebuilt { "1.2.4" } else { "1.2.3" };
        let (_, file) = hold(&clinic.vault, "1.2", name, "new").await;
        let made = pack(&clinic.vault, later()).await;
        let signed = clinic.newest("1.2");
        let said = signed.manifest();
        if rebuilt {
            assert_eq!((made.revision, said.instances), (3, 3));
        } else {
            assert_eq!((made.revision, said.instances), (2, 2));
            assert_eq!(said.root, root_over(&[("1.2.1", &first), (name, &file)]));
        }
        let gone = clinic.vault.file(&sop("1.2.2"), 1);
        assert!(matches!(gone, Err(FetchError::Gone(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_erased_and_comes_again_bit_by_bit_keeps_its_root() {
    let mut clinic = Clinic::new().await;
    for n in 1..=6 {
        hold(&clinic.vault, "1.2", &format!("1.2.{n}"), "slice").await;
    }
    clinic.consent("1.2").await;
    while !pack(&clinic.vault, later()).await.closed {
        clinic.receipt("1.2").await;
    }
    clinic.receipt("1.2").await;
    let root = clinic.newest("1.2").manifest().root;
    let erased = clinic
        .vault
        .erase(uid("1.2"), "AB".into(), false)
        .await
        .unwrap();
    assert_eq!((erased.instances, erased.lost), (6, 0));
    assert_eq!(clinic.overview("1.2").custody, Custody::AtHub);
    for n in 1..=6 {
        let again = hold(&clinic.vault, "1.2", &format!("1.2.{n}"), "slice").await;
        assert_eq!(again.0, HeldAs::New);
    }
    // The first of them make a batch, the others wait: the hub has all six all the same.
    let made = pack(&clinic.vault, later()).await;
    assert!(!made.closed);
    let signed = clinic.newest("1.2");
    assert_eq!(
        (signed.manifest().root, signed.manifest().instances),
        (root, 6)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_erased_with_their_study() {
    let mut clinic = Clinic::new().await;
    clinic.read_study("1.2").await;
    let stored = clinic.vault.reports_of(&uid("1.2")).unwrap().remove(0);
    assert!(clinic.vault.open_report(&stored).is_ok());
    let erased = clinic
        .vault
        .erase(uid("1.2"), "AB".into(), false)
        .await
        .unwrap();
    assert_eq!(erased.reports, 1);
    for rebuilt in [false, true] {
        if rebuilt {
            clinic = clinic.rebuild().await.0;
        }
        let stored = clinic.vault.reports_of(&uid("1.2")).unwrap().remove(0);
        assert!(stored.confirmed && stored.sealed.is_empty());
        assert_eq!(clinic.vault.open_report(&stored), Err(ReportFault::Erased));
    }
    // One that comes later is there to be read.
    clinic.report("1.2", ReportStatus::Addendum).await;
    let stored = clinic.vault.reports_of(&uid("1.2")).unwrap().remove(0);
    assert!(clinic.vault.open_report(&stored).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_may_not_be_named_is_held_and_erased_without_its_name_crossing() {
    let clinic = Clinic::new().await;
    let vault = clinic.vault.clone();
    hold(&vault, "1.2", "1.2.1", "one").await;
    vault
        .set_legal_hold(uid("1.2"), true, "AB".into())
        .await
        .unwrap();
    drop(vault);
    assert_eq!(
        clinic.said().len(),
        1,
        "the journal is opened, and says no more"
    );
    let clinic = clinic.rebuild().await.0;
    assert!(clinic.overview("1.2").legal_hold);
    let vault = clinic.vault.clone();
    vault
        .set_legal_hold(uid("1.2"), false, "CD".into())
        .await
        .unwrap();
    vault.erase(uid("1.2"), "CD".into(), true).await.unwrap();
    assert_eq!(clinic.said().len(), 1);

    // Once somebody lets the study leave, all of it is said.
    clinic.consent("1.2").await;
    let kinds: Vec<u16> = clinic.said().iter().map(Fact::kind).collect();
    assert_eq!(kinds, [1, 3, 13, 13, 14]);
    drop(vault);
    let clinic = clinic.rebuild().await.0;
    assert!(!clinic.overview("1.2").legal_hold);
    assert_eq!(clinic.overview("1.2").erased, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_when_a_study_is_erased_brings_nothing_back() {
    let clinic = Clinic::new().await;
    let vault = &clinic.vault;
    hold(vault, "1.2", "1.2.1", "one").await;
    let Due::Batch(batch) = due(vault, later()) else {
        panic!("a batch is due");
    };
    let packed = vault.as_taken_in(batch.clone()).unwrap();
    let key = vault.keys().of_study(&uid("1.2"));
    vault.erase(uid("1.2"), "AB".into(), true).await.unwrap();
    let late = vault.adopt(packed).await;
    assert!(matches!(late, Err(VaultError::NoKey(_))), "{late:?}");
    let files = Vec::new();
    let closing = crate::vault::Batch {
        items: files,
        key: None,
        ..batch
    };
    let closing = vault.seal_units(closing, Vec::new()).unwrap();
    let late = vault.adopt(closing).await;
    assert!(matches!(late, Err(VaultError::Overtaken(_))), "{late:?}");

    // An instance that was sealed before and is written after is not held; sent again, it is.
    let taken = vault
        .hold_with(arrival("1.2", "1.2.1", "one"), key.clone())
        .await;
    assert!(taken.is_err());
    for path in FAMILIES
        .map(|family| segment_paths(clinic.folder(), family))
        .concat()
    {
        assert_eq!(path.metadata().unwrap().len(), 0, "{}", path.display());
    }
    let keys = |sql: &Connection| sealed::keys_of(sql, &uid("1.2"));
    assert!(vault.0.readers.with(keys).unwrap().is_empty());
    assert_eq!(hold(vault, "1.2", "1.2.1", "one").await.0, HeldAs::New);
}
