//! Modalities: the scanners that have called, or that somebody has entered.
//!
//! In: who calls and how that ends, addresses from people. Out: who may call, where each can be
//! reached, what went wrong with it last and what to do about that.
//! Invariant: what a person entered is on the disk before they are told; when a scanner was last seen
//! may be an hour old after a power cut.
//! May not: hold anything of a patient.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dimse::scu::{Association, Proposal, ScuConfig, ScuError};
use dimse::{Status, VERIFICATION};
use minicbor::{Decode, Encode};
use serde::Serialize;
use study::{AeTitle, SopClassUid, TransferSyntaxUid};
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::vault::{Change, Document, Drawer, Vault, VaultError};

/// How many scanners that nobody has entered are remembered.
const UNKNOWN_MAX: usize = 256;
/// How often it is written down that a known scanner was seen.
const WRITE_INTERVAL: Duration = Duration::from_secs(3600);

/// What a document in the drawer says in its state.
const NEW: u8 = 1;
const ACCEPTED: u8 = 2;

/// Says why a scanner is not entered or reached.
#[derive(Debug, Error)]
pub enum ModalityError {
    /// It has not called, and nobody has entered it.
    #[error("no modality {0} is known")]
    Unknown(AeTitle),
    /// Nobody has said where it is.
    #[error("nobody has said where {0} is: `modality add --ae {0} --host H --port P`")]
    NoAddress(AeTitle),
    /// It did not answer a C-ECHO.
    #[error("{title} at {host}:{port} does not answer: {hint}")]
    Echo {
        /// Its title.
        title: AeTitle,
        /// Where.
        host: String,
        /// Where.
        port: u16,
        /// What to do.
        hint: &'static str,
        /// What happened.
        #[source]
        source: ScuError,
    },
    /// It answered a C-ECHO with a failure.
    #[error("{0} answered {1} to a C-ECHO")]
    Status(AeTitle, Status),
    /// The vault could not keep it.
    #[error(transparent)]
    Vault(#[from] VaultError),
}

/// A scanner as it is filed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
struct Filed {
    #[n(0)]
    host: Option<String>,
    #[n(1)]
    port: Option<u16>,
    #[n(2)]
    last_seen_ms: Option<u64>,
    /// From where it called last.
    #[n(3)]
    seen_at: Option<String>,
    /// What went wrong last, in plain words.
    #[n(4)]
    last_failure: Option<String>,
    #[n(5)]
    last_failure_ms: Option<u64>,
}

/// A scanner as people are shown it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Modality {
    /// Its AE title.
    pub ae_title: String,
    /// Somebody has accepted or entered it.
    pub accepted: bool,
    /// Where it can be called.
    pub host: Option<String>,
    /// Where it can be called.
    pub port: Option<u16>,
    /// When it called last, milliseconds of the Unix epoch.
    pub last_seen_ms: Option<u64>,
    /// From where it called last.
    pub seen_at: Option<String>,
    /// What went wrong last, and what to do.
    pub last_failure: Option<String>,
    /// When that was.
    pub last_failure_ms: Option<u64>,
}

/// The modalities of a box; clones share them.
#[derive(Clone)]
pub struct Modalities(Arc<Inner>);

struct Inner {
    vault: Vault,
    known: Mutex<BTreeMap<String, Entry>>,
    wake: Notify,
}

#[derive(Debug, Clone, Default)]
struct Entry {
    accepted: bool,
    filed: Filed,
    /// What is on the disk is older.
    unwritten: bool,
    written_ms: Option<u64>,
}

impl Entry {
    fn document(&self) -> Document {
        Document {
            study: None,
            state: if self.accepted { ACCEPTED } else { NEW },
            body: minicbor::to_vec(&self.filed).expect("writing to a Vec does not fail"),
        }
    }

    fn shown(&self, title: &str) -> Modality {
        let filed = self.filed.clone();
        Modality {
            ae_title: title.to_owned(),
            accepted: self.accepted,
            host: filed.host,
            port: filed.port,
            last_seen_ms: filed.last_seen_ms,
            seen_at: filed.seen_at,
            last_failure: filed.last_failure,
            last_failure_ms: filed.last_failure_ms,
        }
    }
}

