//! Journals and manifests through their public face.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use identity::{NodeKey, cose};
use journal::{
    AppendError, Chain, ChainFault, ChunksWanted, ClockQuality, CommitmentAnswered, Consent,
    ConsentBasis, Damaged, Diverged, Divergence, Enrolled, Erased, Fact, FactError, FleetApplied,
    Head, INSTANCES_FIRST_MAX, InstancesFirst, JournalId, LegalHold, ManifestFault, Moment,
    Offered, Opened, PrioritySet, PriorsWanted, Receipt, ReceiptRefused, Record, Released, Report,
    ReportReceived, ReportStatus, SignedManifest, TokenIssued, report_domain, verify_next,
};
use study::{Digest, Manifest, Priority, SopInstanceUid, StudyRoot, StudyUid, TransactionUid};

fn key(n: u8) -> NodeKey {
    NodeKey::from_seed(&[n; 32])
}

fn own(n: u8) -> JournalId {
    JournalId::own(key(n).id())
}

fn at(count_ms: u64) -> Moment {
    Moment {
        count_ms,
        wall_ms: 1_700_000_000_000,
        clock: ClockQuality::Kept,
    }
}

fn opened() -> Fact {
    Fact::Opened(Opened {
        software: "chasqui-agent 0.1.0".to_owned(),
    })
}

fn report(status: ReportStatus, critical: u8, sealed: Vec<u8>) -> Fact {
    Fact::Report(Report {
        study: StudyUid::parse("1.2.840.1").unwrap(),
        report: Digest::of(b"signed report"),
        status,
        critical,
        sealed,
    })
}

/// Signs any record, right or wrong, as the journal would.
fn forge(signer: u8, record: &Record) -> Vec<u8> {
    let payload = minicbor::to_vec(record).unwrap();
    cose::sign1(&key(signer), "chasqui/record/1", &payload)
}

#[test]
fn a_journal_verifies_record_by_record() {
    let mut chain = Chain::resume(own(1), Head::EMPTY);
    let mut head = Head::EMPTY;
    for count in [5, 9, 9] {
        let signed = chain.append(&key(1), at(count), &opened()).unwrap();
        let verified = verify_next(&own(1), &head, &signed.bytes).unwrap();
        assert_eq!(verified, signed);
        head = verified.head;
    }
    assert_eq!(head, chain.head());
    assert_eq!(head.seq, 3);
}

#[test]
fn an_append_that_was_not_kept_leaves_no_gap() {
    let stored = Chain::resume(own(1), Head::EMPTY);
    let mut attempt = stored;
    attempt.append(&key(1), at(1), &opened()).unwrap();
    let mut again = stored;
    assert_eq!(
        again.append(&key(1), at(2), &opened()).unwrap().record.seq,
        1
    );
}

#[test]
fn a_count_never_goes_back() {
    let mut chain = Chain::resume(own(1), Head::EMPTY);
    chain.append(&key(1), at(100), &opened()).unwrap();
    let second = chain.append(&key(1), at(7), &opened()).unwrap();
    assert_eq!(second.record.count_ms, 100);
}

#[test]
fn only_the_author_writes_and_only_what_fits() {
    let mut chain = Chain::resume(own(1), Head::EMPTY);
    let author = key(1).id();
    assert_eq!(
        chain.append(&key(2), at(1), &opened()),
        Err(AppendError::NotTheAuthor {
            key: key(2).id(),
            author
        })
    );
    let long = report(ReportStatus::Final, 0, vec![0; 256 << 10]);
    assert!(matches!(
        chain.append(&key(1), at(1), &long),
        Err(AppendError::TooLong(_))
    ));
    let wordy = Fact::Opened(Opened {
        software: "x".repeat(201),
    });
    assert_eq!(
        chain.append(&key(1), at(1), &wordy),
        Err(AppendError::TextTooLong)
    );
    assert_eq!(chain.head(), Head::EMPTY);
}

