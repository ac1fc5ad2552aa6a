//! Timeouts and memory: what a slow peer costs is its own.

use std::time::Duration;

use dimse::scp::{Ending, ScpConfig};
use dimse::{Answer, Status};
use socket2::SockRef;

use crate::bench::{Bench, Heard, PATIENCE, Raw, config, noise, pdu, store};

const SHORT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn who_never_asks_for_an_association_is_cut_off() {
    let mut bench = Bench::with(ScpConfig {
        artim_timeout: SHORT,
        ..config()
    })
    .await;
    let mut raw = Raw::connect(&bench).await;
    raw.send(&pdu::request()[..50]).await;
    assert_eq!(
        bench.ending().await,
        Heard::Failed(Ending::TimedOut("an association request"))
    );
    assert_eq!(raw.receive().await.as_deref(), Some(pdu::ABORT));
    assert_eq!(raw.receive().await, None);
}

#[tokio::test]
async fn who_is_silent_between_messages_or_within_one_is_cut_off() {
    let limits = ScpConfig {
        idle_timeout: SHORT,
        read_timeout: SHORT,
        ..config()
    };
    let mut bench = Bench::with(limits).await;
    let store = pdu::store("1.2.3", &noise(1, 1000));
    for (sent, silence) in [
        (&[][..], "the next message"),
        (&store[..200], "the rest of a data set"),
        (&store[..400], "rest of a PDU"),
    ] {
        let mut raw = Raw::open(&bench).await;
        let command_bytes = store.len() - 1012;
        let sent = if silence == "the rest of a data set" {
            &store[..command_bytes]
        } else {
            sent
        };
        raw.send(sent).await;
        assert_eq!(bench.closed().await, Ending::TimedOut(silence));
        assert_eq!(raw.receive().await.as_deref(), Some(pdu::ABORT));
    }
    assert!(bench.stored_data_sets().is_empty());
}

#[tokio::test]
async fn who_never_reads_our_answers_is_cut_off() {
    let mut bench = Bench::with(ScpConfig {
        write_timeout: SHORT,
        ..config()
    })
    .await;
    let raw = Raw::open(&bench).await;
    SockRef::from(&raw.0).set_recv_buffer_size(1024).unwrap();
    let (_read, mut write) = raw.0.into_split();
    let echoes = pdu::echo().repeat(1000);
    let flood = tokio::spawn(async move {
        while tokio::io::AsyncWriteExt::write_all(&mut write, &echoes)
            .await
            .is_ok()
        {}
    });
    assert_eq!(bench.closed().await, Ending::TimedOut("a PDU to be taken"));
    bench.assert_alive().await;
    flood.abort();
}

#[tokio::test]
async fn slow_peers_do_not_slow_another() {
    let bench = Bench::new().await;
    let half = pdu::store("1.2.3", &noise(1, 500_000));
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut raw = Raw::open(&bench).await;
        raw.send(&half[..half.len() / 2]).await;
        slow.push(raw);
    }
    let other = async {
        let mut association = bench.associate().await;
        for number in 0..20 {
            let answer = store(
                &mut association,
                &format!("1.2.4.{number}"),
                &noise(2, 500_000),
            )
            .await;
            assert_eq!(answer, Answer::success());
        }
    };
    tokio::time::timeout(PATIENCE, other).await.unwrap();
    for raw in &mut slow {
        raw.send(&half[half.len() / 2..]).await;
        assert_eq!(raw.status().await, 0);
    }
}

#[tokio::test]
async fn memory_is_bounded_and_small_instances_need_none_of_it() {
    let mib = 1 << 20;
    let bench = Bench::with(ScpConfig {
        memory_bytes_max: 4 * mib,
        ..config()
    })
    .await;
    let big = noise(1, 4 << 20);
    let mut hog = Raw::open(&bench).await;
    let whole = pdu::store("1.2.3", &big);
    hog.send(&whole[..whole.len() - 1]).await;

    let mut association = bench.associate().await;
    let small = store(&mut association, "1.2.4", &noise(2, 600_000)).await;
    assert_eq!(small.status, Status::SUCCESS);
    let refused = store(&mut association, "1.2.5", &big).await;
    assert_eq!(refused.status, Status::OUT_OF_RESOURCES);
    assert_eq!(
        refused.comment.as_deref(),
        Some("no memory for the data set while others are being received")
    );

    hog.send(&whole[whole.len() - 1..]).await;
    assert_eq!(hog.status().await, 0);
    assert_eq!(
        store(&mut association, "1.2.5", &big).await.status,
        Status::SUCCESS
    );
}
