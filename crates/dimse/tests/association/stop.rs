//! A stop lets running stores finish, for a while.

use std::time::{Duration, Instant};

use dimse::Status;
use dimse::scp::{Ending, ScpConfig};
use dimse::scu::ScuError;

use crate::bench::{Bench, PATIENCE, config, store, try_store};

#[tokio::test]
async fn a_running_store_is_finished_and_answered() {
    let mut bench = Bench::new().await;
    bench.gate.forget_permits(usize::MAX);
    let mut idle = bench.associate().await;
    let mut busy = bench.associate().await;
    let running = tokio::spawn(async move {
        let first = store(&mut busy, "1.2.3", b"data").await;
        (first, try_store(&mut busy, "1.2.4", b"data").await)
    });
    bench.storing().await;
    bench.stop();
    assert_eq!(bench.closed().await, Ending::Stopped, "the idle one");
    assert!(matches!(
        idle.echo().await,
        Err(ScuError::Aborted | ScuError::Lost(_))
    ));
    assert!(
        tokio::net::TcpStream::connect(bench.address).await.is_err(),
        "nobody is accepted"
    );
    bench.gate.add_permits(10);
    let (first, second) = tokio::time::timeout(PATIENCE, running)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first.status, Status::SUCCESS);
    assert!(second.is_err(), "no further message");
    tokio::time::timeout(PATIENCE, bench.served)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_store_that_never_ends_does_not_hold_up_the_stop() {
    let stop_timeout = Duration::from_millis(300);
    let mut bench = Bench::with(ScpConfig {
        stop_timeout,
        ..config()
    })
    .await;
    bench.gate.forget_permits(usize::MAX);
    let mut busy = bench.associate().await;
    let running = tokio::spawn(async move { try_store(&mut busy, "1.2.3", b"data").await });
    bench.storing().await;
    let asked = Instant::now();
    bench.stop();
    tokio::time::timeout(PATIENCE, bench.served)
        .await
        .unwrap()
        .unwrap();
    assert!(asked.elapsed() < Duration::from_secs(4));
    assert!(running.await.unwrap().is_err());
}
