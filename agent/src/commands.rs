//! Commands: what a person or a script asks of the box, whether it runs or not.
//!
//! In: requests, from the command line or over the folder's socket. Out: replies.
//! Invariant: two writers never meet: a command asks the running program, or works itself under
//! the folder's lock.
//! May not: know how a room does what it is asked.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use control::{FolderLock, LockError, Reply};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use study::{Priority, SopInstanceUid, StudyUid};

use crate::bundles::{BundleRequest, Bundles};
use crate::config::{IntakeConfig, VaultConfig};
use crate::intake::{self, Modalities, ModalityRequest};
use crate::keys::Keys;
use crate::membership::Membership;
use crate::orders::{self, ConsentBasis, OrderRequest, Orders};
use crate::pin::{self, PinRequest};
use crate::proof::Proofs;
use crate::reports::Reports;
use crate::status::{self, LinkStatus};
use crate::uplink::{LinkRequest, Uplinks};
use crate::vault::Vault;

/// The exit code of a request that failed.
const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 64;
const EXIT_INTERNAL: u8 = 70;
const EXIT_CONFIGURATION: u8 = 78;
/// How long a command waits for a program that has the folder but does not listen: it may be
/// looking through many segments after a power cut.
const LOCK_WAIT: Duration = Duration::from_secs(30);
/// How long a program that starts waits for a command that has the folder.
const COMMAND_WAIT: Duration = Duration::from_secs(5);
/// How often either looks again.
const LOCK_LOOK: Duration = Duration::from_millis(20);

/// A command that did not succeed: the exit code and the chain of reasons.
#[derive(Debug)]
pub struct Failure {
    /// The process's exit code (cli.md).
    pub exit: u8,
    /// Why.
    pub error: anyhow::Error,
}

impl Failure {
    /// The arguments make no sense.
    pub fn usage(text: &'static str) -> Self {
        Self {
            exit: EXIT_USAGE,
            error: anyhow!(text),
        }
    }

    /// The configuration cannot be used.
    pub fn configuration(error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit: EXIT_CONFIGURATION,
            error: error.into(),
        }
    }

    /// Something broke that should not.
    pub fn internal(error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit: EXIT_INTERNAL,
            error: error.into(),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self {
            exit: EXIT_FAILED,
            error,
        }
    }
}

/// What can be asked of a box.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// Studies, link, disk.
    Status,
    /// The exact bytes of an instance.
    Get {
        /// The instance.
        sop: SopInstanceUid,
        /// Which of those that share the UID, from 1.
        version: u32,
    },
    /// Records consent.
    Consent {
        /// The study.
        study: StudyUid,
        /// On what basis.
        basis: ConsentBasis,
        /// Who records it.
        by: String,
    },
    /// Changes urgency.
    Priority {
        /// The study.
        study: StudyUid,
        /// How urgent.
        priority: Priority,
    },
    /// Wants the patient's other studies at the hub.
    Priors {
        /// The study.
        study: StudyUid,
    },
    /// All reports.
    ReportList,
    /// The newest report of a study that holds, as JSON and as text.
    ReportGet {
        /// The study.
        study: StudyUid,
    },
    /// The proof of a study, as a file.
    ProofExport {
        /// The study.
        study: StudyUid,
    },
    /// Puts a study on legal hold, or lifts that.
    Hold {
        /// The study.
        study: StudyUid,
        /// On hold from now on, or not any more.
        held: bool,
        /// Who says so.
        by: String,
    },
    /// Erases a study in the box.
    Erase {
        /// The study.
        study: StudyUid,
        /// Who says so.
        by: String,
        /// Also what only this box has.
        even_if_not_at_hub: bool,
    },
    /// Orders and the worklist.
    Order(OrderRequest),
    /// Scanners.
    Modality(ModalityRequest),
    /// The vault's lock.
    Pin(PinRequest),
    /// Re-reads all that is held.
    Scrub,
    /// The road by stick.
    Bundle(BundleRequest),
    /// What a person says about the uplinks.
    Link(LinkRequest),
}

