//! Commitment: promises to scanners that the box, or the hub, has the duty to keep what they sent
//! (PS3.4 J).
//!
//! In: requests of scanners, what the vault knows of single instances. Out: N-EVENT-REPORTs, on the
//! association that asked or on a new one; a fact in the journal when one was answered or given up.
//! Invariant: a request is on the disk before it is answered with success; what is said of an instance
//! is read from the vault when it is said.
//! May not: promise what is only on its way.

mod request;
mod tell;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dimse::scp::{Event, Operation};
use dimse::{Answer, Status};
use journal::{CommitmentAnswered, Fact};
use study::AeTitle;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::modalities::Modalities;
use crate::config::{CommitLevel, IntakeConfig};
use crate::vault::{Change, Document, Drawer, Standing, Vault, VaultError};
pub(super) use request::RequestFault;
use request::{Owed, Request};
use tell::{Line, Tell, Told, Verdict};

/// How many requests may be owed at once.
const OWED_MAX: usize = 1000;
/// How many scanners are called at once.
const CALLS_MAX: usize = 4;
/// The first wait after a scanner could not be told; each further one is twice as long.
const RETRY_DELAY: Duration = Duration::from_secs(5);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(600);
/// How often it is looked at least.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// How soon it is looked again when something has changed.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// How long it rests after the vault could not be read or written.
const TROUBLE_PAUSE: Duration = Duration::from_secs(10);

/// What a document in the drawer says in its state.
const OWED: u8 = 1;

/// The commitments of a box; clones share them.
#[derive(Clone)]
pub(super) struct Commitments(Arc<Inner>);

struct Inner {
    vault: Vault,
    modalities: Modalities,
    settings: Settings,
    owed: Mutex<BTreeMap<String, Standby>>,
    wake: Notify,
    calls: Arc<Semaphore>,
}

/// What the site chose.
#[derive(Debug, Clone)]
struct Settings {
    ae_title: AeTitle,
    level: CommitLevel,
    patience_ms: u64,
    deadline_ms: u64,
    retry_ms: u64,
    port: u16,
}

/// A request that is owed an answer.
struct Standby {
    owed: Arc<Owed>,
    /// When it was asked, or the program was started, on the clock that does not jump.
    since_ms: u64,
    /// Not to be tried before.
    not_before_ms: u64,
    attempts: u32,
    /// Somebody is telling the scanner.
    busy: bool,
    /// The association that asked, while it may be open.
    line: Option<Line>,
}

impl Commitments {
    pub(super) fn new(
        vault: Vault,
        modalities: Modalities,
        config: &IntakeConfig,
        ae_title: AeTitle,
    ) -> Result<Self, VaultError> {
        let mut owed = BTreeMap::new();
        for (name, document) in vault.documents(Drawer::Commitments)? {
            match minicbor::decode::<Owed>(&document.body) {
                Ok(found) => drop(owed.insert(name, Standby::new(found, None))),
                Err(_) => tracing::error!(transaction = name, "a commitment cannot be read"),
            }
        }
        Ok(Self(Arc::new(Inner {
            vault,
            modalities,
            settings: Settings {
                ae_title,
                level: config.commit,
                patience_ms: config.commit_patience.as_millis(),
                deadline_ms: config.commit_deadline.as_millis(),
                retry_ms: config.commit_retry.as_millis(),
                port: config.commit_port,
            },
            owed: Mutex::new(owed),
            wake: Notify::new(),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
        })))
    }

    /// Takes a request; success is answered when it is on the disk.
    pub(super) async fn take(
        &self,
        operation: &Operation,
        calling: &AeTitle,
        from: SocketAddr,
        line: Line,
    ) -> Answer {
        let taken = self.keep(operation, calling, from, line).await;
        match taken {
            Ok(instances) => {
                tracing::info!(ae = %calling, instances, "commitment asked for");
                Answer::success()
            }
            Err(fault) => {
                let reason = &fault as &dyn std::error::Error;
                tracing::warn!(ae = %calling, reason, "commitment refused");
                fault.answer()
            }
        }
    }

