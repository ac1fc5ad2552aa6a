//! A box calls over QUIC on the loopback: everything between the socket and the disk.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use identity::testing::store_key;
use identity::{EnrolReply, EnrolRequest};
use journal::{ClockQuality, Head, Signed, SignedManifest};
use report::Draft;
use sealing::open_with;
use study::{Digest, StudyUid};
use sync_proto::{
    Begun, Class, Command, CommandError, Config as SessionConfig, Event, Offer, Rank, Session,
};
use sync_quic::{
    Arrival, Dialer, End, Ended, Found, HubAddress, Kept, Local, Piece, Road, Roads, RoadsConfig,
    Shelf, ShelfError, Taken, run as drive,
};
use tokio::sync::mpsc;

use super::*;
use crate::archive::Custody;
use crate::bench::{Bench, Revision, STUDY, file, wait};
use clock::wall_ms;

/// What a box keeps: the chunks it sends, the records it gets.
#[derive(Default)]
struct BoxShelf {
    chunks: Vec<Vec<u8>>,
    records: Mutex<Vec<Signed>>,
    fleet: Mutex<Option<Vec<u8>>>,
    read_bytes: AtomicUsize,
}

impl BoxShelf {
    fn facts(&self) -> Vec<Fact> {
        self.records
            .lock()
            .unwrap()
            .iter()
            .map(|signed| signed.record.fact().unwrap())
            .collect()
    }
}

fn unused<T>() -> Result<T, ShelfError> {
    Err(ShelfError("a hub does not ask for this".into()))
}

impl Shelf for BoxShelf {
    async fn read(&self, piece: Piece) -> Result<Vec<u8>, ShelfError> {
        let from = usize::try_from(piece.offset).unwrap();
        self.read_bytes
            .fetch_add(usize::try_from(piece.len).unwrap(), Ordering::Relaxed);
        let chunk = &self.chunks[usize::try_from(piece.chunk).unwrap()];
        Ok(chunk[from..from + usize::try_from(piece.len).unwrap()].to_vec())
    }
    async fn load_records(
        &self,
        _: JournalId,
        _: u64,
        _: usize,
    ) -> Result<Vec<Vec<u8>>, ShelfError> {
        unused()
    }
    async fn load_fleet(&self) -> Result<(u64, Vec<u8>), ShelfError> {
        unused()
    }
    async fn store_manifest(&self, _: SignedManifest, _: Class) -> Result<Taken, ShelfError> {
        unused()
    }
    async fn find_manifest(&self, _: Digest, _: Class) -> Result<Found, ShelfError> {
        unused()
    }
    async fn store_data(&self, _: Vec<Arrival>) -> Result<Vec<Kept>, ShelfError> {
        unused()
    }
    async fn store_records(&self, _: JournalId, records: Vec<Signed>) -> Result<(), ShelfError> {
        self.records.lock().unwrap().extend(records);
        Ok(())
    }
    async fn store_fleet(&self, document: Vec<u8>) -> Result<Option<u64>, ShelfError> {
        let version = identity::FleetDocument::parse_own(&document)
            .unwrap()
            .version();
        *self.fleet.lock().unwrap() = Some(document);
        Ok(Some(version))
    }
    fn event(&self, _: Event) {}
    fn not_taken(&self, error: CommandError) {
        panic!("{error}");
    }
}

/// A hub that takes calls.
struct Line {
    listener: Arc<Listener>,
    hub: NodeId,
    _stop: watch::Sender<bool>,
}

fn answer_calls(bench: &Bench) -> Line {
    let admission = Arc::new(Door(Arc::clone(&bench.rooms.fleet)));
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let profile = LinkProfile::default();
    let listener = Listener::bind(local, &bench.rooms.key, &profile, admission).unwrap();
    let listener = Arc::new(listener);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(accept(
        Arc::clone(&bench.rooms),
        Arc::clone(&listener),
        stopped.clone(),
    ));
    tokio::spawn(follow_fleet(
        Arc::clone(&bench.rooms),
        Arc::clone(&listener),
        stopped,
    ));
    Line {
        listener,
        hub: bench.rooms.ledger.hub(),
        _stop: stop,
    }
}

/// Calls the hub and offers a revision, if there is one.
async fn call(
    line: &Line,
    unit: &NodeKey,
    shelf: Arc<BoxShelf>,
    offered: Option<(&Revision, Begun)>,
) -> (mpsc::Sender<Command>, tokio::task::JoinHandle<Ended>) {
    let dialer = Dialer::bind(&Local::Source(Ipv4Addr::LOCALHOST.into()), unit).unwrap();
    let address = line.listener.local_addr().unwrap();
    let link = dialer
        .dial(Road::Quic, address, line.hub, &LinkProfile::default())
        .await
        .unwrap();
    let stream = JournalId {
        author: line.hub,
        stream: unit.id(),
    };
    let held = shelf
        .records
        .lock()
        .unwrap()
        .last()
        .map_or(Head::EMPTY, |last| last.head);
    let session = Session::new(SessionConfig {
        me: unit.id(),
        peer: line.hub,
        software: "box".to_owned(),
        wall_ms: 0,
        clock: ClockQuality::Unknown,
        fleet_version: 0,
        journals: vec![(JournalId::own(unit.id()), Head::EMPTY), (stream, held)],
        data_bytes: sync_proto::DATA_BYTES_MAX,
    });
    let (commands, taken) = mpsc::channel(8);
    if let Some((revision, begun)) = offered {
        let (manifest, class) = (revision.signed.clone(), Class::Urgent);
        let offer = Offer {
            manifest,
            rank: Rank::new(class, 0),
            begun,
        };
        commands
            .send(Command::Offer(Box::new(offer)))
            .await
            .unwrap();
    }
    let driven = tokio::spawn(async move {
        let ended = drive(link, session, shelf, taken).await;
        dialer.close().await;
        ended
    });
    (commands, driven)
}

