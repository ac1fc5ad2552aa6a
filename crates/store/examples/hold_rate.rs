//! Measures what holding an instance costs beyond the disk itself: `cargo run --release -p store --example hold_rate [FOLDER]`.
//!
//! A job appends a body of 0.5 MB and inserts a row. It is set against a bare loop of one write of 0.5 MB and one
//! `fdatasync` on the same disk, run before and after each.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use store::{FsDisk, Record, RecordHeader, Segments, StoreError, Writer, open_database};

const BODY_BYTES: usize = 500_000;
const JOBS: usize = 320;
const SCHEMA: &str =
    "CREATE TABLE held (digest BLOB, segment TEXT, offset INTEGER, bytes INTEGER) STRICT";

fn main() -> Result<(), Box<dyn Error>> {
    let parent = std::env::args_os().nth(1).unwrap_or_else(|| ".".into());
    let folder = tempfile::tempdir_in(parent)?;
    let body: Vec<u8> = (0..BODY_BYTES as u64)
        .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0])
        .collect();

    // The first one pays for what is cold.
    bare_rate(folder.path(), &body)?;
    for submitters in [1, 4, 16] {
        let before = bare_rate(folder.path(), &body)?;
        let rate = hold_rate(
            &folder.path().join(format!("hold-{submitters}")),
            submitters,
            &body,
        )?;
        let after = bare_rate(folder.path(), &body)?;
        let ratio = 2.0 * rate / (before + after);
        println!(
            "{submitters:2} submitters: {rate:7.1} jobs/s, {ratio:.2} of bare ({before:.1}/s before, {after:.1}/s after)"
        );
    }
    Ok(())
}

fn bare_rate(folder: &Path, body: &[u8]) -> Result<f64, Box<dyn Error>> {
    let path = folder.join("bare");
    let file = File::create(&path)?;
    let started = Instant::now();
    for job in 0..JOBS {
        file.write_all_at(body, (job * body.len()) as u64)?;
        file.sync_data()?;
    }
    let rate = JOBS as f64 / started.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

fn hold_rate(folder: &Path, submitters: usize, body: &[u8]) -> Result<f64, Box<dyn Error>> {
    std::fs::create_dir(folder)?;
    let connection = open_database(&folder.join("index.sqlite"), &[SCHEMA])?;
    let segments = Segments::open(
        Arc::new(FsDisk::open(&folder.join("segments"))?),
        &connection,
    )?;
    let writer = Writer::spawn(segments, connection)?;
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..submitters {
            scope.spawn(|| (0..JOBS / submitters).for_each(|_| hold(&writer, body.to_vec())));
        }
    });
    let rate = JOBS as f64 / started.elapsed().as_secs_f64();
    drop(writer);
    std::fs::remove_dir_all(folder)?;
    Ok(rate)
}

fn hold(writer: &Writer, body: Vec<u8>) {
    let record = Record::new(RecordHeader::default(), body).expect("the header is empty");
    let held = writer.run_blocking(move |work| -> Result<(), StoreError> {
        let location = work.append("intake", &record)?;
        let (segment, offset, bytes) = location.to_columns();
        let mut insert = work
            .sql()
            .prepare_cached("INSERT INTO held VALUES (?1, ?2, ?3, ?4)")?;
        insert.execute((record.digest().as_bytes(), segment, offset, bytes))?;
        Ok(())
    });
    held.expect("a disk with room takes it");
}
