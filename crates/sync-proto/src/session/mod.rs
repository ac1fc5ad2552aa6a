//! The session: one machine for both ends of a connection.

mod choosing;
mod exchange;
mod outbox;
mod outgoing;
mod receiving;
mod sending;
mod taking;

use crate::fault::PeerFault;
use crate::frame::{ByeCode, Frame, HEADS_MAX, PROTOCOL, TEXT_BYTES_MAX};
use crate::io::{
    Command, CommandError, Config, Counters, Event, Lane, Loaded, Millis, Output, Stored,
    Unfinished,
};
use exchange::Exchange;
use outbox::Outbox;
use receiving::Receiver;
use sending::Sender;

/// How many items one side may have open on the wire.
pub const OPEN_ITEMS_MAX: usize = 128;
/// How many manifests may wait in a session, open ones included.
pub const QUEUE_MAX: usize = 4096;
/// Above this many received bytes that are not yet durable, [`Session::wants_data`] says no.
pub const UNSTORED_BYTES_MAX: usize = 1 << 20;

/// One end of a connection to a peer, from its handshake to its end.
///
/// The two ends are alike. The edge hands in frames, answers and commands, drains
/// [`Session::poll_output`] to `None` after every call, and calls [`Session::handle_timeout`] when
/// [`Session::poll_timeout`] is due.
///
/// When a peer connects again while its older connection still lives, the edge ends the older
/// session and waits for its disk work before it answers the new one's questions, so that no
/// answer is overtaken by bytes that become durable behind it.
///
/// # Panics
/// The `handle_stored` and `handle_loaded` calls panic on an answer that no output asked for in
/// this form (more bytes stored than were received): that is a fault of this program, and what it
/// says must not be passed on to the peer.
#[derive(Debug)]
pub struct Session {
    greeted: bool,
    ended: bool,
    out: Outbox,
    sender: Sender,
    receiver: Receiver,
    exchange: Exchange,
}

impl Session {
    /// Starts a session; its greeting is the first output.
    pub fn new(config: Config) -> Self {
        let mut out = Outbox::default();
        let exchange = Exchange::new(
            config.me,
            config.peer,
            config.fleet_version,
            &config.journals,
        );
        out.control(Frame::Hello {
            protocol: PROTOCOL,
            software: cut(config.software),
            fleet_version: config.fleet_version,
            wall_ms: config.wall_ms,
            clock: config.clock,
            journals: exchange.heads(),
        });
        Self {
            greeted: false,
            ended: false,
            out,
            sender: Sender::new(config.me, config.peer, config.data_bytes),
            receiver: Receiver::new(config.me, config.peer),
            exchange,
        }
    }

    /// Takes a frame from the peer, of any lane; frames of one lane in their order.
    ///
    /// After a fault the session has ended: its last output is a goodbye that names the fault.
    /// Frames that come after the end are ignored.
    pub fn handle_frame(&mut self, now: Millis, frame: Frame) -> Result<(), PeerFault> {
        if self.ended {
            return Ok(());
        }
        let outcome = self.take_frame(frame);
        self.settle(now, outcome)
    }

    /// Takes a command from this node's rooms.
    pub fn handle_command(&mut self, now: Millis, command: Command) -> Result<(), CommandError> {
        if self.ended {
            return Err(CommandError::Ended);
        }
        match command {
            Command::Offer(offer) => self.sender.offer(*offer)?,
            Command::Rank { manifest, rank } => {
                self.sender.change_rank(manifest, rank, &mut self.out)?;
            }
            Command::Withdraw { manifest } => self.sender.withdraw(manifest, &mut self.out)?,
            Command::Records { journal, head } => self.exchange.records_grown(journal, head)?,
            Command::Fleet { version } => self.exchange.fleet_grown(version),
            Command::Close { code, text } => self.end(code, text),
        }
        self.move_on(now);
        Ok(())
    }

    /// Takes the disk's answer to a `Store..` or `Find..` output.
    ///
    /// A fault is the peer's, of the same weight as one from [`Session::handle_frame`].
    pub fn handle_stored(&mut self, now: Millis, stored: Stored) -> Result<(), PeerFault> {
        if self.ended {
            return Ok(());
        }
        let outcome = match stored {
            Stored::Records { journal, seq } => {
                self.exchange.records_stored(journal, seq, &mut self.out);
                Ok(())
            }
            Stored::Fleet { version } => {
                self.exchange.fleet_stored(Some(version), &mut self.out);
                Ok(())
            }
            Stored::FleetRefused => {
                self.exchange.fleet_stored(None, &mut self.out);
                Ok(())
            }
            Stored::Manifest { .. }
            | Stored::Found { .. }
            | Stored::Complete { .. }
            | Stored::Unknown { .. }
            | Stored::Refused { .. }
            | Stored::Data { .. }
            | Stored::Damaged { .. } => self.receiver.stored(now, stored, &mut self.out),
        };
        self.settle(now, outcome)
    }

    /// Takes what was loaded in answer to a `Load..` output.
    pub fn handle_loaded(&mut self, now: Millis, loaded: Loaded) {
        if !self.ended {
            self.exchange.loaded(loaded, &mut self.out);
            self.move_on(now);
        }
    }

    /// Notes that the transport has taken one frame of `lane` (one call per [`Output::Send`] and
    /// [`Output::SendData`]): there is room for another.
    pub fn handle_sent(&mut self, now: Millis, lane: Lane) {
        match lane {
            Lane::Control => self.out.control_taken(),
            Lane::Item(item) => self.sender.taken(item),
        }
        self.move_on(now);
    }

