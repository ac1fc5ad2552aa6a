//! The documents together, as box, hub and authority use them.

mod credential;
mod enrol;
mod fleet;
mod formats;
mod hostile;
mod root;
mod store_key;

use crate::testing::{MADE_AT_MS, TestFleet, store_key};
use crate::*;

const NOW: u64 = MADE_AT_MS + 1000;

/// A fleet with one hub, a voucher of it, and a box that wants to join.
struct Scene {
    fleet: TestFleet,
    hub: NodeKey,
    voucher: Voucher,
    unit: NodeKey,
    store: StorePublicKey,
}

fn scene() -> Scene {
    let mut fleet = TestFleet::new();
    let hub = fleet.add_hub("hub.example.org:4433");
    let voucher = fleet.add_voucher("Clinic A", ConsentPolicy::Emergency);
    Scene {
        fleet,
        hub,
        voucher,
        unit: NodeKey::generate(),
        store: store_key(),
    }
}

impl Scene {
    fn request(&self) -> Vec<u8> {
        EnrolRequest::sign(&self.voucher, &self.unit, &self.store, NOW)
    }

    fn judge(&mut self, request: &[u8], now_ms: u64) -> Result<EnrolRequest, EnrolRefusal> {
        EnrolRequest::verify(request, &self.fleet.document(), &self.hub.id(), now_ms)
    }
}

/// Puts another store key in the place of the one in a document.
fn swapped(bytes: &[u8], from: &StorePublicKey, to: &StorePublicKey) -> Vec<u8> {
    let found = |w: &[u8]| w == from.as_bytes();
    let at = bytes.windows(32).position(found).unwrap();
    let mut swapped = bytes.to_vec();
    swapped[at..at + 32].copy_from_slice(to.as_bytes());
    swapped
}
