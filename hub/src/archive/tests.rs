//! Slices on demand.

use std::path::Path;
use std::time::{Duration, Instant};

use codec::Tier;
use identity::NodeKey;
use settings::Bytes;
use study::dataset::InstanceHead;

use super::*;
use crate::bench::{Bench, STUDY, image};
use crate::config::Config;

const SIDE: u16 = 512;
/// What a box packs together.
const GROUP: usize = 16;
/// How long a hub may take to decode what was sent, on a machine that does other work.
const DECODED_DEADLINE: Duration = Duration::from_secs(300);
/// In how much time a slice is there whose references are.
const SLICE_LIMIT: Duration = Duration::from_millis(60);

/// Slices that resemble each other as those of a volume do: smooth, with noise.
fn phantom(side: u16, slices: u16) -> Vec<Vec<u8>> {
    let mut state = 1_u32;
    let mut noise = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        u16::try_from(state >> 28).unwrap()
    };
    let slice = |z: u16| {
        let at = |n: u32| {
            (
                u16::try_from(n / u32::from(side)).unwrap(),
                u16::try_from(n % u32::from(side)).unwrap(),
            )
        };
        let pixels = (0..u32::from(side) * u32::from(side)).map(at);
        pixels
            .flat_map(|(y, x)| (1000 + 3 * z + x / 4 + y / 8 + noise()).to_le_bytes())
            .collect()
    };
    (0..slices).map(slice).collect()
}

/// The pixels of a series of files, by Instance Number; each file ends with them.
fn series(folder: &Path) -> Vec<Vec<u8>> {
    let bytes = usize::from(SIDE) * usize::from(SIDE) * 2;
    let files = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    let mut slices: Vec<_> = files
        .filter_map(|file| {
            let part10 = Part10::parse(&file).ok()?;
            let head = InstanceHead::read(&file[part10.data_set], &part10.transfer_syntax).ok()?;
            Some((
                head.instance_number,
                file[file.len().checked_sub(bytes)?..].to_vec(),
            ))
        })
        .collect();
    slices.sort();
    slices.into_iter().map(|(_, pixels)| pixels).collect()
}

fn sop(slice: usize) -> SopInstanceUid {
    SopInstanceUid::parse(&format!("{STUDY}.1.{slice}")).unwrap()
}

