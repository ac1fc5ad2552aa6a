//! Pack: compresses held instances, proves the round trip, makes revisions of them.
//!
//! In: batches of held instances from `vault`; what the link carries, from `contact`. Out: packed
//! units that take their place in `vault`.
//! Invariant: an intake record is let go only after its packed form was decoded and compared; one
//! that cannot be packed holds up nothing but the closing of its own study; the batches of a study
//! become revisions in the order they came, however many are packed at once.
//! May not: decide what is sent or when, or keep anything of its own.

mod again;
mod pace;
mod squeeze;
mod tier;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use codec::Tier;
use study::StudyUid;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::vault::{BatchRule, Due, Now, Revision, Skipped, Vault, VaultError};
use again::Repacker;
use pace::Pace;
pub use tier::Power;
use work::{PackError, Tried, Unpackable, in_background};

/// Bytes of files that make a batch full, whatever their number.
const BATCH_BYTES_MAX: u64 = 32 << 20;
/// Bytes of files that are packed at once, but for one batch: a codec has some three times as much
/// in memory.
const UNDERWAY_BYTES_MAX: u64 = 48 << 20;
/// How long arrivals are let gather before they are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long packing waits when the vault takes nothing.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// How long a study is passed over whose batch could not be packed.
const PASSED_OVER: Duration = Duration::from_secs(60);
/// By how much the codec is nicer than the rest of the program: what scanners and the hub wait for
/// goes first.
const NICE: i32 = 10;

/// What packing is told by the configuration.
#[derive(Clone)]
pub struct Settings {
    /// Instances that make a batch full.
    pub batch_instances: u32,
    /// How long the first instance waits for others.
    pub batch_delay_ms: u64,
    /// How long a study must be quiet to count as stable.
    pub quiet_period_ms: u64,
    /// How much work the codec does; none: as much as link, processors and power make good.
    pub tier: Option<Tier>,
    /// How many batches are packed at once.
    pub threads: usize,
    /// What the box runs on.
    pub power: Power,
    /// How the road to the hub is.
    pub link: Arc<dyn Fn() -> Road + Send + Sync>,
}

/// The road to the hub, as far as packing has to know.
#[derive(Debug, Clone, Copy)]
pub struct Road {
    /// What it carries in a second, as far as anybody knows.
    pub bytes_s: Option<u64>,
    /// A contact is up.
    pub is_up: bool,
}

/// Packs what is due until it is told to stop.
pub async fn run(vault: Vault, settings: Settings, stop: CancellationToken) {
    let packer = Packer::new(vault, settings);
    // A batch that is being packed when the program stops is packed again at its next start.
    tokio::select! {
        () = stop.cancelled() => {}
        () = packer.run() => {}
    }
}

struct Packer {
    vault: Vault,
    settings: Settings,
    pace: Pace,
    /// Studies whose last batch could not be packed, and when they are looked at again.
    passed_over: BTreeMap<StudyUid, Instant>,
    /// Batches that are being packed, or wait for one before them, in the order they were begun.
    jobs: Vec<Job>,
    workers: JoinSet<(u64, Tried)>,
    repacker: Repacker,
    /// How many jobs have been begun.
    begun: u64,
}

/// A batch that is not a revision yet.
struct Job {
    number: u64,
    study: StudyUid,
    /// Its last instance; none when it has none.
    last: Option<i64>,
    file_bytes: u64,
    /// What came of it, once it is packed.
    tried: Option<Tried>,
}

enum Next {
    Again,
    After(Duration),
    OnArrival,
    /// There is no room for more before something is packed.
    OnPacked,
}

impl Packer {
    fn new(vault: Vault, settings: Settings) -> Self {
        Self {
            repacker: Repacker::new(vault.clone()),
            vault,
            pace: Pace::new(settings.threads, settings.power),
            settings,
            passed_over: BTreeMap::new(),
            jobs: Vec::new(),
            workers: JoinSet::new(),
            begun: 0,
        }
    }