impl Modalities {
    /// The modalities that a vault knows.
    pub fn open(vault: Vault) -> Result<Self, VaultError> {
        let mut known = BTreeMap::new();
        for (title, document) in vault.documents(Drawer::Modalities)? {
            let entry = Entry {
                accepted: document.state == ACCEPTED,
                filed: minicbor::decode(&document.body).unwrap_or_default(),
                ..Entry::default()
            };
            known.insert(title, entry);
        }
        Ok(Self(Arc::new(Inner {
            vault,
            known: Mutex::new(known),
            wake: Notify::new(),
        })))
    }

    /// All of them, by title.
    pub fn list(&self) -> Vec<Modality> {
        let known = self.known();
        known
            .iter()
            .map(|(title, entry)| entry.shown(title))
            .collect()
    }

    /// Enters a scanner with its address, or changes that; it counts as accepted.
    pub async fn add(&self, title: &AeTitle, host: String, port: u16) -> Result<(), ModalityError> {
        self.change(title, |entry| {
            entry.accepted = true;
            entry.filed.host = Some(host);
            entry.filed.port = Some(port);
        });
        self.write(title.as_str())
            .await
            .map_err(ModalityError::from)
    }

    /// Accepts a scanner that has called.
    pub async fn accept(&self, title: &AeTitle) -> Result<(), ModalityError> {
        if !self.known().contains_key(title.as_str()) {
            return Err(ModalityError::Unknown(title.clone()));
        }
        self.change(title, |entry| entry.accepted = true);
        self.write(title.as_str())
            .await
            .map_err(ModalityError::from)
    }

    /// Sends a C-ECHO to a scanner.
    pub async fn echo(&self, ours: AeTitle, title: &AeTitle) -> Result<(), ModalityError> {
        let address = self.address_of(title.as_str());
        let (host, port) = address.ok_or_else(|| ModalityError::NoAddress(title.clone()))?;
        let echoed = echo((host.as_str(), port), ours, title.clone()).await;
        match echoed {
            Ok(Status::SUCCESS) => Ok(()),
            Ok(other) => Err(ModalityError::Status(title.clone(), other)),
            Err(source) => Err(ModalityError::Echo {
                title: title.clone(),
                host,
                port,
                hint: hint(&source),
                source,
            }),
        }
    }

    /// Whether somebody has accepted or entered this scanner.
    pub(super) fn is_accepted(&self, title: &str) -> bool {
        self.known().get(title).is_some_and(|entry| entry.accepted)
    }

    /// Where a scanner can be called, if somebody has said so.
    pub(super) fn address_of(&self, title: &str) -> Option<(String, u16)> {
        let known = self.known();
        let filed = &known.get(title)?.filed;
        Some((filed.host.clone()?, filed.port?))
    }

    /// Notes that a scanner called; says whether it was not known.
    pub(super) fn seen(&self, title: &AeTitle, from: std::net::SocketAddr) -> bool {
        let is_new = !self.known().contains_key(title.as_str());
        self.change(title, |entry| {
            entry.filed.last_seen_ms = Some(clock::wall_ms());
            entry.filed.seen_at = Some(from.ip().to_string());
        });
        is_new
    }

    /// Notes what went wrong with a scanner, in plain words.
    pub(super) fn failed(&self, title: &str, words: &str) {
        if let Ok(title) = AeTitle::parse(title) {
            self.change(&title, |entry| {
                entry.filed.last_failure = Some(words.to_owned());
                entry.filed.last_failure_ms = Some(clock::wall_ms());
            });
        }
    }

    fn change(&self, title: &AeTitle, change: impl FnOnce(&mut Entry)) {
        let mut known = self.known();
        let unknown = known.values().filter(|entry| !entry.accepted).count();
        // Who calls by ever new titles is not remembered by all of them.
        if !known.contains_key(title.as_str()) && unknown >= UNKNOWN_MAX {
            let oldest = known
                .iter()
                .filter(|(_, entry)| !entry.accepted)
                .min_by_key(|(_, entry)| entry.filed.last_seen_ms)
                .map(|(title, _)| title.clone());
            if let Some(oldest) = oldest {
                known.remove(&oldest);
            }
        }
        let entry = known.entry(title.as_str().to_owned()).or_default();
        change(entry);
        entry.unwritten = true;
        drop(known);
        self.0.wake.notify_one();
    }