fn one_image(bench: &Bench, unit: &NodeKey) -> (Revision, Arc<BoxShelf>) {
    let bytes = file(STUDY, "1.2.3.4.1.1", 1);
    let revision = bench
        .sender()
        .revise(unit, &[("1.2.3.4.1.1", &bytes)], true, |_| {});
    let chunks = revision.chunks.clone();
    (
        revision,
        Arc::new(BoxShelf {
            chunks,
            ..BoxShelf::default()
        }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_crosses_is_receipted_and_its_report_comes_back_at_once() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let line = answer_calls(&bench);
    let (revision, shelf) = one_image(&bench, &unit);
    let (_commands, _driven) = call(
        &line,
        &unit,
        Arc::clone(&shelf),
        Some((&revision, Begun::Never)),
    )
    .await;
    let offered = revision.signed.digest();
    let receipted =
        |fact: &Fact| matches!(fact, Fact::Receipt(receipt) if receipt.manifest == offered);
    wait(|| shelf.facts().iter().any(receipted));
    assert_eq!(
        bench.rooms.archive.list().unwrap()[0].custody,
        Custody::AtHub
    );

    let study = StudyUid::parse(STUDY).unwrap();
    let open = bench.rooms.reports.open_case(&study, None).unwrap();
    let draft = Draft::from_json(br#"{"status": "final", "impression": "normal"}"#).unwrap();
    let document = draft.complete(open.case, None, wall_ms()).unwrap();
    let signed = report::sign(&document, &bench.doctor);
    bench
        .rooms
        .reports
        .file(None, signed.clone(), false)
        .await
        .unwrap();
    let digest = Digest::of(&signed);
    wait(|| {
        shelf
            .facts()
            .iter()
            .any(|fact| matches!(fact, Fact::Report(r) if r.report == digest))
    });
    let facts = shelf.facts();
    let Some(Fact::Report(report)) = facts.last() else {
        panic!("{facts:?}")
    };
    let opened = open_with(&bench.stores[&unit.id()], "report/1.2.3.4", &report.sealed);
    assert_eq!(opened.unwrap(), signed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_that_missed_the_receipt_gets_it_with_its_next_call() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let (revision, shelf) = one_image(&bench, &unit);
    bench.send(&unit, &revision).await;
    wait(|| bench.said(&unit, 8) == 1);
    let line = answer_calls(&bench);
    let (_commands, _driven) = call(&line, &unit, Arc::clone(&shelf), None).await;
    wait(|| {
        shelf
            .facts()
            .iter()
            .any(|fact| matches!(fact, Fact::Receipt(_)))
    });
    assert_eq!(bench.said(&unit, 8), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_box_is_told_why_and_can_enrol() {
    let mut bench = Bench::new();
    let voucher = bench.voucher().await;
    let line = answer_calls(&bench);
    let unit = NodeKey::generate();
    let (_, driven) = call(&line, &unit, Arc::default(), None).await;
    let ended = driven.await.unwrap();
    assert!(
        matches!(&ended.why, End::Refused(text) if text.contains("not enrolled")),
        "{}",
        ended.why
    );
    let roads = Roads::bind(&RoadsConfig::default(), &unit).unwrap();
    let request = EnrolRequest::sign(&voucher, &unit, &store_key(), 0);
    let hub = HubAddress {
        address: line.listener.local_addr().unwrap(),
        key: line.hub,
    };
    let reply = roads
        .enrol(hub, &LinkProfile::default(), &request)
        .await
        .unwrap();
    assert!(matches!(
        EnrolReply::from_cbor(&reply).unwrap(),
        EnrolReply::Granted(_)
    ));

    let shelf = Arc::new(BoxShelf::default());
    let (_commands, _driven) = call(&line, &unit, Arc::clone(&shelf), None).await;
    wait(|| {
        shelf
            .facts()
            .iter()
            .any(|fact| matches!(fact, Fact::Enrolled(_)))
    });
    wait(|| shelf.fleet.lock().unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_is_revoked_while_it_talks_is_cut_off() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let line = answer_calls(&bench);
    let shelf = Arc::new(BoxShelf::default());
    let (_commands, driven) = call(&line, &unit, Arc::clone(&shelf), None).await;
    wait(|| !shelf.facts().is_empty());
    bench.fleet.revoke(unit.id(), 1);
    let document = bench.fleet.document();
    bench.rooms.fleet.apply(document.signed()).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), driven)
        .await
        .unwrap()
        .unwrap();
    assert!(
        matches!(&ended.why, End::Refused(text) if text.contains("revoked")),
        "{}",
        ended.why
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_durable_before_the_hub_was_started_again_is_not_sent_again() {
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let (revision, shelf) = one_image(&bench, &unit);
    let last = revision.chunks.len() - 1;
    let half = revision.chunks[last].len() / 2;
    let inbox = Arc::clone(&bench.rooms.inbox);
    inbox
        .take_manifest(unit.id(), revision.signed.clone())
        .await
        .unwrap();
    inbox
        .take_data(vec![revision.arrival(last, 0, half)])
        .await
        .unwrap();
    drop(inbox);
    let bench = bench.reopen();
    let line = answer_calls(&bench);
    let offered = Some((&revision, Begun::Perhaps));
    let (_commands, _driven) = call(&line, &unit, Arc::clone(&shelf), offered).await;
    wait(|| {
        shelf
            .facts()
            .iter()
            .any(|fact| matches!(fact, Fact::Receipt(_)))
    });
    let total: usize = revision.chunks.iter().map(Vec::len).sum();
    assert_eq!(shelf.read_bytes.load(Ordering::Relaxed), total - half);
}
