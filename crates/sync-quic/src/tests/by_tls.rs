//! The road over TCP: who is turned away there, and what an urgent study waits for.

use sync_proto::FRAME_BYTES_MAX;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;
use crate::dial::Called;

/// What the hub has to say to bytes that are no TLS: nothing, or an alert.
const ALERT_BYTES: usize = 7;

#[tokio::test]
async fn what_is_no_tls_is_turned_away_and_known_boxes_are_served() {
    let world = World::by_tls().await;
    let http = b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n".as_slice();
    for bytes in [http, &[0xff; 3000], &[0x16, 3, 1, 0xff, 0xff], b""] {
        let mut stranger = TcpStream::connect(world.address).await.unwrap();
        stranger.write_all(bytes).await.unwrap();
        stranger.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is an answer too.
        let _ = within(stranger.read_to_end(&mut answer)).await;
        assert!(answer.len() <= ALERT_BYTES, "{answer:?}");
    }
    greets(&world).await;
}

#[tokio::test]
async fn garbage_inside_tls_ends_that_connection_only_and_says_so() {
    let world = World::by_tls().await;
    let other = NodeKey::generate();
    world.allowed.0.lock().unwrap().insert(other.id());
    let garbage: [&[u8]; 3] = [
        &[0xff; 64],
        &[0, 0, 0, 5, b'h', b'e', b'l', b'l', b'o'],
        // A frame, but not one to begin with.
        &[0, 0, 0, 2, 0x82, 0x03],
    ];
    for bytes in garbage {
        let rogue = Dialer::bind(&LOCAL, &other).unwrap();
        let (hub, profile) = (world.hub.id(), &world.profile);
        let called = rogue.connect(Road::Tls, world.address, hub, profile, Purpose::Session);
        let Ok(Called::Tcp(mut rogue)) = called.await else {
            panic!("a TLS connection was expected");
        };
        rogue.stream.write_all(bytes).await.unwrap();
        rogue.stream.flush().await.unwrap();
        let hub_session = world.session(&world.hub, other.id(), [Head::EMPTY; 2]);
        let hub = Side::fresh(within(world.accept()).await, hub_session);
        let why = hub.ended().await.why;
        assert!(matches!(why, End::PeerFault(_)), "{bytes:?}: {why:?}");
        // The hub's greeting comes before its close.
        let told = within(async {
            loop {
                if let Err(end) = rogue.hear(FRAME_BYTES_MAX).await {
                    return end;
                }
            }
        })
        .await;
        assert!(matches!(told, End::Blamed(_)), "{bytes:?}: {told:?}");
    }
    greets(&world).await;
}

/// Those who open connections and say nothing hold few places, and those not for long.
#[tokio::test]
async fn slow_handshakes_neither_pile_up_nor_last() {
    let world = World::by_tls().await;
    let mut slow = Vec::new();
    for _ in 0..72 {
        let mut stranger = TcpStream::connect(world.address).await.unwrap();
        // The first bytes of a handshake that goes no further.
        let _ = stranger.write_all(&[0x16, 3, 1]).await;
        slow.push(stranger);
    }
    // Those over the limit are hung up on; the others wait.
    let (mut over, mut byte) = (0, [0]);
    for stranger in &mut slow {
        let answer = stranger.read(&mut byte);
        over += usize::from(
            tokio::time::timeout(Duration::from_millis(20), answer)
                .await
                .is_ok(),
        );
    }
    assert_eq!(over, 8);
    // A box elsewhere finds its place.
    let elsewhere = Local::Source(Ipv4Addr::new(127, 0, 0, 9).into());
    let dialer = Dialer::bind(&elsewhere, &world.unit).unwrap();
    let link = world.dial_with(&dialer).await;
    drop((within(world.accept()).await, link));

    tokio::time::pause();
    for stranger in &mut slow {
        let _ = stranger.read(&mut byte).await;
    }
    tokio::time::resume();
    greets(&world).await;
}

/// One box gets through to its hub.
async fn greets(world: &World) {
    let session = world.session(&world.unit, world.hub.id(), [Head::EMPTY; 2]);
    let mut unit = Side::fresh(world.dial().await, session);
    let hub_session = world.session(&world.hub, world.unit.id(), [Head::EMPTY; 2]);
    let hub = Side::fresh(within(world.accept()).await, hub_session);
    unit.wait(|event| matches!(event, Event::Greeted { .. }))
        .await;
    drop(hub);
}

/// A TCP connection of 4 Mbit/s with little room in it: what waits, waits at the sender.
async fn thin(hub: SocketAddr) -> SocketAddr {
    let front = TcpSocket::new_v4().unwrap();
    front.set_recv_buffer_size(8 << 10).unwrap();
    front.bind(HERE).unwrap();
    let front: TcpListener = front.listen(1).unwrap();
    let address = front.local_addr().unwrap();
    tokio::spawn(async move {
        let (near, _) = front.accept().await.unwrap();
        let far = TcpStream::connect(hub).await.unwrap();
        let (mut near_in, mut near_out) = near.into_split();
        let (mut far_in, mut far_out) = far.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut far_in, &mut near_out).await });
        let mut pace = tokio::time::interval(Duration::from_millis(4));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut piece = [0; 2000];
        while let Ok(length @ 1..) = near_in.read(&mut piece).await {
            pace.tick().await;
            far_out.write_all(&piece[..length]).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn an_urgent_study_overtakes_over_tcp() {
    let mut world = World::by_tls().await;
    world.address = thin(world.address).await;
    let session = world.session(&world.unit, world.hub.id(), [Head::EMPTY; 2]);
    let mut unit = Side::fresh(world.dial().await, session);
    let hub_session = world.session(&world.hub, world.unit.id(), [Head::EMPTY; 2]);
    let hub = Side::fresh(within(world.accept()).await, hub_session);
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
    let wanted = stat.digest();
    unit.command(offer(stat, Class::Stat)).await;
    let before = hub.shelf.stored_bytes();
    unit.wait(|event| matches!(event, Event::Delivered { manifest } if *manifest == wanted))
        .await;
    // The urgent study's own bytes, what was in the sockets and the frames handed over before.
    let meanwhile = hub.shelf.stored_bytes() - before;
    assert!(meanwhile < 60_000 + 300_000, "{meanwhile} bytes meanwhile");
}
