//! `ctpack encode`: groups of files, several at a time, into one packed file.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use codec::container::{HEAD, Seal};
use codec::{Decoder, Limits, Source, Tier, Unit, encode_group};
use serde_json::json;

use crate::Report;
use crate::archive::HELD_BYTES_MAX;
use crate::names;
use crate::progress::Progress;

/// How many files make a group, and how many bytes: enough for headers to be coded jointly, few
/// enough that each thread needs some 64 MiB.
const GROUP_FILES: usize = 64;
const GROUP_BYTES: u64 = 16 << 20;

/// The files of one group: name and path.
type Batch = Vec<(String, PathBuf)>;

pub(crate) fn run(
    inputs: &[PathBuf],
    output: &Path,
    tier: Tier,
    threads: usize,
) -> anyhow::Result<Report> {
    let files = names::collect(inputs, output)?;
    if files.is_empty() {
        bail!("no files to encode");
    }
    let (batches, total) = batches(files)?;
    let mut writer = Writer::create(output)?;
    let mut progress = Progress::new("encoding", total);
    let (mut files, mut bytes_original) = (0_u64, 0_u64);
    for round in batches.chunks(threads) {
        for group in encode_round(round, tier)? {
            writer.write_group(&group.units)?;
            files += group.files as u64;
            bytes_original += group.bytes_original;
            progress.add(group.bytes_original);
        }
    }
    drop(progress);
    let bytes_packed = writer.finish(output)?;
    Ok(Report {
        done: true,
        json: json!({
            "tier": tier.as_str(),
            "instances": files,
            "groups": batches.len(),
            "bytes_original": bytes_original,
            "bytes_packed": bytes_packed,
        }),
        text: format!(
            "{files} files, {bytes_original} bytes -> {bytes_packed} bytes ({})",
            crate::info::percent(bytes_packed, bytes_original)
        ),
        warnings: Vec::new(),
    })
}

/// Cuts the files, in order, into groups; gives the bytes of all too.
fn batches(files: BTreeMap<String, PathBuf>) -> anyhow::Result<(Vec<Batch>, u64)> {
    let mut batches: Vec<Batch> = Vec::new();
    let (mut total, mut in_batch) = (0, 0);
    for (name, path) in files {
        let bytes = std::fs::metadata(&path)
            .with_context(|| path.display().to_string())?
            .len();
        total += bytes;
        in_batch += bytes;
        match batches.last_mut() {
            Some(batch) if batch.len() < GROUP_FILES && in_batch <= GROUP_BYTES => {
                batch.push((name, path));
            }
            Some(_) | None => {
                in_batch = bytes;
                batches.push(vec![(name, path)]);
            }
        }
    }
    Ok((batches, total))
}

struct Group {
    units: Vec<Unit>,
    files: usize,
    bytes_original: u64,
}

/// Encodes as many groups at once as there are threads.
fn encode_round(round: &[Batch], tier: Tier) -> anyhow::Result<Vec<Group>> {
    std::thread::scope(|scope| {
        let running: Vec<_> = round
            .iter()
            .map(|batch| scope.spawn(move || encode_batch(batch, tier)))
            .collect();
        running
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .expect("a panic in a thread is one of the program")
            })
            .collect()
    })
}

/// Reads, encodes, and proves that the very same files come out again.
fn encode_batch(batch: &Batch, tier: Tier) -> anyhow::Result<Group> {
    let mut contents = Vec::with_capacity(batch.len());
    for (_, path) in batch {
        contents.push(std::fs::read(path).with_context(|| path.display().to_string())?);
    }
    let sources: Vec<Source<'_>> = batch
        .iter()
        .zip(&contents)
        .map(|((name, _), bytes)| Source { name, bytes })
        .collect();
    let first = &batch[0].1;
    let units = encode_group(&sources, tier).with_context(|| first.display().to_string())?;

    let bytes: usize = contents.iter().map(Vec::len).sum();
    let mut decoder = Decoder::new(Limits {
        held_bytes: HELD_BYTES_MAX,
        ..Limits::default()
    });
    let proof = units
        .iter()
        .try_for_each(|unit| decoder.push(unit.as_bytes()));
    proof.with_context(|| first.display().to_string())?;
    for (index, source) in sources.iter().enumerate() {
        if decoder.file(index).as_deref() != Ok(source.bytes) {
            bail!(
                "{}: would not decode to the same bytes",
                batch[index].1.display()
            );
        }
    }
    Ok(Group {
        units,
        files: sources.len(),
        bytes_original: bytes as u64,
    })
}

/// Writes to a name beside the output's, which gets its own name when it is whole and synced.
struct Writer {
    partial: Partial,
    file: BufWriter<File>,
    seal: Seal,
    bytes: u64,
}

/// A file that is removed unless it is renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Writer {
    fn create(output: &Path) -> anyhow::Result<Self> {
        let mut name = output
            .file_name()
            .context("the output has no file name")?
            .to_owned();
        name.push(".partial");
        let partial = output.with_file_name(name);
        let file = File::create(&partial).with_context(|| partial.display().to_string())?;
        let mut writer = Self {
            partial: Partial(partial),
            file: BufWriter::new(file),
            seal: Seal::default(),
            bytes: 0,
        };
        writer.put(&HEAD)?;
        Ok(writer)
    }

    fn write_group(&mut self, units: &[Unit]) -> anyhow::Result<()> {
        for unit in units {
            self.put(unit.as_bytes())?;
            self.seal.add_unit(unit.as_bytes());
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.bytes += bytes.len() as u64;
        self.file
            .write_all(bytes)
            .with_context(|| self.partial.0.display().to_string())
    }

    fn finish(mut self, output: &Path) -> anyhow::Result<u64> {
        let trailer = self.seal.trailer();
        self.put(&trailer)?;
        let file = self
            .file
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()
            .with_context(|| self.partial.0.display().to_string())?;
        std::fs::rename(&self.partial.0, output).with_context(|| output.display().to_string())?;
        let folder = output.parent().filter(|f| !f.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .with_context(|| folder.display().to_string())?;
        Ok(self.bytes)
    }
}