#[test]
fn whatever_does_not_continue_the_journal_is_refused_by_name() {
    let mut chain = Chain::resume(own(1), Head::EMPTY);
    let first = chain.append(&key(1), at(10), &opened()).unwrap();
    let second = chain.append(&key(1), at(20), &opened()).unwrap();
    let next = |bytes: &[u8]| verify_next(&own(1), &first.head, bytes);

    let gap = verify_next(&own(1), &Head::EMPTY, &second.bytes);
    assert_eq!(
        gap,
        Err(ChainFault::NotNext {
            expected: 1,
            found: 2
        })
    );
    assert_eq!(
        next(&first.bytes),
        Err(ChainFault::NotNext {
            expected: 2,
            found: 1
        })
    );
    assert_eq!(
        verify_next(&own(2), &first.head, &second.bytes),
        Err(ChainFault::WrongJournal)
    );

    let record = second.record.clone();
    assert_eq!(next(&forge(2, &record)), Err(ChainFault::WrongJournal));
    let forked = Record {
        previous: Some(Digest::of(b"another past")),
        ..record.clone()
    };
    assert_eq!(next(&forge(1, &forked)), Err(ChainFault::Forked { seq: 2 }));
    let back = Record {
        count_ms: 3,
        ..record.clone()
    };
    assert_eq!(
        next(&forge(1, &back)),
        Err(ChainFault::CountsBack { seq: 2 })
    );
    let later = Record {
        version: 2,
        ..record.clone()
    };
    assert_eq!(next(&forge(1, &later)), Err(ChainFault::UnknownVersion(2)));

    let mut flipped = second.bytes.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    assert!(matches!(next(&flipped), Err(ChainFault::Signature(_))));
    assert_eq!(
        next(&vec![0; (256 << 10) + 1]),
        Err(ChainFault::TooLong((256 << 10) + 1))
    );
    let foreign = cose::sign1(
        &key(1),
        "chasqui/manifest/1",
        &minicbor::to_vec(&record).unwrap(),
    );
    assert!(matches!(next(&foreign), Err(ChainFault::Signature(_))));
    let payload = [&minicbor::to_vec(&record).unwrap()[..], &[0]].concat();
    let padded = cose::sign1(&key(1), "chasqui/record/1", &payload);
    assert!(matches!(next(&padded), Err(ChainFault::Malformed(_))));
}

fn every_fact() -> Vec<Fact> {
    [facts_of_custody(), facts_of_keeping()].concat()
}

/// Kinds 1 to 12.
fn facts_of_custody() -> Vec<Fact> {
    let study = StudyUid::parse("1.2.840.1").unwrap();
    let root = StudyRoot::from_digest(Digest::of(b"root"));
    let manifest = Digest::of(b"manifest");
    let signed = vec![1, 2, 3];
    vec![
        opened(),
        Fact::Offered(Offered {
            study: study.clone(),
            revision: 1,
            root,
            manifest,
        }),
        Fact::Consent(Consent {
            study: study.clone(),
            basis: ConsentBasis::SitePolicy,
            by: None,
        }),
        Fact::PrioritySet(PrioritySet {
            study: study.clone(),
            priority: Priority::Stat,
        }),
        Fact::Released(Released {
            study: study.clone(),
            root,
        }),
        Fact::ReportReceived(ReportReceived {
            study: study.clone(),
            report: manifest,
        }),
        Fact::Enrolled(Enrolled {
            unit: key(3).id(),
            grant: signed.clone(),
        }),
        Fact::Receipt(Receipt {
            study,
            revision: 1,
            root,
            instances: 7,
            manifest,
        }),
        Fact::ReceiptRefused(ReceiptRefused {
            manifest,
            reason: "roots differ".to_owned(),
        }),
        report(ReportStatus::Preliminary, 3, signed),
        Fact::FleetApplied(FleetApplied { version: 4 }),
        Fact::TokenIssued(TokenIssued {
            token: manifest,
            role: "operator".to_owned(),
            not_after_ms: 9,
        }),
    ]
}

