//! Packing when something is in its way.

use study::SopInstanceUid;

use super::*;
use crate::vault::tests::{arrival, open_vault, segment_paths};

const SETTINGS: Settings = Settings {
    batch_instances: 2,
    batch_delay_ms: 0,
    quiet_period_ms: 0,
    tier: Tier::Fast,
};
const TIMEOUT: Duration = Duration::from_secs(30);

async fn hold(vault: &Vault, study: &str, sop: &str) {
    vault.hold(arrival(study, sop, "a slice")).await.unwrap();
}

/// Packs until `done` says so of the studies.
async fn pack_until(vault: &Vault, done: impl Fn(&Vault) -> bool) {
    let stop = CancellationToken::new();
    let packing = tokio::spawn(run(vault.clone(), SETTINGS, stop.clone()));
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
