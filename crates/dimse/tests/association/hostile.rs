//! Peers that break the protocol lose their association, and nobody else's.

use dimse::scp::Ending;
use tokio::io::AsyncWriteExt;

use crate::bench::{Bench, Heard, Random, Raw, noise, pdu};
use pdu::{COMMAND, LAST, value};

const UNRECOGNIZED: u8 = 1;
const UNEXPECTED: u8 = 2;
const INVALID: u8 = 6;

#[tokio::test]
async fn bytes_that_are_no_request_get_an_abort() {
    let mut bench = Bench::new().await;
    let absurd = [&[1, 0, 0xff, 0xff, 0xff, 0xff][..], &[0; 64]].concat();
    let cut_inside = {
        // The whole length is right, a context's is not.
        let mut request = pdu::request();
        request[6 + 68 + 25 + 3] = 0xff;
        request
    };
    for (bytes, reason, text) in [
        (
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            UNRECOGNIZED,
            "bytes that are no DICOM PDU",
        ),
        (
            vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
            UNRECOGNIZED,
            "a TLS handshake on a port without TLS",
        ),
        (pdu::echo(), UNEXPECTED, "a PDU before the association"),
        (
            pdu::RELEASE.to_vec(),
            UNEXPECTED,
            "a PDU before the association",
        ),
        (absurd, INVALID, "an A-ASSOCIATE PDU of absurd length"),
        (
            cut_inside,
            INVALID,
            "an A-ASSOCIATE PDU that cannot be read",
        ),
        (
            pdu::pdu(1, &[]),
            INVALID,
            "an A-ASSOCIATE PDU that cannot be read",
        ),
        (
            pdu::pdu(3, &[0, 1, 1, 1]),
            UNEXPECTED,
            "an A-ASSOCIATE answer that nothing asked for",
        ),
    ] {
        let mut raw = Raw::connect(&bench).await;
        raw.send(&bytes).await;
        raw.assert_aborted(reason).await;
        assert_eq!(
            bench.ending().await,
            Heard::Failed(Ending::ProtocolFault(text))
        );
    }
    bench.assert_alive().await;
}

