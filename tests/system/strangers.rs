//! Other people's scanners and objects, all the way to the hub.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kit::peers::{Reference, dcmsend, echoscu, pynetdicom_send, storescu};
use kit::phantom::{Instance, Phantom, oddities, write_folder};
use kit::relay::Profile;
use kit::world::{World, WorldConfig};
use study::dataset::InstanceHead;

use crate::peers::Sender;
use crate::programs;

/// Names a folder with one folder per real series, which then take the place of the phantom.
const SERIES_VARIABLE: &str = "CHASQUI_SERIES";

/// Enough for a real series at 1 Mbit/s.
const DEADLINE: Duration = Duration::from_secs(600);

/// A megabit, a stationary satellite's delay, one datagram in fifty lost.
fn satellite() -> Profile {
    Profile::steady(1_000, 1_000, 300, 0.02)
}

fn series(scratch: &Path) -> Vec<PathBuf> {
    let Some(folder) = std::env::var_os(SERIES_VARIABLE) else {
        write_folder(scratch, &Phantom::small(9).instances()).unwrap();
        return vec![scratch.to_owned()];
    };
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

/// Sends each series to a reference receiver and to the box; what the hub gives must be what the
/// reference got, as a sender may write a data set anew.
fn all_the_way(send: Sender) {
    let scratch = tempfile::tempdir().unwrap();
    for (number, folder) in series(&scratch.path().join("series")).iter().enumerate() {
        let reference = Reference::start(&scratch.path().join(number.to_string())).unwrap();
        send(reference.address(), folder)
            .unwrap()
            .success()
            .unwrap();
        let sent = reference.received().unwrap();
        assert!(!sent.is_empty());

        let mut world = World::start(programs(), WorldConfig::on(satellite())).unwrap();
        let scanner = world.agent().unwrap().address("dicom").unwrap();
        echoscu(scanner).unwrap().success().unwrap();
        send(scanner, folder).unwrap().success().unwrap();
        at_hub_as_sent(&world, &sent);
    }
}

fn at_hub_as_sent(world: &World, sent: &[Instance]) {
    let head = InstanceHead::read(sent[0].data_set(), &sent[0].transfer_syntax).unwrap();
    world.agent_has_exactly(sent).unwrap();
    world
        .wait_at_agent(&head.study, "custody", "at_hub", DEADLINE)
        .unwrap();
    world.hub_has_exactly(sent).unwrap();
    world
        .file_report(&head.study, "Nothing was read.")
        .unwrap()
        .success()
        .unwrap();
    world
        .wait_at_agent(&head.study, "report", "final", DEADLINE)
        .unwrap();
}

#[test]
#[ignore = "needs storescu, storescp and echoscu of dcmtk"]
fn what_storescu_sends_is_at_the_hub_byte_for_byte() {
    all_the_way(storescu);
}

#[test]
#[ignore = "needs dcmsend, storescp and echoscu of dcmtk"]
fn what_dcmsend_sends_is_at_the_hub_byte_for_byte() {
    all_the_way(dcmsend);
}

#[test]
#[ignore = "needs pynetdicom, and storescp and echoscu of dcmtk"]
fn what_pynetdicom_sends_is_at_the_hub_byte_for_byte() {
    all_the_way(pynetdicom_send);
}

#[test]
fn odd_objects_arrive_as_they_were_sent() {
    let mut world = World::start(programs(), WorldConfig::on(Profile::none())).unwrap();
    let sent = oddities(11);
    world
        .modality()
        .unwrap()
        .send(&sent)
        .complete(sent.len())
        .unwrap();
    at_hub_as_sent(&world, &sent);
}
