//! Many boxes on one hub.

use std::time::Duration;

use kit::fleet::Fleet;
use kit::phantom::Phantom;

use crate::programs;

const DEADLINE: Duration = Duration::from_secs(60);
const BOXES: usize = 12;
const SENDING: usize = 4;

#[test]
fn boxes_that_send_neither_starve_nor_drop_the_others() {
    let mut fleet = Fleet::provision(programs(), BOXES).unwrap();
    for _ in 0..BOXES {
        fleet.start_box().unwrap();
    }
    let on_line = "chasqui_hub_contacts_open ";
    fleet.wait_metric(on_line, 12, DEADLINE).unwrap();
    for index in 0..SENDING {
        let instances = Phantom::small(index as u64).instances();
        let sent = fleet.modality(index).unwrap().send(&instances);
        sent.complete(instances.len()).unwrap();
    }
    let at_hub = "chasqui_hub_studies_at_hub ";
    fleet.wait_metric(at_hub, 4, DEADLINE).unwrap();
    assert_eq!(fleet.metric(on_line).unwrap(), 12);
}