/// Sends each of these on an association of its own and asserts the abort and the reason kept.
async fn assert_breaches(cases: Vec<(Vec<u8>, u8, &'static str)>) {
    let mut bench = Bench::new().await;
    for (bytes, reason, text) in cases {
        let mut raw = Raw::open(&bench).await;
        raw.send(&bytes).await;
        raw.assert_aborted(reason).await;
        assert_eq!(bench.closed().await, Ending::ProtocolFault(text));
    }
    bench.assert_alive().await;
    assert!(bench.stored_data_sets().is_empty());
}

#[tokio::test]
async fn pdus_that_lie_or_are_out_of_place_get_an_abort() {
    let lie = "a presentation data value longer than its PDU";
    assert_breaches(vec![
        (
            pdu::request(),
            UNEXPECTED,
            "an A-ASSOCIATE PDU on an open association",
        ),
        (
            vec![9, 0, 0, 0, 0, 0],
            UNRECOGNIZED,
            "bytes that are no DICOM PDU",
        ),
        (
            vec![4, 0, 0xff, 0xff, 0xff, 0xff],
            INVALID,
            "a P-DATA-TF of absurd length",
        ),
        (pdu::data(&[]), INVALID, "a P-DATA-TF without values"),
        (
            pdu::pdu(4, &[0, 0, 0]),
            INVALID,
            "a presentation data value without a header",
        ),
        (pdu::pdu(4, &[0, 0, 0, 1, 1, 3, 0]), INVALID, lie),
        (
            pdu::pdu(4, &[0xff, 0xff, 0xff, 0xff, 1, 3, 0]),
            INVALID,
            lie,
        ),
        (
            vec![6, 0, 0, 0, 0, 4, 0, 0, 0, 0],
            UNEXPECTED,
            "an A-RELEASE-RP that nothing asked for",
        ),
        (
            vec![5, 0, 0, 0, 0, 9],
            INVALID,
            "a release or abort of the wrong length",
        ),
    ])
    .await;
}

#[tokio::test]
async fn commands_that_cannot_be_read_get_an_abort() {
    let response = pdu::command(0x8030, 0x0101, dimse::VERIFICATION, "");
    let without_id = pdu::element(0x0100, &0x0030_u16.to_le_bytes());
    let foreign = [&[8, 0][..], &pdu::element(0x0100, &[0x30, 0])[2..]].concat();
    let unreadable = "a command set that cannot be read";
    let whole = |context, command: &[u8]| pdu::data(&[value(context, COMMAND | LAST, command)]);
    assert_breaches(vec![
        (
            whole(5, &[]),
            INVALID,
            "a presentation context that was not accepted",
        ),
        (
            pdu::data(&[value(1, COMMAND, &[]), value(3, COMMAND, &[])]),
            INVALID,
            "a command that changes its presentation context",
        ),
        (
            pdu::data(&[value(1, COMMAND, &[0; 9000]), value(1, COMMAND, &[0; 9000])]),
            INVALID,
            "a command of absurd length",
        ),
        (
            whole(1, &pdu::store_command("1.2.3")[..5]),
            INVALID,
            unreadable,
        ),
        (whole(1, &foreign), INVALID, unreadable),
        (whole(1, &[]), INVALID, "a command without command field"),
        (
            whole(3, &response),
            INVALID,
            "a response that nothing asked for",
        ),
        (
            whole(3, &without_id),
            INVALID,
            "a request without message ID",
        ),
    ])
    .await;
}

#[tokio::test]
async fn data_sets_out_of_place_get_an_abort() {
    let command = pdu::data(&[value(1, COMMAND | LAST, &pdu::store_command("1.2.3"))]);
    let after_command = |pdu: &[u8]| [&command, pdu].concat();
    assert_breaches(vec![
        (
            pdu::data(&[value(1, LAST, b"data")]),
            INVALID,
            "a data set where a command belongs",
        ),
        (
            after_command(&pdu::data(&[value(1, COMMAND, b"x")])),
            INVALID,
            "a command within a data set",
        ),
        (
            after_command(&pdu::data(&[value(3, 0, b"x")])),
            INVALID,
            "a data set that changes its presentation context",
        ),
        (
            after_command(pdu::RELEASE),
            UNEXPECTED,
            "a release within a message",
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_connection_may_end_after_any_byte() {
    let mut bench = Bench::new().await;
    let data_set = noise(3, 100);
    let session = [
        pdu::request(),
        pdu::store("1.2.3", &data_set),
        pdu::RELEASE.to_vec(),
    ]
    .concat();
    for cut in 0..session.len() {
        let mut raw = Raw::connect(&bench).await;
        raw.send(&session[..cut]).await;
        if cut % 2 == 0 {
            // By a reset instead of a close.
            socket2::SockRef::from(&raw.0)
                .set_linger(Some(std::time::Duration::ZERO))
                .unwrap();
        } else {
            raw.0.shutdown().await.unwrap();
        }
        drop(raw);
        bench.ending().await;
    }
    bench.assert_alive().await;
    // What came whole may be kept even though nobody heard the answer; nothing else may.
    assert!(
        bench
            .stored_data_sets()
            .iter()
            .all(|stored| *stored == data_set)
    );
}

#[tokio::test]
async fn an_abort_may_come_between_any_two_pdus() {
    let mut bench = Bench::new().await;
    let data_set = noise(3, 100);
    let command = pdu::store_command("1.2.3");
    let pdus = [
        pdu::data(&[value(1, COMMAND, &command[..20])]),
        pdu::data(&[value(1, COMMAND | LAST, &command[20..])]),
        pdu::data(&[value(1, 0, &data_set[..50])]),
        pdu::data(&[value(1, 0, &data_set[50..])]),
    ];
    for count in 0..=pdus.len() {
        let mut raw = Raw::open(&bench).await;
        raw.send(&pdus[..count].concat()).await;
        raw.send(pdu::ABORT).await;
        assert_eq!(bench.closed().await, Ending::AbortedByPeer);
        assert_eq!(raw.receive().await, None);
    }
    assert!(bench.stored_data_sets().is_empty());
}

#[tokio::test]
async fn no_mutation_of_a_session_harms_the_provider() {
    let mut bench = Bench::new().await;
    let session = [
        pdu::request(),
        pdu::echo(),
        pdu::store("1.2.3", &noise(4, 60)),
        pdu::RELEASE.to_vec(),
    ]
    .concat();
    for seed in 0..2000 {
        let mut random = Random(seed);
        let mut bytes = session.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.next().to_le_bytes()[5];
        }
        let mut raw = Raw::connect(&bench).await;
        // The provider may have hung up before all of it is written.
        let _ = raw.0.write_all(&bytes).await;
        let _ = raw.0.shutdown().await;
        let ended = bench.ending().await;
        assert!(
            !matches!(ended, Heard::Failed(Ending::TimedOut(_))),
            "seed {seed}: {ended:?}"
        );
    }
    bench.assert_alive().await;
}
