//! One end of the pair: a session, the model of its edge, and the watch over what it says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use journal::{
    Chain, ClockQuality, Fact, JournalId, Moment, NodeId, NodeKey, Opened, SignedManifest,
};
use study::{ChunkRef, Digest, Group, GroupForm, Manifest, Priority, StudyRoot, StudyUid};

use super::dice::Dice;
use super::disk::{Answer, DataJob, Disk, Job};
use super::road::Road;
use super::{Lie, Violation};
use crate::class::{Class, Rank};
use crate::frame::{Frame, RefusalCode};
use crate::io::{Begun, Command, Config, Event, Lane, Millis, Offer, Output, Stored};
use crate::session::Session;

/// How many manifests in a row are revisions of one study, and so share a turn.
const STUDY_REVISIONS: u32 = 4;
/// How many damaged reads a session may meet before it is a fault.
const DAMAGE_PER_SESSION: u32 = 6;

/// One outgoing manifest with its bytes.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) manifest: SignedManifest,
    pub(super) chunks: Vec<Vec<u8>>,
    pub(super) rank: Rank,
    /// What the running program knows; lost by a reboot.
    begun: Begun,
    in_session: bool,
    pub(super) delivered: bool,
}

/// One end.
pub(super) struct Node {
    pub(super) id: NodeId,
    key: NodeKey,
    pub(super) peer: NodeId,
    pub(super) disk: Disk,
    jobs: VecDeque<(Millis, Job)>,
    /// Manifests of the peer for which a receipt was given; as durable as the journal.
    pub(super) receipted: BTreeSet<Digest>,
    /// The most that may be offered now, as a budget or a window allows; none: nothing.
    allowed: Option<Class>,
    pub(super) session: Option<Session>,
    pub(super) outgoing: BTreeMap<Digest, Outgoing>,
    /// The order in which they were offered first.
    order: Vec<Digest>,
    /// The peer's items of this session.
    pub(super) items: BTreeMap<u32, Digest>,
    pub(super) road: Road,
    damage: u32,
    made: u32,
    /// Classes of the data frames in the order they were ordered.
    pub(super) sent_classes: Vec<Class>,
    pub(super) delivered_events: Vec<Digest>,
    /// What the peer was heard to hold of which manifest, in bytes.
    pub(super) progress: Vec<(Digest, u64)>,
    /// Data bytes that arrived, since the beginning.
    pub(super) data_bytes: u64,
    /// Everything that was heard and when, in one number.
    pub(super) trace: u64,
    /// Frames heard, by name, since the beginning.
    pub(super) heard: BTreeMap<&'static str, u64>,
    pub(super) mishaps: bool,
    pub(super) lie: Option<Lie>,
}

impl Node {
    pub(super) fn new(key: NodeKey, peer: NodeId, road: Road) -> Self {
        Self {
            id: key.id(),
            key,
            peer,
            disk: Disk::default(),
            jobs: VecDeque::new(),
            receipted: BTreeSet::new(),
            allowed: Some(Class::Software),
            session: None,
            outgoing: BTreeMap::new(),
            order: Vec::new(),
            items: BTreeMap::new(),
            road,
            damage: 0,
            made: 0,
            sent_classes: Vec::new(),
            delivered_events: Vec::new(),
            progress: Vec::new(),
            data_bytes: 0,
            trace: 0,
            heard: BTreeMap::new(),
            mishaps: false,
            lie: None,
        }
    }

    pub(super) fn journals(&self) -> [JournalId; 2] {
        [JournalId::own(self.id), JournalId::own(self.peer)]
    }

    /// A new connection: what was on its way to the disk gets there first.
    pub(super) fn connect(&mut self, now: Millis, road: Road) {
        while let Some((_, job)) = self.jobs.pop_front() {
            self.disk.perform(job, false);
        }
        self.road = road;
        self.items.clear();
        self.damage = 0;
        self.session = Some(Session::new(Config {
            me: self.id,
            peer: self.peer,
            software: "model 1".to_owned(),
            wall_ms: now.0,
            clock: ClockQuality::Unknown,
            fleet_version: self.disk.fleet_version(),
            journals: self.journals().map(|id| (id, self.disk.head(&id))).to_vec(),
            data_bytes: 1024,
        }));
        for outgoing in self.outgoing.values_mut() {
            outgoing.in_session = false;
        }
        self.order.retain(|digest| !self.outgoing[digest].delivered);
        self.offer_all(now);
        self.give_receipts(now);
    }

