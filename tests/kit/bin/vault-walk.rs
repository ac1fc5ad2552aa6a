//! vault-walk: walks one vault along every path that writes, and says what it was promised.
//!
//! In: a folder, `walk` or `look`, and for `look` what an earlier walk was promised. Out: a line for
//! each promise; for `look`, an error unless every promise is kept.
//! Invariant: a line is printed only after the vault has said so, as an acknowledgement would be.
//! May not: be part of the products.
//!
//! A test cuts the power under it. It is a program of its own, as the process that serves a fault
//! file system must not use it.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use agent::config::VaultConfig;
use agent::keys::Keys;
use agent::vault::{Arrival, BatchRule, Due, FetchError, HeldAs, Now, Skipped, Vault};
use anyhow::{Context as _, bail, ensure};
use codec::{Source, Tier, Unit};
use identity::NodeKey;
use journal::{Chain, ConsentBasis, Fact, JournalId, Moment, Receipt, Report, ReportStatus};
use kit::phantom::{Instance, Phantom};
use sealing::{KeyFile, StoreKey};
use study::dataset::InstanceHead;
use study::{Digest, SopInstanceUid, StudyUid};

/// The hub of every walk: its records must be signed by one and the same key in all of them.
const HUB_SEED: [u8; 32] = [7; 32];
/// Slices of the first study; the last of them comes late.
const SLICES: usize = 4;
const RULE: BatchRule = BatchRule {
    instances: 2,
    bytes: 1 << 20,
    delay_ms: 0,
    quiet_period_ms: 0,
};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let done = match &args[..] {
        [_, verb, folder] if verb == "walk" => runtime.block_on(walk(folder.into())),
        [_, verb, folder, promised @ ..] if verb == "look" => {
            runtime.block_on(look(folder.into(), promised))
        }
        _ => Err(anyhow::anyhow!(
            "usage: vault-walk walk|look FOLDER [PROMISE..]"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "a promise is what this program is for")]
fn promise(words: &str) -> anyhow::Result<()> {
    println!("{words}");
    Ok(std::io::stdout().flush()?)
}

fn slices() -> Vec<Instance> {
    let phantom = Phantom {
        seed: 77,
        slices: u16::try_from(SLICES).expect("a few"),
        side: 32,
    };
    phantom.instances()
}

fn study() -> anyhow::Result<StudyUid> {
    let slice = slices().remove(0);
    Ok(InstanceHead::read(slice.data_set(), &slice.transfer_syntax)?.study)
}

async fn open(folder: PathBuf) -> anyhow::Result<Vault> {
    let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<Vault> {
        identity::files::create_private_directory(&folder)?;
        let path = folder.join("node.key");
        if !path.exists() {
            NodeKey::create(&path)?;
        }
        let keys = Keys::open_or_found(&folder, None)?;
        keys.set_hub(Some(*hub_store(&folder)?.public_key()));
        let config = VaultConfig {
            reserve_percent: 0,
            keep_at_hub: settings::Span::from_secs(0),
            ballast: settings::Bytes::new(0),
            ..VaultConfig::default()
        };
        let key = Arc::new(NodeKey::load(&path)?);
        Ok(Vault::open(&folder, key, keys, config)?)
    });
    opened.await?
}

/// The hub's store key, kept beside the disk that loses its power: two folders up.
fn hub_store(folder: &Path) -> anyhow::Result<StoreKey> {
    let path = folder
        .ancestors()
        .nth(2)
        .unwrap_or(folder)
        .join("hub-store.key");
    if !path.exists() {
        return Ok(KeyFile::create(&path)?);
    }
    match KeyFile::load(&path)? {
        KeyFile::Plain(key) => Ok(key),
        KeyFile::Wrapped(_) => bail!("it was made without a PIN"),
    }
}

async fn hold(vault: &Vault, slice: &Instance) -> anyhow::Result<HeldAs> {
    let arrival = Arrival {
        head: InstanceHead::read(slice.data_set(), &slice.transfer_syntax)?,
        transfer_syntax: slice.transfer_syntax.clone(),
        file: slice.file.clone(),
        data_set_at: slice.data_set_at,
    };
    let held = *vault.hold(arrival).await?.get();
    promise(&format!("held {}", slice.sop))?;
    Ok(held)
}

