//! Refusals: what must not be taken is refused in plain words, and the service goes on.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dimse::Status;
use identity::NodeKey;
use journal::Head;
use kit::modality::Modality;
use kit::phantom::{Instance, Phantom};
use kit::process::{Role, Running};
use kit::relay::Profile;
use kit::wait::until;
use kit::world::{Consent, World, WorldConfig, words};
use serde_json::Value;
use study::StudyUid;
use sync_proto::Event;
use sync_quic::End;

use crate::counts::repeated_bytes;
use crate::impostor::{Impostor, Lines, key_of};
use crate::programs;

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn near() -> WorldConfig {
    WorldConfig::on(Profile::none())
}

fn send(world: &mut World, instances: &[Instance]) {
    let sending = world.modality().unwrap().send(instances);
    sending.complete(instances.len()).unwrap();
}

/// The service goes on: a study of this seed is sent and crosses.
pub(crate) fn goes_on(world: &mut World, seed: u64) {
    let phantom = Phantom::small(seed);
    let instances = phantom.instances();
    send(world, &instances);
    world
        .wait_at_agent(&phantom.study(), "custody", "at_hub", DEADLINE)
        .unwrap();
    world.hub_has_exactly(&instances[..2]).unwrap();
}

/// Waits until the box says of its link what is looked for.
fn trouble(world: &World, wanted: &str) -> String {
    let mut last = Value::Null;
    let said = until(DEADLINE, wanted, || {
        last = world.agent_status().ok()?["link"]["trouble"].clone();
        last.as_str()
            .filter(|t| t.contains(wanted))
            .map(str::to_owned)
    });
    said.unwrap_or_else(|error| panic!("{error}; it says {last}"))
}

fn wait_log(what: &str, mut log: impl FnMut() -> String) -> String {
    until(DEADLINE, what, || {
        log().lines().find(|l| l.contains(what)).map(str::to_owned)
    })
    .unwrap()
}

/// A hub of another fleet in a folder of its own, which believes to be at this address.
fn other_hub(world: &World, address: SocketAddr) -> PathBuf {
    let (fleet, folder) = (world.path("other-fleet"), world.path("other-hub"));
    world
        .provision(words(["init"], [fleet.clone()]))
        .unwrap()
        .success()
        .unwrap();
    let address = address.to_string();
    let args = words(["hub"], [fleet]).chain(words(
        ["--name", "hub", "--address", &address, "-o"],
        [folder.clone()],
    ));
    world.provision(args).unwrap().success().unwrap();
    folder
}

#[test]
fn a_hub_with_another_key_at_the_same_address_gets_nothing_and_is_named() {
    let mut world = World::start(programs(), near()).unwrap();
    let address = world.hub().unwrap().address("link").unwrap();
    let other = other_hub(&world, address);
    world.take_hub().unwrap().stop().unwrap();
    std::fs::rename(world.path("hub"), world.path("true-hub")).unwrap();
    std::fs::rename(&other, world.path("hub")).unwrap();
    world.start_hub().unwrap();

    let phantom = Phantom::small(1);
    send(&mut world, &phantom.instances());
    let said = trouble(&world, "nothing was sent");
    let (shown, expected) = (key_of(&world.path("hub")), key_of(&world.path("true-hub")));
    assert!(said.contains(&shown.id().to_string()), "{said}");
    assert!(said.contains(&expected.id().to_string()), "{said}");
    assert!(world.study_at_hub(&phantom.study()).unwrap().is_none());

    world.take_hub().unwrap().stop().unwrap();
    std::fs::rename(world.path("hub"), world.path("other-hub")).unwrap();
    std::fs::rename(world.path("true-hub"), world.path("hub")).unwrap();
    world.start_hub().unwrap();
    world
        .wait_at_agent(&phantom.study(), "custody", "at_hub", DEADLINE)
        .unwrap();
    goes_on(&mut world, 2);
}

#[test]
fn a_box_with_an_unknown_key_is_told_that_it_is_not_enrolled() {
    let mut world = World::start(programs(), near()).unwrap();
    let stranger = NodeKey::generate();
    let unit = call(&mut world, &stranger, &stranger);
    let why = unit.ended().why;
    let End::Refused(text) = why else {
        panic!("{why:?}");
    };
    assert!(text.contains("not enrolled"), "{text}");
    let said = wait_log("caller refused", || world.hub().unwrap().log().unwrap());
    assert!(said.contains("not enrolled"), "{said}");
    goes_on(&mut world, 1);
}

/// A call to the hub with one key, offering what another has signed.
fn call(world: &mut World, key: &NodeKey, signer: &NodeKey) -> Impostor {
    let hub = world.hub().unwrap().address("link").unwrap();
    let lines = Lines {
        me: signer.id(),
        head: Head::EMPTY,
    };
    Impostor::call(hub, key_of(&world.path("hub")).id(), key, &lines)
}

