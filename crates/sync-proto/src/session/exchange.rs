//! What the two sides simply have in common: journals, gapless both ways, and the fleet document.

use std::collections::{BTreeMap, VecDeque};

use journal::{Divergence, Head, JournalId, NodeId, Signed, read_record, verify_next};
use minicbor::bytes::ByteVec;
use study::Digest;

use super::outbox::Outbox;
use crate::fault::PeerFault;
use crate::frame::{FLEET_BYTES_MAX, Frame, JournalHeld, RECORDS_BYTES_MAX};
use crate::io::{CommandError, Event, Loaded, Output};

/// How many `Records` frames a side may have unacknowledged, over all journals.
const RECORDS_FRAMES_MAX: usize = 4;

/// One journal as both sides hold it.
#[derive(Debug)]
struct Shared {
    /// The highest number held durably here.
    held: u64,
    /// The end of what has come in, durable or not: what the next incoming record must continue.
    received: Head,
    /// The checkpoint in our greeting.
    greeted: Head,
    /// The highest number that the peer holds or has been sent; none while it does not want it.
    peer: Option<u64>,
    /// Records are being loaded from this number on.
    loading: Option<u64>,
    accord: Accord,
}

/// How the peer's copy of a journal stands to ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accord {
    /// One is the beginning of the other, as far as is known here.
    Kept,
    /// Our record of the number of the peer's checkpoint is being loaded, to be compared.
    Checking { seq: u64, digest: Digest },
    /// They are apart: the journal is not exchanged in this session.
    Broken(Divergence),
    /// Ours cannot be read: no more is sent in this session.
    Unreadable,
}

/// The fleet document as both sides hold it.
#[derive(Debug, Default)]
struct Fleet {
    held: u64,
    /// What the peer holds; none before its greeting.
    peer: Option<u64>,
    loading: bool,
    /// The version that was sent and is not acknowledged.
    sent: Option<u64>,
    /// The peer did not accept ours, or ours cannot be sent.
    stopped: bool,
    /// The peer's document is with the disk.
    storing: bool,
}

/// Exchanges journals and the fleet document.
#[derive(Debug)]
pub(super) struct Exchange {
    me: NodeId,
    peer: NodeId,
    journals: BTreeMap<JournalId, Shared>,
    /// Frames sent and not acknowledged: journal and last number.
    unheld: VecDeque<(JournalId, u64)>,
    /// Frames received and not durable: journal and last number.
    unstored: VecDeque<(JournalId, u64)>,
    fleet: Fleet,
}

impl Exchange {
    pub(super) fn new(
        me: NodeId,
        peer: NodeId,
        fleet_version: u64,
        journals: &[(JournalId, Head)],
    ) -> Self {
        let shared = |head: &Head| Shared {
            held: head.seq,
            received: *head,
            greeted: *head,
            peer: None,
            loading: None,
            accord: Accord::Kept,
        };
        Self {
            me,
            peer,
            journals: journals
                .iter()
                .map(|(id, head)| (*id, shared(head)))
                .collect(),
            unheld: VecDeque::new(),
            unstored: VecDeque::new(),
            fleet: Fleet {
                held: fleet_version,
                ..Fleet::default()
            },
        }
    }

    pub(super) fn heads(&self) -> Vec<JournalHeld> {
        self.journals
            .iter()
            .map(|(id, s)| JournalHeld {
                journal: *id,
                seq: s.greeted.seq,
                digest: s.greeted.digest,
            })
            .collect()
    }

    pub(super) fn is_idle(&self) -> bool {
        let level = self.journals.iter().all(|(id, s)| {
            let checking = matches!(s.accord, Accord::Checking { .. });
            s.loading.is_none() && !checking && self.next(id, s).is_none()
        });
        let fleet = !self.fleet.loading && self.fleet.sent.is_none() && !self.fleet.storing;
        level && fleet && self.unheld.is_empty() && self.unstored.is_empty()
    }

