//! Compares the codec with standard ones on the same pixels, in the same run; each round trip is
//! checked.
//!
//! ```text
//! cargo run --release -p codec --example compare -- [--peers NAME,NAME] [--tiers fast,link] DIR...
//! ```
//! Each folder is a series. Peers are coded by `peers.py` beside this file, with the Python of the
//! environment variable `PYTHON`; without it, one is set up in `target/compare` with what
//! `requirements.txt` names. They see bare pixels, less the least value of the series and at their
//! true depth; zstd and the codec see whole files, the codec in groups of 16, and their time is that
//! of whole files. Times are of one thread's processor. A sequence is `link` without the sending order.

#![expect(clippy::print_stdout, reason = "a program for the terminal")]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use codec::{Decoder, Limits, Order, Source, Tier, encode_group_in};
use study::dataset::{Encoding, Tag, Walk};
use study::part10::Part10;

const GROUP: usize = 16;

/// What one codec made of one series.
struct Score {
    name: String,
    bytes: u64,
    encode_s: f64,
    decode_s: f64,
}

impl Score {
    fn of(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            bytes: 0,
            encode_s: 0.0,
            decode_s: 0.0,
        }
    }
}

fn main() -> anyhow::Result<()> {
    let mut folders = Vec::new();
    let (mut peers, mut tiers) = (Vec::new(), Tier::ALL.to_vec());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut list = || arguments.next().context("a list is missing");
        match argument.as_str() {
            "--peers" => peers = list()?.split(',').map(str::to_owned).collect(),
            "--tiers" => {
                tiers = list()?
                    .split(',')
                    .map(str::parse)
                    .collect::<Result<_, _>>()?
            }
            folder => folders.push(PathBuf::from(folder)),
        }
    }
    let mut all: Vec<(Series, Vec<Score>)> = Vec::new();
    let python = python()?;
    for folder in &folders {
        let series = Series::read(folder)?;
        let mut scores = series.peers(&python, &peers)?;
        scores.push(series.zstd(19)?);
        for tier in &tiers {
            scores.push(series.ours(tier.as_str(), *tier, Order::Spread)?);
        }
        if tiers.contains(&Tier::Link) {
            scores.push(series.ours("link, sequence", Tier::Link, Order::Sequence)?);
        }
        print(&series.name, series.pixels.len() as u64, &scores);
        all.push((series, scores));
    }
    let names: Vec<String> = all.first().map_or(Vec::new(), |(_, scores)| {
        scores.iter().map(|score| score.name.clone()).collect()
    });
    let total: Vec<Score> = names
        .into_iter()
        .filter_map(|name| {
            let mut total = Score::of(name);
            for (_, scores) in &all {
                let score = scores.iter().find(|score| score.name == total.name)?;
                total.bytes += score.bytes;
                total.encode_s += score.encode_s;
                total.decode_s += score.decode_s;
            }
            Some(total)
        })
        .collect();
    let pixels = all
        .iter()
        .map(|(series, _)| series.pixels.len() as u64)
        .sum();
    print("all", pixels, &total);
    Ok(())
}

/// A Python with what the peers need.
fn python() -> anyhow::Result<PathBuf> {
    if let Some(python) = std::env::var_os("PYTHON") {
        return Ok(python.into());
    }
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = package.join("../../target/compare");
    let python = folder.join("bin/python");
    if !folder.join("ready").exists() {
        let run = |command: &mut Command| match command.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(_) | Err(_) => bail!("{command:?} failed; needs Debian's python3-venv"),
        };
        // Debian's own interpreter; another one on the path may lack what it needs.
        run(Command::new("/usr/bin/python3")
            .args(["-m", "venv"])
            .arg(&folder))?;
        run(Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "-r"])
            .arg(package.join("examples/requirements.txt")))?;
        std::fs::write(folder.join("ready"), "")?;
    }
    Ok(python)
}

struct Series {
    name: String,
    files: Vec<(String, Vec<u8>)>,
    slices: u32,
    rows: u16,
    columns: u16,
    /// Less the least one.
    pixels: Vec<u16>,
}

