//! Two copies of one journal, compared when two nodes meet.

use journal::{Chain, ChainFault, Divergence, Fact, Head, JournalId, Moment, Opened, verify_next};
use sync_proto::{Event, Frame, JournalHeld, Loaded, Output, PeerFault, Session};

use crate::hand::{NOW, drain, events, hello, key, quiet_with, sent};

/// A signed record with the head of its journal after it.
type Place = (Vec<u8>, Head);

/// The first `count` records of a node's own journal.
pub(crate) fn journal_of(author: u8, count: usize) -> Vec<Place> {
    continued(author, Head::EMPTY, count, "first life")
}

/// `count` records more, as one life of a disk has written them.
fn continued(author: u8, from: Head, count: usize, life: &str) -> Vec<Place> {
    let mut chain = Chain::resume(JournalId::own(key(author).id()), from);
    let fact = Fact::Opened(Opened {
        software: life.to_owned(),
    });
    let mut next = || {
        chain
            .append(&key(author), Moment::default(), &fact)
            .unwrap()
    };
    (0..count)
        .map(|_| next())
        .map(|signed| (signed.bytes, signed.head))
        .collect()
}

pub(crate) fn loaded(journal: JournalId, from_seq: u64, place: &Place) -> Loaded {
    Loaded::Records {
        journal,
        from_seq,
        records: vec![place.0.clone()],
    }
}

/// Plays the loading of records from one copy of the journal; gives the rest of what was wanted.
fn settle(session: &mut Session, copy: &[Place]) -> Vec<Output> {
    let mut all = Vec::new();
    while let Some(output) = session.poll_output() {
        if let Output::LoadRecords {
            journal, from_seq, ..
        } = &output
        {
            let at = usize::try_from(*from_seq).unwrap() - 1;
            session.handle_loaded(NOW, loaded(*journal, *from_seq, &copy[at]));
        }
        all.push(output);
    }
    all
}

fn diverged(out: &[Output]) -> Vec<(u64, u64, Divergence)> {
    let mut all = Vec::new();
    for event in events(out) {
        if let Event::Diverged {
            ours, theirs, kind, ..
        } = event
        {
            all.push((*ours, *theirs, *kind));
        }
    }
    all
}

fn loads(out: &[Output]) -> Vec<u64> {
    let mut all = Vec::new();
    for output in out {
        if let Output::LoadRecords { from_seq, .. } = output {
            all.push(*from_seq);
        }
    }
    all
}

fn author() -> JournalId {
    JournalId::own(key(1).id())
}

/// The author of the journal and the node that holds a copy meet: what each of them finds.
fn meet(author_has: &[Place], holder_has: &[Place]) -> [Vec<(u64, u64, Divergence)>; 2] {
    let head = |copy: &[Place]| copy.last().map_or(Head::EMPTY, |(_, head)| *head);
    let (written, kept) = (head(author_has), head(holder_has));
    let mut author_side = quiet_with(written, Head::EMPTY);
    // The holder is node 2 with node 1 at the other end: the same machine, seen from there.
    let mut holder_side = crate::hand::session_of(2, 1, &[(author(), kept)]);
    author_side
        .handle_frame(NOW, hello(3, &[(author(), kept)]))
        .unwrap();
    holder_side
        .handle_frame(NOW, hello(3, &[(author(), written)]))
        .unwrap();
    let mut at_author = settle(&mut author_side, author_has);
    let mut at_holder = settle(&mut holder_side, holder_has);
    for frame in sent(&at_author.clone()) {
        holder_side.handle_frame(NOW, frame.clone()).unwrap();
    }
    for frame in sent(&at_holder.clone()) {
        author_side.handle_frame(NOW, frame.clone()).unwrap();
    }
    at_author.extend(settle(&mut author_side, author_has));
    at_holder.extend(settle(&mut holder_side, holder_has));
    let found = [diverged(&at_author), diverged(&at_holder)];
    let stored = at_holder
        .iter()
        .any(|output| matches!(output, Output::StoreRecords { .. }));
    let apart = !found[0].is_empty() || !found[1].is_empty();
    assert!(!(stored && apart), "two histories were mixed");
    found
}

#[test]
fn copies_that_agree_go_on() {
    let whole = journal_of(1, 5);
    for held in 0..=5 {
        assert_eq!(meet(&whole, &whole[..held]), [vec![], vec![]], "{held}");
    }
}

