use std::time::{Duration, Instant};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn bound() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(2 * SECOND)).unwrap();
    socket
}

/// A relay, the socket of its hub, and a box's socket that is connected to it.
fn ends(profile: Profile) -> (Relay, UdpSocket, UdpSocket) {
    let hub = bound();
    let relay = Relay::start(&RelayConfig::to(hub.local_addr().unwrap(), profile, 1)).unwrap();
    let unit = bound();
    unit.connect(relay.address()).unwrap();
    (relay, hub, unit)
}

#[test]
fn datagrams_cross_unchanged_in_order_both_ways() {
    let (relay, hub, unit) = ends(Profile::none());
    let mut buffer = [0; 2_000];
    for number in 0..100u32 {
        unit.send(&number.to_be_bytes()).unwrap();
    }
    let mut from = unit.local_addr().unwrap();
    for number in 0..100u32 {
        let (length, sender) = hub.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], &number.to_be_bytes()[..]);
        from = sender;
    }
    hub.send_to(b"and back", from).unwrap();
    let length = unit.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"and back");
    let counters = relay.counters();
    assert_eq!((counters.up.delivered, counters.down.delivered), (100, 1));
    assert_eq!(counters.up.offered_bytes, 100 * (4 + HEADER_BYTES));
}

#[test]
fn an_overfed_link_delivers_at_its_rate_after_its_delay() {
    let (relay, hub, unit) = ends(Profile::steady(4_000, 4_000, 100, 0.0));
    let payload = [0; 1_172];
    let begun = Instant::now();
    let feeder = std::thread::spawn(move || {
        // Twice the rate, by absolute times so that a late wake-up is made up for.
        for number in 0..1_250u32 {
            while let Some(wait) =
                (number * Duration::from_micros(1_200)).checked_sub(begun.elapsed())
                && !wait.is_zero()
            {
                std::thread::park_timeout(wait);
            }
            unit.send(&payload).unwrap();
        }
        unit
    });
    let mut buffer = [0; 2_000];
    hub.recv_from(&mut buffer).unwrap();
    let first = begun.elapsed();
    assert!(first >= Duration::from_millis(102), "first after {first:?}");
    let mut count = 0u32;
    while begun.elapsed() < Duration::from_millis(1_500) {
        hub.recv_from(&mut buffer).unwrap();
        count += 1;
    }
    let rate = f64::from(count) * 9_600.0 / (begun.elapsed() - first).as_secs_f64();
    // The model is exact; the width is for a machine that does other things too.
    assert!((3.7e6..4.3e6).contains(&rate), "{rate} bit/s");
    feeder.join().unwrap();
    assert!(relay.counters().up.dropped_queue > 300);
}

#[test]
fn nothing_crosses_while_the_link_is_down() {
    let (relay, hub, unit) = ends(Profile::none());
    relay.switch(false);
    unit.send(b"lost").unwrap();
    crate::wait::until(2 * SECOND, "the datagram's loss", || {
        (relay.counters().up.silenced == 1).then_some(())
    })
    .unwrap();
    relay.switch(true);
    unit.send(b"kept").unwrap();
    let mut buffer = [0; 100];
    let (length, _) = hub.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"kept");
}

#[test]
fn a_relay_that_ended_leaves_its_port() {
    let (relay, hub, unit) = ends(Profile::none());
    unit.send(b"opens the way").unwrap();
    hub.recv_from(&mut [0; 100]).unwrap();
    let mut config = RelayConfig::to(hub.local_addr().unwrap(), Profile::none(), 1);
    config.listen = relay.address();
    drop(relay);
    let again = Relay::start(&config).unwrap();
    unit.send(b"from the same box").unwrap();
    let mut buffer = [0; 100];
    let (length, _) = hub.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"from the same box");
    assert_eq!(again.counters().up.delivered, 1);
}

#[test]
fn datagrams_arrive_spoilt_doubled_and_overtaken_in_their_shares() {
    let mut profile = Profile::none();
    profile.up.faults = Faults {
        reorder_share: 0.1,
        reorder_by: Duration::from_millis(30),
        corrupt_share: 0.2,
        duplicate_share: 0.2,
    };
    let (relay, hub, unit) = ends(profile);
    // Few enough for the buffer of a socket that nobody reads meanwhile.
    for number in 0..100u32 {
        unit.send(&[number.to_be_bytes(); 64].concat()).unwrap();
    }
    let counters = crate::wait::until(2 * SECOND, "all to arrive", || {
        let up = relay.counters().up;
        (up.delivered == 100).then_some(up)
    });
    let counters = counters.unwrap();
    let (mut numbers, mut spoilt, mut buffer) = (Vec::new(), 0, [0; 300]);
    for _ in 0..counters.delivered + counters.duplicated {
        let length = hub.recv(&mut buffer).unwrap();
        let words: Vec<_> = buffer[..length].chunks(4).collect();
        let number = words
            .iter()
            .find(|word| words.iter().filter(|w| w == word).count() > 3);
        numbers.push(u32::from_be_bytes(number.unwrap()[..].try_into().unwrap()));
        spoilt += u64::from(words.windows(2).any(|pair| pair[0] != pair[1]));
    }
    assert!(counters.duplicated > 10 && counters.corrupted > 10 && counters.held_back > 4);
    assert!(
        spoilt >= counters.corrupted,
        "one that is spoilt may come twice"
    );
    assert!(!numbers.is_sorted());
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.into_iter().eq(0..100));
}