/// Packs all there is, as the box does.
async fn pack(vault: &Vault) -> anyhow::Result<()> {
    let later = || {
        let now = Now::read();
        Now {
            count_ms: now.count_ms + 1_000_000,
            ..now
        }
    };
    while let Due::Batch(batch) = vault.next_batch(RULE, later(), &Skipped::default())? {
        let files = batch.items.iter().map(|item| vault.intake_file(item));
        let files = files.collect::<Result<Vec<_>, FetchError>>()?;
        let named = batch.items.iter().zip(&files);
        let sources: Vec<Source<'_>> = named
            .map(|(item, bytes)| Source {
                name: item.sop.as_str(),
                bytes,
            })
            .collect();
        let units = match &sources[..] {
            [] => Vec::new(),
            sources => codec::encode_group(sources, Tier::Fast)?,
        };
        let units = units.into_iter().map(Unit::into_bytes).collect();
        vault.adopt(vault.seal_units(batch, units)?).await?;
        promise("packed")?;
    }
    Ok(())
}

/// Packs anew what has not left, as the box does while its link is down.
async fn pack_again(vault: &Vault) -> anyhow::Result<()> {
    let mut repacked = Vec::new();
    for waiting in vault.waiting(Tier::Archive, &BTreeSet::new())? {
        let files = vault.waiting_files(&waiting)?;
        let names: Vec<String> = waiting.names().map(str::to_owned).collect();
        let named = names.iter().zip(&files);
        let sources: Vec<Source<'_>> = named.map(|(name, bytes)| Source { name, bytes }).collect();
        let units = codec::encode_group(&sources, Tier::Archive)?;
        let units = units.into_iter().map(Unit::into_bytes).collect();
        repacked.push(vault.seal_again(waiting, Tier::Archive, units)?);
    }
    let saved = *vault.replace(repacked).await?.get();
    ensure!(saved > 0, "packed anew it is no smaller");
    promise("packed again")
}

/// The hub takes everything over, and its reader reports.
async fn hub_answers(vault: &Vault) -> anyhow::Result<()> {
    let hub = NodeKey::from_seed(&HUB_SEED);
    let journal = JournalId {
        author: hub.id(),
        stream: vault.unit(),
    };
    let mut chain = Chain::resume(journal, vault.head(&journal)?);
    let due = vault.offerable()?.into_iter().map(|o| o.manifest_digest);
    for manifest in vault.offer(due.collect()).await?.into_inner() {
        let said = manifest.manifest();
        let receipt = Fact::Receipt(Receipt {
            study: said.study.clone(),
            revision: said.revision,
            root: said.root,
            instances: said.instances,
            manifest: manifest.digest(),
        });
        let record = chain.append(&hub, Moment::default(), &receipt)?.bytes;
        vault.accept_records(journal, vec![record]).await?;
        promise(&format!("receipt {}", said.revision))?;
    }
    let study = study()?;
    let signed = b"a signed report".to_vec();
    let report = Fact::Report(Report {
        report: Digest::of(&signed),
        status: ReportStatus::Final,
        critical: 0,
        sealed: sealing::seal_to(
            &vault.keys().public_key(),
            &journal::report_domain(&study),
            &signed,
        ),
        study,
    });
    let record = chain.append(&hub, Moment::default(), &report)?.bytes;
    vault.accept_records(journal, vec![record]).await?;
    promise("report")?;
    for report in vault.reports_after(0)? {
        if !report.confirmed {
            vault.confirm_report(&report).await?;
            promise("confirmed")?;
        }
    }
    Ok(())
}

