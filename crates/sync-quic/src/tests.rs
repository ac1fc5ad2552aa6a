//! The crate over loopback: two nodes in one process, real sockets, over either road.

mod by_tls;
mod moves;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use identity::{NodeId, NodeKey};
use journal::{Chain, ClockQuality, Fact, Head, JournalId, Moment, Opened};
use sync_proto::{Begun, ByeCode, Class, Command, Config, Event, Offer, Rank, Session};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::line::Line;
use crate::testing::MemoryShelf;
use crate::tls::Purpose;
use crate::{
    Admission, Call, DialError, Dialer, End, Ended, EnrolError, Link, LinkProfile, Listener, Local,
    Refusal, Road, enrol, run,
};

const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const LOCAL: Local = Local::Source(IpAddr::V4(Ipv4Addr::LOCALHOST));

/// Admits the units in it.
#[derive(Default)]
struct Allowed(Mutex<BTreeSet<NodeId>>);

impl Admission for Allowed {
    fn admit(&self, peer: &NodeId) -> Result<(), Refusal> {
        match self.0.lock().unwrap().contains(peer) {
            true => Ok(()),
            false => Err(Refusal("this unit is not in the fleet".into())),
        }
    }

    fn admit_enrolment(&self, _: &NodeId) -> Result<(), Refusal> {
        Ok(())
    }
}

struct World {
    hub: NodeKey,
    unit: NodeKey,
    allowed: Arc<Allowed>,
    listener: Arc<Listener>,
    dialer: Dialer,
    profile: LinkProfile,
    road: Road,
    address: SocketAddr,
}

impl World {
    fn new() -> Self {
        let (hub, unit) = (NodeKey::generate(), NodeKey::generate());
        let allowed = Arc::new(Allowed::default());
        allowed.0.lock().unwrap().insert(unit.id());
        let profile = LinkProfile {
            rtt_expected: Duration::from_millis(50),
            ..LinkProfile::default()
        };
        let listener = Listener::bind(HERE, &hub, &profile, allowed.clone()).unwrap();
        let dialer = Dialer::bind(&LOCAL, &unit).unwrap();
        let address = listener.local_addr().unwrap();
        Self {
            hub,
            unit,
            allowed,
            listener: Arc::new(listener),
            dialer,
            profile,
            road: Road::Quic,
            address,
        }
    }

    async fn by_tls() -> Self {
        let mut world = Self::new();
        world.address = world
            .listener
            .bind_tls(HERE, &world.hub, &world.profile)
            .await
            .unwrap();
        world.road = Road::Tls;
        world
    }

    /// The same world twice: its box calls over one road or the other.
    async fn both() -> [Self; 2] {
        [Self::new(), Self::by_tls().await]
    }

    async fn dial(&self) -> Link {
        self.dial_with(&self.dialer).await
    }

    async fn dial_with(&self, dialer: &Dialer) -> Link {
        let link = dialer.dial(self.road, self.address, self.hub.id(), &self.profile);
        link.await.unwrap()
    }

    async fn accept(&self) -> Link {
        match self.listener.accept().await.unwrap() {
            Call::Session(link) => link,
            Call::Enrol(_) => panic!("a session was expected"),
        }
    }

    fn session(&self, me: &NodeKey, peer: NodeId, heads: [Head; 2]) -> Session {
        let journals = [self.unit.id(), self.hub.id()].map(|author| JournalId {
            author,
            stream: self.unit.id(),
        });
        Session::new(Config {
            me: me.id(),
            peer,
            software: "test".into(),
            wall_ms: 0,
            clock: ClockQuality::Unknown,
            fleet_version: 0,
            journals: journals.into_iter().zip(heads).collect(),
            data_bytes: 32 << 10,
        })
    }
}

/// One end of a running session.
struct Side {
    shelf: Arc<MemoryShelf>,
    events: mpsc::UnboundedReceiver<Event>,
    commands: mpsc::Sender<Command>,
    running: JoinHandle<Ended>,
}

