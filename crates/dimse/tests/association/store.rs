//! Data sets arrive exactly, however they are cut, and refusals carry their status.

use dimse::Status;
use dimse::scp::{Ending, ScpConfig, Tally};

use crate::bench::{Bench, CT, Heard, Raw, config, noise, pdu, store};

#[tokio::test]
async fn data_sets_arrive_byte_for_byte() {
    let mut bench = Bench::new().await;
    let mut association = bench.associate().await;
    let sent: Vec<_> = [0, 1, 2, 131_060, 131_073, 525_312, 3_000_001]
        .into_iter()
        .map(|bytes| noise(bytes as u64, bytes))
        .collect();
    for (number, data_set) in sent.iter().enumerate() {
        let answer = store(&mut association, &format!("1.2.3.{number}"), data_set).await;
        assert_eq!(answer.status, Status::SUCCESS);
    }
    association.release().await.unwrap();
    assert!(bench.stored_data_sets() == sent);
    let bytes = sent.iter().map(|s| s.len() as u64).sum();
    let tally = Tally {
        stored: 7,
        bytes,
        ..Tally::default()
    };
    assert_eq!(bench.ending().await, Heard::Closed(Ending::Released, tally));
}

#[tokio::test]
async fn a_message_may_be_cut_into_values_and_pdus_anyhow() {
    let bench = Bench::new().await;
    let data_set = noise(1, 999);
    let command = pdu::store_command("1.2.3");
    let mut raw = Raw::open(&bench).await;
    // One byte per value, the command's in one PDU, the data set's in PDUs of seven values; the last
    // value of each is empty.
    let values = |kind: u8, bytes: &[u8]| {
        let mut values: Vec<_> = bytes.iter().map(|b| pdu::value(1, kind, &[*b])).collect();
        values.push(pdu::value(1, kind | pdu::LAST, &[]));
        values
    };
    raw.send(&pdu::data(&values(pdu::COMMAND, &command))).await;
    for some in values(0, &data_set).chunks(7) {
        raw.send(&pdu::data(some)).await;
    }
    assert_eq!(raw.status().await, 0);
    // Command and data set in one PDU.
    let both = [
        pdu::value(1, pdu::COMMAND | pdu::LAST, &command),
        pdu::value(1, pdu::LAST, &data_set),
    ];
    raw.send(&pdu::data(&both)).await;
    assert_eq!(raw.status().await, 0);
    assert!(bench.stored_data_sets() == [data_set.clone(), data_set]);
}

#[tokio::test]
async fn many_associations_store_at_once() {
    let bench = Bench::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for sender in 0..32_u64 {
        let mut association = bench.associate().await;
        tasks.spawn(async move {
            for number in 0..8 {
                let data_set = noise(sender * 100 + number, 100_000);
                let sop = format!("1.2.{sender}.{number}");
                assert_eq!(
                    store(&mut association, &sop, &data_set).await.status,
                    Status::SUCCESS
                );
            }
            association.release().await.unwrap();
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let stored = bench.stored.lock().unwrap();
    assert_eq!(stored.len(), 32 * 8);
    for (command, data_set) in stored.iter() {
        let mut parts = command
            .sop
            .as_str()
            .split('.')
            .skip(2)
            .map(|n| n.parse::<u64>().unwrap());
        let seed = parts.next().unwrap() * 100 + parts.next().unwrap();
        assert!(*data_set == noise(seed, 100_000), "{}", command.sop);
    }
}

#[tokio::test]
async fn a_refusal_before_the_data_set_is_answered_after_it() {
    let bench = Bench::new().await;
    let mut association = bench.associate().await;
    let refused = store(&mut association, "1.2.3.9999", &noise(1, 500_000)).await;
    assert_eq!(refused.status, Status::OUT_OF_RESOURCES);
    assert_eq!(refused.comment.as_deref(), Some("the disk is full"));
    assert_eq!(
        store(&mut association, "1.2.3.1", b"data").await.status,
        Status::SUCCESS
    );
    assert!(bench.stored_data_sets() == [b"data"]);
}

#[tokio::test]
async fn an_instance_over_the_limit_is_refused_and_the_next_one_taken() {
    let mut bench = Bench::with(ScpConfig {
        instance_bytes_max: 300_000,
        ..config()
    })
    .await;
    let mut association = bench.associate().await;
    for bytes in [300_001, 500_000] {
        let refused = store(&mut association, "1.2.3.1", &noise(1, bytes)).await;
        assert_eq!(refused.status, Status::OUT_OF_RESOURCES);
        assert_eq!(
            refused.comment.as_deref(),
            Some("the data set is larger than the 300000 bytes allowed")
        );
    }
    let taken = store(&mut association, "1.2.3.2", &noise(1, 300_000)).await;
    assert_eq!(taken.status, Status::SUCCESS);
    association.release().await.unwrap();
    let tally = Tally {
        stored: 1,
        refused: 2,
        bytes: 1_100_001,
        ..Tally::default()
    };
    assert_eq!(bench.ending().await, Heard::Closed(Ending::Released, tally));
}

#[tokio::test]
async fn commands_that_make_no_sense_get_their_status() {
    let bench = Bench::new().await;
    let mut raw = Raw::open(&bench).await;
    let mr = "1.2.840.10008.5.1.4.1.1.4";
    let long_uid = "1.".repeat(100) + "1";
    for (class, sop, status) in [
        (mr, "1.2.3", 0x0122),
        ("", "1.2.3", 0xC000),
        (CT, "", 0xC000),
        (CT, "../../etc/passwd", 0xC000),
        (CT, "1.2\u{0}.3", 0xC000),
        (CT, long_uid.as_str(), 0xC000),
    ] {
        let command = pdu::command(0x0001, 0, class, sop);
        raw.send(&pdu::data(&[pdu::value(
            1,
            pdu::COMMAND | pdu::LAST,
            &command,
        )]))
        .await;
        raw.send(&pdu::data(&[pdu::value(1, pdu::LAST, b"data")]))
            .await;
        assert_eq!(raw.status().await, status, "{class} {sop}");
    }
    let without_data = pdu::command(0x0001, 0x0101, CT, "1.2.3");
    raw.send(&pdu::data(&[pdu::value(
        1,
        pdu::COMMAND | pdu::LAST,
        &without_data,
    )]))
    .await;
    assert_eq!(raw.status().await, 0xC000);
    let find = pdu::command(0x0020, 0, CT, "");
    raw.send(&pdu::data(&[pdu::value(
        1,
        pdu::COMMAND | pdu::LAST,
        &find,
    )]))
    .await;
    raw.send(&pdu::data(&[pdu::value(1, pdu::LAST, b"identifier")]))
        .await;
    assert_eq!(raw.status().await, 0x0211);
    raw.send(&pdu::store("1.2.3", b"data")).await;
    assert_eq!(raw.status().await, 0);
    assert!(bench.stored_data_sets() == [b"data"]);
}

#[tokio::test]
async fn a_store_on_the_context_of_verification_is_refused() {
    let bench = Bench::new().await;
    let mut raw = Raw::open(&bench).await;
    let command = pdu::command(0x0001, 0, dimse::VERIFICATION, "1.2.3");
    raw.send(&pdu::data(&[pdu::value(
        3,
        pdu::COMMAND | pdu::LAST,
        &command,
    )]))
    .await;
    raw.send(&pdu::data(&[pdu::value(3, pdu::LAST, b"data")]))
        .await;
    assert_eq!(raw.status().await, 0x0122);
}
