//! Drives one session over one link until either ends, whichever road the link takes.
//!
//! In: a link, a session machine, the node's shelf, commands. Out: why it ended and what is left.
//! Invariant: the machine is told of a store only after the shelf said that it is durable; when
//! [`run`] returns, no order to the shelf is under way any more. Nothing is polled: every turn of
//! the loop is caused by a frame, an answer, a command or a timer.
//! May not: judge frames, choose what goes next, call again.

mod disk;
mod read;
mod send;
mod wire;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use sync_proto::{
    ByeCode, Command, Counters, Event, Frame, Lane, Loaded, Millis, Output, PeerFault, Session,
    Stored, Unfinished,
};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use self::disk::{Order, ToLoad, ToStore};
use self::read::Kind;
use self::send::{Job, ToSend};
use crate::close::{self, Code, End};
use crate::line::{LaneReceiver, LaneSender, Line};
use crate::link::{Link, Traffic};
use crate::shelf::{Arrival, Piece, Shelf, ShelfError};
use crate::wake::Waker;

/// How long the dialling side may take to open its control lane.
const OPENING: Duration = Duration::from_secs(60);
/// How long the peer may take to greet.
const GREETING: Duration = Duration::from_secs(20);
/// How many frames may wait between the readers and the session, per kind of lane.
const FRAMES_WAITING_MAX: usize = 2;
/// How long a goodbye may take to arrive.
const GOODBYE: Duration = Duration::from_secs(5);

/// How a session ended.
#[derive(Debug)]
pub struct Ended {
    /// Why.
    pub why: End,
    /// The outgoing manifests that were not delivered, for the next session's offers.
    pub unfinished: Vec<Unfinished>,
    /// What the session has counted.
    pub counters: Counters,
    /// What crossed.
    pub traffic: Traffic,
}

/// What the tasks around the session report.
#[derive(Debug)]
enum Done {
    /// The transport has taken one frame of this lane.
    Sent(Lane),
    /// The shelf could not read a piece.
    Unreadable(u32, Piece, ShelfError),
    /// The shelf stored or found something.
    Stored(Stored),
    /// The shelf loaded something.
    Loaded(Loaded),
    /// The shelf cannot go on.
    Trouble(ShelfError),
    /// The peer broke the protocol.
    Fault(String),
}

/// Drives `session` over `link` until either side ends it or the connection is lost.
///
/// Commands that wait already when this is called go with the first flight. Dropping the sender
/// of `commands` does not end the session; [`Command::Close`] does.
pub async fn run<S: Shelf>(
    link: Link,
    mut session: Session,
    shelf: Arc<S>,
    commands: mpsc::Receiver<Command>,
) -> Ended {
    let why = match open(&link).await {
        Ok((send, receive)) => {
            let mut driver = Driver::start(&link, &mut session, shelf, send, receive);
            let why = driver.drive(commands).await;
            driver.stop().await;
            why
        }
        Err(why) => why,
    };
    Ended {
        why,
        unfinished: session.unfinished(),
        counters: session.counters(),
        traffic: link.traffic(),
    }
}

/// Opens the control lane, or waits for the peer to do so.
async fn open(link: &Link) -> Result<(LaneSender, LaneReceiver), End> {
    if link.is_dialled() {
        return link.line().open_control().await;
    }
    match tokio::time::timeout(OPENING, link.line().accept_control()).await {
        Ok(opened) => opened,
        Err(_) => {
            let text = "the peer opened no control lane";
            link.line().close(Code::PeerFault, text);
            Err(End::PeerFault(text.into()))
        }
    }
}

/// The session and the tasks around it.
struct Driver<'a, S> {
    link: &'a Link,
    session: &'a mut Session,
    shelf: Arc<S>,
    epoch: Instant,
    /// None over TCP, whose probes are the kernel's.
    waker: Option<Waker>,
    sends: mpsc::UnboundedSender<ToSend>,
    control: Option<mpsc::UnboundedSender<Frame>>,
    control_task: JoinHandle<()>,
    stores: Option<mpsc::UnboundedSender<Order>>,
    store_task: JoinHandle<()>,
    loads: mpsc::UnboundedSender<ToLoad>,
    /// Whatever can be dropped at any moment: readers, the item lanes, loads.
    tasks: JoinSet<()>,
    frames: mpsc::Receiver<Frame>,
    data: mpsc::Receiver<Frame>,
    done: mpsc::UnboundedReceiver<Done>,
    /// The goodbye that the peer said.
    heard: Option<(ByeCode, String)>,
    /// Of the session's repeated bytes, those that were logged.
    repeated_bytes: u64,
    heard_any: bool,
}

