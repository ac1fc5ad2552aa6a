//! The link emulator as a process: what the tests of kills and outages stand on.

use std::net::UdpSocket;
use std::time::Duration;

use kit::relay::{Profile, RelayConfig, RelayProcess};
use kit::wait::until;

use crate::programs;

const DEADLINE: Duration = Duration::from_secs(10);

fn bound() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    socket
}

/// Sends `text` until the hub has it, and returns where it came from.
fn crosses(unit: &UdpSocket, hub: &UdpSocket, text: &[u8]) -> std::net::SocketAddr {
    let mut buffer = [0; 100];
    until(DEADLINE, "a datagram", || {
        // A relay that was killed refuses; the next try reaches the new one.
        let _ = unit.send(text);
        let (length, from) = hub.recv_from(&mut buffer).ok()?;
        (&buffer[..length] == text).then_some(from)
    })
    .unwrap()
}

#[test]
fn a_killed_relay_comes_back_at_the_same_address_and_the_hub_sees_another() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, unit) = (bound(), bound());
    let config = RelayConfig::to(hub.local_addr().unwrap(), Profile::none(), 1);
    let log = folder.path().join("relay.log");
    let mut relay = RelayProcess::start(&programs(), config, &log).unwrap();
    let address = relay.address();
    unit.connect(address).unwrap();
    let before = crosses(&unit, &hub, b"before");
    assert!(relay.counters().unwrap().up.delivered >= 1);

    relay.kill().unwrap();
    assert!(relay.counters().is_err());
    relay.restart().unwrap();

    assert_eq!(relay.address(), address);
    let after = crosses(&unit, &hub, b"after");
    assert_ne!(before, after);
}

#[test]
fn a_relay_that_is_told_down_lets_nothing_through() {
    let folder = tempfile::tempdir().unwrap();
    let (hub, unit) = (bound(), bound());
    let config = RelayConfig::to(hub.local_addr().unwrap(), Profile::none(), 1);
    let log = folder.path().join("relay.log");
    let mut relay = RelayProcess::start(&programs(), config, &log).unwrap();
    unit.connect(relay.address()).unwrap();
    relay.switch(false).unwrap();
    unit.send(b"lost").unwrap();
    until(DEADLINE, "the loss", || {
        (relay.counters().ok()?.up.silenced == 1).then_some(())
    })
    .unwrap();
    assert_eq!(relay.counters().unwrap().up.delivered, 0);
    relay.switch(true).unwrap();
    crosses(&unit, &hub, b"kept");
}