    async fn run(mut self) {
        let mut arrived = self.vault.arrivals();
        loop {
            arrived.mark_unchanged();
            let next = match self.begin_next() {
                Ok(next) => next,
                Err(error) => {
                    log(&error, "cannot tell what to pack");
                    tokio::time::sleep(RETRY_DELAY).await;
                    Next::Again
                }
            };
            let (pause, listens) = match next {
                Next::Again => continue,
                Next::After(pause) => (pause, true),
                Next::OnArrival => (Duration::MAX, true),
                Next::OnPacked => (Duration::MAX, false),
            };
            let pause = pause.min(self.begin_again());
            let gathered = async {
                let arrived = arrived.changed().await;
                // A scanner sends hundreds a second; looking at each would be work for nothing.
                tokio::time::sleep(LOOK_INTERVAL).await;
                arrived
            };
            tokio::select! {
                Some(packed) = self.workers.join_next() => {
                    let (number, tried) = packed.expect("packing does not panic");
                    self.note_packed(number, tried).await;
                }
                () = self.repacker.settle() => {}
                arrived = gathered, if listens => if arrived.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Begins to pack the next batch that is due, if there is room for one more.
    fn begin_next(&mut self) -> Result<Next, VaultError> {
        let packing = self.jobs.iter().filter(|job| job.tried.is_none()).count();
        if packing >= self.settings.threads {
            return Ok(Next::OnPacked);
        }
        let rule = BatchRule {
            instances: self.settings.batch_instances,
            bytes: BATCH_BYTES_MAX,
            delay_ms: self.settings.batch_delay_ms,
            quiet_period_ms: self.settings.quiet_period_ms,
        };
        let now = Instant::now();
        self.passed_over.retain(|_, until| *until > now);
        let batch = match self.vault.next_batch(rule, Now::read(), &self.skipped())? {
            Due::Batch(batch) => batch,
            Due::After(wait_ms) => return Ok(self.wait(now, Some(Duration::from_millis(wait_ms)))),
            Due::Nothing => return Ok(self.wait(now, None)),
        };
        let file_bytes = batch.items.iter().map(|item| item.file_bytes).sum();
        let underway_bytes: u64 = self.jobs.iter().map(|job| job.file_bytes).sum();
        if packing > 0 && underway_bytes + file_bytes > UNDERWAY_BYTES_MAX {
            return Ok(Next::OnPacked);
        }
        let tier = match self.settings.tier {
            Some(tier) => tier,
            None => {
                let backlog = self.vault.backlog(batch.priority)?;
                self.pace.tier((self.settings.link)().bytes_s, backlog)
            }
        };
        self.begun += 1;
        let number = self.begun;
        self.jobs.push(Job {
            number,
            study: batch.study.clone(),
            last: batch.items.last().map(|item| item.instance_id),
            file_bytes,
            tried: None,
        });
        let vault = self.vault.clone();
        let packed = in_background(NICE, move || work::pack(&vault, batch, tier));
        self.workers.spawn(async move { (number, packed.await) });
        Ok(Next::Again)
    }

    /// Packs anew what waits for the link, when nothing else is to be packed; says when it is to be
    /// asked again.
    fn begin_again(&mut self) -> Duration {
        if !self.jobs.is_empty() {
            return Duration::MAX;
        }
        match self.repacker.begin(&self.settings, &mut self.pace) {
            Ok(again) => again,
            Err(error) => {
                log(&error, "cannot tell what waits");
                RETRY_DELAY
            }
        }
    }

    /// Waits for the earlier of what is due and what was passed over.
    fn wait(&self, now: Instant, due: Option<Duration>) -> Next {
        let again = self.passed_over.values().min().map(|until| *until - now);
        let earlier = due.into_iter().chain(again).min();
        earlier.map_or(Next::OnArrival, Next::After)
    }

    /// What is being packed, and what is passed over.
    fn skipped(&self) -> Skipped {
        let mut skipped = Skipped {
            studies: self.passed_over.keys().cloned().collect(),
            underway: BTreeMap::new(),
        };
        for job in &self.jobs {
            // What failed, or says the end, is settled before more of its study is begun.
            match (&job.tried, job.last) {
                (Some(Err(_)), _) | (_, None) => {
                    skipped.studies.insert(job.study.clone());
                }
                (Some(Ok(_)) | None, Some(last)) => {
                    skipped.underway.insert(job.study.clone(), last);
                }
            }
        }
        skipped
    }

    /// Notes what came of a batch, and makes revisions of those that wait for no other.
    async fn note_packed(&mut self, number: u64, tried: Tried) {
        if let Some(job) = self.jobs.iter_mut().find(|job| job.number == number) {
            job.tried = Some(tried);
        }
        while let Some(job) = self.next_packed() {
            if let Err(error) = self.settle(job).await {
                self.cope_with(error).await;
            }
        }
    }

    /// The first batch that is packed, and before which none of its study is under way.
    fn next_packed(&mut self) -> Option<Job> {
        let mut before = BTreeSet::new();
        let first = self
            .jobs
            .iter()
            .position(|job| before.insert(&job.study) && job.tried.is_some())?;
        Some(self.jobs.remove(first))
    }

    /// Makes a revision of what was packed.
    async fn settle(&mut self, job: Job) -> Result<(), PackError> {
        let Some(tried) = job.tried else {
            return Ok(());
        };
        let (packed, work) = tried?;
        let tier = work.map(|work| work.tier.as_str());
        if let Some(work) = work {
            self.pace.learn(work);
        }
        let instances = packed.batch().items.len();
        let bytes_packed = packed.bytes();
        let Revision {
            study,
            revision,
            closed,
            ..
        } = match self.vault.adopt(packed).await {
            // Nobody can seal its key to the hub now: what else there is goes on.
            Err(VaultError::Key(source)) => {
                let source = Box::new(Unpackable::Key(source));
                let study = job.study;
                return Err(PackError::Batch { study, source });
            }
            adopted => adopted?.into_inner(),
        };
        tracing::info!(%study, revision, instances, tier, bytes_packed, closed, "made a revision");
        Ok(())
    }

    /// Sees to it that what failed holds up nothing else.
    async fn cope_with(&mut self, error: PackError) {
        log(&error, "cannot pack");
        match error {
            PackError::Instance { item, .. } => {
                match self.vault.set_aside(item.instance_id).await {
                    Ok(()) => return,
                    Err(error) => log(&error, "cannot set an instance aside"),
                }
            }
            PackError::Batch { study, .. } => {
                self.passed_over.insert(study, Instant::now() + PASSED_OVER);
                return;
            }
            PackError::Vault(_) => {}
        }
        // Arrivals don't cut this short: the work would be done again for nothing.
        tokio::time::sleep(RETRY_DELAY).await;
    }
}

fn log(error: &(dyn std::error::Error + 'static), what: &str) {
    tracing::error!(error, "{what}");
}

#[cfg(test)]
mod tests;
