//! Proofs as a stranger sees them: made from a small fleet, then bent.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use identity::testing::{MADE_AT_MS, TestFleet};
use identity::{ConsentPolicy, Grant, NodeKey, VoucherId};
use journal::{Chain, Enrolled, Fact, JournalId, Receipt, Report, ReportStatus, SignedManifest};
use proptest::prelude::*;
use report::{Case, Draft};
use study::part10::compose_meta;
use study::{
    ChunkRef, Digest, Group, GroupForm, InstanceDigest, Manifest, Priority, SopClassUid,
    SopInstanceUid, StudyRoot, TransferSyntaxUid,
};

use super::*;

const STUDY: &str = "1.2.3";
const SOPS: [&str; 2] = ["1.2.3.1", "1.2.3.2"];
const LATER_MS: u64 = MADE_AT_MS + 5000;

/// A fleet, a hub, a box and what they signed about one study of two images.
struct Example {
    fleet: TestFleet,
    unit: NodeKey,
    hub: NodeKey,
    voucher: VoucherId,
    papers: Papers,
}

impl Example {
    fn new() -> Self {
        let mut fleet = TestFleet::new();
        let (hub, unit) = (fleet.add_hub("127.0.0.1:4433"), NodeKey::generate());
        let voucher = fleet.add_voucher("north clinic", ConsentPolicy::Ask);
        let doctor = fleet.add_radiologist("Dr. A. Reader");
        let terms = voucher.terms();
        let grant = Grant {
            format: 1,
            fleet: terms.fleet,
            voucher: terms.id,
            unit: unit.id(),
            store: identity::testing::store_key(),
            site: terms.site.clone(),
            consent: terms.consent,
            made_at_ms: MADE_AT_MS,
        };
        let manifests = manifests(&unit);
        let mut hub_says = Hub::new(&hub, &unit);
        let grant = grant.sign(&hub);
        hub_says.say(&Fact::Enrolled(Enrolled {
            unit: unit.id(),
            grant: grant.clone(),
        }));
        let receipts = manifests.iter().map(|m| hub_says.say(&receipt(m)));
        let receipts = receipts.collect();
        let signed = signed_report(&doctor, STUDY);
        let papers = Papers {
            fleet: fleet.document().signed().to_vec(),
            grant,
            manifests: manifests.iter().map(|m| m.bytes().to_vec()).collect(),
            images: pairs(2),
            receipts,
            reports: vec![hub_says.file(STUDY, signed)],
        };
        Self {
            voucher: terms.id,
            fleet,
            unit,
            hub,
            papers,
        }
    }

    fn proof(&self) -> Proof {
        self.papers.clone().seal(&self.unit, at(LATER_MS))
    }

    /// The judgement over these papers, sealed by the box as they are.
    fn judged(&self) -> Judgement {
        judge(&Proof::parse(self.proof().bytes()).unwrap(), None)
    }

    /// The only document that does not hold.
    fn wrong(&self) -> Document {
        let judgement = self.judged();
        let documents: Vec<_> = judgement.faults.iter().map(|f| f.document).collect();
        assert_eq!(documents.len(), 1, "{:?}", judgement.faults);
        documents[0]
    }
}

/// The hub's journal for the box.
struct Hub<'a> {
    key: &'a NodeKey,
    chain: Chain,
}

impl<'a> Hub<'a> {
    fn new(key: &'a NodeKey, unit: &NodeKey) -> Self {
        let journal = JournalId {
            author: key.id(),
            stream: unit.id(),
        };
        let chain = Chain::resume(journal, journal::Head::EMPTY);
        Self { key, chain }
    }

    fn say(&mut self, fact: &Fact) -> Vec<u8> {
        self.chain
            .append(self.key, at(LATER_MS), fact)
            .unwrap()
            .bytes
    }

    /// Files a report, and gives what a proof has of it.
    fn file(&mut self, of: &str, signed: Vec<u8>) -> ReportPaper {
        let record = self.say(&Fact::Report(Report {
            study: study(of),
            report: Digest::of(&signed),
            status: ReportStatus::Final,
            critical: 0,
            sealed: vec![7; 60],
        }));
        ReportPaper { record, signed }
    }
}

fn at(wall_ms: u64) -> Moment {
    Moment {
        count_ms: 7,
        wall_ms,
        clock: ClockQuality::Kept,
    }
}

fn study(uid: &str) -> StudyUid {
    StudyUid::parse(uid).unwrap()
}

