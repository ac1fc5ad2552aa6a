//! From one road to the other and back, and from one uplink to another, with work in hand.

use super::*;
use crate::{HubAddress, Roads, RoadsConfig, TlsPorts};

/// A world whose UDP leads through a path that can be blocked, while TCP is as open as ever.
struct Blockable {
    world: World,
    path: Arc<Path>,
    hub: HubAddress,
    roads: Roads,
}

impl Blockable {
    async fn new() -> Self {
        let world = World::by_tls().await;
        let path = Path::to(world.listener.local_addr().unwrap());
        let hub = HubAddress {
            address: Arc::clone(&path).open().await,
            key: world.hub.id(),
        };
        let config = RoadsConfig {
            local: LOCAL,
            tls_ports: TlsPorts::One(world.address.port()),
            ..RoadsConfig::default()
        };
        let roads = Roads::bind(&config, &world.unit).unwrap();
        Self {
            world,
            path,
            hub,
            roads,
        }
    }

    fn block(&self, blocked: bool) {
        self.path.down.store(blocked, Ordering::Relaxed);
    }

    async fn call(&self) -> Link {
        let call = self.roads.call(self.hub, &self.world.profile);
        within(call).await.unwrap()
    }

    async fn better(&self, link: &Link) -> Link {
        self.roads.better(link, self.hub, &self.world.profile).await
    }
}

#[tokio::test]
async fn blocked_udp_is_passed_by_and_taken_again_when_it_opens() {
    let test = Blockable::new().await;
    test.block(true);
    let by_tls = test.call().await;
    assert_eq!(by_tls.road(), Road::Tls);
    let first = within(test.world.accept()).await;
    assert!(!first.took_over());
    // It is known now, and costs no more time.
    let called_at = Instant::now();
    let by_tls_again = test.call().await;
    assert_eq!(by_tls_again.road(), Road::Tls);
    assert!(called_at.elapsed() < Duration::from_secs(2));
    assert_eq!(within(by_tls.closed()).await, End::Replaced);
    // The hub hands it on when whoever had the first one is done with that.
    drop(first);
    let hub_link = within(test.world.accept()).await;
    assert!(hub_link.took_over());

    test.block(false);
    let moved = within(async {
        let better = test.better(&by_tls_again);
        tokio::pin!(better);
        // Another uplink is a reason to try at once, else it is tried every ten minutes.
        let nothing = tokio::time::timeout(Duration::from_millis(200), &mut better).await;
        assert!(nothing.is_err());
        test.roads.rebind(&LOCAL).unwrap();
        better.await
    })
    .await;
    assert_eq!(moved.road(), Road::Quic);
    assert_eq!(by_tls_again.closed().await, End::Replaced);
    drop(hub_link);
    assert!(within(test.world.accept()).await.took_over());
    assert_eq!(test.world.listener.live(), [test.world.unit.id()]);
}

#[tokio::test]
async fn udp_that_is_blocked_in_the_middle_costs_no_byte() {
    let test = Blockable::new().await;
    let world = &test.world;
    let (unit_shelf, events) = MemoryShelf::new(Duration::ZERO);
    let unit_shelf = Arc::new(unit_shelf);
    let (hub_shelf, _hub_events) = MemoryShelf::new(Duration::from_millis(1));
    let hub_shelf = Arc::new(hub_shelf);
    let manifest = unit_shelf.study(&world.unit, "1.2.3", 20, 100_000);
    let digest = manifest.digest();
    let hub_side = |link| {
        let session = world.session(&world.hub, world.unit.id(), [Head::EMPTY; 2]);
        let (commands, taken) = mpsc::channel(8);
        let running = tokio::spawn(run(link, session, Arc::clone(&hub_shelf), taken));
        (commands, running)
    };

    let link = test.call().await;
    assert_eq!(link.road(), Road::Quic);
    let session = world.session(&world.unit, world.hub.id(), [Head::EMPTY; 2]);
    let unit = Side::start(link.clone(), session, unit_shelf.clone(), events);
    let (_commands, hub) = hub_side(within(world.accept()).await);
    let offer = |begun| {
        Command::Offer(Box::new(Offer {
            manifest: manifest.clone(),
            rank: Rank::new(Class::Routine, 0),
            begun,
        }))
    };
    unit.command(offer(Begun::Never)).await;
    within(async {
        while hub_shelf.stored_bytes() < 500_000 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    test.block(true);

    let next = within(test.better(&link)).await;
    assert_eq!(next.road(), Road::Tls);
    link.close();
    let mut unfinished = unit.ended().await.unfinished;
    assert_eq!(hub.await.unwrap().counters.repeated_bytes, 0);
    let before = hub_shelf.stored_bytes();
    assert!(before < 2_000_000, "it was over before it was blocked");

    let (_commands, hub) = hub_side(within(world.accept()).await);
    let session = world.session(&world.unit, world.hub.id(), [Head::EMPTY; 2]);
    let (shelf, events) = (unit_shelf.clone(), MemoryShelf::new(Duration::ZERO).1);
    let unit = Side::start(next, session, shelf, events);
    unit.command(offer(unfinished.remove(0).begun)).await;
    within(async {
        while !hub_shelf.is_whole(&digest) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    unit.command(Command::Close {
        code: ByeCode::Done,
        text: String::new(),
    })
    .await;
    unit.ended().await;
    let ended = within(hub).await.unwrap();
    assert_eq!((ended.why, ended.counters.repeated_bytes), (End::Done, 0));
    assert_eq!(
        hub_shelf.stored_bytes(),
        2_000_000,
        "bytes were stored twice"
    );
}

#[tokio::test]
async fn a_live_link_moves_to_another_uplink_with_a_study_on_its_way() {
    let world = World::new();
    let local = |last| Local::Source(Ipv4Addr::new(127, 0, 0, last).into());
    let dialer = Dialer::bind(&local(2), &world.unit).unwrap();
    let session = world.session(&world.unit, world.hub.id(), [Head::EMPTY; 2]);
    let mut unit = Side::fresh(world.dial_with(&dialer).await, session);
    let hub_session = world.session(&world.hub, world.unit.id(), [Head::EMPTY; 2]);
    let hub_link = within(world.accept()).await;
    let hub = Side::fresh(hub_link.clone(), hub_session);
    let from = |last: u8| IpAddr::from([127, 0, 0, last]);
    assert_eq!(hub_link.remote_address().ip(), from(2));
    let manifest = unit.shelf.study(&world.unit, "1.2.3", 40, 1 << 20);
    let digest = manifest.digest();
    let offer = Offer {
        manifest,
        rank: Rank::new(Class::Routine, 0),
        begun: Begun::Never,
    };
    unit.command(Command::Offer(Box::new(offer))).await;
    stored(&hub, 5_000_000).await;
    dialer.rebind(&local(3)).unwrap();
    assert!(hub.shelf.stored_bytes() < 40 << 20, "it was over before");
    unit.wait(|event| matches!(event, Event::Delivered { .. }))
        .await;
    assert!(hub.shelf.is_whole(&digest));
    assert_eq!(hub_link.remote_address().ip(), from(3));
    assert_eq!(
        hub.shelf.stored_bytes(),
        40 << 20,
        "bytes were stored twice"
    );
    // An uplink that is not there changes nothing.
    assert!(
        dialer
            .rebind(&Local::Interface("nosuchlink0".into()))
            .is_err()
    );
    unit.command(Command::Close {
        code: ByeCode::Done,
        text: String::new(),
    })
    .await;
    assert_eq!(unit.ended().await.why, End::Closed);
    assert_eq!(hub.ended().await.counters.repeated_bytes, 0);
}