    pub(super) fn greeted(
        &mut self,
        fleet_version: u64,
        journals: &[JournalHeld],
        out: &mut Outbox,
    ) -> Result<(), PeerFault> {
        self.fleet.peer = Some(fleet_version);
        let over = |what| PeerFault::OverLimit {
            frame: "hello",
            what,
        };
        for said in journals {
            if said.digest.is_some() != (said.seq > 0) {
                return Err(over("a journal's digest"));
            }
            let Some(shared) = self.journals.get_mut(&said.journal) else {
                continue;
            };
            if shared.peer.replace(said.seq).is_some() {
                return Err(over("one journal twice"));
            }
            self.compare(said, out);
        }
        Ok(())
    }

    /// Compares the peer's checkpoint of a journal with ours. Whoever holds the record of the lower
    /// number compares it: here that is a matter of one look at the disk.
    fn compare(&mut self, said: &JournalHeld, out: &mut Outbox) {
        let Some(shared) = self.journals.get_mut(&said.journal) else {
            return;
        };
        let ours = shared.received;
        // Only the author adds to a journal, so who wrote it cannot have less of it.
        let set_back_here = said.journal.author == self.me && ours.seq < said.seq;
        let set_back_there = said.journal.author == self.peer && said.seq < ours.seq;
        match said.digest {
            _ if set_back_here => shared.part(said.journal, Divergence::SetBack, out),
            Some(digest) if said.seq < ours.seq => {
                let seq = said.seq;
                shared.accord = Accord::Checking { seq, digest };
                out.push(Output::LoadRecords {
                    journal: said.journal,
                    from_seq: seq,
                    bytes_max: 1,
                });
            }
            None if set_back_there => shared.part(said.journal, Divergence::SetBack, out),
            digest if said.seq == ours.seq && digest != ours.digest => {
                shared.part(said.journal, Divergence::Forked, out);
            }
            // The rest is for the peer to compare.
            Some(_) | None => {}
        }
    }

    /// Ends the comparison with what is held here under the number of the peer's checkpoint.
    fn compared(&mut self, journal: JournalId, held: Option<Vec<u8>>, out: &mut Outbox) {
        let peer_wrote_it = journal.author == self.peer;
        let Some(shared) = self.journals.get_mut(&journal) else {
            return;
        };
        let Accord::Checking { digest, .. } = shared.accord else {
            return;
        };
        match held {
            Some(record) if Digest::of(&record) != digest => {
                shared.part(journal, Divergence::Forked, out);
                out.control(Frame::Contradiction {
                    journal,
                    record: record.into(),
                });
            }
            // We have more of it than its author.
            Some(_) | None if peer_wrote_it => shared.part(journal, Divergence::SetBack, out),
            Some(_) => shared.accord = Accord::Kept,
            None => shared.accord = Accord::Unreadable,
        }
    }

    /// Takes the peer's evidence against the checkpoint in our greeting.
    pub(super) fn contradicted(
        &mut self,
        journal: JournalId,
        bytes: &[u8],
        out: &mut Outbox,
    ) -> Result<(), PeerFault> {
        let shared = self
            .journals
            .get_mut(&journal)
            .ok_or(PeerFault::ForeignJournal(journal))?;
        let record = read_record(bytes).map_err(|fault| PeerFault::Records { journal, fault })?;
        let answers = record.journal() == journal && record.seq == shared.greeted.seq;
        if !answers || shared.greeted.digest == Some(Digest::of(bytes)) {
            return Err(PeerFault::FalseContradiction(journal));
        }
        if shared.accord != Accord::Broken(Divergence::Forked) {
            shared.part(journal, Divergence::Forked, out);
        }
        Ok(())
    }

    pub(super) fn records_grown(
        &mut self,
        journal: JournalId,
        head: Head,
    ) -> Result<(), CommandError> {
        let shared = self
            .journals
            .get_mut(&journal)
            .ok_or(CommandError::WrongJournal)?;
        if head.seq < shared.held {
            return Err(CommandError::WrongJournal);
        }
        shared.held = head.seq;
        if head.seq > shared.received.seq {
            shared.received = head;
        }
        Ok(())
    }

