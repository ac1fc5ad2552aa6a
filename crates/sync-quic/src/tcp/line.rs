//! The lanes of one session on one TLS connection.
//!
//! In: frames of the control lane and of item lanes. Out: the same at the other end, and why the
//! connection ended.
//! Invariant: whenever the kernel has room for a frame, the control lane's next one goes, or else
//! the item frame that was handed over; what is begun is finished, as frames cannot be taken apart
//! here. Of what comes in, as much is held as fits two frames per kind of lane.
//! May not: know the order of classes, which is decided where frames are handed over.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sync_proto::{FRAME_BYTES_MAX, Frame, PeerFault};
use tokio::io::{AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::record::{self, Record};
use super::{Counts, FAREWELL, Secured, Stream, drain, end_of};
use crate::close::{self, Code, End};
use crate::link::Traffic;

/// How many frames may wait between the reader and the session, per kind of lane.
const FRAMES_WAITING_MAX: usize = 2;
/// Over how much time of writing the rate is taken.
const RATE_OVER: Duration = Duration::from_secs(5);
/// What the kernel's buffers may swallow before the rate says anything of the link.
const RATE_FROM_BYTES: f64 = 256.0 * 1024.0;

/// A connection that is up, or why it is not.
#[derive(Debug)]
enum State {
    Open,
    /// We close, for this reason.
    Closing(Code, String),
    /// It ended.
    Ended(End),
}

/// What the writer is given on the control lane.
#[derive(Debug)]
enum Outgoing {
    Frame(Bytes),
    /// Nothing; says when all before it has been written.
    Mark(oneshot::Sender<()>),
}

/// One TLS connection that carries a session. Clones are the same connection.
#[derive(Debug, Clone)]
pub(crate) struct TcpLine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    remote: SocketAddr,
    counts: Arc<Counts>,
    state: Arc<watch::Sender<State>>,
    control: mpsc::Sender<Outgoing>,
    items: mpsc::Sender<Bytes>,
    control_in: Mutex<Option<TcpReceiver>>,
    items_in: Mutex<Option<TcpReceiver>>,
}

/// The sending side of a lane.
#[derive(Debug)]
pub(crate) enum TcpSender {
    Control(ControlSender),
    Items(ItemSender),
}

/// See [`TcpSender`].
#[derive(Debug)]
pub(crate) struct ControlSender(mpsc::Sender<Outgoing>);

/// See [`TcpSender`].
#[derive(Debug)]
pub(crate) struct ItemSender(mpsc::Sender<Bytes>);

/// Frames of one kind of lane, as they come; the words for one that cannot be read.
pub(crate) type TcpReceiver = mpsc::Receiver<Result<Frame, String>>;

impl TcpLine {
    /// Begins to read and to write.
    pub(crate) fn start(secured: Secured) -> Self {
        let (read_half, write_half) = split(secured.stream);
        let (control, control_out) = mpsc::channel(1);
        let (items, items_out) = mpsc::channel(1);
        let (control_sender, control_in) = mpsc::channel(FRAMES_WAITING_MAX);
        let (items_sender, items_in) = mpsc::channel(FRAMES_WAITING_MAX);
        let state = Arc::new(watch::Sender::new(State::Open));
        let watched = Watched {
            changed: state.subscribe(),
            state: Arc::clone(&state),
            stop: secured.stop,
        };
        tokio::spawn(read(
            read_half,
            [control_sender, items_sender],
            watched.clone(),
        ));
        let counts = Arc::clone(&secured.counts);
        tokio::spawn(write(write_half, control_out, items_out, watched, counts));
        Self(Arc::new(Shared {
            remote: secured.remote,
            counts: secured.counts,
            state,
            control,
            items,
            control_in: Mutex::new(Some(control_in)),
            items_in: Mutex::new(Some(items_in)),
        }))
    }

    pub(crate) fn remote_address(&self) -> SocketAddr {
        self.0.remote
    }

    pub(crate) fn traffic(&self) -> Traffic {
        self.0.counts.traffic()
    }

