//! Packing when something is in its way.

use study::SopInstanceUid;

use super::*;
use crate::vault::tests::{arrival, open_vault, segment_paths};

fn settings(threads: usize) -> Settings {
    Settings {
        batch_instances: 2,
        batch_delay_ms: 0,
        quiet_period_ms: 0,
        tier: Some(Tier::Fast),
        threads,
        power: Power::Unknown,
        link: Arc::new(|| Road {
            bytes_s: None,
            is_up: false,
        }),
    }
}

const TIMEOUT: Duration = Duration::from_secs(30);

async fn hold(vault: &Vault, study: &str, sop: &str) {
    vault.hold(arrival(study, sop, "a slice")).await.unwrap();
}

/// Packs until `done` says so of the studies.
async fn pack_until(vault: &Vault, done: impl Fn(&Vault) -> bool) {
    let stop = CancellationToken::new();
    let packing = tokio::spawn(run(vault.clone(), settings(3), stop.clone()));
    let mut changed = vault.watch();
    let waiting = async {
        while !done(vault) {
            changed.changed().await.unwrap();
        }
    };
    tokio::time::timeout(TIMEOUT, waiting).await.unwrap();
    stop.cancel();
    packing.await.unwrap();
}

fn unpacked(vault: &Vault) -> Vec<u64> {
    let studies = vault.studies().unwrap();
    studies.iter().map(|study| study.bytes_unpacked).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_intake_record_is_set_aside_and_everything_else_is_packed() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open_vault(folder.path()).await;
    hold(&vault, "1.2", "1.2.1").await;
    let segment = segment_paths(folder.path(), "intake").remove(0);
    let mut bytes = std::fs::read(&segment).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    hold(&vault, "1.2", "1.2.2").await;
    hold(&vault, "1.3", "1.3.1").await;

    pack_until(&vault, |vault| {
        let studies = vault.studies().unwrap();
        studies[0].set_aside == 1 && studies[0].revision > 0 && studies[1].revision > 0
    })
    .await;
    let sop = |text| SopInstanceUid::parse(text).unwrap();
    assert!(vault.file(&sop("1.2.1"), 1).is_err());
    assert!(vault.file(&sop("1.2.2"), 1).is_ok());
    let unpacked = unpacked(&vault);
    assert!(unpacked[0] > 0);
    assert_eq!(unpacked[1], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_waits_for_those_before_it_in_its_study() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open_vault(folder.path()).await;
    for (study, sop) in [("1.2", "1.2.1"), ("1.2", "1.2.2"), ("1.3", "1.3.1")] {
        hold(&vault, study, sop).await;
    }
    let mut packer = Packer::new(vault.clone(), settings(3));
    packer.settings.batch_instances = 1;
    let mut tried = Vec::new();
    for number in 1..=3 {
        assert!(matches!(packer.begin_next().unwrap(), Next::Again));
        assert_eq!(packer.jobs.len(), number);
    }
    assert!(matches!(packer.begin_next().unwrap(), Next::OnPacked));
    while let Some(packed) = packer.workers.join_next().await {
        tried.push(packed.unwrap());
    }
    tried.sort_by_key(|(number, _)| *number);

    let revisions = || {
        vault
            .studies()
            .unwrap()
            .iter()
            .map(|s| s.revision)
            .collect::<Vec<_>>()
    };
    // The second of a study waits for the first, the one of the other study for nobody.
    for (job, expected) in [(1, [0, 0]), (1, [0, 1]), (0, [2, 1])] {
        let (number, tried) = tried.remove(job);
        packer.note_packed(number, tried).await;
        assert_eq!(revisions(), expected);
    }
    for (sop, revision) in [("1.2.1", 1), ("1.2.2", 2)] {
        let sop = SopInstanceUid::parse(sop).unwrap();
        assert_eq!(vault.revision_of(&sop), revision);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_packed_at_once_never_takes_an_instance_twice() {
    let folder = tempfile::tempdir().unwrap();
    let vault = open_vault(folder.path()).await;
    for number in 1..=5 {
        hold(&vault, "1.2", &format!("1.2.{number}")).await;
    }
    let rule = BatchRule {
        instances: 2,
        bytes: BATCH_BYTES_MAX,
        delay_ms: 0,
        quiet_period_ms: 0,
    };
    let mut skipped = Skipped::default();
    let mut taken = Vec::new();
    while let Due::Batch(batch) = vault.next_batch(rule, Now::read(), &skipped).unwrap() {
        let ids = batch.items.iter().map(|item| item.instance_id);
        taken.extend(ids);
        let last = *taken.last().unwrap();
        skipped.underway.insert(batch.study, last);
        // The last of them says the end, and nothing comes behind it that would say it again.
        assert_eq!(batch.closes, taken.len() == 5);
    }
    assert_eq!(taken.len(), 5);
    assert!(taken.is_sorted_by(|a, b| a < b));
}

/// A study that is packed, and a packer that has nothing else to do.
async fn packed(folder: &std::path::Path, road: Road) -> (Vault, Packer) {
    let vault = open_vault(folder).await;
    let words: String = (0..4000).map(|n| format!("{} ", n * n % 97 * 31)).collect();
    for sop in ["1.2.1", "1.2.2", "1.2.3"] {
        vault.hold(arrival("1.2", sop, &words)).await.unwrap();
    }
    pack_until(&vault, |vault| vault.studies().unwrap()[0].revision > 1).await;
    let automatic = Settings {
        tier: None,
        link: Arc::new(move || road),
        ..settings(2)
    };
    let mut packer = Packer::new(vault.clone(), automatic);
    packer.pace = Pace::of_idle_machine(2);
    (vault, packer)
}

fn bytes_to_cross(vault: &Vault) -> u64 {
    vault.studies().unwrap()[0].bytes_to_cross
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_link_is_down_what_waits_becomes_smaller() {
    let folder = tempfile::tempdir().unwrap();
    let down = Road {
        bytes_s: None,
        is_up: false,
    };
    let (vault, packer) = packed(folder.path(), down).await;
    let before = bytes_to_cross(&vault);
    let mut changed = vault.watch();
    let smaller = async {
        while bytes_to_cross(&vault) >= before {
            changed.changed().await.unwrap();
        }
    };
    tokio::select! {
        () = packer.run() => panic!("packing ends with the vault"),
        done = tokio::time::timeout(TIMEOUT, smaller) => done.unwrap(),
    }
    assert!(
        vault
            .waiting(Tier::Archive, &BTreeSet::new())
            .unwrap()
            .is_empty()
    );
    let sop = SopInstanceUid::parse("1.2.3").unwrap();
    assert!(vault.file(&sop, 1).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wide_link_is_not_kept_waiting_for_smaller_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let wide = Road {
        bytes_s: Some(100_000_000),
        is_up: true,
    };
    let (vault, mut packer) = packed(folder.path(), wide).await;
    packer.begin_again();
    assert!(packer.repacker.is_idle());
    // A battery is not spent on it either, however long the link is down.
    packer.settings.power = Power::Battery;
    packer.settings.link = Arc::new(|| Road {
        bytes_s: None,
        is_up: false,
    });
    packer.repacker = Repacker::new(vault.clone());
    packer.begin_again();
    assert!(packer.repacker.is_idle());
    packer.settings.power = Power::Mains;
    packer.repacker = Repacker::new(vault);
    packer.begin_again();
    assert!(!packer.repacker.is_idle());
}
