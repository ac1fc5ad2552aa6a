//! Nothing of a patient is in clear on the hub's disk or in its log: looked for in every byte.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use report::Draft;
use study::StudyUid;

use crate::archive::RevisionState;
use crate::bench::{Bench, CANARY, STUDY, file, utf16, wait};
use clock::wall_ms;

/// Bytes of pixels that are looked for as they are: noise that no codec makes shorter.
const PIXELS: usize = 24;

/// What would be found of a file, or of a report, that lay somewhere in clear.
fn needles(file: &[u8]) -> Vec<Vec<u8>> {
    vec![
        CANARY.as_bytes().to_vec(),
        utf16(CANARY, u16::to_le_bytes),
        utf16(CANARY, u16::to_be_bytes),
        file[file.len() - PIXELS..].to_vec(),
        file[file.len() / 2..file.len() / 2 + PIXELS].to_vec(),
    ]
}

fn holds(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// Every file under a folder, with what is in it.
fn everything(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            found.extend(everything(&path));
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found
}

fn search(folder: &Path, needles: &[Vec<u8>]) {
    let files = everything(folder);
    let names: Vec<_> = files.iter().map(|(path, _)| path).collect();
    for family in ["packed-", "spool-", "index.sqlite-wal"] {
        let there = names
            .iter()
            .any(|path| path.to_string_lossy().contains(family));
        assert!(there, "{names:?}");
    }
    for (path, bytes) in &files {
        let name = path.to_string_lossy();
        for needle in needles {
            assert!(!holds(bytes, needle), "{name} holds {needle:02x?}");
            assert!(!holds(name.as_bytes(), needle), "{name}");
        }
        assert!(!name.contains(STUDY), "{name}");
    }
}

/// Collects the log of all that runs in this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_ansi(false)
            .with_writer(move || writer.clone());
        lines.try_init().unwrap();
        log
    }
}

#[tokio::test]
async fn nothing_of_a_patient_is_in_clear_on_the_disk_or_in_the_log() {
    let log = Log::start();
    let mut bench = Bench::new();
    let unit = bench.unit().await;
    let (a, b) = (file(STUDY, "1.2.3.4.1.1", 1), file(STUDY, "1.2.3.4.1.2", 2));
    let foreign = file("9.9.9", "1.2.3.4.1.3", 3);
    let needles = [needles(&a), needles(&b), needles(&foreign)].concat();
    // The search finds what it looks for: these pieces are the files themselves.
    let mut sender = bench.sender();
    let packed = sender.revise(&unit, &[("1.2.3.4.1.1", &a)], false, |_| {});
    let pieces = sender.revise_as_file(&unit, ("1.2.3.4.1.2", &b), 30_000, |_| {});
    let opened: Vec<u8> = pieces
        .chunks
        .iter()
        .flat_map(|chunk| pieces.data_key.open(chunk).unwrap())
        .collect();
    assert!(needles[5..10].iter().all(|needle| holds(&opened, needle)));

    bench.send(&unit, &packed).await;
    bench.send(&unit, &pieces).await;
    let study = StudyUid::parse(STUDY).unwrap();
    let states = |bench: &Bench| -> Vec<RevisionState> {
        let detail = bench.rooms.archive.show(&study).unwrap().remove(0);
        detail.revisions.iter().map(|r| r.state).collect()
    };
    wait(|| states(&bench) == [RevisionState::Accepted; 2]);
    // One that is refused leaves words behind, one that is still coming leaves parts.
    let refused = sender.revise(&unit, &[("1.2.3.4.1.3", &foreign)], false, |_| {});
    bench.send(&unit, &refused).await;
    wait(|| states(&bench).last() == Some(&RevisionState::Refused));
    let coming = sender.revise_as_file(&unit, ("1.2.3.4.1.1", &a), 30_000, |_| {});
    let inbox = &bench.rooms.inbox;
    let taken = inbox.take_manifest(unit.id(), coming.signed.clone());
    taken.await.unwrap();
    let part = coming.arrival(0, 0, 20_000);
    inbox.take_data(vec![part]).await.unwrap();

    for status in ["preliminary", "final", "addendum"] {
        file_report(&bench, status).await;
    }
    let given = bench
        .rooms
        .archive
        .file(&study::SopInstanceUid::parse("1.2.3.4.1.2").unwrap(), 1);
    assert_eq!(given.unwrap().bytes, b);
    search(bench.folder.path(), &needles);
    let bench = bench.reopen();
    file_report(&bench, "addendum").await;
    search(bench.folder.path(), &needles);

    let log = log.0.lock().unwrap().clone();
    assert!(holds(&log, b"custody passed") && holds(&log, b"report filed"));
    for needle in &needles {
        assert!(!holds(&log, needle), "the log holds {needle:02x?}");
    }
}

/// Signs and files a report whose every text is a canary.
async fn file_report(bench: &Bench, status: &str) {
    let reports = &bench.rooms.reports;
    let study = StudyUid::parse(STUDY).unwrap();
    let open = reports.open_case(&study, None).unwrap();
    let fleet = bench.rooms.fleet.document();
    let previous = open.previous.as_deref();
    let previous = previous.map(|signed| report::verify(signed, &fleet).unwrap());
    let draft = format!(
        r#"{{"status": "{status}", "exam": "{CANARY} head", "findings": "of {CANARY}^JANE",
             "impression": "{CANARY}", "recommendation": "{CANARY}", "critical": 3}}"#
    );
    let draft = Draft::from_json(draft.as_bytes()).unwrap();
    let document = draft.complete(open.case, previous.as_ref(), wall_ms());
    let signed = report::sign(&document.unwrap(), &bench.doctor);
    assert!(holds(&signed, CANARY.as_bytes()));
    reports.file(None, signed, true).await.unwrap();
}