    pub(crate) fn silence(&self) -> Duration {
        self.0.counts.silence()
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The control lane, both ways; a connection has one, and gives it once.
    pub(crate) fn control(&self) -> Option<(TcpSender, TcpReceiver)> {
        let receiver = take(&self.0.control_in)?;
        let sender = ControlSender(self.0.control.clone());
        Some((TcpSender::Control(sender), receiver))
    }

    /// An item lane to write on.
    pub(crate) fn item(&self) -> TcpSender {
        TcpSender::Items(ItemSender(self.0.items.clone()))
    }

    /// What comes on all item lanes; given once.
    pub(crate) fn items(&self) -> Option<TcpReceiver> {
        take(&self.0.items_in)
    }

    /// Closes the connection; a second close changes nothing.
    pub(crate) fn close(&self, code: Code, reason: &str) {
        leave(&self.0.state, State::Closing(code, reason.to_owned()));
    }

    /// Waits for the end of the connection.
    pub(crate) async fn closed(&self) -> End {
        let mut changed = self.0.state.subscribe();
        // The sender is ours, so there is always an answer.
        let state = changed
            .wait_for(|state| !matches!(state, State::Open))
            .await;
        match state.as_deref() {
            Ok(State::Ended(end)) => end.clone(),
            Ok(State::Closing(..) | State::Open) | Err(_) => End::Closed,
        }
    }
}

fn take(receiver: &Mutex<Option<TcpReceiver>>) -> Option<TcpReceiver> {
    let mut receiver = receiver.lock().unwrap_or_else(PoisonError::into_inner);
    receiver.take()
}

impl TcpSender {
    /// Hands one frame over once there is room for it; to cancel this loses nothing. None when the
    /// connection is gone.
    pub(crate) async fn write(&self, frame: &mut Bytes) -> Option<()> {
        match self {
            Self::Control(ControlSender(queue)) => {
                let room = queue.reserve().await.ok()?;
                room.send(Outgoing::Frame(std::mem::take(frame)));
            }
            Self::Items(ItemSender(queue)) => {
                let room = queue.reserve().await.ok()?;
                room.send(std::mem::take(frame));
            }
        }
        Some(())
    }

    /// Waits until all that was handed over has been given to the kernel, which delivers it before
    /// it delivers the end.
    pub(crate) async fn finish(&self) {
        if let Self::Control(ControlSender(queue)) = self {
            let (done, written) = oneshot::channel();
            if queue.send(Outgoing::Mark(done)).await.is_ok() {
                // An error says that the connection is gone, which is heard of elsewhere.
                let _ = written.await;
            }
        }
    }
}

/// The state of a connection as its tasks see it.
#[derive(Debug, Clone)]
struct Watched {
    state: Arc<watch::Sender<State>>,
    changed: watch::Receiver<State>,
    stop: watch::Receiver<bool>,
}

impl Watched {
    /// Waits until the connection is to end.
    async fn over(&mut self) {
        tokio::select! {
            _ = self.changed.wait_for(|state| !matches!(state, State::Open)) => {}
            _ = self.stop.wait_for(|stop| *stop) => {
                leave(&self.state, State::Closing(Code::Stopping, "stopping".to_owned()));
            }
        }
    }

    fn ended(&self, end: End) {
        leave(&self.state, State::Ended(end));
    }

