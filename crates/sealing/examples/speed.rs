//! Measures what sealing costs: `cargo run --release -p sealing --example speed`.

#![expect(clippy::print_stdout, reason = "the figures are what it is for")]
#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use sealing::{DataKey, Envelope, Lock, Pin, StoreKey, WrappedStoreKey, open_with, seal_to};

const STUDY: &str = "1.2.840.113619.2.1";

fn main() {
    let data = DataKey::generate();
    for bytes in [4 << 10, 512 << 10, 1 << 20] {
        let body = vec![0x5a; bytes];
        let sealed = data.seal(&body);
        let rate = |took: Duration| bytes as f64 / took.as_secs_f64() / 1e6;
        println!(
            "{:5} KiB: seal {:5.0} MB/s, open {:5.0} MB/s",
            bytes >> 10,
            rate(each(|| data.seal(&body))),
            rate(each(|| data.open(&sealed))),
        );
    }
    let store = StoreKey::generate();
    let envelope = Envelope::seal(&data, STUDY, store.public_key());
    let text = [0x5a; 200];
    let document = seal_to(store.public_key(), "order/1", &text);
    let micros = |took: Duration| took.as_secs_f64() * 1e6;
    println!(
        "envelope: seal {:.0} us, open {:.0} us",
        micros(each(|| Envelope::seal(&data, STUDY, store.public_key()))),
        micros(each(|| envelope.open(data.id(), STUDY, &store))),
    );
    println!(
        "document of 200 bytes: seal {:.0} us, open {:.0} us",
        micros(each(|| seal_to(store.public_key(), "order/1", &text))),
        micros(each(|| open_with(&store, "order/1", &document))),
    );
    let pin = Pin::new("2468").expect("a PIN of four digits");
    let lock = Lock {
        pin: &pin,
        share: None,
    };
    let wrapped = WrappedStoreKey::wrap(&store, lock).expect("our own cost is allowed");
    println!(
        "unlock with a PIN: {:.0} ms",
        micros(each(|| wrapped.open(lock))) / 1e3
    );
}

/// The middle one of many runs.
fn each<T>(mut run: impl FnMut() -> T) -> Duration {
    let until = Instant::now() + Duration::from_millis(700);
    let mut runs = Vec::new();
    while runs.len() < 5 || Instant::now() < until {
        let start = Instant::now();
        black_box(run());
        runs.push(start.elapsed());
    }
    runs.sort_unstable();
    runs[runs.len() / 2]
}
