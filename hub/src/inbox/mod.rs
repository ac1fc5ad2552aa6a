//! Inbox: takes studies in from units, proves them, answers with custody.
//!
//! In: manifests, chunks and records of one unit, from its contact. Out: instances to `archive`;
//! receipts and refusals into the unit's stream, and word of them to `outbox`.
//! Invariant: nothing is said to be held before it is synced; what is held is sealed as it came; a
//! receipt is given only for a root that was computed here over decoded instances.
//! May not: admit units, open sockets, look at pixels.

mod apart;
mod asking;
mod contact;
mod decode;
mod giving;
mod offers;
mod scrub;
mod settle;
mod spool;
#[cfg(test)]
mod tests;
mod wishes;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use codec::Limits;
use identity::NodeId;
use journal::{Fact, JournalId, Signed, SignedManifest};
use sealing::StoreKey;
use store::rusqlite::{self, Connection};
use store::{Readers, StoreError, WriteError, Writer};
use study::Digest;
use sync_quic::{Arrival, Kept};
use thiserror::Error;

use crate::archive::group::GroupKey;
use crate::archive::index;
use crate::config;
use crate::db::ManifestId;
use crate::ledger::{self, Ledger, LedgerError};
use crate::outbox::Outbox;
use crate::report;
pub(crate) use contact::{HubShelf, serve, session_config};
use decode::Decoding;
pub(crate) use offers::Standing;
pub(crate) use settle::Verdict;
use spool::{Spool, SpoolError};
pub(crate) use wishes::{First, Whose};