    async fn write(&self, title: &str) -> Result<(), VaultError> {
        let document = match self.known().get_mut(title) {
            Some(entry) => {
                entry.unwritten = false;
                entry.written_ms = Some(clock::count_ms());
                entry.document()
            }
            None => return Ok(()),
        };
        let file = |_| Ok::<_, VaultError>(Change::File(document));
        let (drawer, name) = (Drawer::Modalities, title.to_owned());
        let filed = self.0.vault.change_document(drawer, name, file).await;
        if filed.is_err()
            && let Some(entry) = self.known().get_mut(title)
        {
            entry.unwritten = true;
        }
        filed.map(drop)
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // Each statement leaves the map whole.
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Titles whose entries are to be written now.
    fn due(&self) -> Vec<String> {
        let now_ms = clock::count_ms();
        let interval_ms = u64::try_from(WRITE_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        let known = self.known();
        let unwritten = known.iter().filter(|(_, entry)| entry.unwritten);
        let due = unwritten.filter(|(_, entry)| {
            let written = entry.written_ms;
            written.is_none_or(|written_ms| now_ms.saturating_sub(written_ms) >= interval_ms)
        });
        due.map(|(title, _)| title.clone()).collect()
    }
}

/// Writes down who was seen, until `stop`.
pub(super) async fn run(modalities: Modalities, stop: CancellationToken) {
    loop {
        for title in modalities.due() {
            if let Err(error) = modalities.write(&title).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, ae = title, "cannot write down a modality");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = modalities.0.wake.notified() => {}
            () = tokio::time::sleep(WRITE_INTERVAL) => {}
        }
    }
}

async fn echo(address: (&str, u16), ours: AeTitle, theirs: AeTitle) -> Result<Status, ScuError> {
    let verification = Proposal {
        sop_class: SopClassUid::parse(VERIFICATION).expect("a UID of the standard"),
        transfer_syntaxes: vec![
            TransferSyntaxUid::parse("1.2.840.10008.1.2").expect("a UID of the standard"),
        ],
    };
    let config = ScuConfig::new(ours, theirs);
    let mut association = Association::open(address, config, &[verification]).await?;
    let status = association.echo().await?;
    // It has answered, however it takes leave.
    drop(association.release().await);
    Ok(status)
}

/// What a person can do about it.
const fn hint(error: &ScuError) -> &'static str {
    match error {
        ScuError::Connect(_) => "is it switched on, in this network, and are host and port right?",
        ScuError::TimedOut => "it is reached but says nothing: is this its DICOM port?",
        ScuError::Rejected(_) => "it does not take calls from us: enter this box at the scanner",
        ScuError::NoContext { .. } => "it does not know C-ECHO: images may come all the same",
        ScuError::Aborted | ScuError::Lost(_) | ScuError::Protocol(_) => {
            "what answers there is no DICOM node, or a broken one"
        }
        ScuError::Proposals(_) => "this is a fault of the box",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::tests::open_vault;

    fn title(text: &str) -> AeTitle {
        AeTitle::parse(text).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_called_is_known_and_who_was_accepted_stays_so() {
        let folder = tempfile::tempdir().unwrap();
        let vault = open_vault(folder.path()).await;
        let modalities = Modalities::open(vault.clone()).unwrap();
        let from = "10.0.0.7:4711".parse().unwrap();
        assert!(modalities.seen(&title("CT1"), from));
        assert!(!modalities.seen(&title("CT1"), from));
        assert!(!modalities.is_accepted("CT1"));
        let unknown = modalities.accept(&title("MR1")).await;
        assert!(matches!(unknown, Err(ModalityError::Unknown(_))));
        modalities.accept(&title("CT1")).await.unwrap();
        let host = "10.0.0.8".to_owned();
        modalities.add(&title("MR1"), host, 104).await.unwrap();
        // As after a start.
        let modalities = Modalities::open(vault).unwrap();
        assert!(modalities.is_accepted("CT1"));
        let address = modalities.address_of("MR1");
        assert_eq!(address, Some(("10.0.0.8".to_owned(), 104)));
        assert_eq!(modalities.list()[0].seen_at.as_deref(), Some("10.0.0.7"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn ever_new_titles_fill_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let modalities = Modalities::open(open_vault(folder.path()).await).unwrap();
        for number in 0..2 * UNKNOWN_MAX {
            let from = "10.0.0.7:1".parse().unwrap();
            modalities.seen(&title(&format!("CT{number}")), from);
        }
        assert_eq!(modalities.list().len(), UNKNOWN_MAX);
    }
}
