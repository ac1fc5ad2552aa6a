//! The commands that put one question to the box, or work in its folder, and print what comes of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use study::{Priority, SopInstanceUid, StudyUid};

use crate::commands::{Failure, Request, ask, pretty, print_bytes, say, take_lock};
use crate::config::{Config, VaultConfig};
use crate::keys::Keys;
use crate::membership::Membership;
use crate::orders::ConsentBasis;
use crate::status;
use crate::vault::Vault;

/// `status`
pub(super) fn status(folder: &Path, json: bool) -> Result<(), Failure> {
    let reply = ask(folder, &Request::Status)?;
    let text = if json {
        pretty(&reply.output)
    } else {
        status::table(&reply.output)
    };
    say(&text)
}

/// `get SOP -o FILE`
pub(super) fn get(
    folder: &Path,
    sop: &SopInstanceUid,
    version: u32,
    output: &Path,
) -> Result<(), Failure> {
    let reply = ask(
        folder,
        &Request::Get {
            sop: sop.clone(),
            version,
        },
    )?;
    write_file(output, &reply.body)?;
    let versions = reply.output["versions"].as_u64().unwrap_or(1);
    if versions > 1 {
        eprintln!("note: {versions} instances share this UID; choose with --copy");
    }
    Ok(())
}

/// `get --list FILE -o DIR`: every version of every instance named.
pub(super) fn get_list(folder: &Path, list: &Path, output: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(list)
        .with_context(|| format!("cannot read the list {}", list.display()))?;
    std::fs::create_dir_all(output)
        .with_context(|| format!("cannot make the folder {}", output.display()))?;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let sop = SopInstanceUid::parse(line)
            .with_context(|| format!("`{line}` in the list is no SOP Instance UID"))?;
        let mut version = 1;
        loop {
            let reply = ask(
                folder,
                &Request::Get {
                    sop: sop.clone(),
                    version,
                },
            )?;
            write_file(&output.join(file_name(&sop, version)), &reply.body)?;
            if u64::from(version) >= reply.output["versions"].as_u64().unwrap_or(1) {
                break;
            }
            version += 1;
        }
    }
    Ok(())
}

fn file_name(sop: &SopInstanceUid, version: u32) -> PathBuf {
    match version {
        1 => PathBuf::from(format!("{sop}.dcm")),
        _ => PathBuf::from(format!("{sop}.{version}.dcm")),
    }
}

/// `consent`
pub(super) fn consent(
    folder: &Path,
    study: &StudyUid,
    basis: ConsentBasis,
    by: &str,
) -> Result<(), Failure> {
    let request = Request::Consent {
        study: study.clone(),
        basis,
        by: by.to_owned(),
    };
    ask(folder, &request).map(drop)
}

/// `priority`
pub(super) fn priority(folder: &Path, study: &StudyUid, priority: Priority) -> Result<(), Failure> {
    ask(
        folder,
        &Request::Priority {
            study: study.clone(),
            priority,
        },
    )
    .map(drop)
}

/// `hold set` and `hold lift`
pub(super) fn hold(folder: &Path, study: &StudyUid, held: bool, by: &str) -> Result<(), Failure> {
    let request = Request::Hold {
        study: study.clone(),
        held,
        by: by.to_owned(),
    };
    ask(folder, &request).map(drop)
}

/// `erase`
pub(super) fn erase(
    folder: &Path,
    study: &StudyUid,
    by: &str,
    even_if_not_at_hub: bool,
) -> Result<(), Failure> {
    let request = Request::Erase {
        study: study.clone(),
        by: by.to_owned(),
        even_if_not_at_hub,
    };
    say(&status::erase_text(&ask(folder, &request)?.output))
}

/// `report list`
pub(super) fn report_list(folder: &Path, json: bool) -> Result<(), Failure> {
    let reply = ask(folder, &Request::ReportList)?;
    let text = if json {
        pretty(&reply.output)
    } else {
        status::report_table(&reply.output)
    };
    say(&text)
}

/// `report get`
pub(super) fn report_get(
    folder: &Path,
    study: &StudyUid,
    output: Option<&Path>,
) -> Result<(), Failure> {
    let reply = ask(
        folder,
        &Request::ReportGet {
            study: study.clone(),
        },
    )?;
    deliver(output, pretty(&reply.output).as_bytes())
}

/// `report print`
pub(super) fn report_print(
    folder: &Path,
    study: &StudyUid,
    output: Option<&Path>,
) -> Result<(), Failure> {
    let reply = ask(
        folder,
        &Request::ReportGet {
            study: study.clone(),
        },
    )?;
    deliver(output, &reply.body)
}

/// `proof export`
pub(super) fn proof_export(folder: &Path, study: &StudyUid, output: &Path) -> Result<(), Failure> {
    let reply = ask(
        folder,
        &Request::ProofExport {
            study: study.clone(),
        },
    )?;
    write_file(output, &reply.body)?;
    for text in reply.output["not_shown"].as_array().into_iter().flatten() {
        eprintln!("not shown: {}", text.as_str().unwrap_or_default());
    }
    Ok(())
}

/// `scrub`
pub(super) fn scrub(folder: &Path, json: bool) -> Result<(), Failure> {
    let reply = ask(folder, &Request::Scrub)?;
    let text = if json {
        pretty(&reply.output)
    } else {
        status::scrub_text(&reply.output)
    };
    say(&text)?;
    match reply.output["damaged"].as_u64() {
        Some(0) | None => Ok(()),
        Some(count) => Err(anyhow!("{count} thing(s) held are damaged").into()),
    }
}

/// `scrub --rebuild`: works alone, on a box that does not run.
pub(super) fn rebuild(folder: &Path, json: bool) -> Result<(), Failure> {
    let _lock = take_lock(folder)
        .context("cannot work in the folder; a box that runs must be stopped for this")?;
    let membership = Membership::open(folder).map_err(anyhow::Error::new)?;
    let keys =
        Keys::open_or_found(folder, membership.granted_store_key()).map_err(anyhow::Error::new)?;
    Vault::put_index_aside(folder).map_err(anyhow::Error::new)?;
    let rebuilt = Vault::rebuild(folder, membership.key(), keys, VaultConfig::default());
    let (_, absorbed) = rebuilt.context("cannot make the index anew")?;
    let found = serde_json::to_value(absorbed).map_err(Failure::internal)?;
    say(&if json {
        pretty(&found)
    } else {
        status::rebuild_text(&found)
    })
}

/// `check`
pub(super) fn check(folder: Option<&Path>, file: Option<&Path>) -> Result<(), Failure> {
    let config = Config::load(file, Vec::new()).map_err(Failure::configuration)?;
    if let Some(folder) = folder {
        Membership::check(folder).map_err(Failure::configuration)?;
    }
    say(&config.to_toml())
}

fn deliver(output: Option<&Path>, bytes: &[u8]) -> Result<(), Failure> {
    match output {
        Some(path) => write_file(path, bytes),
        None => print_bytes(bytes),
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes)
        .with_context(|| format!("cannot write {}", path.display()))
        .map_err(Failure::from)
}