/// A world whose box is enrolled and does not run: a test plays it with its key.
pub(crate) fn world_of_impostor() -> (World, NodeKey) {
    let world = World::without_unit(programs(), near()).unwrap();
    let voucher = world.voucher().unwrap();
    world.enrol(&voucher).unwrap().success().unwrap();
    let key = key_of(&world.path("agent"));
    (world, key)
}

/// A data key of study 2.25.1, sealed to the hub; what is sent as sealed with it is not.
fn envelope(world: &World) -> Vec<u8> {
    let hub = sealing::KeyFile::load(&world.path("hub").join("store.key")).unwrap();
    let key = sealing::DataKey::generate();
    let envelope = sealing::Envelope::seal(&key, "2.25.1", hub.public_key());
    sealing::KeyEnvelope {
        key: key.id(),
        envelope,
    }
    .to_cbor()
}

#[test]
fn a_chunk_with_a_flipped_bit_is_refused_by_the_hub_and_comes_again() {
    let (mut world, key) = world_of_impostor();
    let mut unit = call(&mut world, &key, &key);
    let envelope = envelope(&world);
    let manifest = unit
        .shelf
        .study_sealed(&key, "2.25.1", (3, 100_000), Some(envelope));
    let (digest, chunk) = {
        let chunk = manifest.manifest().chunks().nth(1).unwrap();
        (manifest.digest(), chunk.digest)
    };
    unit.shelf.spoil(&chunk);
    unit.offer(manifest);
    unit.told(|event| matches!(event, Event::ChunkDamaged { chunk: 1, .. }));
    unit.shelf.spoil(&chunk);
    unit.told(|event| matches!(event, Event::Delivered { manifest } if *manifest == digest));
    // Its bytes are those of its name and do not open: that is no study, and gets no receipt.
    wait_log("receipt refused", || world.hub().unwrap().log().unwrap());
    drop(unit);
    world.start_agent().unwrap();
    goes_on(&mut world, 1);
}

#[test]
fn a_manifest_that_another_key_signed_ends_that_contact_and_no_more() {
    let (mut world, key) = world_of_impostor();
    let other = NodeKey::generate();
    let unit = call(&mut world, &key, &other);
    unit.offer(unit.shelf.study(&other, "2.25.1", 3, 100_000));
    let why = unit.ended().why;
    let End::Blamed(text) = why else {
        panic!("{why:?}");
    };
    assert!(text.contains("manifest"), "{text}");
    let said = wait_log("contact down", || world.hub().unwrap().log().unwrap());
    assert!(said.contains(&text), "{said}");
    let study = StudyUid::parse("2.25.1").unwrap();
    assert!(world.study_at_hub(&study).unwrap().is_none());
    world.start_agent().unwrap();
    goes_on(&mut world, 1);
}

/// The campaign of kills rests on this counter being able to count.
#[test]
fn bytes_that_the_hub_holds_are_counted_when_they_come_again() {
    let (mut world, key) = world_of_impostor();
    let mut unit = call(&mut world, &key, &key);
    let envelope = envelope(&world);
    let study = |unit: &Impostor| {
        let envelope = Some(envelope.clone());
        unit.shelf
            .study_sealed(&key, "2.25.1", (2, 400_000), envelope)
    };
    let manifest = study(&unit);
    let last = manifest.manifest().chunks().nth(1).unwrap().digest;
    // The second chunk never becomes whole, so that the manifest stays open; the first is held.
    unit.shelf.spoil(&last);
    unit.offer(manifest.clone());
    unit.told(|event| matches!(event, Event::ChunkDamaged { chunk: 1, .. }));
    unit.leave();

    let mut unit = call(&mut world, &key, &key);
    assert_eq!(study(&unit), manifest);
    unit.offer(manifest);
    unit.told(|event| matches!(event, Event::Delivered { .. }));
    let read = unit.shelf.read_bytes();
    assert!(read > 400_000, "only what was missing was sent: {read}");
    unit.leave();
    assert!(world.take_hub().unwrap().stop().unwrap().success());
    let log = std::fs::read_to_string(world.path("hub.log")).unwrap();
    let counted = repeated_bytes(&log);
    assert!(counted.is_some_and(|bytes| bytes > 0), "{counted:?}");
}

/// Flips one bit of a file and says where; the second time it is as it was.
fn flip(file: &Path, from_end: i64) {
    let mut file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::End(-from_end)).unwrap();
    file.read_exact(&mut byte).unwrap();
    byte[0] ^= 1;
    file.seek(SeekFrom::End(-from_end)).unwrap();
    file.write_all(&byte).unwrap();
}