fn element(tag: [u8; 4], value: &str) -> Vec<u8> {
    let mut value = value.as_bytes().to_vec();
    if value.len() % 2 == 1 {
        value.push(0);
    }
    let length = u16::try_from(value.len()).unwrap().to_le_bytes();
    [&tag[..], b"UI", &length, &value].concat()
}

/// A DICOM file and where its data set begins.
fn image(sop: &str) -> (Vec<u8>, usize) {
    let class = SopClassUid::parse("1.2.840.10008.5.1.4.1.1.2").unwrap();
    let syntax = TransferSyntaxUid::parse("1.2.840.10008.1.2.1").unwrap();
    let mut file = compose_meta(&class, &SopInstanceUid::parse(sop).unwrap(), &syntax, None);
    let data_set_at = file.len();
    file.extend(element([8, 0, 0x16, 0], class.as_str()));
    file.extend(element([8, 0, 0x18, 0], sop));
    file.extend(element([0x20, 0, 0x0d, 0], STUDY));
    file.extend(element([0x20, 0, 0x0e, 0], "1.2.3.4"));
    (file, data_set_at)
}

fn pairs(count: usize) -> BTreeSet<(SopInstanceUid, InstanceDigest)> {
    let syntax = TransferSyntaxUid::parse("1.2.840.10008.1.2.1").unwrap();
    let pair = |sop: &&str| {
        let (file, data_set_at) = image(sop);
        let digest = InstanceDigest::of(&syntax, &file[data_set_at..]);
        (SopInstanceUid::parse(sop).unwrap(), digest)
    };
    SOPS[..count].iter().map(pair).collect()
}

/// One image, then another; the second revision closes the study.
fn manifests(unit: &NodeKey) -> Vec<SignedManifest> {
    let mut signed: Vec<SignedManifest> = Vec::new();
    for revision in 1..=2 {
        let manifest = Manifest {
            version: Manifest::VERSION,
            study: study(STUDY),
            revision,
            root: StudyRoot::over(&pairs(revision as usize)),
            instances: revision,
            previous: signed.last().map(SignedManifest::digest),
            closed: revision == 2,
            priority: Priority::Routine,
            received_at_ms: MADE_AT_MS,
            groups: vec![Group {
                chunks: vec![ChunkRef {
                    digest: Digest::of(&revision.to_be_bytes()),
                    bytes: 9,
                }],
                instances: 1,
                bytes_original: 500,
                form: GroupForm::Codec,
            }],
            envelope: None,
        };
        signed.push(SignedManifest::sign(unit, manifest));
    }
    signed
}

fn receipt(manifest: &SignedManifest) -> Fact {
    let said = manifest.manifest();
    Fact::Receipt(Receipt {
        study: said.study.clone(),
        revision: said.revision,
        root: said.root,
        instances: said.instances,
        manifest: manifest.digest(),
    })
}

