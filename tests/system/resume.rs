//! Resume: whatever is interrupted goes on where it was, and nothing starts again from zero.

use std::time::Duration;

use kit::phantom::{Instance, Phantom};
use kit::relay::Profile;
use kit::wait::until;
use kit::world::{World, WorldConfig};
use study::StudyUid;

use crate::counts::{RelayBytes, repeated_in_all};
use crate::programs;

const DEADLINE: Duration = Duration::from_secs(90);

/// Packet headers, acknowledgements, journal and manifests, in percent of the chunks.
const OVERHEAD_PERCENT: u64 = 10;
/// The same, whatever the size of the study.
const OVERHEAD_BYTES: u64 = 24 << 10;
/// What one interruption may cost: what was on the way, and what the hub had not synced (200 ms).
const BYTES_PER_INTERRUPTION: u64 = 160 << 10;

/// A transfer that has begun and has not ended.
struct Transfer {
    world: World,
    study: StudyUid,
    instances: Vec<Instance>,
    relay: RelayBytes,
}

impl Transfer {
    /// Sends a study of a megabyte over two megabits and waits until half of it is at the hub.
    fn begun(seed: u64) -> Self {
        let link = Profile::steady(2_000, 2_000, 100, 0.01);
        let mut world = World::start(programs(), WorldConfig::on(link)).unwrap();
        let phantom = Phantom {
            seed,
            slices: 32,
            side: 256,
        };
        let (study, instances) = (phantom.study(), phantom.instances());
        let sending = world.modality().unwrap().send(&instances);
        sending.complete(instances.len()).unwrap();
        let transfer = Self {
            world,
            study,
            instances,
            relay: RelayBytes::default(),
        };
        transfer.reach(50);
        transfer
    }

    /// Waits until so much of the study is at the hub.
    fn reach(&self, percent: u64) {
        let reached = until(DEADLINE, "the transfer to get on", || {
            let view = self.world.study_at_agent(&self.study).ok()??;
            (view["percent_at_hub"].as_u64()? >= percent).then_some(view)
        });
        let view = reached.unwrap();
        assert_ne!(view["custody"], "at_hub", "it is over already: {view}");
    }

    /// Waits for its end and asks whether everything came, and nothing from the beginning.
    fn ends_well(mut self, interruptions: u64) {
        let view = self
            .world
            .wait_at_agent(&self.study, "custody", "at_hub", DEADLINE)
            .unwrap();
        self.world.hub_has_exactly(&self.instances).unwrap();
        self.relay.note(&mut self.world);
        let bytes_to_cross = view["bytes_to_cross"].as_u64().unwrap();
        let allowed = bytes_to_cross * (100 + OVERHEAD_PERCENT) / 100
            + OVERHEAD_BYTES
            + BYTES_PER_INTERRUPTION * interruptions;
        let crossed = self.relay.up;
        assert!(
            (bytes_to_cross..=allowed).contains(&crossed),
            "{bytes_to_cross} bytes to cross, {crossed} crossed, {allowed} allowed"
        );
        assert_eq!(repeated_in_all(&mut self.world), Some(0));
    }
}

#[test]
fn a_transfer_without_interruption_crosses_once() {
    Transfer::begun(1).ends_well(0);
}

#[test]
fn a_transfer_goes_on_after_an_outage_of_the_link() {
    let mut transfer = Transfer::begun(2);
    let world = &mut transfer.world;
    world.relay().switch(false).unwrap();
    let before = world.relay().counters().unwrap().up.silenced;
    until(DEADLINE, "the box to speak into the silence", || {
        let silenced = world.relay().counters().ok()?.up.silenced;
        (silenced > before + 10).then_some(())
    })
    .unwrap();
    world.relay().switch(true).unwrap();
    transfer.ends_well(1);
}

#[test]
fn a_transfer_goes_on_after_the_hub_is_started_again() {
    let mut transfer = Transfer::begun(3);
    assert!(transfer.world.take_hub().unwrap().stop().unwrap().success());
    transfer.world.start_hub().unwrap();
    transfer.ends_well(1);
}

#[test]
fn a_transfer_goes_on_after_the_box_is_started_again() {
    let mut transfer = Transfer::begun(4);
    let stopped = transfer.world.take_agent().unwrap().stop().unwrap();
    assert!(stopped.success());
    transfer.world.start_agent().unwrap();
    transfer.ends_well(1);
}

#[test]
fn a_transfer_goes_on_from_another_address_of_the_box() {
    let mut transfer = Transfer::begun(5);
    transfer.relay.note(&mut transfer.world);
    // The hub sees a relay's new life as another address.
    transfer.world.relay().restart().unwrap();
    transfer.ends_well(1);
}