fn segments(world: &World, family: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(world.path("agent").join("segments")).unwrap();
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with(family)
        })
        .collect()
}

#[test]
fn a_bit_that_flipped_on_the_box_s_disk_is_not_sent_as_good() {
    let mut world = World::start(programs(), near()).unwrap();
    world.relay().switch(false).unwrap();
    let phantom = Phantom::small(1);
    let (study, instances) = (phantom.study(), phantom.instances());
    send(&mut world, &instances);
    let packed = until(DEADLINE, "the study to be packed", || {
        let packed = segments(&world, "packed").pop()?;
        segments(&world, "intake").is_empty().then_some(packed)
    });
    let packed = packed.unwrap();
    flip(&packed, 100);
    world.relay().switch(true).unwrap();

    wait_log("not read", || world.agent().unwrap().log().unwrap());
    let damaged = instances
        .iter()
        .filter(|i| world.get_from_agent(&i.sop).is_err())
        .count();
    assert!(damaged > 0, "what is damaged is not given out");
    goes_on(&mut world, 2);
    let view = world.study_at_agent(&study).unwrap().unwrap();
    assert_ne!(view["custody"], "at_hub", "{view}");
    let at_hub = world.study_at_hub(&study).unwrap();
    assert!(at_hub.is_none_or(|view| view["custody"] != "at_hub"));

    // The disk reads right again: all of it crosses.
    flip(&packed, 100);
    world.take_agent().unwrap().kill().unwrap();
    world.start_agent().unwrap();
    world
        .wait_at_agent(&study, "custody", "at_hub", DEADLINE)
        .unwrap();
    world.hub_has_exactly(&instances).unwrap();
}

#[test]
fn a_truncated_data_set_is_answered_c000_and_the_association_goes_on() {
    let mut world = World::start(programs(), near()).unwrap();
    let phantom = Phantom::small(1);
    let mut instances = phantom.instances();
    let length = instances[1].file.len();
    instances[1].file.truncate(length - 100);
    let sending = world.modality().unwrap().send(&instances);
    assert!(sending.broken.is_none(), "{:?}", sending.broken);
    let answer = &sending.answers[1];
    assert_eq!(answer.status, Status(0xC000));
    assert!(
        answer.comment.as_ref().is_some_and(|c| !c.is_empty()),
        "{answer:?}"
    );
    assert_eq!(sending.acknowledged(), instances.len() - 1);
    assert!(world.get_from_agent(&instances[1].sop).is_err());

    // The scanner tries again with all of it.
    let whole = phantom.instances();
    send(&mut world, &whole);
    world
        .wait_at_agent(&phantom.study(), "custody", "at_hub", DEADLINE)
        .unwrap();
    world.hub_has_exactly(&whole).unwrap();
}

/// The results with which the box answers two presentation contexts (PS3.8 9.3.3.2).
fn context_results(address: SocketAddr, sop_classes: [&str; 2]) -> Vec<u8> {
    let item = |kind: u8, body: &[u8]| {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[kind, 0], length.as_slice(), body].concat()
    };
    let mut body = vec![0, 1, 0, 0];
    body.extend(b"CHASQUI         CT01            ");
    body.extend([0; 32]);
    body.extend(item(0x10, b"1.2.840.10008.3.1.1.1"));
    for (id, sop_class) in [1, 3].into_iter().zip(sop_classes) {
        let (class, syntax) = (
            item(0x30, sop_class.as_bytes()),
            item(0x40, b"1.2.840.10008.1.2"),
        );
        body.extend(item(
            0x20,
            &[&[id, 0, 0, 0], class.as_slice(), &syntax].concat(),
        ));
    }
    let user = [item(0x51, &16_384_u32.to_be_bytes()), item(0x52, b"2.25.7")].concat();
    body.extend(item(0x50, &user));

    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    stream
        .write_all(&[&[1, 0], length.as_slice(), &body].concat())
        .unwrap();
    let mut head = [0; 6];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[0], 2, "an A-ASSOCIATE-AC");
    let mut answer = vec![0; u32::from_be_bytes(head[2..].try_into().unwrap()) as usize];
    stream.read_exact(&mut answer).unwrap();
    let (mut rest, mut results) = (&answer[68..], Vec::new());
    while let [kind, _, high, low, tail @ ..] = rest {
        let (body, next) = tail.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        if *kind == 0x21 {
            results.push(body[2]);
        }
        rest = next;
    }
    results
}