/// Kinds 13 and on.
fn facts_of_keeping() -> Vec<Fact> {
    let study = StudyUid::parse("1.2.840.1").unwrap();
    let (root, manifest) = (
        StudyRoot::from_digest(Digest::of(b"root")),
        Digest::of(b"manifest"),
    );
    vec![
        Fact::LegalHold(LegalHold {
            study: study.clone(),
            held: true,
            by: "AB".to_owned(),
        }),
        Fact::Erased(Erased {
            study: study.clone(),
            root,
            instances: 7,
            by: "AB".to_owned(),
        }),
        Fact::Damaged(Damaged { study, records: 2 }),
        Fact::ChunksWanted(ChunksWanted {
            manifest,
            chunks: vec![0, 5],
        }),
        Fact::Diverged(Diverged {
            author: key(3).id(),
            stream: key(4).id(),
            ours: 8,
            theirs: 9,
            kind: Divergence::Forked,
        }),
        Fact::InstancesFirst(InstancesFirst {
            study: StudyUid::parse("1.2.3").unwrap(),
            instances: vec![SopInstanceUid::parse("1.2.3.4").unwrap()],
        }),
        Fact::PriorsWanted(PriorsWanted {
            study: StudyUid::parse("1.2.3").unwrap(),
        }),
        Fact::CommitmentAnswered(CommitmentAnswered {
            transaction: TransactionUid::parse("1.2.3").unwrap(),
            requester: "CT1".to_owned(),
            at_hub: true,
            committed: 5,
            failed: 1,
            delivered: true,
        }),
    ]
}

/// Kinds 18 and 19, byte for byte (docs/protocol.md 7).
#[test]
fn what_readers_ask_for_has_its_one_encoding() {
    let study = StudyUid::parse("1.2").unwrap();
    let wanted = Fact::PriorsWanted(PriorsWanted {
        study: study.clone(),
    });
    assert_eq!(wanted.body(), b"\x81\x631.2");
    let instances = vec![SopInstanceUid::parse("1.3").unwrap()];
    let first = Fact::InstancesFirst(InstancesFirst { study, instances });
    assert_eq!(first.body(), b"\x82\x631.2\x81\x631.3");
}

#[test]
fn more_instances_than_may_be_asked_for_are_refused() {
    let first = |count| {
        let sop = SopInstanceUid::parse("1.2.3.4").unwrap();
        let fact = Fact::InstancesFirst(InstancesFirst {
            study: StudyUid::parse("1.2.3").unwrap(),
            instances: vec![sop; count],
        });
        Fact::read(18, &fact.body())
    };
    assert!(first(INSTANCES_FIRST_MAX).is_ok());
    let over = INSTANCES_FIRST_MAX + 1;
    assert_eq!(first(over), Err(FactError::TooManyInstances(over)));
}

#[test]
fn every_fact_is_read_as_it_was_said() {
    let mut chain = Chain::resume(own(1), Head::EMPTY);
    for (kind, fact) in (1..).zip(every_fact()) {
        assert_eq!(fact.kind(), kind);
        let signed = chain.append(&key(1), at(1), &fact).unwrap();
        assert_eq!(signed.record.fact(), Ok(fact));
    }
}

#[test]
fn a_kind_from_the_future_is_kept_and_passed_on() {
    let fact = Fact::Unknown {
        kind: 999,
        body: vec![1, 2],
    };
    let mut chain = Chain::resume(own(1), Head::EMPTY);
    let signed = chain.append(&key(1), at(1), &fact).unwrap();
    let verified = verify_next(&own(1), &Head::EMPTY, &signed.bytes).unwrap();
    assert_eq!(verified.record.fact(), Ok(fact));
}

#[test]
fn a_body_that_is_not_its_kind_is_an_error_of_the_fact_alone() {
    let fact = Fact::Unknown {
        kind: 8,
        body: vec![0xff],
    };
    let mut chain = Chain::resume(own(1), Head::EMPTY);
    let signed = chain.append(&key(1), at(1), &fact).unwrap();
    let verified = verify_next(&own(1), &Head::EMPTY, &signed.bytes).unwrap();
    assert!(matches!(
        verified.record.fact(),
        Err(FactError::Malformed { kind: 8, .. })
    ));
}