fn signed_report(doctor: &NodeKey, of: &str) -> Vec<u8> {
    let draft = Draft::from_json(br#"{"status": "final", "findings": "none"}"#).unwrap();
    let case = Case {
        study: study(of),
        root: StudyRoot::over(&pairs(2)),
        instances_seen: 2,
        instances_total: 2,
    };
    report::sign(&draft.complete(case, None, LATER_MS).unwrap(), doctor)
}

/// Where `part` is in `whole`.
fn place(whole: &[u8], part: &[u8]) -> Range<usize> {
    let from = whole.windows(part.len()).position(|w| w == part).unwrap();
    from..from + part.len()
}

#[test]
fn a_whole_proof_holds_and_says_who_and_when() {
    let case = Example::new();
    let proof = Proof::parse(case.proof().bytes()).unwrap();
    assert_eq!(proof, case.proof());
    let judgement = judge(&proof, Some(&case.fleet.id().to_string()));
    assert_eq!(judgement.faults, []);
    assert_eq!(judgement.not_shown, [""; 0]);
    assert_eq!(judgement.unit.unwrap().grant.site.as_str(), "north clinic");
    assert_eq!(judgement.receipts.len(), 2);
    let filed = &judgement.reports[0];
    assert_eq!(filed.report.credential.name.as_str(), "Dr. A. Reader");
    assert_eq!((filed.revision, filed.record.wall_ms), (2, LATER_MS));
    assert_eq!(judgement.seal.unwrap().wall_ms, LATER_MS);
}

#[test]
fn every_flipped_bit_is_named() {
    let case = Example::new();
    let proof = case.proof();
    let (bytes, papers) = (proof.bytes().to_vec(), &case.papers);
    let mut places = vec![
        (place(&bytes, &papers.fleet), Document::Fleet),
        (place(&bytes, &papers.grant), Document::Grant),
    ];
    for (n, manifest) in (1..).zip(&papers.manifests) {
        places.push((place(&bytes, manifest), Document::Manifest(n)));
    }
    for (n, receipt) in (1..).zip(&papers.receipts) {
        places.push((place(&bytes, receipt), Document::Receipt(n)));
    }
    let report = &papers.reports[0];
    places.push((place(&bytes, &report.record), Document::Report(1)));
    places.push((place(&bytes, &report.signed), Document::Report(1)));
    let seal_from = places.last().unwrap().0.end + 2;
    places.push((seal_from..bytes.len(), Document::Seal));
    let images = places[3].0.end..places[4].0.start;
    places.push((images, Document::Images));

    let half = bytes.len() * 4;
    std::thread::scope(|scope| {
        for bits in [0..half, half..bytes.len() * 8] {
            scope.spawn(|| bits.for_each(|bit| flipped_bit_is_named(bit, &bytes, &places)));
        }
    });
}

/// Checks that the one document is named in which the bit is.
fn flipped_bit_is_named(bit: usize, bytes: &[u8], places: &[(Range<usize>, Document)]) {
    let mut altered = bytes.to_vec();
    altered[bit / 8] ^= 1 << (bit % 8);
    let inside = places.iter().find(|(place, _)| place.contains(&(bit / 8)));
    match (Proof::parse(&altered), inside) {
        // In a list of images that cannot be read, and in what joins the documents.
        (Err(_), None | Some((_, Document::Images))) => {}
        (Err(error), Some((_, document))) => panic!("bit {bit} of {document}: {error}"),
        (Ok(proof), Some((_, document))) => {
            let faults = judge(&proof, None).faults;
            assert_eq!(faults[0].document, *document, "bit {bit}: {faults:?}");
            assert_eq!(faults.len(), 1, "bit {bit}: {faults:?}");
        }
        (Ok(_), None) => panic!("bit {bit} between the documents is not noticed"),
    }
}

#[test]
fn another_fleet_is_refused_by_its_name() {
    let (case, other) = (Example::new(), TestFleet::new());
    let judgement = judge(&case.proof(), Some(&other.id().to_string()));
    assert_eq!(judgement.faults[0].document, Document::Fleet);
    assert!(
        judgement.faults[0]
            .reason
            .contains(&case.fleet.id().to_string())
    );
    // Right in itself, but this box and this reader are not of it.
    let mut foreign = Example::new();
    foreign.papers.fleet = case.papers.fleet;
    assert_eq!(foreign.wrong(), Document::Grant);
}

#[test]
fn a_report_of_another_study_or_of_nobody_is_refused() {
    let mut case = Example::new();
    let doctor = case.fleet.add_radiologist("Dr. B. Reader");
    case.papers.fleet = case.fleet.document().signed().to_vec();
    let say = |signed, of| Hub::new(&case.hub, &case.unit).file(of, signed);
    let swapped = [
        say(signed_report(&doctor, "1.2.4"), "1.2.4"),
        say(signed_report(&doctor, "1.2.4"), STUDY),
        say(signed_report(&NodeKey::generate(), STUDY), STUDY),
    ];
    let right = say(signed_report(&doctor, STUDY), STUDY);
    for report in swapped {
        case.papers.reports = vec![report];
        assert_eq!(case.wrong(), Document::Report(1));
    }
    case.papers.reports = vec![right];
    assert_eq!(case.judged().faults, []);
    // A report is the reader's, whoever carries it: but another hub's word on it is not ours.
    let stranger = NodeKey::generate();
    let mut other = Hub::new(&stranger, &case.unit);
    let report = signed_report(&doctor, STUDY);
    case.papers.reports = vec![other.file(STUDY, report)];
    assert_eq!(case.wrong(), Document::Report(1));
}

#[test]
fn a_missing_receipt_is_said_and_a_foreign_one_refused() {
    let mut case = Example::new();
    let last = case.papers.receipts.pop().unwrap();
    let judgement = case.judged();
    assert_eq!(judgement.faults, []);
    assert_eq!(judgement.not_shown.len(), 1);
    assert!(judgement.not_shown[0].contains("receipt for revision 2"));

    let other = manifests(&NodeKey::generate());
    let foreign = Hub::new(&case.hub, &case.unit).say(&receipt(&other[1]));
    case.papers.receipts = vec![foreign];
    assert_eq!(case.wrong(), Document::Receipt(1));
    // Out of their order in the hub's journal.
    let first = Example::new().papers.receipts.remove(0);
    case.papers.receipts = vec![last, first];
    assert_eq!(case.wrong(), Document::Receipt(2));
}

#[test]
fn what_was_taken_out_after_the_sealing_is_noticed() {
    let case = Example::new();
    let bytes = case.proof().into_bytes();
    let report = &case.papers.reports[0];
    let (from, to) = (
        place(&bytes, &report.record).start,
        place(&bytes, &report.signed).end,
    );
    // The list of one pair, the length of its first part in three bytes, becomes the empty list.
    assert_eq!(bytes[from - 5..from - 2], [0x81, 0x82, 0x59]);
    let without = [&bytes[..from - 5], &[0x80], &bytes[to..]].concat();
    let judgement = judge(&Proof::parse(&without).unwrap(), None);
    assert_eq!(judgement.faults[0].document, Document::Seal);
    // Sealing it anew takes the box's key.
    let papers = Proof::parse(&without).unwrap().papers().clone();
    let judgement = judge(&papers.seal(&NodeKey::generate(), at(LATER_MS)), None);
    assert_eq!(judgement.faults[0].document, Document::Seal);
}

#[test]
fn revisions_belong_to_one_box_in_their_order() {
    let mut case = Example::new();
    case.papers.manifests.reverse();
    assert_eq!(case.wrong(), Document::Manifest(1));
    case.papers.manifests.clear();
    assert_eq!(case.wrong(), Document::Manifest(1));
    let stranger = manifests(&NodeKey::generate());
    case.papers.manifests = stranger.iter().map(|m| m.bytes().to_vec()).collect();
    assert_eq!(case.wrong(), Document::Manifest(1));
}

#[test]
fn a_revoked_box_is_believed_only_where_a_receipt_is_older() {
    let mut case = Example::new();
    for key in [case.unit.id(), *case.voucher.key()] {
        case.fleet.body.revocations.clear();
        case.fleet.revoke(key, LATER_MS + 1);
        case.papers.fleet = case.fleet.document().signed().to_vec();
        assert_eq!(case.judged().faults, []);
        assert!(case.judged().not_shown[0].contains("revoked"));
        case.fleet.revoke(key, LATER_MS);
        case.papers.fleet = case.fleet.document().signed().to_vec();
        assert_eq!(case.wrong(), Document::Grant);
    }
}

#[test]
fn a_revoked_hub_gives_no_receipts() {
    let mut case = Example::new();
    case.fleet.revoke(case.hub.id(), LATER_MS);
    case.papers.fleet = case.fleet.document().signed().to_vec();
    let documents: Vec<_> = case.judged().faults.iter().map(|f| f.document).collect();
    assert_eq!(documents, [Document::Receipt(1), Document::Receipt(2)]);
}

fn put(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn images_are_found_under_any_name_and_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let check = || check_folder(folder, &pairs(2)).unwrap();
    assert_eq!(check().missing.len(), 2);

    put(folder, "a/b/IM0001", &image(SOPS[0]).0);
    put(folder, "readme.txt", b"no image");
    let found = check();
    assert_eq!((found.unaltered, found.missing.len()), (1, 1));
    assert_eq!(found.not_covered, [folder.join("readme.txt")]);
    assert!(!found.holds());

    put(folder, "x", &image(SOPS[1]).0);
    put(folder, "x again", &image(SOPS[1]).0);
    assert_eq!(check().unaltered, 2);
    assert!(check().holds());

    put(folder, "other", &image("1.2.3.9").0);
    assert_eq!(check().foreign, [folder.join("other")]);
    put(folder, "other", &image("1.2.3.9").0[..140]);
    assert_eq!(check().unreadable[0].0, folder.join("other"));
    assert!(!check().holds());
}

#[test]
fn every_flipped_bit_of_an_image_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (file, data_set_at) = image(SOPS[0]);
    let sop = SopInstanceUid::parse(SOPS[0]).unwrap();
    for bit in data_set_at * 8..file.len() * 8 {
        let mut altered = file.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        put(folder, "image", &altered);
        let found = check_folder(folder, &pairs(1)).unwrap();
        assert_eq!(found.altered.len(), 1, "bit {bit}: {found:?}");
        assert_eq!(found.altered[0].sop, sop, "bit {bit}");
        assert_eq!((found.unaltered, found.missing.len()), (0, 0), "bit {bit}");
    }
    // The transfer syntax, and the name that the file's head gives, are part of an image too.
    for uid in ["1.2.840.10008.1.2.1", SOPS[0]] {
        let mut altered = file.clone();
        let last = place(&altered, uid.as_bytes()).end - 1;
        altered[last] ^= 2;
        put(folder, "image", &altered);
        let found = check_folder(folder, &pairs(1)).unwrap();
        assert_eq!(found.altered[0].sop, sop, "{uid}: {found:?}");
    }
    // Whoever carries an image may write its preamble anew.
    let mut carried = file.clone();
    carried[..4].copy_from_slice(b"II*\0");
    put(folder, "image", &carried);
    assert!(check_folder(folder, &pairs(1)).unwrap().holds());
}