#[test]
fn an_author_whose_disk_was_set_back_is_noticed_by_both() {
    let whole = journal_of(1, 5);
    let back = Divergence::SetBack;
    for left in 0..5_u8 {
        let author_has = &whole[..usize::from(left)];
        let left = u64::from(left);
        let found = [vec![(left, 5, back)], vec![(5, left, back)]];
        assert_eq!(meet(author_has, &whole), found, "{left}");
    }
}

#[test]
fn a_fork_is_noticed_by_both_whoever_has_more_records() {
    let whole = journal_of(1, 5);
    for (common, own) in [(3, 1), (3, 2), (3, 4), (0, 1), (0, 5), (0, 7), (4, 6)] {
        let base = whole[..common].last().map_or(Head::EMPTY, |place| place.1);
        let other = continued(1, base, own, "second life");
        let author_has = [&whole[..common], &other].concat();
        let [at_author, at_holder] = meet(&author_has, &whole);
        let ours = author_has.len() as u64;
        let forked = Divergence::Forked;
        // An author with fewer records sees first that it was set back, then why.
        assert_eq!(at_author.last(), Some(&(ours, 5, forked)), "{common} {own}");
        assert_eq!(at_holder, [(5, ours, forked)], "{common} {own}");
    }
}

#[test]
fn nothing_is_sent_before_the_comparison_is_done() {
    let whole = journal_of(1, 5);
    let mut session = quiet_with(whole[4].1, Head::EMPTY);
    let said = hello(3, &[(author(), whole[2].1)]);
    session.handle_frame(NOW, said).unwrap();
    let out = drain(&mut session);
    assert_eq!(loads(&out), [3]);
    assert!(!session.is_idle());
    session.handle_loaded(NOW, loaded(author(), 3, &whole[2]));
    assert_eq!(loads(&drain(&mut session)), [4]);
}

#[test]
fn a_journal_that_cannot_be_read_back_is_not_sent() {
    let whole = journal_of(1, 5);
    let mut session = quiet_with(whole[4].1, Head::EMPTY);
    let said = hello(3, &[(author(), whole[2].1)]);
    session.handle_frame(NOW, said).unwrap();
    drain(&mut session);
    let unread = Loaded::Records {
        journal: author(),
        from_seq: 3,
        records: Vec::new(),
    };
    session.handle_loaded(NOW, unread);
    assert!(drain(&mut session).is_empty());
    assert!(session.is_idle());
}

#[test]
fn a_contradiction_needs_evidence() {
    let whole = journal_of(1, 5);
    let other = continued(1, whole[3].1, 1, "second life");
    let strange = journal_of(2, 5);
    let accuse = |record: &Place| {
        let mut session = quiet_with(whole[4].1, Head::EMPTY);
        let said = hello(3, &[(author(), Head::EMPTY)]);
        session.handle_frame(NOW, said).unwrap();
        drain(&mut session);
        let frame = Frame::Contradiction {
            journal: author(),
            record: record.0.clone().into(),
        };
        let outcome = session.handle_frame(NOW, frame);
        outcome.map(|()| diverged(&drain(&mut session)))
    };
    let false_one = Err(PeerFault::FalseContradiction(author()));
    // Our own record, a record of another number, a record of another journal.
    assert_eq!(accuse(&whole[4]), false_one);
    assert_eq!(accuse(&whole[3]), false_one);
    assert_eq!(accuse(&strange[4]), false_one);
    let mut unsigned = other[0].clone();
    *unsigned.0.last_mut().unwrap() ^= 1;
    assert!(matches!(
        accuse(&unsigned),
        Err(PeerFault::Records {
            fault: ChainFault::Signature(_),
            ..
        })
    ));
    // What our key did sign is evidence, whoever holds it.
    assert!(verify_next(&author(), &whole[3].1, &other[0].0).is_ok());
    assert_eq!(accuse(&other[0]), Ok(vec![(5, 0, Divergence::Forked)]));
}

#[test]
fn a_checkpoint_has_a_digest_exactly_when_there_is_a_record() {
    let whole = journal_of(1, 1);
    for (seq, digest) in [(1, None), (0, whole[0].1.digest)] {
        let mut said = hello(3, &[]);
        if let Frame::Hello { journals, .. } = &mut said {
            let journal = author();
            journals.push(JournalHeld {
                journal,
                seq,
                digest,
            });
        }
        let mut session = quiet_with(Head::EMPTY, Head::EMPTY);
        let refused = session.handle_frame(NOW, said);
        assert!(matches!(refused, Err(PeerFault::OverLimit { .. })));
    }
}