/// What commands work on.
#[derive(Clone)]
pub struct Rooms {
    /// The durable hold.
    pub vault: Vault,
    /// The box's standing in its fleet.
    pub membership: Arc<Membership>,
    /// The reports.
    pub reports: Reports,
    /// The orders.
    pub orders: Orders,
    /// The scanners.
    pub modalities: Modalities,
    /// Our AE title.
    pub ae_title: String,
    /// The proofs.
    pub proofs: Proofs,
    /// The road by stick.
    pub bundles: Bundles,
    /// The ways to the hub.
    pub uplinks: Uplinks,
    /// How the link does; none while the program does not run.
    pub link: Option<Arc<LinkStatus>>,
}

impl Rooms {
    /// Opens the rooms of a folder whose lock is held.
    pub fn open(
        folder: &Path,
        membership: Membership,
        config: VaultConfig,
    ) -> anyhow::Result<Self> {
        let membership = Arc::new(membership);
        let keys = Keys::open_or_found(folder, membership.granted_store_key())?;
        keys.set_hub(membership.hub().map(|hub| hub.store));
        let vault = Vault::open(folder, membership.key(), keys, config)?;
        let uplinks = Uplinks::open(vault.clone())?;
        let reports = Reports::new(vault.clone(), Arc::clone(&membership));
        let proofs = Proofs::new(folder, vault.clone(), Arc::clone(&membership));
        let bundles = Bundles::new(folder, vault.clone(), Arc::clone(&membership));
        Ok(Self {
            orders: Orders::new(vault.clone()),
            modalities: Modalities::open(vault.clone())?,
            ae_title: IntakeConfig::default().ae_title,
            vault,
            membership,
            reports,
            proofs,
            bundles,
            uplinks,
            link: None,
        })
    }

    /// Does what a request asks.
    pub async fn execute(&self, request: Request) -> Reply {
        match self.attempt(request).await {
            Ok((output, body)) => Reply {
                exit: 0,
                output,
                error: None,
                body,
            },
            Err(error) => Reply {
                exit: EXIT_FAILED,
                output: Value::Null,
                error: Some(format!("{error:#}")),
                body: Vec::new(),
            },
        }
    }

    async fn use_lock(&self, request: PinRequest) -> anyhow::Result<Value> {
        let keys = self.vault.keys().clone();
        let done = tokio::task::spawn_blocking(move || pin::execute(&keys, &request));
        let state = done.await.context("the check was interrupted")??;
        self.vault.note_lock();
        Ok(json!({ "vault": state }))
    }

    async fn scrub(&self) -> anyhow::Result<Value> {
        let vault = self.vault.clone();
        let read = tokio::task::spawn_blocking(move || vault.scrub());
        let found = read.await.context("reading was interrupted")??;
        Ok(serde_json::to_value(found)?)
    }

    fn report(&self, study: &StudyUid) -> anyhow::Result<(Value, Vec<u8>)> {
        let report = self.reports.read(study)?;
        let report = report.ok_or_else(|| anyhow!("no report of study {study} holds"))?;
        let text = report::to_text(&report).into_bytes();
        Ok((report.to_json(), text))
    }

