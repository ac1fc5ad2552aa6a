//! What the tests count: bytes on the link, and bytes that came although they were held.

use kit::world::World;

/// The field of the hub's log with which it says how many chunk bytes came that it held already.
const REPEATED: &str = "repeated_bytes=";

/// Bytes that the relay delivered, over all its lives.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct RelayBytes {
    /// Towards the hub, headers of IP and UDP included.
    pub(crate) up: u64,
}

impl RelayBytes {
    /// To be called right before the relay ends, as it forgets what it counted.
    pub(crate) fn note(&mut self, world: &mut World) {
        self.up += world.relay().counters().unwrap().up.delivered_bytes;
    }
}

/// Ends box and hub in order, so that their last contact is counted, and gives what the hub says.
pub(crate) fn repeated_in_all(world: &mut World) -> Option<u64> {
    assert!(world.take_agent().unwrap().stop().unwrap().success());
    assert!(world.take_hub().unwrap().stop().unwrap().success());
    repeated_bytes(&std::fs::read_to_string(world.path("hub.log")).unwrap())
}

/// The chunk bytes that came to a hub although it held them, as its log says; none when it does
/// not say anything of it.
pub(crate) fn repeated_bytes(log: &str) -> Option<u64> {
    let counts = log.split(REPEATED).skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit());
        rest[..end.unwrap_or(rest.len())]
            .parse::<u64>()
            .expect("the hub writes a number")
    });
    counts.reduce(|sum, count| sum + count)
}

#[test]
fn counts_are_read_from_a_log_and_their_absence_is_no_zero() {
    let log = "INFO contact down node=ab repeated_bytes=12 received=9\nINFO repeated_bytes=30";
    assert_eq!(repeated_bytes(log), Some(42));
    assert_eq!(repeated_bytes("INFO contact down received=9"), None);
}