/// Why something was not taken in.
#[derive(Debug, Error)]
pub(crate) enum InboxError {
    /// The index cannot be read.
    #[error("the inbox cannot be read")]
    Index(#[from] rusqlite::Error),
    /// A manifest or a record cannot be kept.
    #[error("the inbox cannot be written")]
    Write(#[from] WriteError<LedgerError>),
    /// Bytes of chunks cannot be kept.
    #[error("the spool cannot be written")]
    Spool(#[from] WriteError<SpoolError>),
    /// Less space is free than is kept in reserve.
    #[error("the hub's disk is full")]
    NoRoom,
    /// The free space cannot be found out.
    #[error("the hub's disk cannot be used")]
    Disk(#[from] StoreError),
    /// A manifest that was accepted once does not read any more.
    #[error("a manifest at rest is damaged")]
    Manifest(#[from] journal::ManifestFault),
}

impl InboxError {
    /// Whether the disk is full: later it may be otherwise.
    fn is_full(&self) -> bool {
        let full = |error: &SpoolError| matches!(error, SpoolError::Store(StoreError::Full { .. }));
        match self {
            Self::NoRoom => true,
            Self::Spool(WriteError::Job(error)) => full(error),
            Self::Spool(WriteError::Poisoned)
            | Self::Index(_)
            | Self::Write(_)
            | Self::Disk(_)
            | Self::Manifest(_) => false,
        }
    }
}

/// The room.
pub(crate) struct Inbox {
    writer: Writer,
    readers: Arc<Readers>,
    ledger: Arc<Ledger>,
    outbox: Arc<Outbox>,
    store_key: Arc<StoreKey>,
    spool: Spool,
    group_bytes_max: u64,
    reserve: u64,
    pending: Pending,
}

impl Inbox {
    pub(crate) fn new(
        config: &config::Inbox,
        writer: Writer,
        readers: Arc<Readers>,
        ledger: Arc<Ledger>,
        outbox: Arc<Outbox>,
        store_key: Arc<StoreKey>,
    ) -> Self {
        let bytes_max = usize::try_from(config.progress_bytes.get()).unwrap_or(usize::MAX);
        let delay = config.progress_delay.duration();
        let spool = Spool::new(writer.clone(), Arc::clone(&readers), delay, bytes_max);
        let group_bytes_max = config.group_bytes_max.get();
        let pending = Pending::default();
        Self {
            writer,
            readers,
            ledger,
            outbox,
            store_key,
            spool,
            group_bytes_max,
            reserve: config.reserve.get(),
            pending,
        }
    }

    /// What is known of a unit's manifest, with the manifest itself.
    pub(crate) fn find(
        &self,
        unit: NodeId,
        digest: &Digest,
    ) -> Result<Option<(SignedManifest, Standing)>, InboxError> {
        let found = self.readers.with(|sql| -> rusqlite::Result<_> {
            Ok(offers::find(sql, unit, digest)?.zip(offers::signed(sql, digest)?))
        })?;
        let opened = found.map(|(standing, signed)| {
            SignedManifest::open(&signed).map(|manifest| (manifest, standing))
        });
        let opened = opened.transpose()?;
        if let Some((_, Standing::Complete)) = opened {
            self.look_again(digest)?;
        }
        Ok(opened)
    }

    /// Has a manifest decoded that is whole and has no answer: the first attempt may have met a
    /// fault of this machine.
    fn look_again(&self, digest: &Digest) -> Result<(), InboxError> {
        let groups = self.readers.with(|sql| undone(sql, Some(digest)))?;
        self.pending.add(groups);
        Ok(())
    }

    /// Takes a manifest of a unit; the same one again changes nothing.
    pub(crate) async fn take_manifest(
        &self,
        unit: NodeId,
        signed: SignedManifest,
    ) -> Result<Standing, InboxError> {
        self.check_room(self.reserve)?;
        let fault = offers::fault(signed.manifest(), self.group_bytes_max, &self.store_key);
        let ledger = Arc::clone(&self.ledger);
        let study = signed.manifest().study.clone();
        let (revision, digest) = (signed.manifest().revision, signed.digest());
        let job = move |work: &mut store::Work<'_>| {
            offers::take_in(work.sql(), &ledger, unit, &signed, fault)
        };
        let (standing, verdicts) = self.writer.run(job).await?.into_inner();
        match &standing {
            Standing::Refused(reason) => {
                tracing::warn!(%study, revision, reason, "manifest refused");
            }
            Standing::Held(_) => tracing::info!(%study, revision, "study offered"),
            Standing::Complete => self.look_again(&digest)?,
        }
        self.tell(&verdicts);
        Ok(standing)
    }

    /// Keeps bytes of chunks; one answer for each arrival, after the sync.
    pub(crate) async fn take_data(&self, arrivals: Vec<Arrival>) -> Result<Vec<Kept>, InboxError> {
        self.check_room(self.reserve)?;
        let (kept, groups) = self.spool.keep(arrivals).await?;
        let whole = !groups.is_empty();
        self.pending.add(groups);
        if whole {
            self.say_mended().await?;
        }
        Ok(kept)
    }

    /// Early, so that the index always finds room: a commit that fails would end the program.
    fn check_room(&self, reserve: u64) -> Result<(), InboxError> {
        if self.writer.segments().free_bytes()? < reserve {
            return Err(InboxError::NoRoom);
        }
        Ok(())
    }

    /// Takes records of a unit's own journal; gives the number of the last one held.
    pub(crate) async fn take_records(
        &self,
        unit: NodeId,
        records: Vec<Signed>,
    ) -> Result<u64, InboxError> {
        // They are small and some speak of what is held already, so they may come for longer.
        self.check_room(self.reserve / 2)?;
        let job = move |work: &mut store::Work<'_>| -> Result<(u64, bool), LedgerError> {
            let (new, seq) = ledger::take_in(work.sql(), &JournalId::own(unit), &records)?;
            let mut asked = false;
            for record in new {
                // A body that does not read is kept as it is; it moves nothing here.
                if let Ok(fact) = record.fact() {
                    fold(work.sql(), unit, &fact)?;
                    asked |= matches!(fact, Fact::ChunksWanted(_));
                }
            }
            Ok((seq, asked))
        };
        let (seq, asked) = self.writer.run(job).await?.into_inner();
        if asked {
            self.outbox.asked(unit);
        }
        Ok(seq)
    }

    /// Starts the thread that decodes; what an earlier run left undone comes first.
    pub(crate) fn start(self: &Arc<Self>) -> Result<JoinHandle<()>, InboxError> {
        self.pending
            .add(self.readers.with(|sql| undone(sql, None))?);
        let inbox = Arc::clone(self);
        let held_bytes = usize::try_from(self.group_bytes_max).unwrap_or(usize::MAX);
        let limits = Limits {
            held_bytes,
            ..Limits::default()
        };
        let mut decoding = Decoding::new(
            self.writer.clone(),
            Arc::clone(&self.readers),
            Arc::clone(&self.ledger),
            Arc::clone(&self.store_key),
            limits,
        );
        let run = move || {
            if let Err(error) = inbox.spool.tidy() {
                tracing::error!(error = crate::chain(&error), "the spool cannot be tidied");
            }
            while let Some(group) = inbox.pending.next() {
                inbox.advance(&mut decoding, group);
            }
        };
        let thread = std::thread::Builder::new()
            .name("decode".to_owned())
            .spawn(run);
        Ok(thread.expect("a thread can be started when the program starts"))
    }

    /// Lets the decoding thread end after the group at hand.
    pub(crate) fn stop(&self) {
        self.pending.stop();
    }

    /// Waits until all that is whole now has been decoded and judged, or the room stops. Not from
    /// async code.
    pub(crate) fn wait_until_judged(&self) {
        self.pending.wait_until_done();
    }

    /// How much a unit has said it holds of the hub's stream for it.
    pub(crate) fn acknowledged(&self, unit: &NodeId) -> Option<u64> {
        self.outbox.acknowledged(unit)
    }

    fn advance(&self, decoding: &mut Decoding, group: GroupKey) {
        match decoding.advance(group) {
            Ok(progress) => {
                if progress.conflicts > 0 {
                    let count = progress.conflicts;
                    tracing::warn!(
                        count,
                        "instances with a known UID and other bytes; both kept"
                    );
                }
                tracing::debug!(count = progress.instances, "instances readable");
                self.tell(&progress.verdicts);
            }
            Err(error) => {
                // A poisoned store ends the program; damage here must be looked at by a person.
                let error = crate::chain(&error);
                tracing::error!(error, "a group at rest cannot be decoded");
            }
        }
    }

    /// Logs what was said and wakes the units' contacts.
    fn tell(&self, verdicts: &[Verdict]) {
        for verdict in verdicts {
            let Verdict {
                unit,
                study,
                revision,
                refused,
            } = verdict;
            match refused {
                None => tracing::info!(%study, revision, node = %unit.short(), "custody passed"),
                Some(reason) => {
                    tracing::warn!(%study, revision, node = %unit.short(), reason, "receipt refused");
                }
            }
            if let Err(error) = self.outbox.grown(*unit) {
                tracing::error!(%error, "the index cannot be read");
            }
        }
    }
}

/// Lets a fact of a unit take effect here.
fn fold(sql: &Connection, unit: NodeId, fact: &Fact) -> rusqlite::Result<()> {
    match fact {
        Fact::PrioritySet(set) => index::set_priority(sql, &unit, &set.study, set.priority),
        Fact::ReportReceived(received) => report::delivered(sql, &unit, &received.report),
        Fact::ChunksWanted(wanted) => giving::note(sql, unit, wanted),
        Fact::Opened(_)
        | Fact::Offered(_)
        | Fact::Consent(_)
        | Fact::Released(_)
        | Fact::Enrolled(_)
        | Fact::Receipt(_)
        | Fact::ReceiptRefused(_)
        | Fact::Report(_)
        | Fact::FleetApplied(_)
        | Fact::TokenIssued(_)
        | Fact::LegalHold(_)
        | Fact::Erased(_)
        | Fact::Damaged(_)
        | Fact::Diverged(_)
        | Fact::InstancesFirst(_)
        | Fact::PriorsWanted(_)
        | Fact::CommitmentAnswered(_)
        | Fact::Unknown { .. } => Ok(()),
    }
}

/// Groups, of one manifest or of all, that have chunks here and are not decoded.
fn undone(sql: &Connection, of: Option<&Digest>) -> rusqlite::Result<Vec<GroupKey>> {
    let which = match of {
        Some(_) => "m.digest = ?1",
        None => "?1 IS NULL",
    };
    sql.prepare(&format!(
        "SELECT g.manifest, g.number FROM chunk_group g JOIN manifest m ON m.id = g.manifest
         WHERE {which} AND m.state = 0 AND g.decoded = 0 AND EXISTS
             (SELECT 1 FROM chunk c WHERE c.manifest = g.manifest AND c.segment IS NOT NULL
              AND c.number >= g.first AND c.number < g.first + g.chunks)
         ORDER BY g.manifest, g.number",
    ))?
    .query_map([of.map(Digest::as_bytes)], |row| {
        Ok((row.get::<_, ManifestId>(0)?, row.get(1)?))
    })?
    .collect()
}

/// The groups to look at, in the order of their coming, so that no unit keeps another waiting;
/// each at most once, so there are never more than are open.
#[derive(Default)]
struct Pending {
    queue: Mutex<Queue>,
    bell: Condvar,
    done: Condvar,
}

#[derive(Default)]
struct Queue {
    turns: VecDeque<GroupKey>,
    waiting: BTreeSet<GroupKey>,
    /// How many were given out, and how many of these are done with.
    given: u64,
    finished: u64,
    stopped: bool,
}

impl Pending {
    fn add(&self, groups: Vec<GroupKey>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        for group in groups {
            if queue.waiting.insert(group) {
                queue.turns.push_back(group);
            }
        }
        self.bell.notify_one();
    }

    fn stop(&self) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stopped = true;
        self.bell.notify_one();
        self.done.notify_all();
    }

    /// Waits for those that are in the queue or being looked at; who comes later is not waited for.
    fn wait_until_done(&self) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let target = queue.given + queue.turns.len() as u64;
        let until = |queue: &mut Queue| queue.finished < target && !queue.stopped;
        drop(self.done.wait_while(queue, until));
    }

    /// The next one; whoever asks is done with the one before.
    fn next(&self) -> Option<GroupKey> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.finished = queue.given;
        self.done.notify_all();
        let mut queue = self
            .bell
            .wait_while(queue, |queue| queue.turns.is_empty() && !queue.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        if queue.stopped {
            return None;
        }
        let group = queue.turns.pop_front()?;
        queue.given += 1;
        queue.waiting.remove(&group);
        Some(group)
    }
}