    /// Takes records; those that are here already, by another road, are skipped.
    pub(super) fn records(
        &mut self,
        journal: JournalId,
        from_seq: u64,
        records: &[ByteVec],
        out: &mut Outbox,
    ) -> Result<(), PeerFault> {
        if self.unstored.len() >= RECORDS_FRAMES_MAX {
            return Err(PeerFault::Impatient("records"));
        }
        let shared = self
            .journals
            .get_mut(&journal)
            .filter(|_| journal.author != self.me);
        let shared = shared.ok_or(PeerFault::ForeignJournal(journal))?;
        if let Accord::Broken(_) = shared.accord {
            // Two histories of one journal are not mixed.
            return Ok(());
        }
        if records.is_empty() || from_seq == 0 {
            return Err(PeerFault::OverLimit {
                frame: "records",
                what: "nothing in it",
            });
        }
        let known = shared
            .received
            .seq
            .saturating_add(1)
            .saturating_sub(from_seq);
        let known = usize::try_from(known)
            .unwrap_or(usize::MAX)
            .min(records.len());
        let mut head = shared.received;
        let mut fresh: Vec<Signed> = Vec::new();
        for bytes in &records[known..] {
            let record = verify_next(&journal, &head, bytes)
                .map_err(|fault| PeerFault::Records { journal, fault })?;
            head = record.head;
            fresh.push(record);
        }
        shared.received = head;
        shared.peer = shared.peer.max(Some(head.seq));
        if fresh.is_empty() && shared.held >= head.seq {
            out.control(Frame::RecordsHeld {
                journal,
                seq: shared.held,
            });
            return Ok(());
        }
        self.unstored.push_back((journal, head.seq));
        if !fresh.is_empty() {
            out.push(Output::StoreRecords {
                journal,
                records: fresh,
            });
        }
        Ok(())
    }

    pub(super) fn records_stored(&mut self, journal: JournalId, seq: u64, out: &mut Outbox) {
        let Some(shared) = self.journals.get_mut(&journal) else {
            return;
        };
        assert!(
            seq <= shared.received.seq,
            "records were stored that were never received"
        );
        shared.held = shared.held.max(seq);
        let held = shared.held;
        self.unstored
            .retain(|(id, last)| *id != journal || *last > held);
        out.control(Frame::RecordsHeld { journal, seq: held });
    }

    pub(super) fn records_held(
        &mut self,
        journal: JournalId,
        seq: u64,
        out: &mut Outbox,
    ) -> Result<(), PeerFault> {
        let shared = self
            .journals
            .get_mut(&journal)
            .ok_or(PeerFault::ForeignJournal(journal))?;
        if journal.author == self.me && seq > shared.held {
            return Err(PeerFault::FalseRecords { seq });
        }
        // By another road the peer may hold more than was sent: then that need not be sent.
        shared.peer = shared.peer.max(Some(seq));
        self.unheld
            .retain(|(id, last)| *id != journal || *last > seq);
        out.event(Event::RecordsHeld { journal, seq });
        Ok(())
    }

    pub(super) fn loaded(&mut self, loaded: Loaded, out: &mut Outbox) {
        match loaded {
            Loaded::Records {
                journal,
                from_seq,
                records,
            } => {
                self.records_loaded(journal, from_seq, records, out);
            }
            Loaded::Fleet { version, document } => {
                self.fleet.loading = false;
                if document.is_empty() || document.len() > FLEET_BYTES_MAX {
                    self.fleet.stopped = true;
                    return;
                }
                self.fleet.sent = Some(version);
                out.control(Frame::Fleet {
                    version,
                    document: document.into(),
                });
            }
        }
    }

    fn records_loaded(
        &mut self,
        journal: JournalId,
        from_seq: u64,
        records: Vec<Vec<u8>>,
        out: &mut Outbox,
    ) {
        let Some(shared) = self.journals.get_mut(&journal) else {
            return;
        };
        if matches!(shared.accord, Accord::Checking { seq, .. } if seq == from_seq) {
            return self.compared(journal, records.into_iter().next(), out);
        }
        if shared.loading.take() != Some(from_seq) {
            return;
        }
        if records.is_empty() {
            shared.accord = Accord::Unreadable;
            return;
        }
        // Overtaken by an acknowledgement of records that came by another road.
        if shared.peer.is_some_and(|peer| peer >= from_seq) {
            return;
        }
        let mut bytes = 0;
        let held = shared.held;
        let records: Vec<ByteVec> = records
            .into_iter()
            // The disk may hold more than we have been told of; that goes when we are.
            .zip(from_seq..=held)
            .map(|(record, _)| record)
            .enumerate()
            .take_while(|(i, record)| {
                bytes += record.len();
                *i == 0 || bytes <= RECORDS_BYTES_MAX
            })
            .map(|(_, record)| record.into())
            .collect();
        let last = from_seq + records.len() as u64 - 1;
        shared.peer = Some(last);
        self.unheld.push_back((journal, last));
        out.control(Frame::Records {
            journal,
            from_seq,
            records,
        });
    }