impl Series {
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
            .with_context(|| folder.display().to_string())?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()?;
        paths.sort();
        let name = folder.file_name().unwrap_or_default();
        let mut series = Self {
            name: name.to_string_lossy().into_owned(),
            files: Vec::new(),
            slices: 0,
            rows: 0,
            columns: 0,
            pixels: Vec::new(),
        };
        let mut values: Vec<i32> = Vec::new();
        for path in paths.into_iter().filter(|path| path.is_file()) {
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            if let Some((rows, columns, pixels)) = slice(&bytes) {
                series.slices += 1;
                (series.rows, series.columns) = (rows, columns);
                values.extend(pixels);
                series.files.push((path.display().to_string(), bytes));
            }
        }
        let least = values.iter().copied().min().context("no slices")?;
        let above = values.iter().map(|value| u16::try_from(value - least));
        series.pixels = above.collect::<Result<_, _>>()?;
        Ok(series)
    }

    fn peers(&self, python: &Path, wanted: &[String]) -> anyhow::Result<Vec<Score>> {
        let raw = std::env::temp_dir().join(format!("compare-{}.raw", std::process::id()));
        let mut bytes = Vec::new();
        for number in [self.slices, self.rows.into(), self.columns.into()] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(self.pixels.iter().flat_map(|pixel| pixel.to_le_bytes()));
        std::fs::write(&raw, bytes)?;
        let most = self.pixels.iter().copied().max().unwrap_or_default();
        let output = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/peers.py"))
            .arg(&raw)
            .arg((16 - most.leading_zeros()).max(2).to_string())
            .args(wanted)
            .output()?;
        std::fs::remove_file(&raw)?;
        if !output.status.success() {
            bail!("peers.py: {}", String::from_utf8_lossy(&output.stderr));
        }
        let mut scores = Vec::new();
        for line in output
            .stdout
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let score: serde_json::Value = serde_json::from_slice(line)?;
            let name = score["name"].as_str().unwrap_or_default().to_owned();
            match score["bytes"].as_u64() {
                Some(bytes) => scores.push(Score {
                    bytes,
                    encode_s: score["encode_s"].as_f64().unwrap_or_default(),
                    decode_s: score["decode_s"].as_f64().unwrap_or_default(),
                    ..Score::of(name)
                }),
                None => println!("{name}: {}", score["error"]),
            }
        }
        Ok(scores)
    }

    /// Whole files, each by itself.
    fn zstd(&self, level: i32) -> anyhow::Result<Score> {
        let mut score = Score::of(format!("zstd -{level}"));
        for (name, bytes) in &self.files {
            let start = processor_s()?;
            let coded = zstd::bulk::compress(bytes, level)?;
            let middle = processor_s()?;
            if zstd::bulk::decompress(&coded, bytes.len())? != *bytes {
                bail!("{name} does not come back");
            }
            score.bytes += coded.len() as u64;
            score.encode_s += middle - start;
            score.decode_s += processor_s()? - middle;
        }
        Ok(score)
    }

    fn ours(&self, name: &str, tier: Tier, order: Order) -> anyhow::Result<Score> {
        let mut score = Score::of(name);
        for files in self.files.chunks(GROUP) {
            let sources: Vec<Source<'_>> = files
                .iter()
                .map(|(name, bytes)| Source { name, bytes })
                .collect();
            let start = processor_s()?;
            let units = encode_group_in(order, &sources, tier)?;
            let middle = processor_s()?;
            let mut decoder = Decoder::new(Limits::default());
            for unit in &units {
                score.bytes += unit.as_bytes().len() as u64;
                decoder.push(unit.as_bytes())?;
            }
            for (index, (name, bytes)) in files.iter().enumerate() {
                if decoder.file(index)? != *bytes {
                    bail!("{name} does not come back");
                }
            }
            score.encode_s += middle - start;
            score.decode_s += processor_s()? - middle;
        }
        Ok(score)
    }
}

/// The time this thread has had a processor.
fn processor_s() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(nanoseconds / 1e9)
}

/// Rows, columns and pixels of a native 16-bit greyscale file.
fn slice(file: &[u8]) -> Option<(u16, u16, Vec<i32>)> {
    let part10 = Part10::parse(file).ok()?;
    let encoding = Encoding::of(&part10.transfer_syntax);
    let data_set = &file[part10.data_set];
    let (mut rows, mut columns, mut signed) = (0, 0, 0);
    for element in Walk::new(data_set, encoding) {
        let element = element.ok()?;
        let value = &data_set[element.value.clone()];
        match element.tag {
            Tag(0x0028, 0x0010) => rows = encoding.u16(value)?,
            Tag(0x0028, 0x0011) => columns = encoding.u16(value)?,
            Tag(0x0028, 0x0103) => signed = encoding.u16(value)?,
            Tag(0x7FE0, 0x0010) => {
                let pairs = value.as_chunks::<2>().0.iter();
                let pixels = pairs.map(|pair| match signed {
                    1 => i16::from_le_bytes(*pair).into(),
                    _ => u16::from_le_bytes(*pair).into(),
                });
                let count = usize::from(rows) * usize::from(columns);
                return Some((rows, columns, pixels.take(count).collect()));
            }
            _ => {}
        }
    }
    None
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn print(name: &str, pixels: u64, scores: &[Score]) {
    let find = |name: &str| scores.iter().find(|score| score.name == name);
    let ratio = |part: f64, whole: Option<f64>| {
        whole.map_or("-".into(), |whole| format!("{:.3}", part / whole))
    };
    println!("\n{name}: {:.1} MB of pixels", pixels as f64 * 2e-6);
    print!("| codec | bytes | bpp | / JPEG-LS | / JPEG XL e9 | encode MB/s | decode MB/s ");
    println!("| encode / CharLS | decode / CharLS |");
    println!("|---|---|---|---|---|---|---|---|---|");
    for score in scores {
        let bytes = score.bytes as f64;
        let against = |name| ratio(bytes, find(name).map(|score| score.bytes as f64));
        let charls = find("JPEG-LS");
        println!(
            "| {} | {} | {:.3} | {} | {} | {:.1} | {:.1} | {} | {} |",
            score.name,
            score.bytes,
            bytes * 8.0 / pixels as f64,
            against("JPEG-LS"),
            against("JPEG XL e9"),
            pixels as f64 * 2e-6 / score.encode_s,
            pixels as f64 * 2e-6 / score.decode_s,
            ratio(1.0 / score.encode_s, charls.map(|c| 1.0 / c.encode_s)),
            ratio(1.0 / score.decode_s, charls.map(|c| 1.0 / c.decode_s)),
        );
    }
}