    async fn attempt(&self, request: Request) -> anyhow::Result<(Value, Vec<u8>)> {
        match request {
            Request::Status => {
                let rooms = self.clone();
                let read = tokio::task::spawn_blocking(move || status::document(&rooms));
                Ok((read.await.context("reading was interrupted")??, Vec::new()))
            }
            Request::Get { sop, version } => {
                let vault = self.vault.clone();
                let read = tokio::task::spawn_blocking(move || vault.file(&sop, version));
                let file = read.await.context("reading was interrupted")??;
                Ok((json!({ "versions": file.versions }), file.bytes))
            }
            Request::Consent { study, basis, by } => {
                self.vault
                    .record_consent(study, basis.into(), Some(by))
                    .await?;
                Ok((Value::Null, Vec::new()))
            }
            Request::Priority { study, priority } => Ok((
                json!(self.vault.set_priority(study, priority).await?),
                Vec::new(),
            )),
            Request::Priors { study } => {
                Ok((json!(self.vault.want_priors(study).await?), Vec::new()))
            }
            Request::ReportList => {
                let reports = self.reports.clone();
                let read = tokio::task::spawn_blocking(move || reports.all());
                let reports = read.await.context("reading was interrupted")??;
                Ok((status::reports(&reports), Vec::new()))
            }
            Request::ReportGet { study } => self.report(&study),
            Request::ProofExport { study } => {
                let proofs = self.proofs.clone();
                let made = tokio::task::spawn_blocking(move || proofs.export(&study));
                let proof = made.await.context("reading was interrupted")??;
                Ok((json!({ "not_shown": proof.not_shown }), proof.bytes))
            }
            Request::Hold { study, held, by } => {
                self.vault.set_legal_hold(study, held, by).await?;
                Ok((Value::Null, Vec::new()))
            }
            Request::Erase {
                study,
                by,
                even_if_not_at_hub,
            } => {
                let erased = self.vault.erase(study, by, even_if_not_at_hub).await?;
                Ok((serde_json::to_value(erased)?, Vec::new()))
            }
            Request::Order(request) => {
                let done = orders::command::execute(&self.orders, request);
                done.await.map(no_body)
            }
            Request::Modality(request) => {
                let done = intake::command::execute(&self.modalities, &self.ae_title, request);
                done.await.map(no_body)
            }
            Request::Bundle(request) => self.bundles.execute(request).await.map(no_body),
            Request::Link(request) => Ok(no_body(self.uplinks.execute(request).await?)),
            Request::Pin(request) => self.use_lock(request).await.map(no_body),
            Request::Scrub => self.scrub().await.map(no_body),
        }
    }
}

fn no_body(output: Value) -> (Value, Vec<u8>) {
    (output, Vec::new())
}

/// Asks the running program, or works under the folder's lock when none runs.
pub(crate) fn ask(folder: &Path, request: &Request) -> Result<Reply, Failure> {
    // Before anything is made there: a mistyped folder must not look like an empty box.
    if !folder.join("node.key").exists() {
        let no_box = || format!("{} is not a box's folder", folder.display());
        Membership::check(folder).with_context(no_box)?;
    }
    let message = serde_json::to_value(request).map_err(Failure::internal)?;
    let since = Instant::now();
    let reply = loop {
        if let Some(reply) = control::ask(folder, &message).context("cannot ask the running box")? {
            break reply;
        }
        match FolderLock::take(folder) {
            Ok(lock) => break work_alone(folder, request.clone(), &lock)?,
            // A program that is starting or another command: it listens soon, or is done soon.
            Err(LockError::Held(_)) if since.elapsed() < LOCK_WAIT => look_again_later(),
            Err(error) => return Err(anyhow::Error::new(error).into()),
        }
    };
    match reply.error {
        None => Ok(reply),
        Some(text) => Err(Failure {
            exit: reply.exit,
            error: anyhow!(text),
        }),
    }
}

/// Takes the lock of a folder, and gives a command that has it the time to finish.
pub(crate) fn take_lock(folder: &Path) -> Result<FolderLock, LockError> {
    let since = Instant::now();
    loop {
        match FolderLock::take(folder) {
            Err(LockError::Held(_)) if since.elapsed() < COMMAND_WAIT => look_again_later(),
            taken => return taken,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a folder's lock cannot be waited for with a deadline"
)]
fn look_again_later() {
    thread::sleep(LOCK_LOOK);
}

fn work_alone(folder: &Path, request: Request, _lock: &FolderLock) -> Result<Reply, Failure> {
    if matches!(
        request,
        Request::Pin(PinRequest::Unlock { .. } | PinRequest::Lock)
    ) {
        return Err(
            anyhow!("the box does not run: it is locked when it starts, if it has a PIN").into(),
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::internal)?;
    let membership = Membership::open(folder).map_err(anyhow::Error::new)?;
    let rooms = Rooms::open(folder, membership, VaultConfig::default())?;
    Ok(runtime.block_on(rooms.execute(request)))
}

/// A document as people can read it.
pub(crate) fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Writes text to the standard output.
pub(crate) fn say(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// Writes to the standard output; a reader that has gone away is no failure.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::internal(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