    async fn keep(
        &self,
        operation: &Operation,
        calling: &AeTitle,
        from: SocketAddr,
        line: Line,
    ) -> Result<usize, RequestFault> {
        let request = Request::read(operation)?;
        let name = request.transaction.as_str().to_owned();
        if self.owed().len() >= OWED_MAX && !self.owed().contains_key(&name) {
            return Err(RequestFault::TooMany);
        }
        let owed = Owed {
            transaction: request.transaction,
            requester: calling.as_str().to_owned(),
            host: from.ip().to_string(),
            instances: request.instances,
            asked_run_ms: self.0.vault.running_ms()?,
        };
        let instances = owed.instances.len();
        let document = Document {
            study: None,
            state: OWED,
            body: minicbor::to_vec(&owed).expect("writing to a Vec does not fail"),
        };
        let same = owed.clone();
        let decide = move |found: Option<Document>| match found {
            None => Ok(Change::File(document)),
            // Asked again, as the answer was lost: what was asked for first is answered.
            Some(found) if same.is_asked_in(&found.body) => Ok(Change::Nothing),
            Some(_) => Err(RequestFault::Duplicate),
        };
        let drawer = Drawer::Commitments;
        let kept = self.0.vault.change_document(drawer, name.clone(), decide);
        kept.await?;
        let standby = Standby::new(owed, Some(line));
        let mut all = self.owed();
        match all.get_mut(&name) {
            Some(known) => {
                known.line = standby.line;
                known.not_before_ms = 0;
            }
            None => drop(all.insert(name, standby)),
        }
        drop(all);
        self.0.wake.notify_one();
        Ok(instances)
    }