#[test]
fn what_is_no_proof_is_refused_with_its_reason() {
    let bytes = Example::new().proof().into_bytes();
    assert_eq!(Proof::parse(b""), Err(ProofError::NotAProof));
    assert_eq!(Proof::parse(b"hello"), Err(ProofError::NotAProof));
    let mut later = bytes.clone();
    later[15] = 2;
    assert_eq!(Proof::parse(&later), Err(ProofError::UnknownVersion(2)));
    let trailing = [&bytes[..], b"\0"].concat();
    let at = bytes.len();
    let part = "the end of the file";
    assert_eq!(
        Proof::parse(&trailing),
        Err(ProofError::Damaged { part, at })
    );
    // A list that says it is longer than the world: nothing is reserved for it.
    let head = &bytes[..16];
    let endless = [head, &[0x40, 0x40, 0x9b], &[0xff; 8]].concat();
    let part = "the manifests";
    assert!(
        matches!(Proof::parse(&endless), Err(ProofError::Damaged { part: p, .. }) if p == part)
    );
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = Example::new().proof().into_bytes();
    for end in 0..bytes.len() {
        assert!(Proof::parse(&bytes[..end]).is_err(), "{end}");
    }
}

// A change of a single byte of the format shows here.
#[test]
fn the_format_is_fixed() {
    let papers = Papers {
        fleet: vec![1],
        grant: vec![2, 2],
        manifests: vec![vec![3]],
        images: pairs(1),
        receipts: vec![],
        reports: vec![ReportPaper {
            record: vec![4],
            signed: vec![5],
        }],
    };
    let key = NodeKey::from_seed(&[1; 32]);
    let proof = papers.seal(&key, at(7));
    let digest = pairs(1).pop_first().unwrap().1;
    let before = [
        b"\x89\x6dchasqui-proof\x01\x41\x01\x42\x02\x02\x81\x41\x03\x81\x82\x671.2.3.1\x58\x20",
        &digest.digest().as_bytes()[..],
        b"\x80\x81\x82\x41\x04\x41\x05",
    ]
    .concat();
    assert!(proof.bytes().starts_with(&before));
    assert_eq!(proof.sealed(), Digest::of(&before));
    let seal = [b"\x84\x01\x07\x01\x58\x20", &proof.sealed().as_bytes()[..]].concat();
    let seal = identity::cose::sign1(&key, "chasqui/proof/1", &seal);
    assert_eq!(
        proof.bytes()[before.len()..],
        [&[0x58, 0x95], &seal[..]].concat()
    );
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Proof::parse(&bytes).is_err());
        let begun = [&b"\x89\x6dchasqui-proof\x01"[..], &bytes].concat();
        if let Ok(proof) = Proof::parse(&begun) {
            prop_assert!(!judge(&proof, None).faults.is_empty());
        }
    }

    #[test]
    fn any_papers_come_back_and_are_judged(
        lists in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 5),
        count in 0..3_usize,
    ) {
        let [fleet, grant, manifest, receipt, report] = lists.try_into().unwrap();
        let papers = Papers {
            fleet,
            grant,
            manifests: vec![manifest],
            images: pairs(count),
            receipts: vec![receipt],
            reports: vec![ReportPaper {
                record: report.clone(),
                signed: report,
            }],
        };
        let proof = papers.clone().seal(&NodeKey::from_seed(&[1; 32]), at(7));
        let read = Proof::parse(proof.bytes()).unwrap();
        prop_assert_eq!(read.papers(), &papers);
        prop_assert!(!judge(&read, None).faults.is_empty());
    }

    #[test]
    fn no_altered_proof_panics(
        at in any::<prop::sample::Index>(),
        cut in 0..6_usize,
        put in prop::collection::vec(any::<u8>(), 0..6),
    ) {
        let bytes = BENT.with(Clone::clone);
        let from = at.index(bytes.len());
        let to = (from + cut).min(bytes.len());
        let altered = [&bytes[..from], &put, &bytes[to..]].concat();
        prop_assume!(altered != bytes);
        if let Ok(proof) = Proof::parse(&altered) {
            prop_assert!(!judge(&proof, None).faults.is_empty());
        }
    }
}

thread_local! {
    static BENT: Vec<u8> = Example::new().proof().into_bytes();
}
