//! Import: a bundle is read once to see that it is whole and its sender's, and once to be taken.
//!
//! What it says is heard by the machine that hears a contact, and kept by the same shelf. What that
//! machine would answer has nobody to hear it.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::sync::Arc;

use identity::{NodeId, NodeKey};
use journal::{JournalId, Signed, SignedManifest};
use study::Digest;
use sync_proto::{
    Class, Config, Event, Frame, JournalHeld, Loaded, Millis, Output, PeerFault, RefusalCode,
    Session, Stored,
};
use sync_quic::{Arrival, Kept, Shelf, ShelfError, Taken as Answer};
use thiserror::Error;
use tokio::runtime::Handle;

use crate::format::{Head, Reader, Refusal};
use crate::progress::Progress;
use crate::seal::{self, Opened};
use crate::stick::{Bundle, Parts};

/// A session has no clock here: nothing is waited for.
const NOW: Millis = Millis(0);
const READ_BYTES: usize = 256 << 10;

type Content = Reader<Opened<BufReader<Parts>>>;

/// A bundle that was found whole, for us, and signed by whom it says.
#[derive(Debug)]
pub struct Letter {
    /// Who wrote it, and when.
    pub head: Head,
    /// Its first bytes, by which it is known again.
    pub fingerprint: Digest,
    /// The fleet document that its sender held.
    pub fleet_version: u64,
    /// What its sender held of the journals.
    pub journals: Vec<JournalHeld>,
    /// All that its sender signed.
    digest: Digest,
}

impl Letter {
    /// How much its sender held of a journal.
    pub fn holds(&self, journal: &JournalId) -> u64 {
        let said = self.journals.iter().find(|said| said.journal == *journal);
        said.map_or(0, |said| said.seq)
    }
}

impl Bundle {
    /// The bundle's first bytes, by which it is known again; cheap, and nothing is checked.
    pub fn fingerprint(&self) -> Result<Digest, Refusal> {
        let parts = self.open(Arc::default())?;
        seal::fingerprint(&mut BufReader::new(parts))
    }

    fn content(&self, key: &NodeKey, progress: &Arc<Progress>) -> Result<Content, Refusal> {
        let parts = self.open(Arc::clone(progress))?;
        let opened = seal::open(key, BufReader::with_capacity(READ_BYTES, parts))?;
        Reader::begin(opened, &key.id())
    }
}

/// Reads all of a bundle that was sealed to `key` and says whose it is; nothing of it is kept.
pub fn examine(
    key: &NodeKey,
    bundle: &Bundle,
    progress: &Arc<Progress>,
) -> Result<Letter, Refusal> {
    let fingerprint = bundle.fingerprint()?;
    let mut content = bundle.content(key, progress)?;
    let head = content.head().clone();
    let Frame::Hello {
        fleet_version,
        journals,
        ..
    } = content.frame()?
    else {
        return Err(out_of_place());
    };
    loop {
        let frame = content.frame()?;
        if matches!(frame, Frame::Bye { .. }) {
            break;
        }
        if !may_stand(&frame) {
            return Err(out_of_place());
        }
    }
    Ok(Letter {
        head,
        fingerprint,
        fleet_version,
        journals,
        digest: content.finish()?,
    })
}

/// What a side says that hears no answers.
const fn may_stand(frame: &Frame) -> bool {
    matches!(
        frame,
        Frame::Fleet { .. }
            | Frame::Records { .. }
            | Frame::Offer { .. }
            | Frame::Data { .. }
            | Frame::Withdraw { .. }
    )
}

fn out_of_place() -> Refusal {
    Refusal::Altered("a frame is out of place".to_owned())
}