/// Intake, packing, receipts, a report, letting go, a late instance, and all of it once more.
async fn walk(folder: PathBuf) -> anyhow::Result<()> {
    let (slices, study) = (slices(), study()?);
    let vault = open(folder).await?;
    promise("open")?;
    let (first, late) = slices.split_at(SLICES - 1);
    for slice in first {
        hold(&vault, slice).await?;
    }
    vault
        .record_consent(study.clone(), ConsentBasis::Spoken, Some("AB".to_owned()))
        .await?;
    promise("consent")?;
    pack(&vault).await?;
    pack_again(&vault).await?;
    hub_answers(&vault).await?;
    promise("letting-go")?;
    let gone = vault.let_go(1).await?;
    ensure!(
        gone.studies == [study.clone()],
        "it was not let go: {gone:?}"
    );
    promise("gone")?;
    for slice in late {
        hold(&vault, slice).await?;
    }
    pack(&vault).await?;
    hub_answers(&vault).await?;
    promise("letting-go")?;
    vault.let_go(1).await?;
    promise("done")
}

/// Opens the vault again and holds it to what it has promised; then walks to the end.
async fn look(folder: PathBuf, promised: &[String]) -> anyhow::Result<()> {
    let vault = open(folder.clone())
        .await
        .context("it does not open again")?;
    let count = |word: &str| promised.iter().filter(|p| p.as_str() == word).count();
    let slices = slices();
    let held: BTreeSet<&str> = promised
        .iter()
        .filter_map(|words| words.strip_prefix("held "))
        .collect();
    for (number, slice) in slices.iter().enumerate() {
        let may_be_gone = match number {
            n if n < SLICES - 1 => count("letting-go") > 0,
            _ => count("letting-go") > 1,
        };
        match vault.file(&slice.sop, 1) {
            Ok(kept) => ensure!(
                kept.bytes == slice.file,
                "{} came back otherwise",
                slice.sop
            ),
            Err(FetchError::Unknown(_)) if !held.contains(slice.sop.as_str()) => {}
            Err(FetchError::Gone(_)) if may_be_gone => {}
            Err(error) => return Err(error).context(format!("{} was promised", slice.sop)),
        }
    }
    let overview = vault.studies()?;
    if count("consent") > 0 {
        let given = overview
            .iter()
            .any(|s| s.consent == agent::vault::ConsentState::Given);
        ensure!(given, "consent was promised");
    }
    let receipts = promised
        .iter()
        .filter(|p| p.starts_with("receipt "))
        .count();
    let hub = NodeKey::from_seed(&HUB_SEED);
    let journal = JournalId {
        author: hub.id(),
        stream: vault.unit(),
    };
    let heard = vault.head(&journal)?.seq;
    ensure!(
        heard >= (receipts + count("report")) as u64,
        "{receipts} receipts and {} reports were promised, {heard} records are there",
        count("report"),
    );
    let confirmed = vault
        .reports_after(0)?
        .iter()
        .filter(|r| r.confirmed)
        .count();
    ensure!(
        confirmed >= count("confirmed"),
        "a confirmation was promised"
    );
    finish(&vault, &slices).await
}

/// Goes on from wherever the power went: nothing may stand in the way of the end.
async fn finish(vault: &Vault, slices: &[Instance]) -> anyhow::Result<()> {
    for slice in slices {
        hold(vault, slice)
            .await
            .context("the scanner sends again")?;
    }
    let study = study()?;
    vault
        .record_consent(study.clone(), ConsentBasis::Spoken, Some("AB".to_owned()))
        .await?;
    pack(vault).await.context("packing goes on")?;
    let newest = vault.studies()?;
    let whole = newest
        .iter()
        .find(|s| s.study == study)
        .context("the study")?;
    ensure!(whole.instances == SLICES as u64, "{whole:?}");
    hub_answers(vault).await.context("the hub answers")?;
    let custody = vault
        .studies()?
        .iter()
        .map(|s| s.custody)
        .collect::<Vec<_>>();
    ensure!(custody == [agent::vault::Custody::AtHub], "{custody:?}");
    let sops: Vec<&SopInstanceUid> = slices.iter().map(|slice| &slice.sop).collect();
    vault.let_go(1).await.context("letting go")?;
    for sop in sops {
        let gone = vault.file(sop, 1);
        ensure!(
            matches!(gone, Err(FetchError::Gone(_))),
            "{sop} is still there"
        );
    }
    promise("whole")
}
