//! The sending side of lanes: one task for the control lane, one for all items.
//!
//! In: frames, pieces to read and send, changes of class. Out: a word for each that the transport
//! has taken.
//! Invariant: a lane sends in order; between lanes the class decides, for each byte that is handed
//! to the transport and again for each byte that the transport puts on the wire. What waits here
//! is bounded by the session, which is only a few frames ahead.
//! May not: choose what of a class goes next.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use sync_proto::{Class, Frame, Lane};
use tokio::sync::mpsc;

use super::{Done, wire};
use crate::line::{LaneError, LaneSender, Line};
use crate::shelf::{Piece, Shelf, ShelfError};

/// The control lane's priority on the wire, over all classes.
const CONTROL: i32 = 10;

/// Runs the control lane until `frames` is dropped and everything is acknowledged.
pub(super) async fn control(
    mut lane: LaneSender,
    mut frames: mpsc::UnboundedReceiver<Frame>,
    done: mpsc::UnboundedSender<Done>,
) {
    lane.set_priority(CONTROL);
    while let Some(frame) = frames.recv().await {
        let mut bytes = wire::encode(&frame);
        while !bytes.is_empty() {
            if let Err(error) = lane.write(&mut bytes).await {
                return give_up(&error, &done);
            }
        }
        let _ = done.send(Done::Sent(Lane::Control));
    }
    lane.finish().await;
}

/// An order to the task of all item lanes.
#[derive(Debug)]
pub(super) enum ToSend {
    /// Opens a lane.
    Open { item: u32, class: Class },
    /// Changes a lane's class.
    Class { item: u32, class: Class },
    /// Sends something on a lane.
    Job { item: u32, job: Job },
}

/// What a lane has to send.
#[derive(Debug)]
pub(super) enum Job {
    /// A frame.
    Frame(Frame),
    /// A piece of a chunk, as a data frame.
    Piece(Piece),
    /// Nothing any more.
    Finish,
}

/// Runs the item lanes until `orders` is dropped or the connection ends.
pub(super) async fn items<S: Shelf>(
    line: Line,
    shelf: Arc<S>,
    mut orders: mpsc::UnboundedReceiver<ToSend>,
    done: mpsc::UnboundedSender<Done>,
) {
    let mut lanes = Lanes::default();
    loop {
        while let Ok(order) = orders.try_recv() {
            lanes.take(order);
        }
        let Some(item) = lanes.next() else {
            match orders.recv().await {
                Some(order) => lanes.take(order),
                None => return,
            }
            continue;
        };
        let Some(lane) = lanes.0.get_mut(&item) else {
            continue;
        };
        match lane.prepare(item, &line, &*shelf).await {
            Prepared::Ready => {}
            Prepared::Finished => {
                lanes.0.remove(&item);
                continue;
            }
            Prepared::Unreadable(piece, error) => {
                let _ = done.send(Done::Unreadable(item, piece, error));
                continue;
            }
            Prepared::Gone => return,
        }
        // A more urgent lane may come to want the room that this one is waiting for.
        tokio::select! {
            written = lane.write() => match written {
                Ok(true) => drop(done.send(Done::Sent(Lane::Item(item)))),
                Ok(false) => {}
                Err(error) => return give_up(&error, &done),
            },
            Some(order) = orders.recv() => lanes.take(order),
        }
    }
}

/// The open lanes.
#[derive(Default)]
struct Lanes(BTreeMap<u32, ItemLane>);

/// One item's lane.
struct ItemLane {
    class: Class,
    sender: Option<LaneSender>,
    jobs: VecDeque<Job>,
    /// What is left of the encoded frame that is being written.
    writing: Bytes,
}

impl Lanes {
    fn take(&mut self, order: ToSend) {
        match order {
            ToSend::Open { item, class } => {
                self.0.insert(item, ItemLane::new(class));
            }
            ToSend::Class { item, class } => {
                if let Some(lane) = self.0.get_mut(&item) {
                    lane.set_class(class);
                }
            }
            ToSend::Job { item, job } => {
                if let Some(lane) = self.0.get_mut(&item) {
                    lane.jobs.push_back(job);
                }
            }
        }
    }

    /// The lane of the most urgent class that has something to send; of these the oldest.
    fn next(&self) -> Option<u32> {
        let busy = self.0.iter().filter(|(_, lane)| lane.is_busy());
        busy.min_by_key(|(item, lane)| (lane.class, **item))
            .map(|(item, _)| *item)
    }
}

/// What became of the next job of a lane.
enum Prepared {
    /// Its bytes can be written.
    Ready,
    /// It was the last one; the lane is finished.
    Finished,
    /// Its bytes cannot be read; it is passed over.
    Unreadable(Piece, ShelfError),
    /// The connection is gone.
    Gone,
}

impl ItemLane {
    fn new(class: Class) -> Self {
        Self {
            class,
            sender: None,
            jobs: VecDeque::new(),
            writing: Bytes::new(),
        }
    }

    fn is_busy(&self) -> bool {
        !self.writing.is_empty() || !self.jobs.is_empty()
    }

    fn set_class(&mut self, class: Class) {
        self.class = class;
        if let Some(sender) = &self.sender {
            sender.set_priority(priority(class));
        }
    }

    /// Turns the next job into bytes to write, unless some are left of the one before.
    async fn prepare<S: Shelf>(&mut self, item: u32, line: &Line, shelf: &S) -> Prepared {
        if !self.writing.is_empty() {
            return Prepared::Ready;
        }
        if self.sender.is_none() {
            let Some(sender) = line.open_item().await else {
                return Prepared::Gone;
            };
            sender.set_priority(priority(self.class));
            self.sender = Some(sender);
        }
        let frame = match self.jobs.pop_front() {
            Some(Job::Frame(frame)) => frame,
            Some(Job::Piece(piece)) => match shelf.read(piece).await {
                Ok(bytes) => {
                    let (chunk, offset) = (piece.chunk, piece.offset);
                    Frame::Data {
                        item,
                        chunk,
                        offset,
                        bytes: bytes.into(),
                    }
                }
                Err(error) => return Prepared::Unreadable(piece, error),
            },
            // Dropping the sender finishes the lane.
            Some(Job::Finish) | None => return Prepared::Finished,
        };
        self.writing = wire::encode(&frame);
        Prepared::Ready
    }

    /// Writes as much as there is room for; whether the frame is complete with it. To cancel this
    /// loses nothing.
    async fn write(&mut self) -> Result<bool, LaneError> {
        let Some(sender) = &mut self.sender else {
            return Ok(false);
        };
        sender.write(&mut self.writing).await?;
        Ok(self.writing.is_empty())
    }
}

/// A peer that stops a stream does not follow the protocol; a lost connection is told elsewhere.
fn give_up(error: &LaneError, done: &mpsc::UnboundedSender<Done>) {
    match error {
        LaneError::Stopped => {
            let _ = done.send(Done::Fault("the peer stopped a stream of ours".into()));
        }
        LaneError::Gone => {}
    }
}

fn priority(class: Class) -> i32 {
    match class {
        Class::Stat => 5,
        Class::Urgent => 4,
        Class::Routine => 3,
        Class::Bulk => 2,
        Class::Software => 1,
    }
}