    /// Lets a budget or a window withhold what is less urgent, or let it go again.
    pub(super) fn allow(&mut self, now: Millis, allowed: Option<Class>) {
        self.allowed = allowed;
        let beyond = self
            .outgoing
            .iter()
            .filter(|(_, outgoing)| outgoing.in_session && Some(outgoing.rank.class) > allowed);
        let beyond: Vec<Digest> = beyond.map(|(digest, _)| *digest).collect();
        for manifest in beyond {
            self.command(now, Command::Withdraw { manifest });
        }
        self.offer_all(now);
    }

    /// The connection is gone; the program lives on.
    pub(super) fn cut(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        for left in session.unfinished() {
            if let Some(outgoing) = self.outgoing.get_mut(&left.manifest) {
                outgoing.begun = left.begun;
            }
        }
    }

    /// The power is gone: some of what was on its way to the disk arrived, the rest did not.
    pub(super) fn reboot(&mut self, dice: &mut Dice) {
        self.session = None;
        let arrived = dice.index(self.jobs.len() + 1);
        for (_, job) in self.jobs.drain(..).take(arrived) {
            self.disk.perform(job, false);
        }
        let begun = match self.lie {
            Some(Lie::ForgottenBegun) => Begun::Never,
            _ => Begun::Perhaps,
        };
        for outgoing in self.outgoing.values_mut() {
            outgoing.begun = begun.clone();
        }
    }

    pub(super) fn make(&mut self, chunks: Vec<Vec<u8>>, class: Class) -> Digest {
        self.made += 1;
        let refs = chunks.iter().map(|bytes| ChunkRef {
            digest: Digest::of(bytes),
            bytes: u32::try_from(bytes.len()).expect("a chunk has at most 1 MiB"),
        });
        let group = Group {
            chunks: refs.collect(),
            instances: 1,
            bytes_original: 1,
            form: GroupForm::Codec,
        };
        let manifest = Manifest {
            version: Manifest::VERSION,
            study: StudyUid::parse("1.2.3").expect("it is a UID"),
            revision: self.made,
            root: StudyRoot::from_digest(Digest::of(&self.made.to_be_bytes())),
            instances: self.made,
            previous: None,
            closed: false,
            priority: Priority::default(),
            received_at_ms: 0,
            groups: vec![group],
            envelope: None,
        };
        let manifest = SignedManifest::sign(&self.key, manifest);
        let digest = manifest.digest();
        let begun = Begun::Never;
        let outgoing = Outgoing {
            manifest,
            chunks,
            rank: Rank::new(class, i64::from(self.made / STUDY_REVISIONS)),
            begun,
            in_session: false,
            delivered: false,
        };
        self.outgoing.insert(digest, outgoing);
        self.order.push(digest);
        digest
    }

    /// Offers whatever is not delivered and not in the session.
    pub(super) fn offer_all(&mut self, now: Millis) {
        let Some(session) = &mut self.session else {
            return;
        };
        for digest in &self.order {
            let Some(outgoing) = self.outgoing.get_mut(digest) else {
                continue;
            };
            let allowed = self.allowed >= Some(outgoing.rank.class);
            if outgoing.delivered || outgoing.in_session || !allowed {
                continue;
            }
            let offer = Offer {
                manifest: outgoing.manifest.clone(),
                rank: outgoing.rank.clone(),
                begun: outgoing.begun.clone(),
            };
            outgoing.in_session = session
                .handle_command(now, Command::Offer(Box::new(offer)))
                .is_ok();
        }
    }

    pub(super) fn command(&mut self, now: Millis, command: Command) {
        if let Some(session) = &mut self.session {
            // A command may come too late, for what was delivered meanwhile.
            let _ = session.handle_command(now, command);
        }
    }

    /// Says something new in this node's own journal.
    pub(super) fn say(&mut self, now: Millis) {
        self.say_fact(
            now,
            &Fact::Opened(Opened {
                software: "model 1".to_owned(),
            }),
        );
    }

    pub(super) fn say_fact(&mut self, now: Millis, fact: &Fact) {
        let journal = JournalId::own(self.id);
        let mut chain = Chain::resume(journal, self.disk.head(&journal));
        let moment = Moment {
            count_ms: now.0,
            wall_ms: 0,
            clock: ClockQuality::Unknown,
        };
        let record = chain
            .append(&self.key, moment, fact)
            .expect("a small record of our own");
        self.disk.append(journal, record);
        self.command(
            now,
            Command::Records {
                journal,
                head: chain.head(),
            },
        );
    }

    pub(super) fn publish(&mut self, now: Millis, version: u64) {
        self.disk.set_fleet(version);
        self.command(now, Command::Fleet { version });
    }