/// Sends slices to a hub in groups, and gives them as files.
async fn send(
    bench: &Bench,
    unit: &NodeKey,
    tier: Tier,
    side: u16,
    slices: &[Vec<u8>],
) -> Vec<Vec<u8>> {
    let file = |(number, pixels): (usize, &Vec<u8>)| {
        let at = u16::try_from(number).unwrap();
        image(STUDY, sop(number).as_str(), at, (side, side), pixels)
    };
    let files: Vec<Vec<u8>> = slices.iter().enumerate().map(file).collect();
    let names: Vec<String> = (0..files.len())
        .map(|slice| sop(slice).as_str().to_owned())
        .collect();
    let mut sender = bench.sender();
    let named: Vec<(&str, &[u8])> = names
        .iter()
        .map(String::as_str)
        .zip(files.iter().map(Vec::as_slice))
        .collect();
    for group in named.chunks(GROUP) {
        let revision = sender.revise_in(tier, unit, group, false, |_| {});
        bench.send(unit, &revision).await;
    }
    let end = Instant::now() + DECODED_DEADLINE;
    while bench.rooms.archive.file(&sop(files.len() - 1), 1).is_err() {
        assert!(Instant::now() < end, "it is not decoded in time");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    files
}

fn with_cache(cache: Bytes) -> Bench {
    let mut config = Config::default();
    config.archive.cache = cache;
    Bench::with(&config)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_is_kept_in_memory_and_nothing_else_is() {
    let mut bench = with_cache(Bytes::mib(256));
    let unit = bench.unit().await;
    let files = send(&bench, &unit, Tier::Fast, 64, &phantom(64, 20)).await;
    let bench = bench.reopen();
    let archive = &bench.rooms.archive;
    // The second is predicted from its neighbours, those from others; the rest is not read.
    assert_eq!(archive.file(&sop(1), 1).unwrap().bytes, files[1]);
    for entry in std::fs::read_dir(bench.folder.path().join("segments")).unwrap() {
        std::fs::write(entry.unwrap().path(), b"").unwrap();
    }
    for slice in [1, 0, 2, 4, 8] {
        assert_eq!(archive.file(&sop(slice), 1).unwrap().bytes, files[slice]);
    }
    for slice in [3, 15, 19] {
        assert!(archive.file(&sop(slice), 1).is_err(), "{slice}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_kept_than_may_be() {
    // A group of 16 slices of 64 x 64 has 136 kB.
    let mut bench = with_cache(Bytes::new(150 << 10));
    let unit = bench.unit().await;
    let files = send(&bench, &unit, Tier::Fast, 64, &phantom(64, 20)).await;
    let archive = &bench.rooms.archive;
    for slice in [0, 19] {
        assert_eq!(archive.file(&sop(slice), 1).unwrap().bytes, files[slice]);
    }
    for entry in std::fs::read_dir(bench.folder.path().join("segments")).unwrap() {
        std::fs::write(entry.unwrap().path(), b"").unwrap();
    }
    assert_eq!(archive.file(&sop(19), 1).unwrap().bytes, files[19]);
    assert!(archive.file(&sop(0), 1).is_err());
}

/// `CHASQUI_CT=DIR cargo test -p hub --lib slices_on_demand -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; its figures are in docs/performance.md"]
#[expect(clippy::print_stdout, reason = "a measurement is there to be read")]
async fn slices_on_demand() {
    let folder = std::env::var_os("CHASQUI_CT");
    let slices = folder.map_or_else(|| phantom(SIDE, 40), |folder| series(Path::new(&folder)));
    println!(
        "{} slices; limit {SLICE_LIMIT:?} for a slice whose references are decoded",
        slices.len()
    );
    for tier in Tier::ALL {
        let mut bench = with_cache(Bytes::mib(1024));
        let unit = bench.unit().await;
        let files = send(&bench, &unit, tier, SIDE, &slices).await;
        let time = |bench: &Bench, slice: usize| {
            let began = spent();
            let file = bench.rooms.archive.file(&sop(slice), 1).unwrap();
            let took = spent() - began;
            assert!(file.bytes == files[slice]);
            took
        };
        let mut cold = Vec::new();
        let mut bench = bench;
        for slice in (0..files.len()).step_by(7) {
            bench = bench.reopen();
            cold.push(time(&bench, slice));
        }
        bench = bench.reopen();
        // In sending order, each finds what it is predicted from.
        let group = |slice: usize| {
            (
                slice / GROUP,
                [8, 4, 2, 1]
                    .iter()
                    .position(|step| (slice % GROUP).is_multiple_of(*step)),
                slice,
            )
        };
        let mut order: Vec<usize> = (0..files.len()).collect();
        order.sort_by_key(|slice| group(*slice));
        let next: Vec<_> = order.iter().map(|slice| time(&bench, *slice)).collect();
        let again: Vec<_> = order.iter().map(|slice| time(&bench, *slice)).collect();
        for (what, times) in [
            ("cold", cold),
            ("references here", next),
            ("read before", again),
        ] {
            let (p50, p99) = quantiles(times);
            let ratio = p99.as_secs_f64() / SLICE_LIMIT.as_secs_f64();
            println!(
                "{:7} {what:15} p50 {p50:8.1?} p99 {p99:8.1?} p99/limit {ratio:.3}",
                tier.as_str()
            );
        }
    }
}

/// What the present thread, which decodes, has spent of a processor.
fn spent() -> Duration {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)
        .try_into()
        .unwrap()
}

fn quantiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    (at(50), at(99))
}
