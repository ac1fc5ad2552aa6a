//! Attacks on the promise: what is said to be safe is, and what was erased stays so.

use super::*;

async fn rot(vault: &Vault, study: &'static str) {
    let marked = vault.0.writer.run(move |work| {
        let sql = work.sql();
        sql.execute("UPDATE chunk SET damaged = 1 WHERE study_uid = ?1", [study])
    });
    marked.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_erased_beside_others_in_a_segment_does_not_rise_again() {
    for rebuilt in [false, true] {
        let clinic = Clinic::new().await;
        hold(&clinic.vault, "1.1", "1.1.1", "stays").await;
        hold(&clinic.vault, "1.2", "1.2.1", "goes").await;
        clinic.consent("1.2").await;
        let erased = clinic.vault.erase(uid("1.2"), "AB".into(), true).await;
        assert_eq!(erased.unwrap().lost, 1);
        let clinic = if rebuilt {
            clinic.rebuild().await.0
        } else {
            clinic.restart().await
        };
        let overview = clinic.overview("1.2");
        assert_eq!(
            (overview.erased, overview.custody),
            (1, Custody::Erased),
            "rebuilt: {rebuilt}"
        );
        let gone = clinic.vault.file(&sop("1.2.1"), 1);
        assert!(matches!(gone, Err(FetchError::Gone(_))), "{gone:?}");
        // The same bytes are taken in anew, and are there after another start too.
        let (held_as, file) = hold(&clinic.vault, "1.2", "1.2.1", "goes").await;
        assert_eq!(held_as, HeldAs::New);
        let clinic = clinic.rebuild().await.0;
        assert_eq!(clinic.vault.file(&sop("1.2.1"), 1).unwrap().bytes, file);
        let (clinic, _) = clinic.restart().await.rebuild().await;
        assert_eq!(clinic.vault.file(&sop("1.2.1"), 1).unwrap().bytes, file);
        assert!(clinic.vault.file(&sop("1.1.1"), 1).is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rotted_before_the_hub_had_it_is_taken_in_when_it_comes_again() {
    let mut clinic = Clinic::new().await;
    let (_, file) = hold(&clinic.vault, "1.2", "1.2.1", "one").await;
    clinic.consent("1.2").await;
    assert!(pack(&clinic.vault, later()).await.closed);
    rot(&clinic.vault, "1.2").await;

    let (held_as, _) = hold(&clinic.vault, "1.2", "1.2.1", "one").await;
    assert_eq!(held_as, HeldAs::Mended, "only a damaged copy was here");
    assert_eq!(clinic.vault.file(&sop("1.2.1"), 1).unwrap().bytes, file);
    assert_eq!(
        hold(&clinic.vault, "1.2", "1.2.1", "one").await.0,
        HeldAs::Known
    );
    // It crosses in a revision of its own, with the same root.
    let root = clinic.newest("1.2").manifest().root;
    let made = pack(&clinic.vault, later()).await;
    assert_eq!((made.revision, made.closed), (2, true));
    let said = clinic.newest("1.2");
    assert_eq!((said.manifest().root, said.manifest().instances), (root, 1));
    // What the hub has is not taken in again.
    clinic.study_at_hub("1.3").await;
    rot(&clinic.vault, "1.3").await;
    assert_eq!(
        hold(&clinic.vault, "1.3", "1.3.1", "one").await.0,
        HeldAs::Known
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_has_lost_is_not_said_to_be_there_and_not_erased_here() {
    let mut clinic = Clinic::new().await;
    clinic.read_study("1.2").await;
    let manifest = clinic.newest("1.2").digest();
    let lost = journal::ChunksWanted {
        manifest,
        chunks: vec![0],
    };
    clinic.hear(Fact::ChunksWanted(lost)).await;
    let overview = clinic.overview("1.2");
    assert_ne!(overview.custody, Custody::AtHub);
    assert!(overview.percent_at_hub < 100);
    let refused = clinic.vault.erase(uid("1.2"), "AB".into(), false).await;
    assert!(
        matches!(&refused, Err(EraseError::NotAtHub { lost: 1, .. })),
        "{refused:?}"
    );
    // It has all of it again.
    let chunks = Vec::new();
    clinic
        .hear(Fact::ChunksWanted(journal::ChunksWanted {
            manifest,
            chunks,
        }))
        .await;
    assert_eq!(clinic.overview("1.2").custody, Custody::AtHub);
    let erased = clinic.vault.erase(uid("1.2"), "AB".into(), false).await;
    assert_eq!(erased.unwrap().lost, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_erased_unasked_while_the_hubs_journal_is_in_doubt() {
    let mut clinic = Clinic::new().await;
    clinic.read_study("1.2").await;
    let journal = clinic.world.hub_journal();
    let found = journal::Diverged {
        author: journal.author,
        stream: journal.stream,
        ours: 9,
        theirs: 5,
        kind: journal::Divergence::SetBack,
    };
    clinic.vault.note_divergence(found).await.unwrap();
    let refused = clinic.vault.erase(uid("1.2"), "AB".into(), false).await;
    assert!(
        matches!(&refused, Err(EraseError::NotAtHub { .. })),
        "{refused:?}"
    );
    clinic
        .vault
        .erase(uid("1.2"), "AB".into(), true)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_report_confirmed_confirms_no_other_studys_after_a_rebuild() {
    let mut clinic = Clinic::new().await;
    clinic.read_study("1.2").await;
    clinic.study_at_hub("1.3").await;
    // The hub passes the report of one study off as that of another.
    let digest = clinic.vault.reports_of(&uid("1.2")).unwrap().remove(0);
    clinic
        .hear(Fact::Report(Report {
            study: uid("1.3"),
            report: digest.digest,
            status: ReportStatus::Final,
            critical: 0,
            sealed: digest.sealed,
        }))
        .await;
    clinic.run_for(8 * DAY_MS).await;
    let clinic = clinic.rebuild().await.0;
    assert!(clinic.vault.reports_of(&uid("1.2")).unwrap()[0].confirmed);
    assert!(!clinic.vault.reports_of(&uid("1.3")).unwrap()[0].confirmed);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_starts_leave_no_rows_of_segments_that_are_gone() {
    let mut clinic = Clinic::new().await;
    // As after a power cut: recovery notes how far it has looked.
    hold(&clinic.vault, "1.2", "1.2.1", "one").await;
    clinic.consent("1.2").await;
    clinic = clinic.rebuild().await.0;
    pack(&clinic.vault, later()).await;
    clinic.receipt("1.2").await;
    clinic
        .vault
        .erase(uid("1.2"), "AB".into(), false)
        .await
        .unwrap();
    let count = "SELECT count(*) FROM segment_end WHERE segment NOT LIKE 'journal-%'";
    let rows = |sql: &Connection| sql.query_row(count, [], |row| row.get::<_, u64>(0));
    assert_eq!(clinic.vault.0.readers.with(rows).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_copy_takes_the_place_of_a_damaged_one_in_an_index_made_anew() {
    let clinic = Clinic::new().await;
    hold(&clinic.vault, "1.2", "1.2.1", "one").await;
    let path = segment_paths(clinic.folder(), "intake").remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let vault = clinic.vault.clone();
    let scrubbed = tokio::task::spawn_blocking(move || vault.scrub()).await;
    assert_eq!(scrubbed.unwrap().unwrap().damaged, 1);
    let (held_as, file) = hold(&clinic.vault, "1.2", "1.2.1", "one").await;
    assert_eq!(held_as, HeldAs::Mended);
    let clinic = clinic.rebuild().await.0;
    assert_eq!(clinic.overview("1.2").set_aside, 0);
    assert_eq!(clinic.vault.file(&sop("1.2.1"), 1).unwrap().bytes, file);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_let_go_and_the_hub_has_lost_is_taken_in_again() {
    let mut clinic = Clinic::new().await;
    clinic.read_study("1.2").await;
    clinic.run_for(8 * DAY_MS).await;
    assert_eq!(clinic.let_all_go().await, ["1.2"]);
    let manifest = clinic.newest("1.2").digest();
    let chunks = vec![0];
    clinic
        .hear(Fact::ChunksWanted(journal::ChunksWanted {
            manifest,
            chunks,
        }))
        .await;
    let (held_as, file) = hold(&clinic.vault, "1.2", "1.2.1", "one").await;
    assert_eq!(held_as, HeldAs::Mended, "nobody had it any more");
    for _ in 0..2 {
        assert_eq!(clinic.vault.file(&sop("1.2.1"), 1).unwrap().bytes, file);
        assert_ne!(clinic.overview("1.2").custody, Custody::AtHub);
        clinic = clinic.rebuild().await.0;
    }
    let made = pack(&clinic.vault, later()).await;
    assert_eq!((made.revision, made.closed), (2, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_packed_of_an_erased_copy_does_not_take_the_place_of_the_new_one() {
    let clinic = Clinic::new().await;
    let vault = &clinic.vault;
    hold(vault, "1.2", "1.2.1", "one").await;
    let Due::Batch(old) = due(vault, later()) else {
        panic!("a batch is due");
    };
    vault.erase(uid("1.2"), "AB".into(), true).await.unwrap();
    hold(vault, "1.2", "1.2.1", "one").await;
    // As if its key had been looked up before the study was erased.
    let Due::Batch(new) = due(vault, later()) else {
        panic!("a batch is due");
    };
    assert_eq!(
        new.items[0].instance_id, old.items[0].instance_id,
        "numbers are given again"
    );
    let stale = super::super::super::Batch {
        key: new.key,
        ..old
    };
    let units = vec![b"sealed with a key that is gone".to_vec()];
    let packed = vault.seal_units(stale, units).unwrap();
    let late = vault.adopt(packed).await;
    assert!(matches!(late, Err(VaultError::Overtaken(_))), "{late:?}");
    assert!(vault.file(&sop("1.2.1"), 1).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_record_that_looks_torn_is_told_of_when_the_index_is_made_anew() {
    let clinic = Clinic::new().await;
    hold(&clinic.vault, "1.2", "1.2.1", "one").await;
    let path = segment_paths(clinic.folder(), "intake").remove(0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (_clinic, absorbed) = clinic.rebuild().await;
    assert_eq!(absorbed.cut_bytes, bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_what_was_let_go_is_not_taken_for_what_the_hub_asks_for() {
    let mut clinic = Clinic::new().await;
    hold(&clinic.vault, "1.9", "1.9.1", "in the same segment").await;
    hold(&clinic.vault, "1.2", "1.2.1", "one").await;
    clinic.consent("1.2").await;
    let first = clinic.vault.set_priority(uid("1.2"), study::Priority::Stat);
    first.await.unwrap();
    assert_eq!(pack(&clinic.vault, later()).await.study, uid("1.2"));
    clinic.receipt("1.2").await;
    clinic.report("1.2", ReportStatus::Final).await;
    clinic.confirm("1.2").await;
    clinic.run_for(8 * DAY_MS).await;
    assert_eq!(clinic.let_all_go().await, ["1.2"]);
    let manifest = clinic.newest("1.2").digest();
    let chunks = vec![0];
    clinic
        .hear(Fact::ChunksWanted(journal::ChunksWanted {
            manifest,
            chunks,
        }))
        .await;
    for rebuilt in [false, true] {
        clinic = if rebuilt {
            clinic.rebuild().await.0
        } else {
            clinic.restart().await
        };
        assert_eq!(clinic.overview("1.2").let_go, 1);
        let gone = clinic.vault.file(&sop("1.2.1"), 1);
        assert!(matches!(gone, Err(FetchError::Gone(_))), "{gone:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_of_another_study_is_not_sent_in_the_place_of_ones_own() {
    let mut clinic = Clinic::new().await;
    clinic.study_at_hub("1.2").await;
    clinic.study_at_hub("1.3").await;
    let exchanged = clinic.vault.0.writer.run(|work| {
        work.sql().execute(
            "UPDATE chunk SET (segment, offset, length) =
                 (SELECT segment, offset, length FROM chunk WHERE study_uid = '1.3')
             WHERE study_uid = '1.2'",
            [],
        )
    });
    assert_eq!(exchanged.await.unwrap().into_inner(), 1);
    let read = clinic.vault.chunk(&clinic.newest("1.2").digest(), 0);
    assert!(read.unwrap_err().is_loss());
}