    /// When the disk or the session wants to act next.
    pub(super) fn due(&self) -> Option<Millis> {
        let job = self.jobs.front().map(|(due, _)| *due);
        job.into_iter()
            .chain(self.session.as_ref().and_then(Session::poll_timeout))
            .min()
    }

    pub(super) fn wants_data(&self) -> bool {
        self.session.as_ref().is_some_and(Session::wants_data)
    }

    /// Does what is due at the disk and in the session.
    pub(super) fn act(&mut self, now: Millis, dice: &mut Dice) -> Result<(), Violation> {
        while self.jobs.front().is_some_and(|(due, _)| *due <= now)
            && let Some((_, job)) = self.jobs.pop_front()
        {
            let answer = self.perform(job, dice);
            self.answer(now, answer)?;
            self.drain(now, dice)?;
            self.give_receipts(now);
        }
        if let Some(session) = &mut self.session
            && session.poll_timeout().is_some_and(|due| due <= now)
        {
            session.handle_timeout(now);
        }
        self.drain(now, dice)
    }

    /// A frame has arrived.
    pub(super) fn hear(
        &mut self,
        now: Millis,
        bytes: &[u8],
        dice: &mut Dice,
    ) -> Result<(), Violation> {
        let frame = Frame::decode(bytes).map_err(|e| Violation::Fault(e.to_string()))?;
        *self.heard.entry(frame.name()).or_default() += 1;
        self.trace = trace(self.trace, now, bytes);
        if let Frame::Data {
            item,
            chunk,
            offset,
            ..
        } = &frame
            && let Some(manifest) = self.items.get(item)
            && self.disk.chunk(*manifest, *chunk).len() > *offset as usize
        {
            return Err(Violation::SentAgain {
                manifest: *manifest,
                chunk: *chunk,
                offset: *offset,
            });
        }
        if let Frame::Data { bytes, .. } = &frame {
            self.data_bytes += bytes.len() as u64;
        }
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        session
            .handle_frame(now, frame)
            .map_err(|fault| Violation::Fault(fault.to_string()))?;
        if session.counters().repeated_bytes > 0 {
            return Err(Violation::Repeated);
        }
        self.drain(now, dice)
    }

    /// The wire has taken a frame.
    pub(super) fn sent(
        &mut self,
        now: Millis,
        lane: Lane,
        dice: &mut Dice,
    ) -> Result<(), Violation> {
        if let Some(session) = &mut self.session {
            session.handle_sent(now, lane);
        }
        self.drain(now, dice)
    }

    pub(super) fn drain(&mut self, now: Millis, dice: &mut Dice) -> Result<(), Violation> {
        while let Some(output) = self.session.as_mut().and_then(Session::poll_output) {
            if let Some(job) = self.carry_out(output, dice)? {
                self.order_job(now, job, dice)?;
            }
        }
        Ok(())
    }

    /// Carries out what concerns the wire; gives the job for the disk, if it is one.
    fn carry_out(&mut self, output: Output, dice: &mut Dice) -> Result<Option<Job>, Violation> {
        Ok(Some(match output {
            Output::Send { lane, frame } => {
                self.check_claim(&frame)?;
                self.road.put(lane, frame.encode());
                return Ok(None);
            }
            Output::SendData {
                item,
                manifest,
                chunk,
                offset,
                len,
                ..
            } => {
                self.send_data(item, manifest, chunk, (offset, len), dice);
                return Ok(None);
            }
            Output::OpenLane { item, class } | Output::SetClass { item, class } => {
                self.road.set_class(item, class);
                return Ok(None);
            }
            Output::CloseLane { .. } => return Ok(None),
            Output::Event(event) => {
                self.note(event);
                return Ok(None);
            }
            Output::StoreManifest { item, manifest, .. } => {
                self.items.insert(item, manifest.digest());
                let manifest = *manifest;
                Job::Manifest { item, manifest }
            }
            Output::FindManifest { item, manifest, .. } => {
                self.items.insert(item, manifest);
                Job::Find { item, manifest }
            }
            Output::StoreData {
                item,
                manifest,
                chunk,
                digest,
                offset,
                bytes,
                last,
            } => Job::Data(DataJob {
                item,
                manifest,
                chunk,
                digest,
                offset,
                bytes,
                last,
            }),
            Output::StoreRecords { journal, records } => Job::Records { journal, records },
            Output::StoreFleet { version, document } => Job::Fleet { version, document },
            Output::LoadRecords {
                journal,
                from_seq,
                bytes_max,
            } => Job::LoadRecords {
                journal,
                from_seq,
                bytes_max,
            },
            Output::LoadFleet => Job::LoadFleet,
        }))
    }