/// Why a bundle was not taken to its end. What was taken before stays, and does no harm.
#[derive(Debug, Error)]
pub enum TakeError {
    /// It reads otherwise than a moment ago.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its sender broke the protocol.
    #[error("its sender broke the protocol")]
    Broken(#[from] PeerFault),
    /// This node's own disk.
    #[error("this node cannot keep what it brings")]
    Shelf(#[from] ShelfError),
}

/// What came of a bundle.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Revisions that are whole here since.
    pub revisions: u64,
    /// Revisions that were whole here before.
    pub known: u64,
    /// Revisions that were not taken, and will not be: the reasons.
    pub refused: Vec<String>,
    /// Revisions that could not be taken just now: the reasons. It is worth trying again.
    pub put_off: Vec<String>,
    /// Records that were new here.
    pub records: u64,
    /// Records were skipped since others before them have not come.
    pub records_ahead: bool,
    /// A journal here and there contradict each other.
    pub diverged: bool,
    /// Bytes of chunks that it brought, new or not.
    pub bytes: u64,
}

impl Taken {
    /// Whether all of it is here now, or refused for good: the bundle is of no more use.
    pub fn is_done(&self) -> bool {
        self.put_off.is_empty() && !self.records_ahead && !self.diverged
    }
}

/// Takes what a bundle brings, by the machine and into the shelf of a contact with its sender.
///
/// `config` is that of a session with the sender. Blocks; not from async code.
pub fn take<S: Shelf>(
    (shelf, runtime): (&S, &Handle),
    key: &NodeKey,
    config: Config,
    (bundle, letter): (&Bundle, &Letter),
    progress: &Arc<Progress>,
) -> Result<Taken, TakeError> {
    let mut content = bundle.content(key, progress)?;
    let heads = config.journals.iter();
    let mut hearing = Hearing {
        shelf,
        runtime,
        peer: config.peer,
        heads: heads.map(|(journal, head)| (*journal, head.seq)).collect(),
        session: Session::new(config),
        waiting: Vec::new(),
        taken: Taken::default(),
    };
    loop {
        let frame = content.frame()?;
        let ends = matches!(frame, Frame::Bye { .. });
        if ends {
            // The session does not wait for its disk once it has heard the goodbye.
            hearing.store_data()?;
            hearing.work()?;
        }
        hearing.hear(frame)?;
        if ends {
            break;
        }
    }
    // What is not the same on the second reading is the medium's doing; what was kept of it had
    // signatures and digests of its own.
    if content.finish()? != letter.digest {
        return Err(Refusal::Altered("it reads otherwise the second time".to_owned()).into());
    }
    progress.add_bundle();
    Ok(Taken {
        bytes: hearing.session.counters().received_bytes,
        ..hearing.taken
    })
}

/// A session that hears one side only.
struct Hearing<'a, S> {
    shelf: &'a S,
    runtime: &'a Handle,
    peer: NodeId,
    session: Session,
    /// What is durable here of each journal.
    heads: BTreeMap<JournalId, u64>,
    /// Data to be stored in one go.
    waiting: Vec<(u32, Arrival)>,
    taken: Taken,
}