impl Side {
    fn start(
        link: Link,
        session: Session,
        shelf: Arc<MemoryShelf>,
        events: mpsc::UnboundedReceiver<Event>,
    ) -> Self {
        let (commands, taken) = mpsc::channel(64);
        let running = tokio::spawn(run(link, session, shelf.clone(), taken));
        Self {
            shelf,
            events,
            commands,
            running,
        }
    }

    fn fresh(link: Link, session: Session) -> Self {
        let (shelf, events) = MemoryShelf::new(Duration::from_millis(2));
        Self::start(link, session, Arc::new(shelf), events)
    }

    async fn command(&self, command: Command) {
        self.commands.send(command).await.unwrap();
    }

    async fn wait(&mut self, mut what: impl FnMut(&Event) -> bool) -> Event {
        let events = &mut self.events;
        let wanted = async {
            loop {
                let event = events.recv().await.expect("the event comes before the end");
                if what(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wanted)
            .await
            .expect("the event comes")
    }

    async fn ended(self) -> Ended {
        tokio::time::timeout(Duration::from_secs(20), self.running)
            .await
            .expect("it ends")
            .unwrap()
    }
}

fn quic(link: &Link) -> &quinn::Connection {
    let Line::Quic(connection) = link.line() else {
        panic!("this link is not over QUIC");
    };
    connection
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("it comes to an end")
}

#[tokio::test]
async fn a_study_and_records_cross_both_ways_and_both_sides_part() {
    for world in World::both().await {
        let (shelf, events) = MemoryShelf::new(Duration::ZERO);
        let manifest = shelf.study(&world.unit, "1.2.3", 12, 300_000);
        let mut chain = Chain::resume(JournalId::own(world.unit.id()), Head::EMPTY);
        let fact = Fact::Opened(Opened {
            software: "test".into(),
        });
        for _ in 0..3 {
            shelf.keep_record(&chain.append(&world.unit, Moment::default(), &fact).unwrap());
        }
        let session = world.session(&world.unit, world.hub.id(), [chain.head(), Head::EMPTY]);
        let mut unit = Side::start(world.dial().await, session, Arc::new(shelf), events);
        let link = within(world.accept()).await;
        assert_eq!(link.peer(), world.unit.id());
        let mut hub = Side::fresh(
            link,
            world.session(&world.hub, world.unit.id(), [Head::EMPTY; 2]),
        );

        let digest = manifest.digest();
        let offer = Offer {
            manifest,
            rank: Rank::new(Class::Routine, 0),
            begun: Begun::Never,
        };
        unit.command(Command::Offer(Box::new(offer))).await;
        hub.wait(|event| matches!(event, Event::Received { .. }))
            .await;
        let (mut delivered, mut records) = (false, false);
        unit.wait(|event| {
            delivered |= matches!(event, Event::Delivered { .. });
            records |= matches!(event, Event::RecordsHeld { seq: 3, .. });
            delivered && records
        })
        .await;
        assert!(hub.shelf.is_whole(&digest));
        assert_eq!(hub.shelf.records(&JournalId::own(world.unit.id())), 3);
        assert_eq!(world.listener.live(), [world.unit.id()]);

        unit.command(Command::Close {
            code: ByeCode::Done,
            text: "window over".into(),
        })
        .await;
        let (unit, hub) = (unit.ended().await, hub.ended().await);
        assert_eq!(unit.why, End::Closed);
        assert_eq!(hub.why, End::Done);
        assert_eq!(unit.unfinished, []);
        assert!(unit.traffic.bytes_sent > 12 * 300_000, "{:?}", unit.traffic);
    }
}

#[tokio::test]
async fn a_hub_with_another_key_is_refused_and_named() {
    for world in World::both().await {
        let expected = NodeKey::generate().id();
        let error = world
            .dialer
            .dial(world.road, world.address, expected, &world.profile)
            .await
            .unwrap_err();
        assert!(
            matches!(error, DialError::WrongKey { shown, .. } if shown == world.hub.id()),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains(&expected.to_string()) && text.contains("nothing was sent"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn nobody_there_is_said_in_time() {
    let silent = std::net::UdpSocket::bind(HERE).unwrap();
    let world = World::new();
    tokio::time::pause();
    let address = silent.local_addr().unwrap();
    let error = world
        .dialer
        .dial(Road::Quic, address, world.hub.id(), &world.profile)
        .await
        .unwrap_err();
    assert!(matches!(error, DialError::NoAnswer { .. }), "{error:?}");
}

#[tokio::test]
async fn an_unknown_box_is_told_why_it_is_refused() {
    for world in World::both().await {
        world.allowed.0.lock().unwrap().clear();
        let session = world.session(&world.unit, world.hub.id(), [Head::EMPTY; 2]);
        let ended = Side::fresh(world.dial().await, session).ended().await;
        assert_eq!(
            ended.why,
            End::Refused("this unit is not in the fleet".into())
        );
        assert_eq!(world.listener.live(), []);
    }
}

#[tokio::test]
async fn a_revoked_box_is_cut_off_while_others_go_on() {
    for world in World::both().await {
        let other = NodeKey::generate();
        world.allowed.0.lock().unwrap().insert(other.id());
        let other_dialer = Dialer::bind(&LOCAL, &other).unwrap();
        let other_link = world.dial_with(&other_dialer).await;
        let _other_hub = within(world.accept()).await;
        let session = world.session(&world.unit, world.hub.id(), [Head::EMPTY; 2]);
        let unit = Side::fresh(world.dial().await, session);
        let hub_session = world.session(&world.hub, world.unit.id(), [Head::EMPTY; 2]);
        let hub = Side::fresh(within(world.accept()).await, hub_session);

        world.allowed.0.lock().unwrap().remove(&world.unit.id());
        assert_eq!(world.listener.recheck(), [world.unit.id()]);
        assert!(matches!(unit.ended().await.why, End::Refused(_)));
        assert_eq!(hub.ended().await.why, End::Closed);
        assert_eq!(world.listener.live(), [other.id()]);
        let other_closed = tokio::time::timeout(Duration::from_millis(1), other_link.closed());
        assert!(other_closed.await.is_err());
    }
}

#[tokio::test]
async fn garbage_ends_that_connection_only_and_says_so() {
    let world = World::new();
    let other = NodeKey::generate();
    world.allowed.0.lock().unwrap().insert(other.id());
    let garbage: [&[u8]; 4] = [
        &[0xff; 64],
        &[0, 0, 0, 5, b'h', b'e', b'l', b'l', b'o'],
        &[0, 0, 0, 0],
        &[0, 0, 1, 0, 1],
    ];
    for bytes in garbage {
        let rogue = Dialer::bind(&LOCAL, &other).unwrap();
        let rogue = world.dial_with(&rogue).await;
        let hub_session = world.session(&world.hub, other.id(), [Head::EMPTY; 2]);
        let (mut stream, _receive) = quic(&rogue).open_bi().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.finish().unwrap();
        let hub = Side::fresh(within(world.accept()).await, hub_session);
        let why = hub.ended().await.why;
        assert!(matches!(why, End::PeerFault(_)), "{bytes:?}: {why:?}");
        let told = within(rogue.closed()).await;
        assert!(matches!(told, End::Blamed(_)), "{bytes:?}: {told:?}");
    }
    let session = world.session(&world.unit, world.hub.id(), [Head::EMPTY; 2]);
    let mut unit = Side::fresh(world.dial().await, session);
    let hub_session = world.session(&world.hub, world.unit.id(), [Head::EMPTY; 2]);
    let _hub = Side::fresh(within(world.accept()).await, hub_session);
    unit.wait(|event| matches!(event, Event::Greeted { .. }))
        .await;
}

#[tokio::test]
async fn what_was_durable_before_a_cut_is_not_sent_again() {
    for world in World::both().await {
        let (unit_shelf, events) = MemoryShelf::new(Duration::ZERO);
        let unit_shelf = Arc::new(unit_shelf);
        let (hub_shelf, hub_events) = MemoryShelf::new(Duration::from_millis(1));
        let hub_shelf = Arc::new(hub_shelf);
        let manifest = unit_shelf.study(&world.unit, "1.2.3", 20, 1 << 20);
        let (digest, total) = (manifest.digest(), 20 << 20);
        let offer = |begun| Offer {
            manifest: manifest.clone(),
            rank: Rank::new(Class::Routine, 0),
            begun,
        };

        let session = world.session(&world.unit, world.hub.id(), [Head::EMPTY; 2]);
        let unit = Side::start(world.dial().await, session, unit_shelf.clone(), events);
        let hub_session = world.session(&world.hub, world.unit.id(), [Head::EMPTY; 2]);
        let hub_link = within(world.accept()).await;
        let hub = Side::start(hub_link, hub_session, hub_shelf.clone(), hub_events);
        unit.command(Command::Offer(Box::new(offer(Begun::Never))))
            .await;
        within(async {
            while hub_shelf.stored_bytes() < total / 4 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        // The box is switched off: its connection ends without a word, its memory is lost.
        unit.running.abort();
        drop(unit);

        let session = world.session(&world.unit, world.hub.id(), [Head::EMPTY; 2]);
        let (commands, taken) = mpsc::channel(8);
        let running = tokio::spawn(run(world.dial().await, session, unit_shelf.clone(), taken));
        commands
            .send(Command::Offer(Box::new(offer(Begun::Perhaps))))
            .await
            .unwrap();
        hub.ended().await;
        let before = hub_shelf.stored_bytes();
        let hub_session = world.session(&world.hub, world.unit.id(), [Head::EMPTY; 2]);
        let hub_link = within(world.accept()).await;
        let (hub_commands, hub_taken) = mpsc::channel(8);
        let hub = tokio::spawn(run(hub_link, hub_session, hub_shelf.clone(), hub_taken));
        within(async {
            while !hub_shelf.is_whole(&digest) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        assert!(
            before >= total / 4 && before < total,
            "{before} of {total} before the cut"
        );
        assert_eq!(hub_shelf.stored_bytes(), total, "bytes were stored twice");
        hub_commands
            .send(Command::Close {
                code: ByeCode::Done,
                text: String::new(),
            })
            .await
            .unwrap();
        assert_eq!(within(running).await.unwrap().why, End::Done);
        assert_eq!(within(hub).await.unwrap().counters.repeated_bytes, 0);
    }
}

#[tokio::test]
async fn a_newer_connection_of_a_unit_takes_over() {
    for world in World::both().await {
        let session = || world.session(&world.unit, world.hub.id(), [Head::EMPTY; 2]);
        let hub_session = || world.session(&world.hub, world.unit.id(), [Head::EMPTY; 2]);
        let older = Side::fresh(world.dial().await, session());
        let older_hub_link = within(world.accept()).await;
        assert!(!older_hub_link.took_over());
        let older_hub = Side::fresh(older_hub_link, hub_session());
        let mut newer = Side::fresh(world.dial().await, session());
        let newer_hub_link = within(world.accept()).await;
        assert!(newer_hub_link.took_over());
        let _newer_hub = Side::fresh(newer_hub_link, hub_session());
        assert_eq!(older.ended().await.why, End::Replaced);
        assert_eq!(older_hub.ended().await.why, End::Closed);
        newer
            .wait(|event| matches!(event, Event::Greeted { .. }))
            .await;
        assert_eq!(world.listener.live(), [world.unit.id()]);
    }
}

/// A thin link between one box and whichever hub is named: 500 datagrams a second towards the
/// hub, nothing at all while it is down.
struct Path {
    hub: Mutex<SocketAddr>,
    down: AtomicBool,
    /// How often the unit has tried while it was down; what comes together counts once.
    tries: AtomicU32,
}

impl Path {
    fn to(hub: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            hub: Mutex::new(hub),
            down: AtomicBool::new(false),
            tries: AtomicU32::new(0),
        })
    }

    async fn open(self: Arc<Self>) -> SocketAddr {
        let front = tokio::net::UdpSocket::bind(HERE).await.unwrap();
        let back = tokio::net::UdpSocket::bind(HERE).await.unwrap();
        let address = front.local_addr().unwrap();
        let (mut up, mut down) = (vec![0; 2000], vec![0; 2000]);
        let (mut unit, mut tried_at) = (None, Instant::now());
        tokio::spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(2));
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = pace.tick() => {
                        let Ok((length, from)) = front.try_recv_from(&mut up) else { continue };
                        unit = Some(from);
                        let hub = *self.hub.lock().unwrap();
                        if !self.down.load(Ordering::Relaxed) {
                            back.send_to(&up[..length], hub).await.unwrap();
                            continue;
                        }
                        if tried_at.elapsed() > Duration::from_millis(200) {
                            self.tries.fetch_add(1, Ordering::Relaxed);
                        }
                        tried_at = Instant::now();
                    }
                    Ok((length, _)) = back.recv_from(&mut down) => {
                        if let Some(unit) = unit.filter(|_| !self.down.load(Ordering::Relaxed)) {
                            front.send_to(&down[..length], unit).await.unwrap();
                        }
                    }
                }
            }
        });
        address
    }
}

/// Both ends of a session over `path`.
async fn over(world: &World, path: Arc<Path>) -> (Side, Side) {
    let address = path.open().await;
    let link = world
        .dialer
        .dial(Road::Quic, address, world.hub.id(), &world.profile)
        .await
        .unwrap();
    let session = world.session(&world.unit, world.hub.id(), [Head::EMPTY; 2]);
    let unit = Side::fresh(link, session);
    let hub_session = world.session(&world.hub, world.unit.id(), [Head::EMPTY; 2]);
    (unit, Side::fresh(within(world.accept()).await, hub_session))
}

async fn stored(side: &Side, bytes: u64) {
    within(async {
        while side.shelf.stored_bytes() < bytes {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_urgent_study_overtakes_one_that_is_on_its_way() {
    let world = World::new();
    let (mut unit, hub) = over(&world, Path::to(world.listener.local_addr().unwrap())).await;
    let routine = unit.shelf.study(&world.unit, "1.2.3", 40, 200_000);
    let stat = unit.shelf.study(&world.unit, "1.2.4", 2, 30_000);
    let offer = |manifest, class| {
        Command::Offer(Box::new(Offer {
            manifest,
            rank: Rank::new(class, 0),
            begun: Begun::Never,
        }))
    };
    unit.command(offer(routine, Class::Routine)).await;
    stored(&hub, 500_000).await;
    let (wanted, offered_at) = (stat.digest(), Instant::now());
    unit.command(offer(stat, Class::Stat)).await;
    unit.wait(|event| matches!(event, Event::Delivered { manifest } if *manifest == wanted))
        .await;
    assert!(
        offered_at.elapsed() < Duration::from_secs(2),
        "{:?}",
        offered_at.elapsed()
    );
    assert!(
        hub.shelf.stored_bytes() < 4_000_000,
        "{}",
        hub.shelf.stored_bytes()
    );
}

#[tokio::test]
async fn bulk_moves_again_within_a_second_after_an_outage() {
    let world = World::new();
    let path = Path::to(world.listener.local_addr().unwrap());
    let (unit, hub) = over(&world, path.clone()).await;
    let manifest = unit.shelf.study(&world.unit, "1.2.3", 40, 200_000);
    let offer = Offer {
        manifest,
        rank: Rank::new(Class::Routine, 0),
        begun: Begun::Never,
    };
    unit.command(Command::Offer(Box::new(offer))).await;
    stored(&hub, 500_000).await;
    path.down.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let tries = path.tries.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(3)).await;
    // QUIC's own probes are seconds apart by now.
    let tries = path.tries.load(Ordering::Relaxed) - tries;
    assert!((3..=12).contains(&tries), "{tries} tries in 3 s");
    let before = hub.shelf.stored_bytes();
    path.down.store(false, Ordering::Relaxed);
    let back_at = Instant::now();
    stored(&hub, before + 100_000).await;
    assert!(
        back_at.elapsed() < Duration::from_millis(1500),
        "{:?}",
        back_at.elapsed()
    );
}

#[tokio::test]
async fn a_hub_that_lost_its_memory_ends_the_old_connection_at_once() {
    let world = World::new();
    let path = Path::to(world.listener.local_addr().unwrap());
    let (unit, _hub) = over(&world, path.clone()).await;
    // The hub was switched off without a word; another run of it has the same key, and no memory.
    let again = Listener::bind(HERE, &world.hub, &world.profile, world.allowed.clone()).unwrap();
    *path.hub.lock().unwrap() = again.local_addr().unwrap();
    let manifest = unit.shelf.study(&world.unit, "1.2.3", 1, 1000);
    let offer = Offer {
        manifest,
        rank: Rank::new(Class::Stat, 0),
        begun: Begun::Never,
    };
    unit.command(Command::Offer(Box::new(offer))).await;
    assert_eq!(unit.ended().await.why, End::PeerStopped);
}

#[tokio::test]
async fn a_stopping_hub_says_so() {
    for world in World::both().await {
        let session = world.session(&world.unit, world.hub.id(), [Head::EMPTY; 2]);
        let unit = Side::fresh(world.dial().await, session);
        let hub_session = world.session(&world.hub, world.unit.id(), [Head::EMPTY; 2]);
        let hub = Side::fresh(within(world.accept()).await, hub_session);
        within(world.listener.close()).await;
        assert_eq!(unit.ended().await.why, End::PeerStopped);
        assert_eq!(hub.ended().await.why, End::Closed);
        assert!(world.listener.accept().await.is_none());
    }
}

#[tokio::test]
async fn a_chunk_with_a_flipped_bit_is_found_and_the_connection_survives() {
    for world in World::both().await {
        let session = world.session(&world.unit, world.hub.id(), [Head::EMPTY; 2]);
        let mut unit = Side::fresh(world.dial().await, session);
        let hub_session = world.session(&world.hub, world.unit.id(), [Head::EMPTY; 2]);
        let mut hub = Side::fresh(within(world.accept()).await, hub_session);
        let manifest = unit.shelf.study(&world.unit, "1.2.3", 3, 100_000);
        let chunk = manifest.manifest().chunks().nth(1).unwrap().digest;
        unit.shelf.spoil(&chunk);
        let digest = manifest.digest();
        let offer = Offer {
            manifest,
            rank: Rank::new(Class::Routine, 0),
            begun: Begun::Never,
        };
        unit.command(Command::Offer(Box::new(offer))).await;
        unit.wait(|event| matches!(event, Event::ChunkDamaged { chunk: 1, .. }))
            .await;
        unit.shelf.spoil(&chunk);
        hub.wait(|event| matches!(event, Event::Received { .. }))
            .await;
        assert!(hub.shelf.is_whole(&digest));
    }
}

#[tokio::test]
async fn enrolment_is_one_request_and_one_reply() {
    for world in World::both().await {
        let stranger = NodeKey::generate();
        let dialer = Dialer::bind(&LOCAL, &stranger).unwrap();
        let hub = async {
            for _ in 0..2 {
                let Some(Call::Enrol(mut call)) = world.listener.accept().await else {
                    panic!("an enrolment was expected");
                };
                assert_eq!(call.peer(), stranger.id());
                match call.request().await.unwrap().as_slice() {
                    b"please" => call.answer(b"granted").await.unwrap(),
                    _ => {
                        call.refuse("this voucher was redeemed by another box")
                            .await
                    }
                }
            }
        };
        let unit = async {
            let ask = async |request: &[u8]| {
                let (road, hub) = (world.road, world.hub.id());
                let called =
                    dialer.connect(road, world.address, hub, &world.profile, Purpose::Enrol);
                enrol::exchange(called.await?, request).await
            };
            assert_eq!(ask(b"please".as_slice()).await.unwrap(), b"granted");
            let refused = ask(b"again".as_slice()).await.unwrap_err();
            assert!(
                matches!(&refused, EnrolError::Refused(text) if text.contains("another box")),
                "{refused:?}"
            );
        };
        within(Box::pin(async { tokio::join!(hub, unit) })).await;
    }
}