    /// The goodbye to say, if it is us who close.
    fn goodbye(&self) -> Option<(Code, String)> {
        match &*self.state.borrow() {
            State::Closing(code, reason) => Some((*code, reason.clone())),
            State::Open | State::Ended(_) => None,
        }
    }
}

/// Only the first reason counts.
fn leave(state: &watch::Sender<State>, to: State) {
    state.send_if_modified(|state| {
        let open = matches!(state, State::Open);
        if open {
            *state = to;
        }
        open
    });
}

async fn read(
    mut stream: ReadHalf<Stream>,
    [control, items]: [mpsc::Sender<Result<Frame, String>>; 2],
    mut watched: Watched,
) {
    let reading = async {
        loop {
            let frame = match record::read(&mut stream, FRAME_BYTES_MAX).await {
                Ok(Record::Body(body)) => {
                    Frame::decode(&body).map_err(|error| close::chain(&PeerFault::Frame(error)))
                }
                Err(End::PeerFault(text)) => Err(text),
                Ok(Record::Close(end)) | Err(end) => return end,
            };
            let lane = match &frame {
                Ok(frame) if frame.is_of_item_lane() => &items,
                Ok(_) | Err(_) => &control,
            };
            let fault = frame.as_ref().err().cloned();
            // Nobody listens when the session has ended, which closes the connection.
            let heard = lane.send(frame).await.is_ok();
            match fault {
                // The session closes with its own words; this is for the case that there is none.
                Some(text) if !heard => return End::PeerFault(text),
                Some(_) => std::future::pending().await,
                None => {}
            }
        }
    };
    let end = tokio::select! {
        end = reading => Some(end),
        () = watched.over() => None,
    };
    if let Some(end) = end {
        watched.ended(end);
    }
    let _ = tokio::time::timeout(FAREWELL, drain(&mut stream)).await;
}

async fn write(
    mut stream: WriteHalf<Stream>,
    mut control: mpsc::Receiver<Outgoing>,
    mut items: mpsc::Receiver<Bytes>,
    mut watched: Watched,
    counts: Arc<Counts>,
) {
    let mut rate = Rate::default();
    loop {
        let next = tokio::select! {
            biased;
            () = watched.over() => break,
            Some(next) = control.recv() => next,
            Some(frame) = items.recv() => Outgoing::Frame(frame),
        };
        let frame = match next {
            Outgoing::Frame(frame) => frame,
            Outgoing::Mark(done) => {
                let _ = done.send(());
                continue;
            }
        };
        let begun = Instant::now();
        let written = async {
            stream.write_all(&frame).await?;
            // Done when the kernel has taken it, which it does when little waits there.
            stream.flush().await
        };
        let late = async {
            watched.over().await;
            tokio::time::sleep(FAREWELL).await;
        };
        let written = tokio::select! {
            written = written => written,
            () = late => return,
        };
        if let Err(error) = written {
            watched.ended(end_of(&error));
            return;
        }
        let kbits = rate.note(frame.len(), begun.elapsed());
        counts.rate_kbits.store(kbits, Ordering::Relaxed);
    }
    let farewell = async {
        if let Some((code, reason)) = watched.goodbye() {
            record::write_close(&mut stream, code, &reason).await?;
        }
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

/// How fast the kernel takes what is written: as it holds little, this is what the link carries.
#[derive(Debug, Default)]
struct Rate {
    bytes: f64,
    seconds: f64,
    total: f64,
}

impl Rate {
    /// A frame was written; gives the rate in kbit/s, 0 while nothing is known.
    fn note(&mut self, bytes: usize, took: Duration) -> u64 {
        #[expect(clippy::cast_precision_loss, reason = "a frame is small")]
        let bytes = bytes as f64;
        let fade = (-took.as_secs_f64() / RATE_OVER.as_secs_f64()).exp();
        self.total += bytes;
        self.bytes = self.bytes * fade + bytes;
        self.seconds = self.seconds * fade + took.as_secs_f64();
        if self.total < RATE_FROM_BYTES || self.seconds <= 0.0 {
            return 0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is positive, and a float beyond the range becomes the largest number"
        )]
        let kbits = (self.bytes / self.seconds / 125.0).round() as u64;
        kbits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_what_the_last_seconds_took_and_nothing_at_first() {
        let mut rate = Rate::default();
        let second = Duration::from_secs(1);
        assert_eq!(
            rate.note(125_000, second),
            0,
            "that may be the kernel's buffer"
        );
        assert_eq!(rate.note(125_000, second), 0);
        assert_eq!(rate.note(125_000, second), 1000);
        for _ in 0..60 {
            rate.note(250_000, second);
        }
        assert_eq!(rate.note(250_000, second), 2000);
    }
}