    /// Lets the time that [`Session::poll_timeout`] named pass.
    pub fn handle_timeout(&mut self, now: Millis) {
        self.move_on(now);
    }

    /// Takes the next output, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop()
    }

    /// When `handle_timeout` is due next.
    pub fn poll_timeout(&self) -> Option<Millis> {
        if self.ended || !self.out.control_is_easy() {
            None
        } else {
            self.receiver.held_due()
        }
    }

    /// Whether item lanes should be read: while it is false, read only [`Lane::Control`].
    pub fn wants_data(&self) -> bool {
        self.receiver.has_room() && !self.out.control_is_high()
    }

    /// Whether the session has ended (goodbye said or heard, or a fault): close the connection
    /// once the outputs are sent.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Whether nothing is left to send, to store or to hear an answer to.
    pub fn is_idle(&self) -> bool {
        self.greeted && self.sender.is_idle() && self.receiver.is_idle() && self.exchange.is_idle()
    }

    /// The outgoing manifests that are not delivered, and what of them may have left; ask when
    /// the connection has ended, for the next session's offers. Most urgent first.
    pub fn unfinished(&self) -> Vec<Unfinished> {
        self.sender.unfinished()
    }

    /// What has been counted since the session began.
    pub fn counters(&self) -> Counters {
        Counters {
            sent_bytes: self.sender.sent_bytes(),
            received_bytes: self.receiver.received_bytes(),
            repeated_bytes: self.receiver.repeated_bytes(),
        }
    }

    fn take_frame(&mut self, frame: Frame) -> Result<(), PeerFault> {
        // Item lanes do not wait for the control lane: only that one begins with the greeting.
        let greets = matches!(frame, Frame::Hello { .. });
        if greets == self.greeted && !frame.is_of_item_lane() {
            return Err(PeerFault::NotGreeted(frame.name()));
        }
        let Self {
            out,
            sender,
            receiver,
            exchange,
            ..
        } = self;
        match frame {
            Frame::Hello { .. } => self.greet(frame),
            Frame::Bye { code, text } => {
                check_text("bye", &text)?;
                self.ended = true;
                self.out.event(Event::Bye { code, text });
                Ok(())
            }
            Frame::Fleet { version, document } => exchange.fleet(version, document.into(), out),
            Frame::FleetHeld { version } => exchange.fleet_held(version, out),
            Frame::Records {
                journal,
                from_seq,
                records,
            } => exchange.records(journal, from_seq, &records, out),
            Frame::RecordsHeld { journal, seq } => exchange.records_held(journal, seq, out),
            Frame::Contradiction { journal, record } => {
                exchange.contradicted(journal, &record, out)
            }
            Frame::Offer {
                item,
                class,
                manifest,
            } => receiver.offer(item, class, &manifest, out),
            Frame::Resume {
                item,
                class,
                manifest,
            } => receiver.resume(item, class, manifest, out),
            Frame::Data {
                item,
                chunk,
                offset,
                bytes,
            } => receiver.data(item, chunk, offset, bytes.into(), out),
            Frame::Class { item, class } => receiver.class(item, class, out),
            Frame::Withdraw { item } => receiver.withdraw(item, out),
            Frame::Want { item } => sender.want(item, out),
            Frame::Have {
                item,
                whole,
                partial,
            } => sender.have(item, &whole, &partial, out),
            Frame::Complete { item } => sender.complete(item, out),
            Frame::Held { progress } => sender.held(&progress, out),
            Frame::Damaged { item, chunk } => sender.damaged(item, chunk, out),
            Frame::Refused { item, code, text } => {
                check_text("refused", &text)?;
                sender.refused(item, code, text, out)
            }
            Frame::Withdrawn { item } => sender.withdrawn(item, out),
        }
    }

    fn greet(&mut self, hello: Frame) -> Result<(), PeerFault> {
        let Frame::Hello {
            protocol,
            software,
            fleet_version,
            wall_ms,
            clock,
            journals,
        } = hello
        else {
            return Err(PeerFault::NotGreeted(hello.name()));
        };
        if protocol != PROTOCOL {
            return Err(PeerFault::UnknownProtocol(protocol));
        }
        check_text("hello", &software)?;
        if journals.len() > HEADS_MAX {
            return Err(PeerFault::OverLimit {
                frame: "hello",
                what: "journals",
            });
        }
        self.greeted = true;
        self.out.event(Event::Greeted {
            software,
            wall_ms,
            clock,
            fleet_version,
        });
        self.exchange
            .greeted(fleet_version, &journals, &mut self.out)
    }

    /// Ends the session on a fault, else goes on with whatever has become possible.
    fn settle(&mut self, now: Millis, outcome: Result<(), PeerFault>) -> Result<(), PeerFault> {
        let outcome = match outcome {
            Ok(()) if self.out.control_is_over() => Err(PeerFault::Deaf),
            Ok(()) | Err(_) => outcome,
        };
        match &outcome {
            Ok(()) => self.move_on(now),
            Err(fault) => self.end(ByeCode::PeerFault, fault.to_string()),
        }
        outcome
    }

    fn end(&mut self, code: ByeCode, text: String) {
        self.out.control(Frame::Bye {
            code,
            text: cut(text),
        });
        self.ended = true;
    }

    fn move_on(&mut self, now: Millis) {
        if self.ended {
            return;
        }
        self.receiver.announce(now, &mut self.out);
        self.exchange.send_next(&mut self.out);
        self.sender.send_next(&mut self.out);
    }
}

fn check_text(frame: &'static str, text: &str) -> Result<(), PeerFault> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(PeerFault::OverLimit {
            frame,
            what: "text",
        });
    }
    Ok(())
}

/// Cuts our own text to what a frame may carry.
fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}