    fn owed(&self) -> MutexGuard<'_, BTreeMap<String, Standby>> {
        // Each statement leaves the map whole.
        self.0.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standby {
    fn new(owed: Owed, line: Option<Line>) -> Self {
        Self {
            owed: Arc::new(owed),
            since_ms: clock::count_ms(),
            not_before_ms: 0,
            attempts: 0,
            busy: false,
            line,
        }
    }
}

/// Answers what is owed, until `stop`.
pub(super) async fn run(commitments: Commitments, stop: CancellationToken) {
    let vault = commitments.0.vault.clone();
    let (mut arrived, mut changed) = (vault.arrivals(), vault.watch());
    let mut telling = JoinSet::new();
    loop {
        arrived.mark_unchanged();
        changed.mark_unchanged();
        let pause = match commitments.look(&mut telling) {
            Ok(pause) => pause,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, "cannot see what is held: commitments wait");
                TROUBLE_PAUSE
            }
        };
        let owes = !commitments.owed().is_empty();
        tokio::select! {
            () = stop.cancelled() => return,
            () = commitments.0.wake.notified() => continue,
            Some(_) = telling.join_next() => {}
            arrived = arrived.changed(), if owes => if arrived.is_err() { return },
            changed = changed.changed(), if owes => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

impl Commitments {
    /// Has everybody told whose answer is due; gives how long nothing more is.
    fn look(&self, telling: &mut JoinSet<()>) -> Result<Duration, VaultError> {
        let (now_ms, running_ms) = (clock::count_ms(), self.0.vault.running_ms()?);
        let mut pause_ms = u64::try_from(LOOK_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        let waiting: Vec<(String, Arc<Owed>, u64)> = {
            let owed = self.owed();
            let free = owed.iter().filter(|(_, standby)| !standby.busy);
            free.map(|(name, standby)| {
                let wait_ms = standby.not_before_ms.saturating_sub(now_ms);
                (name.clone(), Arc::clone(&standby.owed), wait_ms)
            })
            .collect()
        };
        for (name, owed, wait_ms) in waiting {
            if wait_ms > 0 {
                pause_ms = pause_ms.min(wait_ms);
                continue;
            }
            let waited_ms = self.waited_ms(&name, now_ms);
            let asked_ms = running_ms.saturating_sub(owed.asked_run_ms).max(waited_ms);
            let standing = self.0.vault.standing(&owed.instances)?;
            let verdicts = self.0.settings.judge(&standing, waited_ms, asked_ms);
            match verdicts {
                Ok(verdicts) => {
                    if let Some(standby) = self.owed().get_mut(&name) {
                        standby.busy = true;
                    }
                    let commitments = self.clone();
                    telling.spawn(async move {
                        commitments.answer(name, owed, verdicts, asked_ms).await;
                    });
                }
                Err(wait_ms) => pause_ms = pause_ms.min(wait_ms.max(1)),
            }
        }
        Ok(Duration::from_millis(pause_ms))
    }

    fn waited_ms(&self, name: &str, now_ms: u64) -> u64 {
        let owed = self.owed();
        let since = owed.get(name).map_or(now_ms, |standby| standby.since_ms);
        now_ms.saturating_sub(since)
    }

    /// Tells the scanner, and files what became of it.
    async fn answer(&self, name: String, owed: Arc<Owed>, verdicts: Vec<Verdict>, asked_ms: u64) {
        let told = self.tell(&name, &owed, &verdicts).await;
        let requester = owed.requester.as_str();
        let is_given_up = match &told {
            Ok(()) => {
                tracing::info!(transaction = name, ae = requester, "commitment answered");
                false
            }
            Err(trouble) => {
                self.0.modalities.failed(requester, &trouble.to_string());
                let is_given_up = asked_ms >= self.0.settings.retry_ms;
                let trouble = trouble as &dyn std::error::Error;
                tracing::warn!(
                    transaction = name,
                    ae = requester,
                    trouble,
                    is_given_up,
                    "commitment not delivered"
                );
                is_given_up
            }
        };
        if told.is_err() && !is_given_up {
            return self.put_off(&name);
        }
        if let Err(error) = self.settle(&name, &owed, &verdicts, told.is_ok()).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(
                transaction = name,
                error,
                "cannot write down that a commitment was answered"
            );
            // It is told once more, which harms nobody.
            return self.put_off(&name);
        }
        self.owed().remove(&name);
    }

    async fn tell(&self, name: &str, owed: &Owed, verdicts: &[Verdict]) -> Result<(), Told> {
        let event = tell::event(owed, verdicts);
        let line = self.owed().get_mut(name).and_then(|s| s.line.take());
        if let Some(line) = line
            && tell::on_line(&line, event.clone()).await == Some(Status::SUCCESS)
        {
            return Ok(());
        }
        let _one = self.0.calls.acquire().await.expect("it is never closed");
        let address = self.0.modalities.address_of(&owed.requester);
        let address = address.unwrap_or_else(|| (owed.host.clone(), self.0.settings.port));
        tell::on_new_association(&self.0.settings.ae_title, owed, address, event).await
    }

    /// Tries again later.
    fn put_off(&self, name: &str) {
        if let Some(standby) = self.owed().get_mut(name) {
            let delay = RETRY_DELAY.saturating_mul(1 << standby.attempts.min(10));
            let delay = delay.min(RETRY_DELAY_MAX);
            standby.attempts += 1;
            standby.busy = false;
            let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
            standby.not_before_ms = clock::count_ms().saturating_add(delay_ms);
        }
    }

    async fn settle(
        &self,
        name: &str,
        owed: &Owed,
        verdicts: &[Verdict],
        delivered: bool,
    ) -> Result<(), VaultError> {
        let count = |wanted: bool| {
            let some = verdicts.iter().filter(|v| v.is_err() != wanted);
            u32::try_from(some.count()).unwrap_or(u32::MAX)
        };
        let fact = Fact::CommitmentAnswered(CommitmentAnswered {
            transaction: owed.transaction.clone(),
            requester: owed.requester.clone(),
            at_hub: self.0.settings.level == CommitLevel::Hub,
            committed: count(true),
            failed: count(false),
            delivered,
        });
        let say = move |found: Option<Document>| {
            Ok::<_, VaultError>(match found {
                Some(_) => Change::ShredAndSay(fact),
                None => Change::Nothing,
            })
        };
        let (drawer, name) = (Drawer::Commitments, name.to_owned());
        self.0.vault.change_document(drawer, name, say).await?;
        Ok(())
    }
}

impl Settings {
    /// What is to be said of each instance; or, while something may still change, how long to wait.
    fn judge(
        &self,
        standing: &[Standing],
        waited_ms: u64,
        asked_ms: u64,
    ) -> Result<Vec<Verdict>, u64> {
        let mut wait_ms = None;
        let mut wait = |left_ms: u64| wait_ms = Some(wait_ms.unwrap_or(0_u64).max(left_ms));
        let verdicts = standing
            .iter()
            .map(|standing| match (standing, self.level) {
                (Standing::AtHub, _) | (Standing::Held, CommitLevel::Box) => Ok(()),
                (Standing::Held, CommitLevel::Hub) => {
                    wait(self.deadline_ms.saturating_sub(asked_ms));
                    Err(Status::PROCESSING_FAILURE)
                }
                (Standing::Damaged, _) => Err(Status::PROCESSING_FAILURE),
                (Standing::OtherClass, _) => Err(Status::CLASS_INSTANCE_CONFLICT),
                (Standing::Unknown, _) => {
                    wait(self.patience_ms.saturating_sub(waited_ms));
                    Err(Status::NO_SUCH_SOP_INSTANCE)
                }
            })
            .collect();
        match wait_ms {
            Some(left_ms) if left_ms > 0 => Err(left_ms),
            Some(_) | None => Ok(verdicts),
        }
    }
}

/// The end of a line to an association: what its visit sends on.
pub(super) struct LineEnd {
    line: Line,
    coming: mpsc::Receiver<Tell>,
    answered: Option<oneshot::Sender<Option<Status>>>,
}

impl LineEnd {
    pub(super) fn new() -> Self {
        // One at a time is told; more may be owed.
        let (line, coming) = mpsc::channel(OWED_MAX);
        Self {
            line,
            coming,
            answered: None,
        }
    }

    pub(super) fn line(&self) -> Line {
        self.line.clone()
    }

    /// The next event for the association; may be given up at any time.
    pub(super) async fn event(&mut self) -> Event {
        match self.coming.recv().await {
            Some(Tell { event, answered }) => {
                self.answered = Some(answered);
                event
            }
            None => std::future::pending().await,
        }
    }

    pub(super) fn answered(&mut self, status: Option<Status>) {
        if let Some(answered) = self.answered.take() {
            // Whoever told may have stopped waiting.
            let _ = answered.send(status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(level: CommitLevel) -> Settings {
        Settings {
            ae_title: AeTitle::parse("CHASQUI").unwrap(),
            level,
            patience_ms: 10,
            deadline_ms: 100,
            retry_ms: 1000,
            port: 104,
        }
    }

    #[test]
    fn nothing_is_promised_that_is_not_so_and_failures_wait_for_their_time() {
        let boxed = settings(CommitLevel::Box);
        let hub = settings(CommitLevel::Hub);
        let unknown = Err(Status::NO_SUCH_SOP_INSTANCE);
        let failed = Err(Status::PROCESSING_FAILURE);
        let other = Err(Status::CLASS_INSTANCE_CONFLICT);
        for (settings, standing, waited_ms, asked_ms, expected) in [
            (&boxed, Standing::Held, 0, 0, Ok(vec![Ok(())])),
            (&boxed, Standing::AtHub, 0, 0, Ok(vec![Ok(())])),
            (&boxed, Standing::Unknown, 3, 3, Err(7)),
            (&boxed, Standing::Unknown, 10, 10, Ok(vec![unknown])),
            (&boxed, Standing::Damaged, 0, 0, Ok(vec![failed])),
            (&boxed, Standing::OtherClass, 0, 0, Ok(vec![other])),
            (&hub, Standing::Held, 0, 40, Err(60)),
            (&hub, Standing::Held, 100, 100, Ok(vec![failed])),
            (&hub, Standing::AtHub, 0, 0, Ok(vec![Ok(())])),
        ] {
            let judged = settings.judge(&[standing], waited_ms, asked_ms);
            assert_eq!(judged, expected, "{standing:?} after {waited_ms}");
        }
        // What is certain waits for what is not.
        let some = [Standing::Held, Standing::Unknown];
        assert_eq!(boxed.judge(&some, 0, 0), Err(10));
        assert_eq!(boxed.judge(&some, 10, 10), Ok(vec![Ok(()), unknown]));
    }
}