    /// Queues a job behind those before it: one writer, as in the real edge.
    fn order_job(&mut self, now: Millis, job: Job, dice: &mut Dice) -> Result<(), Violation> {
        if let (Some(Lie::ReceiptBeforeSync), Job::Data(data)) = (self.lie, &job)
            && data.last
        {
            self.give_receipt(now, data.manifest);
        }
        let least = self.jobs.back().map_or(now, |(due, _)| (*due).max(now));
        let due = Millis(least.0 + dice.below(12));
        if self.lie == Some(Lie::HeldBeforeSync)
            && let Job::Data(DataJob {
                item,
                chunk,
                offset,
                bytes,
                last: false,
                ..
            }) = &job
        {
            let upto = offset + u32::try_from(bytes.len()).expect("at most 32 KiB");
            let early = Stored::Data {
                item: *item,
                chunk: *chunk,
                upto,
            };
            self.jobs.push_back((due, job));
            return self.answer(now, Answer::Stored(early));
        }
        let early = match (&job, self.lie) {
            (Job::Records { journal, records }, Some(Lie::RecordsBeforeSync)) => {
                let seq = records.last().map_or(0, |record| record.head.seq);
                let journal = *journal;
                Some(Stored::Records { journal, seq })
            }
            _ => None,
        };
        self.jobs.push_back((due, job));
        early.map_or(Ok(()), |early| self.answer(now, Answer::Stored(early)))
    }

    fn perform(&mut self, job: Job, dice: &mut Dice) -> Answer {
        if let Job::Manifest { item, .. } = &job
            && self.mishaps
            && dice.once_in(40)
        {
            let (item, code) = (*item, RefusalCode::NoRoom);
            return Answer::Stored(Stored::Refused {
                item,
                code,
                text: "no room".to_owned(),
            });
        }
        let mut answer = self.disk.perform(job, dice.once_in(2));
        if self.lie == Some(Lie::ForgottenHave)
            && let Answer::Stored(Stored::Found { holding, .. }) = &mut answer
        {
            *holding = crate::io::Holding::default();
        }
        answer
    }

    fn answer(&mut self, now: Millis, answer: Answer) -> Result<(), Violation> {
        let Some(session) = &mut self.session else {
            return Ok(());
        };
        match answer {
            Answer::Stored(stored) => session
                .handle_stored(now, stored)
                .map_err(|fault| Violation::Fault(fault.to_string())),
            Answer::Loaded(loaded) => {
                session.handle_loaded(now, loaded);
                Ok(())
            }
        }
    }

    fn send_data(
        &mut self,
        item: u32,
        manifest: Digest,
        chunk: u32,
        (offset, len): (u32, u32),
        dice: &mut Dice,
    ) {
        let outgoing = &self.outgoing[&manifest];
        let at = offset as usize;
        let mut bytes = outgoing.chunks[chunk as usize][at..at + len as usize].to_vec();
        self.sent_classes.push(outgoing.rank.class);
        if self.mishaps && self.damage < DAMAGE_PER_SESSION && dice.once_in(200) {
            self.damage += 1;
            bytes[0] ^= 1;
        }
        let frame = Frame::Data {
            item,
            chunk,
            offset,
            bytes: bytes.into(),
        };
        self.road.put(Lane::Item(item), frame.encode());
    }

    fn note(&mut self, event: Event) {
        match event {
            Event::Delivered { manifest } => {
                if let Some(outgoing) = self.outgoing.get_mut(&manifest) {
                    outgoing.delivered = true;
                    outgoing.in_session = false;
                    self.delivered_events.push(manifest);
                }
            }
            Event::Refused { manifest, .. } | Event::TakenBack { manifest } => {
                if let Some(outgoing) = self.outgoing.get_mut(&manifest) {
                    outgoing.in_session = false;
                    outgoing.begun = Begun::Perhaps;
                }
            }
            Event::Progress {
                manifest,
                held_bytes,
                ..
            } => self.progress.push((manifest, held_bytes)),
            Event::Greeted { .. }
            | Event::ChunkDamaged { .. }
            | Event::Received { .. }
            | Event::ClassChanged { .. }
            | Event::Withdrawn { .. }
            | Event::RecordsHeld { .. }
            | Event::Diverged { .. }
            | Event::FleetHeld { .. }
            | Event::FleetNotTaken { .. }
            | Event::Bye { .. } => {}
        }
    }
}

/// Adds something that was heard to the trace of all that was (FNV-1a).
fn trace(before: u64, now: Millis, bytes: &[u8]) -> u64 {
    let said = now
        .0
        .to_le_bytes()
        .into_iter()
        .chain(bytes.iter().copied().take(64));
    said.fold(before ^ 0xcbf2_9ce4_8422_2325, |trace, byte| {
        (trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
