//! One end of the pair: a session, the model of its edge, and the watch over what it says.

use std::collections::{BTreeMap, VecDeque};

use journal::{
    Chain, ClockQuality, Fact, JournalId, Moment, NodeId, NodeKey, Opened, SignedManifest,
};
use study::{ChunkRef, Digest, Group, GroupForm, Manifest, Priority, StudyRoot, StudyUid};

use super::dice::Dice;
use super::disk::{Answer, DataJob, Disk, Job};
use super::road::Road;
use super::{Lie, Violation};
use crate::frame::{Frame, Partial, Progress, RefusalCode};
use crate::io::{Begun, Command, Config, Event, Lane, Millis, Offer, Output, Stored};
use crate::session::Session;

/// How many damaged reads a session may meet before it is a fault.
const DAMAGE_PER_SESSION: u32 = 6;

/// One outgoing manifest with its bytes.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) manifest: SignedManifest,
    pub(super) chunks: Vec<Vec<u8>>,
    pub(super) class: Priority,
    /// What the running program knows; lost by a reboot.
    begun: Begun,
    in_session: bool,
    pub(super) delivered: bool,
}

/// One end.
pub(super) struct Node {
    pub(super) id: NodeId,
    key: NodeKey,
    peer: NodeId,
    pub(super) disk: Disk,
    jobs: VecDeque<(Millis, Job)>,
    pub(super) session: Option<Session>,
    pub(super) outgoing: BTreeMap<Digest, Outgoing>,
    /// The order in which they were offered first.
    order: Vec<Digest>,
    /// The peer's items of this session.
    items: BTreeMap<u32, Digest>,
    pub(super) road: Road,
    damage: u32,
    made: u32,
    /// Classes of the data frames in the order they were ordered.
    pub(super) sent_classes: Vec<Priority>,
    pub(super) delivered_events: Vec<Digest>,
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
            session: None,
            outgoing: BTreeMap::new(),
            order: Vec::new(),
            items: BTreeMap::new(),
            road,
            damage: 0,
            made: 0,
            sent_classes: Vec::new(),
            delivered_events: Vec::new(),
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
        for outgoing in self.outgoing.values_mut() {
            outgoing.begun = Begun::Perhaps;
        }
    }

    pub(super) fn make(&mut self, chunks: Vec<Vec<u8>>, class: Priority) -> Digest {
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
            priority: class,
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
            class,
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
            if outgoing.delivered || outgoing.in_session {
                continue;
            }
            let offer = Offer {
                manifest: outgoing.manifest.clone(),
                class: outgoing.class,
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
        let journal = JournalId::own(self.id);
        let mut chain = Chain::resume(journal, self.disk.head(&journal));
        let moment = Moment {
            count_ms: now.0,
            wall_ms: 0,
            clock: ClockQuality::Unknown,
        };
        let fact = Fact::Opened(Opened {
            software: "model 1".to_owned(),
        });
        let record = chain
            .append(&self.key, moment, &fact)
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
        self.jobs.push_back((due, job));
        Ok(())
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
        self.sent_classes.push(outgoing.class);
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
            Event::Greeted { .. }
            | Event::Progress { .. }
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

    /// Checks what a frame claims against the disk, at the moment it is said.
    fn check_claim(&self, frame: &Frame) -> Result<(), Violation> {
        let holds = |manifest: &Digest, chunk: u32, upto: u32| {
            self.disk.chunk(*manifest, chunk).len() >= upto as usize
        };
        let true_claim = match frame {
            Frame::Have {
                item,
                whole,
                partial,
            } => {
                let manifest = &self.items[item];
                self.disk.has_manifest(manifest)
                    && whole
                        .iter()
                        .all(|chunk| !self.disk.chunk(*manifest, chunk).is_empty())
                    && partial
                        .iter()
                        .all(|Partial { chunk, upto }| holds(manifest, *chunk, *upto))
            }
            Frame::Held { progress } => progress
                .iter()
                .all(|Progress { item, chunk, upto }| holds(&self.items[item], *chunk, *upto)),
            Frame::Complete { item } => self.disk.is_complete(&self.items[item]),
            Frame::RecordsHeld { journal, seq } => self.disk.head(journal).seq >= *seq,
            Frame::FleetHeld { version } => self.disk.fleet_version() >= *version,
            Frame::Hello { .. }
            | Frame::Bye { .. }
            | Frame::Fleet { .. }
            | Frame::Records { .. }
            | Frame::Offer { .. }
            | Frame::Resume { .. }
            | Frame::Data { .. }
            | Frame::Class { .. }
            | Frame::Withdraw { .. }
            | Frame::Want { .. }
            | Frame::Damaged { .. }
            | Frame::Refused { .. }
            | Frame::Withdrawn { .. }
            | Frame::Contradiction { .. } => true,
        };
        if true_claim {
            Ok(())
        } else {
            Err(Violation::FalseClaim(frame.name()))
        }
    }
}