impl<'a, S: Shelf> Driver<'a, S> {
    fn start(
        link: &'a Link,
        session: &'a mut Session,
        shelf: Arc<S>,
        send: LaneSender,
        receive: LaneReceiver,
    ) -> Self {
        let epoch = Instant::now();
        let (done_sender, done) = mpsc::unbounded_channel();
        let (control, control_jobs) = mpsc::unbounded_channel();
        let (stores, store_orders) = mpsc::unbounded_channel();
        let (loads, load_orders) = mpsc::unbounded_channel();
        let (sends, send_orders) = mpsc::unbounded_channel();
        let (frames_sender, frames) = mpsc::channel(FRAMES_WAITING_MAX);
        let (data_sender, data) = mpsc::channel(FRAMES_WAITING_MAX);
        let control_task = tokio::spawn(send::control(send, control_jobs, done_sender.clone()));
        let store_task = tokio::spawn(disk::store(
            Arc::clone(&shelf),
            store_orders,
            done_sender.clone(),
        ));
        let mut tasks = JoinSet::new();
        let waker = match link.line() {
            Line::Quic(connection) => {
                let waker = Waker::new(connection.clone());
                tasks.spawn(waker.clone().watch());
                Some(waker)
            }
            Line::Tcp(_) => None,
        };
        tasks.spawn(disk::load(
            Arc::clone(&shelf),
            load_orders,
            done_sender.clone(),
        ));
        tasks.spawn(send::items(
            link.line().clone(),
            Arc::clone(&shelf),
            send_orders,
            done_sender.clone(),
        ));
        tasks.spawn(read::lane(
            receive,
            Kind::Control,
            frames_sender,
            done_sender.clone(),
        ));
        tasks.spawn(read::items(link.line().clone(), data_sender, done_sender));
        Self {
            link,
            session,
            shelf,
            epoch,
            waker,
            sends,
            control: Some(control),
            control_task,
            stores: Some(stores),
            store_task,
            loads,
            tasks,
            frames,
            data,
            done,
            heard: None,
            repeated_bytes: 0,
            heard_any: false,
        }
    }

    async fn drive(&mut self, mut commands: mpsc::Receiver<Command>) -> End {
        let mut commanded = true;
        let greet_by = Some(Instant::now() + GREETING);
        let line = self.link.line().clone();
        loop {
            self.carry_out();
            self.note_repeated();
            if self.session.ended() {
                return self.part().await;
            }
            let due = self.session.poll_timeout().map(|due| self.instant(due));
            let outcome = tokio::select! {
                frame = self.frames.recv() => match frame {
                    Some(frame) => self.frame(frame),
                    None => return self.lost().await,
                },
                Some(frame) = self.data.recv(), if self.session.wants_data() => self.frame(frame),
                Some(done) = self.done.recv() => self.done(done),
                command = commands.recv(), if commanded => {
                    commanded = command.is_some();
                    self.command(command)
                }
                () = at(due) => {
                    self.session.handle_timeout(self.now());
                    Ok(())
                }
                () = at(greet_by), if !self.heard_any => {
                    line.close(Code::Trouble, "no greeting came");
                    return End::TimedOut;
                }
                why = line.closed() => return why,
            };
            if let Err(why) = outcome {
                return self.shut(why);
            }
        }
    }

    /// Logs at once what the session counts: a session may end without a word.
    fn note_repeated(&mut self) {
        let counted = self.session.counters().repeated_bytes;
        if counted > self.repeated_bytes {
            let repeated_bytes = counted - self.repeated_bytes;
            tracing::warn!(peer = %self.link.peer().short(), repeated_bytes, "bytes came that are held");
            self.repeated_bytes = counted;
        }
    }

    fn frame(&mut self, frame: Frame) -> Result<(), End> {
        self.heard_any = true;
        if let Some(waker) = &self.waker {
            waker.stir();
        }
        let name = frame.name();
        tracing::trace!(frame = name, "frame received");
        self.session.handle_frame(self.now(), frame).map_err(fault)
    }

    fn command(&mut self, command: Option<Command>) -> Result<(), End> {
        if let Some(command) = command
            && let Err(error) = self.session.handle_command(self.now(), command)
        {
            self.shelf.not_taken(error);
        }
        Ok(())
    }

    fn done(&mut self, done: Done) -> Result<(), End> {
        let now = self.now();
        match done {
            Done::Sent(lane) => {
                self.session.handle_sent(now, lane);
                if let Some(waker) = &self.waker {
                    waker.keep_send_window();
                    waker.stir();
                }
            }
            Done::Unreadable(item, piece, error) => {
                tracing::warn!(manifest = %piece.manifest, chunk = piece.chunk, %error, "not read");
                self.session.handle_sent(now, Lane::Item(item));
                // Several pieces of one manifest may fail; only the first withdraws it.
                let _ = self.session.handle_command(
                    now,
                    Command::Withdraw {
                        manifest: piece.manifest,
                    },
                );
            }
            Done::Stored(stored) => self.session.handle_stored(now, stored).map_err(fault)?,
            Done::Loaded(loaded) => self.session.handle_loaded(now, loaded),
            Done::Trouble(error) => return Err(End::Trouble(error.to_string())),
            Done::Fault(text) => return Err(End::PeerFault(text)),
        }
        Ok(())
    }