    pub(super) fn fleet_grown(&mut self, version: u64) {
        if version > self.fleet.held {
            self.fleet.held = version;
            self.fleet.stopped = false;
        }
    }

    pub(super) fn fleet(
        &mut self,
        version: u64,
        document: Vec<u8>,
        out: &mut Outbox,
    ) -> Result<(), PeerFault> {
        if document.is_empty() || document.len() > FLEET_BYTES_MAX {
            return Err(PeerFault::OverLimit {
                frame: "fleet",
                what: "document",
            });
        }
        if std::mem::replace(&mut self.fleet.storing, true) {
            return Err(PeerFault::Impatient("fleet document"));
        }
        out.push(Output::StoreFleet { version, document });
        Ok(())
    }

    /// The disk is done with the peer's document; `None`: it did not verify.
    pub(super) fn fleet_stored(&mut self, version: Option<u64>, out: &mut Outbox) {
        self.fleet.storing = false;
        if let Some(version) = version {
            self.fleet.held = self.fleet.held.max(version);
            self.fleet.peer = self.fleet.peer.max(Some(version));
        }
        out.control(Frame::FleetHeld {
            version: self.fleet.held,
        });
    }

    pub(super) fn fleet_held(&mut self, version: u64, out: &mut Outbox) -> Result<(), PeerFault> {
        let sent = self.fleet.sent.take();
        let sent = sent.ok_or(PeerFault::NotAsked("fleet-held"))?;
        self.fleet.peer = Some(version);
        if version < sent {
            self.fleet.stopped = true;
            out.event(Event::FleetNotTaken { version });
        } else {
            out.event(Event::FleetHeld { version });
        }
        Ok(())
    }

    /// The next record that the peer wants and does not have; nobody sends a journal to its author.
    fn next(&self, id: &JournalId, shared: &Shared) -> Option<u64> {
        let wanted = shared.accord == Accord::Kept && id.author != self.peer;
        shared
            .peer
            .filter(|peer| wanted && *peer < shared.held)
            .map(|peer| peer + 1)
    }

    /// Asks for what may be sent next.
    pub(super) fn send_next(&mut self, out: &mut Outbox) {
        let fleet = &mut self.fleet;
        let behind = fleet.peer.is_some_and(|peer| peer < fleet.held);
        if behind && !fleet.loading && !fleet.stopped && fleet.sent.is_none() {
            fleet.loading = true;
            out.push(Output::LoadFleet);
        }
        let loading = self
            .journals
            .values()
            .filter(|s| s.loading.is_some())
            .count();
        let room = RECORDS_FRAMES_MAX.saturating_sub(self.unheld.len() + loading);
        let next: Vec<_> = self
            .journals
            .iter()
            .filter(|(_, shared)| shared.loading.is_none())
            .filter_map(|(id, shared)| Some((*id, self.next(id, shared)?)))
            .take(room)
            .collect();
        for (journal, from_seq) in next {
            if let Some(shared) = self
                .journals
                .get_mut(&journal)
                .filter(|_| out.control_is_easy())
            {
                shared.loading = Some(from_seq);
                let bytes_max = RECORDS_BYTES_MAX;
                out.push(Output::LoadRecords {
                    journal,
                    from_seq,
                    bytes_max,
                });
            }
        }
    }
}

impl Shared {
    /// The copies are found to be apart.
    fn part(&mut self, journal: JournalId, kind: Divergence, out: &mut Outbox) {
        self.accord = Accord::Broken(kind);
        out.event(Event::Diverged {
            journal,
            ours: self.received.seq,
            theirs: self.peer.unwrap_or_default(),
            kind,
        });
    }
}
