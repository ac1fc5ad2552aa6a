//! One association of a scanner.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use dimse::scp::{
    Ending, Event, Matches, Operation, Peer, RequestFault, StoreCommand, StoreFault, StoreRequest,
    Tally,
};
use dimse::{Answer, COMMITMENT, DataSet, Status};
use study::dataset::{DatasetError, InstanceHead, is_deflated};
use study::part10::compose_meta;
use study::{SopInstanceUid, StudyUid};
use tokio::sync::Semaphore;

use super::commitment::{self, Commitments, LineEnd};
use super::status::Refusal;
use super::{Desk, calling};
use crate::vault::{Arrival, Attendance, HeldAs};

/// A data set's size is known only when it has come; until then this much is asked for.
const ROOM_ASKED_BYTES: u64 = 1 << 20;
/// A data set larger than this is read on a thread of its own.
const READ_INLINE_BYTES_MAX: usize = 4 << 20;
/// So many different reasons are kept of one association; further ones are only counted.
const REASONS_MAX: usize = 16;

/// What is known of an association while it is open.
pub(super) struct Visit {
    desk: Desk,
    commitments: Commitments,
    peer: Peer,
    /// Where what is committed is told while the association is open.
    line: LineEnd,
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
    pub(super) fn new(
        desk: Desk,
        commitments: Commitments,
        peer: Peer,
        reading: Arc<Semaphore>,
    ) -> Self {
        Self {
            desk,
            commitments,
            peer,
            line: LineEnd::new(),
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
            .desk
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
        let vault = &self.desk.vault;
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
        if is_new {
            self.desk
                .modalities
                .failed(calling(&self.peer), &refusal.advice());
        }
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
        if let Err(no_room) = self.desk.vault.room_for(ROOM_ASKED_BYTES) {
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

    async fn find(&mut self, identifier: DataSet) -> Result<Matches, Answer> {
        let orders = self.desk.orders.clone();
        // Many orders are opened for the first query.
        let found = tokio::task::spawn_blocking(move || orders.worklist(&identifier));
        let found = found.await.expect("answering a query does not panic");
        let association = self.peer.id;
        match &found {
            Ok(_) => tracing::info!(association, ae = calling(&self.peer), "worklist queried"),
            Err(answer) => {
                let (status, reason) = (answer.status, answer.comment.as_deref());
                tracing::warn!(association, %status, reason, "worklist query refused");
            }
        }
        found
    }

    async fn operate(&mut self, operation: Operation) -> Answer {
        if operation.sop_class.as_str() != COMMITMENT {
            let calling = self
                .peer
                .calling
                .as_ref()
                .map(|title| title.as_str().to_owned());
            return self.desk.orders.performed(operation, calling).await;
        }
        let Some(calling) = &self.peer.calling else {
            return commitment::RequestFault::NoTitle.answer();
        };
        let line = self.line.line();
        self.commitments
            .take(&operation, calling, self.peer.address, line)
            .await
    }

    fn refused(&mut self, fault: &RequestFault) {
        let (association, ae) = (self.peer.id, calling(&self.peer));
        tracing::warn!(association, ae, %fault, "request refused");
    }

    async fn event(&mut self) -> Event {
        self.line.event().await
    }

    fn event_answered(&mut self, status: Option<Status>) {
        self.line.answered(status);
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
            requests = tally.requests,
            bytes = tally.bytes,
            elapsed_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            ending = %ending,
            "association closed"
        );
    }
}