impl<S: Shelf> Hearing<'_, S> {
    fn hear(&mut self, frame: Frame) -> Result<(), TakeError> {
        if let Frame::Records {
            journal, from_seq, ..
        } = &frame
            && self
                .heads
                .get(journal)
                .is_some_and(|held| *from_seq > held + 1)
        {
            self.taken.records_ahead = true;
            return Ok(());
        }
        let frame = self.as_it_was(frame)?;
        self.session.handle_frame(NOW, frame)?;
        self.work()?;
        if !self.session.wants_data() {
            self.store_data()?;
            self.work()?;
        }
        Ok(())
    }

    /// A bundle says what was so when it was written. That its sender held less of its own journal
    /// then than is held here is no sign of anything, unless it was another journal.
    fn as_it_was(&self, mut frame: Frame) -> Result<Frame, TakeError> {
        if let Frame::Hello { journals, .. } = &mut frame {
            let mut said = Vec::with_capacity(journals.len());
            for journal in journals.drain(..) {
                if !self.is_its_past(&journal)? {
                    said.push(journal);
                }
            }
            *journals = said;
        }
        Ok(frame)
    }

    fn is_its_past(&self, said: &JournalHeld) -> Result<bool, TakeError> {
        let held = self.heads.get(&said.journal);
        if said.journal.author != self.peer || held.is_none_or(|held| said.seq >= *held) {
            return Ok(false);
        }
        let loading = self.shelf.load_records(said.journal, said.seq.max(1), 1);
        let ours = self.runtime.block_on(loading)?;
        Ok(said.seq == 0 || ours.first().map(|record| Digest::of(record)) == said.digest)
    }

    /// Does what the session asks for.
    fn work(&mut self) -> Result<(), TakeError> {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send { lane, frame } => {
                    self.note_answer(frame);
                    self.session.handle_sent(NOW, lane);
                }
                Output::StoreManifest {
                    item,
                    manifest,
                    class,
                } => self.store_manifest(item, *manifest, class)?,
                Output::StoreData {
                    item,
                    manifest,
                    chunk,
                    digest,
                    offset,
                    bytes,
                    last,
                } => self.waiting.push((
                    item,
                    Arrival {
                        manifest,
                        chunk,
                        digest,
                        offset,
                        bytes,
                        last,
                    },
                )),
                Output::StoreRecords { journal, records } => {
                    self.store_records(journal, records)?
                }
                Output::StoreFleet { document, .. } => {
                    let stored = match self.runtime.block_on(self.shelf.store_fleet(document))? {
                        Some(version) => Stored::Fleet { version },
                        None => Stored::FleetRefused,
                    };
                    self.session.handle_stored(NOW, stored)?;
                }
                Output::LoadRecords {
                    journal,
                    from_seq,
                    bytes_max,
                } => {
                    let loading = self.shelf.load_records(journal, from_seq, bytes_max);
                    let loaded = Loaded::Records {
                        journal,
                        from_seq,
                        records: self.runtime.block_on(loading)?,
                    };
                    self.session.handle_loaded(NOW, loaded);
                }
                Output::Event(event) => self.note(event),
                // Nothing is offered, looked for or given from here.
                Output::LoadFleet
                | Output::FindManifest { .. }
                | Output::SendData { .. }
                | Output::OpenLane { .. }
                | Output::SetClass { .. }
                | Output::CloseLane { .. } => {}
            }
        }
        Ok(())
    }

    fn store_manifest(
        &mut self,
        item: u32,
        manifest: SignedManifest,
        class: Class,
    ) -> Result<(), TakeError> {
        self.store_data()?;
        let storing = self.shelf.store_manifest(manifest, class);
        let stored = match self.runtime.block_on(storing)? {
            Answer::Held(holding) => Stored::Manifest { item, holding },
            Answer::Complete => Stored::Complete { item },
            Answer::Refused(code, text) => Stored::Refused { item, code, text },
        };
        Ok(self.session.handle_stored(NOW, stored)?)
    }

    fn store_records(&mut self, journal: JournalId, records: Vec<Signed>) -> Result<(), TakeError> {
        let seq = records.last().map_or(0, |last| last.head.seq);
        self.taken.records += records.len() as u64;
        self.runtime
            .block_on(self.shelf.store_records(journal, records))?;
        self.heads.insert(journal, seq);
        let stored = Stored::Records { journal, seq };
        Ok(self.session.handle_stored(NOW, stored)?)
    }

    /// Stores what data has come, in one sync.
    fn store_data(&mut self) -> Result<(), TakeError> {
        let (items, arrivals): (Vec<_>, Vec<_>) = self.waiting.drain(..).unzip();
        if arrivals.is_empty() {
            return Ok(());
        }
        let ends = arrivals
            .iter()
            .map(|arrival| (arrival.chunk, arrival.upto()));
        let ends: Vec<_> = items.into_iter().zip(ends).collect();
        let kept = self.runtime.block_on(self.shelf.store_data(arrivals))?;
        for ((item, (chunk, upto)), kept) in ends.into_iter().zip(kept) {
            let stored = match kept {
                Kept::Durable => Stored::Data { item, chunk, upto },
                Kept::Damaged => Stored::Damaged { item, chunk },
                Kept::Refused(code, text) => Stored::Refused { item, code, text },
            };
            self.session.handle_stored(NOW, stored)?;
        }
        Ok(())
    }

    /// Counts by what a peer would have been answered.
    fn note_answer(&mut self, answer: Frame) {
        if let Frame::Complete { .. } = answer {
            self.taken.known += 1;
        } else if let Frame::Refused { code, text, .. } = answer {
            match code {
                RefusalCode::NoRoom | RefusalCode::Trouble => self.taken.put_off.push(text),
                RefusalCode::NotWanted | RefusalCode::NotSupported => self.taken.refused.push(text),
            }
        }
    }

    fn note(&mut self, event: Event) {
        match &event {
            Event::Received { .. } => self.taken.revisions += 1,
            Event::Diverged { .. } => self.taken.diverged = true,
            // Nobody is on the line.
            Event::Greeted { .. } | Event::Bye { .. } => return,
            Event::Progress { .. }
            | Event::Delivered { .. }
            | Event::TakenBack { .. }
            | Event::Refused { .. }
            | Event::ChunkDamaged { .. }
            | Event::ClassChanged { .. }
            | Event::Withdrawn { .. }
            | Event::RecordsHeld { .. }
            | Event::FleetHeld { .. }
            | Event::FleetNotTaken { .. } => {}
        }
        self.shelf.event(event);
    }
}
