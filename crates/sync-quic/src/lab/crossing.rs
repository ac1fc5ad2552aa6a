//! A box and a hub on an emulated link: the whole crate with its disks in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use identity::{NodeId, NodeKey};
use journal::{ClockQuality, Head, JournalId};
use study::Digest;
use sync_proto::{Begun, Class, Command, Config, Event, Offer, Rank, Session};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Air;
use crate::testing::MemoryShelf;
use crate::{
    Admission, Call, Dialer, Ended, Link, LinkProfile, Listener, Local, Refusal, Road, endpoint,
    run,
};

/// What a sync of the hub's disk takes.
const SYNC: Duration = Duration::from_millis(10);
/// One chunk, as the codec makes them of a CT slice.
const CHUNK_BYTES: u32 = 120_000;

struct Everyone;

impl Admission for Everyone {
    fn admit(&self, _: &NodeId) -> Result<(), Refusal> {
        Ok(())
    }

    fn admit_enrolment(&self, _: &NodeId) -> Result<(), Refusal> {
        Ok(())
    }
}

/// A hub that takes every session.
pub(super) struct Hub {
    key: NodeKey,
    endpoint: quinn::Endpoint,
    /// Bytes that came although they were held.
    repeated: Arc<AtomicU64>,
}

impl Hub {
    /// A hub with the profile that hubs have.
    pub(super) fn open(air: &Arc<Air>) -> Self {
        let key = NodeKey::generate();
        let config = Listener::config(&key, &LinkProfile::default());
        let endpoint = endpoint::over(air.hub(), &key, Some(config)).unwrap();
        let listener = Listener::on(endpoint.clone(), Arc::new(Everyone));
        let (me, repeated) = (key.id(), Arc::<AtomicU64>::default());
        let counted = Arc::clone(&repeated);
        tokio::spawn(async move {
            while let Some(Call::Session(link)) = listener.accept().await {
                let (shelf, _) = MemoryShelf::new(SYNC);
                let session = session(me, link.peer());
                let (_, commands) = mpsc::channel(1);
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let ended = run(link, session, Arc::new(shelf), commands).await;
                    counted.fetch_add(ended.counters.repeated_bytes, Ordering::Relaxed);
                });
            }
        });
        Self {
            key,
            endpoint,
            repeated,
        }
    }

    /// Who it is.
    pub(super) fn id(&self) -> NodeId {
        self.key.id()
    }

    /// How many connections it has, handshakes included.
    pub(super) fn connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Bytes that came in sessions which have ended, although they were held.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }
}

/// A box in a session with the hub.
pub(super) struct Unit {
    key: NodeKey,
    dialer: Dialer,
    pub(super) link: Link,
    shelf: Arc<MemoryShelf>,
    events: mpsc::UnboundedReceiver<Event>,
    commands: mpsc::Sender<Command>,
    running: JoinHandle<Ended>,
    studies: u32,
}

impl Unit {
    /// Calls the hub.
    pub(super) async fn call(air: &Arc<Air>, number: u16, hub: &Hub, link: &LinkProfile) -> Self {
        let key = NodeKey::generate();
        let endpoint = endpoint::over(air.unit(number), &key, None).unwrap();
        let dialer = Dialer::on(endpoint, &Local::Any, &key);
        let line = dialer
            .dial(Road::Quic, super::HUB, hub.key.id(), link)
            .await;
        let line = line.unwrap();
        let (shelf, events) = MemoryShelf::new(Duration::ZERO);
        let shelf = Arc::new(shelf);
        let (commands, taken) = mpsc::channel(4);
        let session = session(key.id(), hub.key.id());
        let running = tokio::spawn(run(line.clone(), session, Arc::clone(&shelf), taken));
        Self {
            key,
            dialer,
            link: line,
            shelf,
            events,
            commands,
            running,
            studies: 0,
        }
    }

    /// Offers a study and goes on.
    pub(super) async fn offer(&mut self, kilobytes: u32, class: Class) -> Digest {
        self.studies += 1;
        let uid = format!("1.2.{}", self.studies);
        let bytes = kilobytes * 1000;
        let (chunks, size) = match bytes / CHUNK_BYTES {
            0 => (1, bytes),
            chunks => (chunks, CHUNK_BYTES),
        };
        let manifest = self.shelf.study(&self.key, &uid, chunks, size);
        let digest = manifest.digest();
        let offer = Offer {
            manifest,
            rank: Rank::new(class, 0),
            begun: Begun::Never,
        };
        let offer = Command::Offer(Box::new(offer));
        self.commands.send(offer).await.unwrap();
        digest
    }

    /// Waits until the box knows that all of a study is stored at the hub.
    pub(super) async fn delivered(&mut self, study: Digest) {
        loop {
            match self.events.recv().await {
                Some(Event::Delivered { manifest }) if manifest == study => return,
                Some(_) => {}
                None => panic!("the session ended early"),
            }
        }
    }

    /// Sends a study and waits for it; returns what it took.
    pub(super) async fn cross(&mut self, kilobytes: u32) -> Duration {
        let begun = Instant::now();
        let study = self.offer(kilobytes, Class::Routine).await;
        self.delivered(study).await;
        begun.elapsed()
    }

    /// Hangs up, and waits until the session has ended.
    pub(super) async fn part(self) -> Ended {
        self.dialer.close().await;
        self.running.await.unwrap()
    }
}

fn session(me: NodeId, peer: NodeId) -> Session {
    Session::new(Config {
        me,
        peer,
        software: "lab".into(),
        wall_ms: 0,
        clock: ClockQuality::Unknown,
        fleet_version: 0,
        journals: vec![
            (JournalId::own(me), Head::EMPTY),
            (JournalId::own(peer), Head::EMPTY),
        ],
        data_bytes: 16 << 10,
    })
}
