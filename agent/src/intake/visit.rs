//! One association of a scanner.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use dimse::Answer;
use dimse::scp::{Ending, Peer, StoreCommand, StoreFault, StoreRequest, Tally};
use study::dataset::{DatasetError, InstanceHead, is_deflated};
use study::part10::compose_meta;
use study::{SopInstanceUid, StudyUid};
use tokio::sync::Semaphore;

use super::calling;
use super::status::Refusal;
use crate::vault::{Arrival, Attendance, HeldAs, Vault};

/// A data set's size is known only when it has come; until then this much is asked for.
const ROOM_ASKED_BYTES: u64 = 1 << 20;
/// A data set larger than this is read on a thread of its own.
const READ_INLINE_BYTES_MAX: usize = 4 << 20;
/// So many different reasons are kept of one association; further ones are only counted.
const REASONS_MAX: usize = 16;

/// What is known of an association while it is open.
pub(super) struct Visit {
    vault: Vault,
    peer: Peer,
    /// What long reads take turns on.
    reading: Arc<Semaphore>,
    since: Instant,
    /// Studies that it brings; they don't become stable while it is open.
    attending: BTreeMap<StudyUid, Attendance>,
    /// The instance whose command came last.
    instance: Option<SopInstanceUid>,
    known: u64,
    conflicts: u64,
    /// Why instances were refused, as the scanner was told, and how often.
    reasons: BTreeMap<String, u64>,
}

impl Visit {
    pub(super) fn new(vault: Vault, peer: Peer, reading: Arc<Semaphore>) -> Self {
        Self {
            vault,
            peer,
            reading,
            since: Instant::now(),
            attending: BTreeMap::new(),
            instance: None,
            known: 0,
            conflicts: 0,
            reasons: BTreeMap::new(),
        }
    }

    async fn take(&mut self, request: StoreRequest) -> Result<(), Refusal> {
        let (request, head) = self.read(request).await;
        let (
            StoreRequest {
                command,
                file,
                data_set_at,
            },
            head,
        ) = (request, head?);
        if head.sop_class != command.sop_class {
            let (command, data_set) = (command.sop_class, head.sop_class);
            return Err(Refusal::ClassDiffers { command, data_set });
        }
        if head.sop != command.sop {
            let (command, data_set) = (command.sop, head.sop);
            return Err(Refusal::InstanceDiffers { command, data_set });
        }
        let (study, transfer_syntax) = (head.study.clone(), command.transfer_syntax);
        let held = self
            .vault
            .hold(Arrival {
                head,
                transfer_syntax,
                file,
                data_set_at,
            })
            .await?;
        match *held.get() {
            HeldAs::New => {}
            HeldAs::Mended => tracing::info!(
                association = self.peer.id,
                instance = %command.sop,
                study = %study,
                "bytes came again that could not be packed: they take the place of those"
            ),
            HeldAs::Known => self.known += 1,
            HeldAs::Conflict => {
                self.conflicts += 1;
                tracing::warn!(
                    association = self.peer.id,
                    instance = %command.sop,
                    study = %study,
                    "other bytes came under a SOP Instance UID that is held: both are kept"
                );
            }
        }
        let vault = &self.vault;
        self.attending
            .entry(study)
            .or_insert_with_key(|study| vault.attend(study));
        Ok(())
    }

    /// Reads the head, which walks the whole data set; a long walk doesn't hold up other associations.
    async fn read(
        &self,
        request: StoreRequest,
    ) -> (StoreRequest, Result<InstanceHead, DatasetError>) {
        let read = |request: StoreRequest| {
            let data_set = request.file.get(request.data_set_at..).unwrap_or_default();
            let head = InstanceHead::read(data_set, &request.command.transfer_syntax);
            (request, head)
        };
        let is_short = request.file.len() <= READ_INLINE_BYTES_MAX;
        if is_short && !is_deflated(&request.command.transfer_syntax) {
            return read(request);
        }
        let _turn = self.reading.acquire().await.expect("it is never closed");
        let reading = tokio::task::spawn_blocking(move || read(request));
        reading.await.expect("reading a data set does not panic")
    }

    /// Gives the answer for a refusal; each reason is logged once per association.
    fn turn_down(&mut self, refusal: &Refusal) -> Answer {
        let answer = refusal.answer();
        let told = answer.comment.clone().unwrap_or_default();
        let is_new = !self.reasons.contains_key(&told);
        if !is_new || self.reasons.len() < REASONS_MAX {
            *self.reasons.entry(told).or_default() += 1;
        }
        let (association, status) = (self.peer.id, answer.status);
        let instance = self.instance.as_ref().map_or("", SopInstanceUid::as_str);
        let reason = refusal as &dyn std::error::Error;
        if !is_new {
            tracing::debug!(association, instance, %status, reason, "instance refused");
        } else if refusal.is_ours() {
            tracing::error!(association, instance, %status, reason, "instance refused");
        } else {
            tracing::warn!(association, instance, %status, reason, "instance refused");
        }
        answer
    }
}

impl dimse::scp::Visit for Visit {
    fn admit(&mut self, command: &StoreCommand) -> Result<Vec<u8>, Answer> {
        self.instance = Some(command.sop.clone());
        if let Err(no_room) = self.vault.room_for(ROOM_ASKED_BYTES) {
            return Err(self.turn_down(&no_room.into()));
        }
        let StoreCommand {
            sop_class,
            sop,
            transfer_syntax,
        } = command;
        Ok(compose_meta(
            sop_class,
            sop,
            transfer_syntax,
            self.peer.calling.as_ref(),
        ))
    }

    async fn store(&mut self, request: StoreRequest) -> Answer {
        match self.take(request).await {
            Ok(()) => Answer::success(),
            Err(refusal) => self.turn_down(&refusal),
        }
    }

    fn refuse(&mut self, fault: &StoreFault) -> Answer {
        self.turn_down(&fault.clone().into())
    }

    fn closed(self, ending: &Ending, tally: &Tally) {
        let reasons: Vec<String> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{count} x {reason}"))
            .collect();
        tracing::info!(
            association = self.peer.id,
            ae = calling(&self.peer),
            peer = %self.peer.address,
            stored = tally.stored,
            known = self.known,
            conflicts = self.conflicts,
            refused = tally.refused,
            reasons = reasons.join("; "),
            echoes = tally.echoes,
            bytes = tally.bytes,
            elapsed_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            ending = %ending,
            "association closed"
        );
    }
}
