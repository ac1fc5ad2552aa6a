//! Impostor: speaks the link's protocol with somebody's key and says what it should not.
//!
//! The programs never say such things, so they cannot be made to; the protocol's own crates can.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use identity::{NodeId, NodeKey};
use journal::{ClockQuality, Head, JournalId, SignedManifest};
use sync_proto::{
    Begun, ByeCode, Class, Command, Config, DATA_BYTES_MAX, Event, Offer, Rank, Session,
};
use sync_quic::testing::MemoryShelf;
use sync_quic::{
    Admission, Call, Dialer, Ended, Link, LinkProfile, Listener, Local, Refusal, Road, run,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(30);
const COMMANDS_WAITING_MAX: usize = 8;

/// One end of a session that a test plays.
pub(crate) struct Impostor {
    pub(crate) shelf: Arc<MemoryShelf>,
    events: mpsc::UnboundedReceiver<Event>,
    commands: mpsc::Sender<Command>,
    running: JoinHandle<Ended>,
    runtime: Runtime,
}

/// What is said and not true.
pub(crate) struct Lines {
    /// Whose manifests it offers; the connection is always that of the key.
    pub(crate) me: NodeId,
    /// Where its own journal for the other side ends.
    pub(crate) head: Head,
}

/// The key in a program's folder.
pub(crate) fn key_of(folder: &Path) -> NodeKey {
    NodeKey::load(&folder.join("node.key")).unwrap()
}

impl Impostor {
    /// Calls a hub with a key.
    pub(crate) fn call(hub: SocketAddr, hub_id: NodeId, key: &NodeKey, lines: &Lines) -> Self {
        let runtime = runtime();
        let link = runtime.block_on(async {
            let dialer = Dialer::bind(&Local::Source([127, 0, 0, 1].into()), key).unwrap();
            let link = dialer.dial(Road::Quic, hub, hub_id, &near()).await;
            link.unwrap()
        });
        let (shelf, events) = MemoryShelf::new(Duration::ZERO);
        Self::on(runtime, link, key.id(), lines, (Arc::new(shelf), events))
    }

    /// Takes a hub's place, with its key, and waits for the box to call.
    pub(crate) fn answer(
        address: SocketAddr,
        key: &NodeKey,
        lines: &Lines,
        shelf: (Arc<MemoryShelf>, mpsc::UnboundedReceiver<Event>),
    ) -> Self {
        let runtime = runtime();
        let link = runtime.block_on(async {
            let listener = Listener::bind(address, key, &near(), Arc::new(Anybody)).unwrap();
            let call = tokio::time::timeout(DEADLINE, listener.accept()).await;
            let Call::Session(link) = call.unwrap().unwrap() else {
                panic!("the box is enrolled already");
            };
            link
        });
        let unit = link.peer();
        Self::on(runtime, link, unit, lines, shelf)
    }

    fn on(
        runtime: Runtime,
        link: Link,
        unit: NodeId,
        lines: &Lines,
        (shelf, events): (Arc<MemoryShelf>, mpsc::UnboundedReceiver<Event>),
    ) -> Self {
        let hub = if lines.me == unit {
            link.peer()
        } else {
            lines.me
        };
        let ours = JournalId {
            author: lines.me,
            stream: unit,
        };
        let theirs = JournalId {
            author: if hub == lines.me { unit } else { hub },
            stream: unit,
        };
        let session = Session::new(Config {
            me: lines.me,
            peer: link.peer(),
            software: "impostor".to_owned(),
            wall_ms: 0,
            clock: ClockQuality::Unknown,
            fleet_version: 0,
            journals: vec![(ours, lines.head), (theirs, Head::EMPTY)],
            data_bytes: DATA_BYTES_MAX,
        });
        let (commands, taken) = mpsc::channel(COMMANDS_WAITING_MAX);
        let running = runtime.spawn(run(link, session, Arc::clone(&shelf), taken));
        Self {
            shelf,
            events,
            commands,
            running,
            runtime,
        }
    }

    /// Offers a manifest as one of which nothing ever left, whatever is true.
    pub(crate) fn offer(&self, manifest: SignedManifest) {
        let offer = Offer {
            manifest,
            rank: Rank::new(Class::Routine, 0),
            begun: Begun::Never,
        };
        let command = Command::Offer(Box::new(offer));
        // The session may have ended by what was said before.
        let _ = self.runtime.block_on(self.commands.send(command));
    }

    /// Waits until the session tells this.
    pub(crate) fn told(&mut self, mut what: impl FnMut(&Event) -> bool) -> Event {
        let events = &mut self.events;
        let wanted = async {
            loop {
                let event = events.recv().await.expect("it is told before the end");
                if what(&event) {
                    return event;
                }
            }
        };
        self.runtime
            .block_on(async { tokio::time::timeout(DEADLINE, wanted).await })
            .expect("it is told in time")
    }

    /// Says goodbye, and waits until the other side has heard it.
    pub(crate) fn leave(self) {
        let (code, text) = (ByeCode::Done, "done".to_owned());
        let close = self.commands.send(Command::Close { code, text });
        self.runtime.block_on(close).unwrap();
        self.ended();
    }

    /// Waits until it has ended.
    pub(crate) fn ended(self) -> Ended {
        let Self {
            running, runtime, ..
        } = self;
        runtime
            .block_on(async { tokio::time::timeout(DEADLINE, running).await })
            .expect("it ends in time")
            .unwrap()
    }
}

/// Lets everybody in.
struct Anybody;

impl Admission for Anybody {
    fn admit(&self, _: &NodeId) -> Result<(), Refusal> {
        Ok(())
    }

    fn admit_enrolment(&self, _: &NodeId) -> Result<(), Refusal> {
        Ok(())
    }
}

fn near() -> LinkProfile {
    LinkProfile {
        rtt_expected: Duration::from_millis(20),
        ..LinkProfile::default()
    }
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}