#[test]
fn a_report_says_in_clear_what_it_is_and_how_critical() {
    for status in [
        ReportStatus::Preliminary,
        ReportStatus::Final,
        ReportStatus::Addendum,
    ] {
        for critical in 0..=3 {
            let fact = report(status, critical, vec![7; 60]);
            assert_eq!(Fact::read(10, &fact.body()), Ok(fact));
        }
    }
    assert_eq!(
        report_domain(&StudyUid::parse("1.2.840.1").unwrap()),
        "report/1.2.840.1"
    );
}

#[test]
fn a_report_out_of_its_limits_is_an_error_of_the_fact_alone() {
    let absurd = report(ReportStatus::Final, 4, Vec::new());
    assert_eq!(
        Fact::read(10, &absurd.body()),
        Err(FactError::TooCritical(4))
    );
    let body = report(ReportStatus::Final, 3, vec![9; 3]).body();
    // The body ends in status, criticality and three sealed bytes.
    let status = body.len() - 1 - 3 - 1 - 1;
    assert_eq!(body[status..], [2, 3, 0x43, 9, 9, 9]);
    for wrong in [0, 4, 23] {
        let mut body = body.clone();
        body[status] = wrong;
        let read = Fact::read(10, &body);
        assert!(matches!(read, Err(FactError::Malformed { kind: 10, .. })));
    }
    for cut in 0..body.len() {
        let read = Fact::read(10, &body[..cut]);
        assert!(matches!(read, Err(FactError::Malformed { kind: 10, .. })));
    }
}

#[test]
fn the_bytes_of_version_1_never_change() {
    let mut chain = Chain::resume(own(1), Head::EMPTY);
    // Later kinds have their bytes in tests of their own.
    for fact in every_fact().into_iter().filter(|fact| fact.kind() <= 17) {
        chain.append(&key(1), at(1), &fact).unwrap();
    }
    assert_eq!(chain.head().digest.unwrap().to_string(), GOLDEN_HEAD);
}

/// The head of a journal with every fact of version 1 in it.
const GOLDEN_HEAD: &str = "d13a287e5e99d27cbe735b9f9439173e16c633e9f0a66e22379c69399228afc9";

fn manifest() -> Manifest {
    Manifest {
        version: 1,
        study: StudyUid::parse("1.2.3").unwrap(),
        revision: 1,
        root: StudyRoot::from_digest(Digest::of(b"root")),
        instances: 0,
        previous: None,
        closed: true,
        priority: Priority::Routine,
        received_at_ms: 0,
        groups: Vec::new(),
        envelope: None,
    }
}

#[test]
fn a_signed_manifest_opens_and_is_named_by_its_bytes() {
    let signed = SignedManifest::sign(&key(1), manifest());
    let opened = SignedManifest::open(signed.bytes()).unwrap();
    assert_eq!(opened, signed);
    assert_eq!(opened.signer(), key(1).id());
    assert_eq!(opened.digest(), Digest::of(signed.bytes()));
    assert_eq!(opened.manifest(), &manifest());
}

#[test]
fn a_manifest_that_is_not_right_does_not_open() {
    let mut flipped = SignedManifest::sign(&key(1), manifest()).bytes().to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(matches!(
        SignedManifest::open(&flipped),
        Err(ManifestFault::Signature(_))
    ));
    let later = SignedManifest::sign(
        &key(1),
        Manifest {
            version: 2,
            ..manifest()
        },
    );
    assert!(matches!(
        SignedManifest::open(later.bytes()),
        Err(ManifestFault::Content(_))
    ));
    let padded = [&manifest().to_cbor()[..], &[0]].concat();
    let padded = cose::sign1(&key(1), "chasqui/manifest/1", &padded);
    assert_eq!(
        SignedManifest::open(&padded),
        Err(ManifestFault::NotDeterministic)
    );
}
