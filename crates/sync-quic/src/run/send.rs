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

use quinn::{Connection, SendStream, WriteError};
use study::Priority;
use sync_proto::{Frame, Lane};
use tokio::sync::mpsc;

use super::{Done, wire};
use crate::shelf::{Piece, Shelf, ShelfError};

/// The control lane's priority on the wire, over all classes.
const CONTROL: i32 = 10;

/// Runs the control lane until `frames` is dropped and everything is acknowledged.
pub(super) async fn control(
    mut stream: SendStream,
    mut frames: mpsc::UnboundedReceiver<Frame>,
    done: mpsc::UnboundedSender<Done>,
) {
    // Fails only when the connection is gone, which the driver hears of.
    let _ = stream.set_priority(CONTROL);
    while let Some(frame) = frames.recv().await {
        if let Err(error) = stream.write_all(&wire::encode(&frame)).await {
            return give_up(&error, &done);
        }
        let _ = done.send(Done::Sent(Lane::Control));
    }
    let _ = stream.finish();
    let _ = stream.stopped().await;
}

/// An order to the task of all item lanes.
#[derive(Debug)]
pub(super) enum ToSend {
    /// Opens a lane.
    Open { item: u32, class: Priority },
    /// Changes a lane's class.
    Class { item: u32, class: Priority },
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
    connection: Connection,
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
        match lane.prepare(item, &connection, &*shelf).await {
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
    class: Priority,
    stream: Option<SendStream>,
    jobs: VecDeque<Job>,
    /// The encoded frame that is being written, and how far it has come.
    writing: Option<(Vec<u8>, usize)>,
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
    fn new(class: Priority) -> Self {
        Self {
            class,
            stream: None,
            jobs: VecDeque::new(),
            writing: None,
        }
    }

    fn is_busy(&self) -> bool {
        self.writing.is_some() || !self.jobs.is_empty()
    }

    fn set_class(&mut self, class: Priority) {
        self.class = class;
        if let Some(stream) = &self.stream {
            // Fails only when the connection is gone, which the next write finds.
            let _ = stream.set_priority(priority(class));
        }
    }

    /// Turns the next job into bytes to write, unless some are left of the one before.
    async fn prepare<S: Shelf>(
        &mut self,
        item: u32,
        connection: &Connection,
        shelf: &S,
    ) -> Prepared {
        if self.writing.is_some() {
            return Prepared::Ready;
        }
        if self.stream.is_none() {
            let Ok(stream) = connection.open_uni().await else {
                return Prepared::Gone;
            };
            let _ = stream.set_priority(priority(self.class));
            self.stream = Some(stream);
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
            // Dropping the stream finishes it.
            Some(Job::Finish) | None => return Prepared::Finished,
        };
        self.writing = Some((wire::encode(&frame), 0));
        Prepared::Ready
    }

    /// Writes as much as there is room for; whether the frame is complete with it. To cancel this
    /// loses nothing.
    async fn write(&mut self) -> Result<bool, WriteError> {
        let (Some(stream), Some((bytes, at))) = (&mut self.stream, &mut self.writing) else {
            return Ok(false);
        };
        *at += stream.write(bytes.get(*at..).unwrap_or_default()).await?;
        let complete = *at >= bytes.len();
        if complete {
            self.writing = None;
        }
        Ok(complete)
    }
}

/// A peer that stops a stream does not follow the protocol; a lost connection is told elsewhere.
fn give_up(error: &WriteError, done: &mpsc::UnboundedSender<Done>) {
    match error {
        WriteError::Stopped(_) => {
            let _ = done.send(Done::Fault("the peer stopped a stream of ours".into()));
        }
        WriteError::ConnectionLost(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {}
    }
}

fn priority(class: Priority) -> i32 {
    match class {
        Priority::Stat => 4,
        Priority::Urgent => 3,
        Priority::Routine => 2,
        Priority::Bulk => 1,
    }
}
