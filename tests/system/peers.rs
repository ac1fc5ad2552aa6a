//! Other people's DICOM programs: what they say of our phantoms, and that they run at all.

use kit::peers::{Reference, dciodvfy, dcmsend, pydicom_compare, pynetdicom_send, storescu};
use kit::phantom::{Instance, Phantom, oddities, write_folder};
use kit::process::Finished;

/// One of the senders of `kit::peers`.
pub(crate) type Sender = fn(std::net::SocketAddr, &std::path::Path) -> anyhow::Result<Finished>;

#[test]
#[ignore = "needs dciodvfy of dicom3tools"]
fn dciodvfy_finds_no_error_in_a_phantom() {
    let folder = tempfile::tempdir().unwrap();
    let mut instances = vec![Phantom::head(1).slice(60), Phantom::small(2).slice(0)];
    // The others break a rule on purpose.
    instances.extend(
        oddities(3)
            .into_iter()
            .filter(|i| i.file.len().is_multiple_of(2)),
    );
    write_folder(folder.path(), &instances).unwrap();
    for number in 1..=instances.len() {
        let file = folder.path().join(format!("{number:04}.dcm"));
        assert_eq!(
            dciodvfy(&file).unwrap(),
            Vec::<String>::new(),
            "instance {number}"
        );
    }
}

/// Sends a small phantom to storescp; returns what was sent and what arrived.
fn sent_to_reference(send: Sender) -> (Vec<Instance>, Vec<Instance>) {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let mut sent = Phantom::small(4).instances();
    write_folder(&from, &sent).unwrap();
    let reference = Reference::start(&to).unwrap();
    send(reference.address(), &from).unwrap().success().unwrap();
    let mut received = reference.received().unwrap();
    sent.sort_by(|a, b| a.sop.cmp(&b.sop));
    received.sort_by(|a, b| a.sop.cmp(&b.sop));
    (sent, received)
}

#[test]
#[ignore = "needs storescu, dcmsend and storescp of dcmtk"]
fn dcmtk_senders_deliver_a_phantom_to_the_reference() {
    for send in [storescu as Sender, dcmsend as Sender] {
        let (sent, received) = sent_to_reference(send);
        let names = |all: &[Instance]| all.iter().map(|i| i.sop.clone()).collect::<Vec<_>>();
        assert_eq!(names(&received), names(&sent));
    }
}

#[test]
#[ignore = "needs pynetdicom and storescp of dcmtk"]
fn pynetdicom_sends_the_bytes_of_the_file() {
    let (sent, received) = sent_to_reference(pynetdicom_send);
    assert_eq!(sent.len(), received.len());
    for (sent, received) in sent.iter().zip(&received) {
        kit::world::same(sent, received).unwrap();
    }
}

#[test]
#[ignore = "needs pydicom"]
fn pydicom_sees_one_flipped_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    let mut instances = Phantom::small(4).instances();
    write_folder(&one, &instances).unwrap();
    write_folder(&other, &instances).unwrap();
    pydicom_compare(&one, &other).unwrap().success().unwrap();
    let last = instances[3].file.last_mut().unwrap();
    *last ^= 1;
    write_folder(&other, &instances).unwrap();
    let complaint = pydicom_compare(&one, &other).unwrap().failure(1).unwrap();
    assert!(complaint.contains(instances[3].sop.as_str()), "{complaint}");
}
