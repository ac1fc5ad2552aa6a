//! Reports that nobody with a credential has signed, whoever brings them.

use std::path::PathBuf;
use std::time::Duration;

use identity::NodeKey;
use journal::{Chain, Fact, Head, JournalId, Moment, Opened};
use kit::phantom::Phantom;
use kit::wait::until;
use kit::world::{World, words};
use study::StudyUid;
use sync_quic::testing::MemoryShelf;

use crate::impostor::{Impostor, Lines, key_of};
use crate::programs;
use crate::refusals::{DEADLINE, goes_on, near, world_of_impostor};

/// A radiologist of another fleet: a good key without a credential in this one.
fn stranger_key(world: &World) -> PathBuf {
    let (fleet, key) = (world.path("other-fleet"), world.path("stranger.key"));
    let passphrase = world.passphrase_file().unwrap();
    let done = |args: Vec<_>| world.provision(args).unwrap().success().unwrap();
    done(words(["init"], [fleet.clone()]).collect());
    let person = [
        "--name",
        "A. Stranger",
        "--licence",
        "L-9",
        "--valid-until",
        "2099-12-31",
    ];
    let args = words(["radiologist"], [fleet])
        .chain(words(person, []))
        .chain(words(["--new-key"], [key.clone()]))
        .chain(words(["--passphrase-file"], [passphrase]))
        .chain(words(["-o"], [world.path("stranger.credential")]));
    done(args.collect());
    key
}

#[test]
fn a_report_without_a_credential_is_not_filed() {
    let mut world = World::start(programs(), near()).unwrap();
    goes_on(&mut world, 1);
    let study = Phantom::small(1).study();
    let key = stranger_key(&world);
    let refused = world.file_report_signed(&study, "Forged.", &key).unwrap();
    let said = refused.failure(1).unwrap();
    assert!(said.contains("credential"), "{said}");
    let view = world.study_at_hub(&study).unwrap().unwrap();
    assert_eq!(view["report"], "none");

    let filed = world.file_report(&study, "No acute finding.").unwrap();
    filed.success().unwrap();
    world
        .wait_at_agent(&study, "report", "final", DEADLINE)
        .unwrap();
}

/// A report as a radiologist signs it.
fn signed_report(study: &StudyUid, impression: &str, key: &NodeKey) -> Vec<u8> {
    let text = serde_json::json!({ "status": "final", "impression": impression }).to_string();
    let case = report::Case {
        study: study.clone(),
        root: study::StudyRoot::from_digest(study::Digest::of(b"none")),
        instances_seen: 1,
        instances_total: 1,
    };
    let draft = report::Draft::from_json(text.as_bytes()).unwrap();
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    let now_ms = u64::try_from(now.as_millis()).unwrap();
    report::sign(&draft.complete(case, None, now_ms).unwrap(), key)
}

#[test]
fn a_report_without_a_credential_is_shown_as_refused_whoever_brings_it() {
    let (mut world, unit) = world_of_impostor();
    let address = world.hub().unwrap().address("link").unwrap();
    let hub = key_of(&world.path("hub"));
    // The box must know the fleet to judge at all; it would come with the first contact.
    std::fs::copy(
        world.path("fleet").join("fleet.cose"),
        world.path("agent").join("fleet.cose"),
    )
    .unwrap();
    let passphrase = std::fs::read(world.passphrase_file().unwrap()).unwrap();
    let open = |path: PathBuf| identity::load_sealed_key(&path, &passphrase).unwrap();
    let (stranger, radiologist) = (
        open(stranger_key(&world)),
        open(world.path("radiologist.key")),
    );
    world.take_hub().unwrap().stop().unwrap();

    // A hub that was taken over: all of its own signatures hold.
    let study = Phantom::small(1).study();
    let (shelf, events) = MemoryShelf::new(Duration::ZERO);
    let journal = JournalId {
        author: hub.id(),
        stream: unit.id(),
    };
    let mut chain = Chain::resume(journal, Head::EMPTY);
    let store = sealing::KeyFile::load(&world.path("agent").join("store.key")).unwrap();
    let report = |signed: Vec<u8>| {
        let domain = journal::report_domain(&study);
        Fact::Report(journal::Report {
            study: study.clone(),
            report: study::Digest::of(&signed),
            status: journal::ReportStatus::Final,
            critical: 0,
            sealed: sealing::seal_to(store.public_key(), &domain, &signed),
        })
    };
    for fact in [
        Fact::Opened(Opened {
            software: "impostor".to_owned(),
        }),
        report(signed_report(&study, "Forged.", &stranger)),
        report(signed_report(&study, "True.", &radiologist)),
    ] {
        shelf.keep_record(&chain.append(&hub, Moment::default(), &fact).unwrap());
    }
    world.start_agent().unwrap();
    let lines = Lines {
        me: hub.id(),
        head: chain.head(),
    };
    let _hub = Impostor::answer(address, &hub, &lines, (std::sync::Arc::new(shelf), events));

    let list = || {
        let list = world.agent_command(words(["report", "list", "--json"], []));
        let reports = list.ok()?.json().ok()?["reports"].as_array()?.clone();
        (reports.len() == 2).then_some(reports)
    };
    let reports = until(DEADLINE, "two reports in the box", list).unwrap();
    assert_eq!(reports[0]["valid"], false, "{reports:?}");
    let why = reports[0]["refused"].as_str().unwrap();
    assert!(why.contains("not allowed to sign"), "{why}");
    assert_eq!(reports[1]["valid"], true, "{reports:?}");
    let print = world.agent_command(words(["report", "print", study.as_str()], []));
    let print = print.unwrap().success().unwrap();
    assert!(
        print.contains("True.") && !print.contains("Forged."),
        "{print}"
    );
}
