//! How long a box with a year of studies takes to start, and to make its index anew.

use std::time::Instant;

use store::rusqlite::params;

use super::tests::{World, arrival};
use super::*;

/// Instances that the box holds.
const INSTANCES: u32 = 200_000;
/// Instances of one study: a CT.
const OF_A_STUDY: u32 = 500;
/// How many are written in one transaction.
const BATCH: u32 = 250;

/// Fills a vault with intake records and rows, as `hold` writes them.
async fn fill(vault: &Vault) {
    for first in (0..INSTANCES).step_by(BATCH as usize) {
        let holds = (first..first + BATCH).map(|n| {
            let (study, vault) = (format!("1.2.{}", n / OF_A_STUDY), vault.clone());
            let arrival = arrival(&study, &format!("{study}.{n}"), "a small one");
            tokio::spawn(async move { vault.hold(arrival).await.map(drop) })
        });
        for held in holds.collect::<Vec<_>>() {
            held.await.unwrap().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; for figures: cargo test --release -p agent --lib scale -- --ignored --nocapture"]
async fn a_box_with_200_000_instances_starts_in_seconds() {
    let world = World::new();
    let vault = world.open().await;
    let began = Instant::now();
    fill(&vault).await;
    eprintln!(
        "{INSTANCES} instances held in {:.1} s",
        began.elapsed().as_secs_f64()
    );
    drop(vault);
    // The first start ends what the index's log still holds.
    for turn in ["first", "second", "third"] {
        let began = Instant::now();
        let vault = world.open().await;
        let opened = began.elapsed();
        let studies = vault.studies().unwrap().len();
        let all = began.elapsed();
        eprintln!(
            "{turn} start: {:.2} s, {studies} studies listed after {:.2} s",
            opened.as_secs_f64(),
            all.as_secs_f64()
        );
        assert!(turn == "first" || opened.as_secs_f64() < 3.0);
    }
    let sql = store::rusqlite::Connection::open(world.folder.path().join("index.sqlite")).unwrap();
    let bytes: i64 = sql
        .query_row(
            "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
            params![],
            |row| row.get(0),
        )
        .unwrap();
    drop(sql);
    let segments = std::fs::read_dir(world.folder.path().join("segments"));
    eprintln!(
        "index {bytes} bytes, {} segments",
        segments.unwrap().count()
    );

    Vault::put_index_aside(world.folder.path()).unwrap();
    let began = Instant::now();
    let (vault, absorbed) = world.rebuild().await;
    eprintln!("rebuild: {:.2} s", began.elapsed().as_secs_f64());
    assert_eq!(absorbed.instances, u64::from(INSTANCES));
    assert_eq!(
        vault.studies().unwrap().len(),
        (INSTANCES / OF_A_STUDY) as usize
    );
}