    /// Carries out everything that the session wants done.
    #[expect(
        clippy::too_many_lines,
        reason = "a table: one arm per output, and nothing else"
    )]
    fn carry_out(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send {
                    lane: Lane::Control,
                    frame,
                } => {
                    if let Some(control) = &self.control {
                        let _ = control.send(frame);
                    }
                }
                Output::Send {
                    lane: Lane::Item(item),
                    frame,
                } => self.job(item, Job::Frame(frame)),
                Output::SendData {
                    item,
                    manifest,
                    chunk,
                    digest,
                    offset,
                    len,
                } => {
                    let piece = Piece {
                        manifest,
                        chunk,
                        digest,
                        offset,
                        len,
                    };
                    self.job(item, Job::Piece(piece));
                }
                Output::OpenLane { item, class } => self.send(ToSend::Open { item, class }),
                Output::SetClass { item, class } => self.send(ToSend::Class { item, class }),
                Output::CloseLane { item } => self.job(item, Job::Finish),
                Output::StoreData {
                    item,
                    manifest,
                    chunk,
                    digest,
                    offset,
                    bytes,
                    last,
                } => {
                    let arrival = Arrival {
                        manifest,
                        chunk,
                        digest,
                        offset,
                        bytes,
                        last,
                    };
                    self.order(Order::Data { item, arrival });
                }
                Output::StoreManifest {
                    item,
                    manifest,
                    class,
                } => {
                    self.order(Order::Other(ToStore::Manifest {
                        item,
                        manifest,
                        class,
                    }));
                }
                Output::FindManifest {
                    item,
                    manifest,
                    class,
                } => {
                    self.order(Order::Other(ToStore::Find {
                        item,
                        manifest,
                        class,
                    }));
                }
                Output::StoreRecords { journal, records } => {
                    self.order(Order::Other(ToStore::Records { journal, records }));
                }
                Output::StoreFleet {
                    version: _,
                    document,
                } => {
                    self.order(Order::Other(ToStore::Fleet { document }));
                }
                Output::LoadRecords {
                    journal,
                    from_seq,
                    bytes_max,
                } => {
                    let _ = self.loads.send(ToLoad::Records {
                        journal,
                        from_seq,
                        bytes_max,
                    });
                }
                Output::LoadFleet => {
                    let _ = self.loads.send(ToLoad::Fleet);
                }
                Output::Event(event) => self.event(event),
            }
        }
    }

    fn job(&self, item: u32, job: Job) {
        self.send(ToSend::Job { item, job });
    }

    fn send(&self, order: ToSend) {
        // The task that takes it ends only with the connection.
        let _ = self.sends.send(order);
    }

    fn order(&self, order: Order) {
        if let Some(stores) = &self.stores {
            let _ = stores.send(order);
        }
    }

    fn event(&mut self, event: Event) {
        if let Event::Bye { code, text } = &event {
            self.heard = Some((*code, text.clone()));
        }
        self.shelf.event(event);
    }

    /// Ends a session in which a goodbye was said.
    async fn part(&mut self) -> End {
        let line = self.link.line();
        if let Some((code, text)) = self.heard.take() {
            line.close(Code::Done, "");
            return match code {
                ByeCode::Done => End::Done,
                ByeCode::PeerFault => End::Blamed(text),
                ByeCode::Trouble => End::PeerTrouble(text),
            };
        }
        self.control = None;
        let arrived = tokio::time::timeout(GOODBYE, async {
            tokio::select! {
                _ = &mut self.control_task => {}
                _ = line.closed() => {}
            }
        });
        if arrived.await.is_err() {
            tracing::debug!("the goodbye was not acknowledged");
        }
        line.close(Code::Done, "");
        End::Closed
    }

    /// Ends the connection because of something that went wrong on either side.
    fn shut(&mut self, why: End) -> End {
        let line = self.link.line();
        match &why {
            End::PeerFault(text) => line.close(Code::PeerFault, text),
            // The words may name files; they are for our own log.
            End::Trouble(_) => line.close(Code::Trouble, "trouble at this end"),
            End::Done
            | End::Refused(_)
            | End::Blamed(_)
            | End::Replaced
            | End::PeerStopped
            | End::TimedOut
            | End::PeerTrouble(_)
            | End::Closed
            | End::Broken(_) => line.close(Code::Done, ""),
        }
        why
    }

    /// The control lane ended without a goodbye: either the connection has ended too, or the peer
    /// broke the protocol.
    async fn lost(&mut self) -> End {
        while let Ok(done) = self.done.try_recv() {
            if let Done::Fault(text) = done {
                return self.shut(End::PeerFault(text));
            }
        }
        match tokio::time::timeout(GOODBYE, self.link.line().closed()).await {
            Ok(why) => why,
            Err(_) => self.shut(End::PeerFault("the peer ended its control lane".into())),
        }
    }

    /// Waits for what the disk has begun; everything else can be dropped.
    async fn stop(mut self) {
        self.tasks.shutdown().await;
        self.control_task.abort();
        self.stores = None;
        let _ = self.store_task.await;
    }

    fn now(&self) -> Millis {
        Millis(u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn instant(&self, due: Millis) -> Instant {
        self.epoch + Duration::from_millis(due.0)
    }
}

fn fault(fault: PeerFault) -> End {
    End::PeerFault(close::chain(&fault))
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => pending().await,
    }
}