#[test]
fn an_unknown_sop_class_is_refused_with_result_3_and_named_in_the_log() {
    let mut world = World::start(programs(), near()).unwrap();
    let address = world.agent().unwrap().address("dicom").unwrap();
    let ct = "1.2.840.10008.5.1.4.1.1.2";
    assert_eq!(context_results(address, [ct, "1.2.3.4.5"]), [0, 3]);
    let said = wait_log("contexts refused", || world.agent().unwrap().log().unwrap());
    assert!(
        said.contains("1.2.3.4.5: the SOP class is not supported"),
        "{said}"
    );
    goes_on(&mut world, 1);
}

/// The box as it would be with this much free space, in the world's folder.
fn start_agent_with_free_space(world: &mut World, free: &str) -> Running {
    let mut command = programs().command(Role::Agent);
    command
        .args(["serve", "--dicom-port", "0", "--console-port", "0", "--hub"])
        .arg(world.relay().address().to_string())
        .arg("--data")
        .arg(world.path("agent"))
        .env("AGENT__INTAKE__QUIET_PERIOD", "1s")
        .env("AGENT__VAULT__FREE_SPACE_ASSUMED", free);
    Running::start(command, Role::Agent, &world.path("agent.log")).unwrap()
}

#[test]
fn a_full_disk_is_answered_a700_and_what_is_held_still_crosses() {
    let mut world = World::start(programs(), near()).unwrap();
    world.relay().switch(false).unwrap();
    let held = Phantom::small(1);
    send(&mut world, &held.instances());
    world.take_agent().unwrap().stop().unwrap();

    // Less than the reserve of any disk that is in use, and enough to pack what is held.
    let full = start_agent_with_free_space(&mut world, "64 MiB");
    let scanner = Modality::new(full.address("dicom").unwrap()).unwrap();
    let sending = scanner.send(&Phantom::small(2).instances());
    assert!(sending.broken.is_none(), "{:?}", sending.broken);
    assert_eq!(sending.answers.len(), 12);
    for answer in &sending.answers {
        assert_eq!(answer.status, Status(0xA700));
        assert_eq!(answer.comment.as_deref(), Some("no room in the box"));
    }
    assert!(scanner.echo().unwrap().is_success());
    world.relay().switch(true).unwrap();
    world
        .wait_at_agent(&held.study(), "custody", "at_hub", DEADLINE)
        .unwrap();

    assert!(full.stop().unwrap().success());
    world.start_agent().unwrap();
    goes_on(&mut world, 2);
}

#[test]
fn an_unknown_key_in_the_configuration_is_named_by_both_programs() {
    let mut world = World::start(programs(), near()).unwrap();
    let file = world.path("wrong.toml");
    std::fs::write(&file, "[link]\nprot = 1\n").unwrap();
    let serve = || words(["serve", "--config"], [file.clone()]);
    let said = world.agent_command(serve()).unwrap().failure(78).unwrap();
    assert!(said.contains("prot"), "{said}");
    let said = world.hub_command(serve()).unwrap().failure(78).unwrap();
    assert!(said.contains("prot"), "{said}");
    goes_on(&mut world, 1);
}

#[test]
fn a_voucher_is_good_for_one_box() {
    let world = World::without_unit(programs(), near()).unwrap();
    let mut world = world;
    let voucher = world.voucher().unwrap();
    world.enrol(&voucher).unwrap().success().unwrap();
    let hub = world.relay().address().to_string();
    let args = words(["enrol", "--hub", &hub, "--voucher"], [voucher])
        .chain(words(["--data"], [world.path("other-box")]));
    let args: Vec<_> = args.collect();
    let said = programs()
        .run(Role::Agent, &args)
        .unwrap()
        .failure(1)
        .unwrap();
    assert!(said.contains("already used by another box"), "{said}");
    world.start_agent().unwrap();
    goes_on(&mut world, 1);
}

#[test]
fn nothing_leaves_before_consent_where_the_site_asks() {
    let config = WorldConfig {
        consent: Consent::Ask,
        ..near()
    };
    let mut world = World::start(programs(), config).unwrap();
    let (asked, other) = (Phantom::small(1), Phantom::small(2));
    for phantom in [asked, other] {
        send(&mut world, &phantom.instances());
        world
            .wait_at_agent(&phantom.study(), "custody", "waiting_consent", DEADLINE)
            .unwrap();
    }
    let study = other.study();
    let args = words(
        ["consent", study.as_str(), "--basis", "spoken", "--by", "AB"],
        [],
    );
    world.agent_command(args).unwrap().success().unwrap();
    world
        .wait_at_agent(&study, "custody", "at_hub", DEADLINE)
        .unwrap();
    // By now the first one would have crossed as well.
    let view = world.study_at_agent(&asked.study()).unwrap().unwrap();
    assert_eq!(view["custody"], "waiting_consent", "{view}");
    assert!(world.study_at_hub(&asked.study()).unwrap().is_none());
}
