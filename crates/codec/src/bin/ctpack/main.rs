//! ctpack: packs series of CT slices into one file without loss, and back.
//!
//! In: folders, files and `.ctp` files. Out: the same, and on standard output what was done.
//! Invariant: a `.ctp` file appears under its name only when it is whole, on disk, and has been
//! decoded and compared. May not: write outside the folder it is given.

mod archive;
mod decode;
mod encode;
mod info;
mod names;
mod progress;
mod verify;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use codec::Tier;

/// Packs DICOM files without loss into one compact file, and back.
#[derive(Parser)]
#[command(name = "ctpack", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Print one JSON document to standard output.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Packs a series into one file; each group is decoded and compared before it is written.
    Encode {
        /// Folders (with all that is in them) and files.
        #[arg(required = true, value_name = "DIR|FILE")]
        inputs: Vec<PathBuf>,
        /// The file to write.
        #[arg(short, long, value_name = "OUT.ctp")]
        output: PathBuf,
        /// How much work goes into making it small: fast, link or archive.
        #[arg(long, default_value_t = Tier::Link)]
        tier: Tier,
        /// How many groups are encoded at a time; by default one per processor.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
        threads: Option<u16>,
    },
    /// Unpacks the same files, byte for byte.
    Decode {
        /// The packed file.
        #[arg(value_name = "IN.ctp")]
        input: PathBuf,
        /// The folder to write to; made if it is missing.
        #[arg(short, long, value_name = "DIR")]
        output: PathBuf,
        /// Only files N to M, both included, counted from 1 as `info` shows them.
        #[arg(long, value_name = "N..M", conflicts_with = "first")]
        only: Option<decode::Numbers>,
        /// Only the first K files.
        #[arg(long, value_name = "K")]
        first: Option<u64>,
    },
    /// Compares a packed file with the files it was made from; exit 0 only if every byte is equal.
    Verify {
        /// The packed file.
        #[arg(value_name = "IN.ctp")]
        input: PathBuf,
        /// The folder with the files.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Shows tier, files, sizes, order and digests.
    Info {
        /// The packed file.
        #[arg(value_name = "IN.ctp")]
        input: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed pipe is no reason to fail while saying how to call us.
            let _ = error.print();
            // Help and version come this way too.
            return ExitCode::from(if error.exit_code() == 0 {
                0
            } else {
                EXIT_USAGE
            });
        }
    };
    match run(arguments.command).and_then(|report| show(&report, arguments.json)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "ctpack: {error:#}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// What a command has to say at its end.
struct Report {
    /// Whether everything that was asked for was done.
    done: bool,
    json: serde_json::Value,
    text: String,
    /// What a person must know beyond the report, one line each.
    warnings: Vec<String>,
}

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 64;

fn run(command: Command) -> anyhow::Result<Report> {
    match command {
        Command::Encode {
            inputs,
            output,
            tier,
            threads,
        } => {
            let threads = threads.map_or_else(
                || std::thread::available_parallelism().map_or(1, usize::from),
                usize::from,
            );
            encode::run(&inputs, &output, tier, threads)
        }
        Command::Decode {
            input,
            output,
            only,
            first,
        } => {
            let wanted = only
                .or(first.map(decode::Numbers::first))
                .unwrap_or_default();
            decode::run(&input, &output, wanted)
        }
        Command::Verify { input, folder } => verify::run(&input, &folder),
        Command::Info { input } => info::run(&input),
    }
}

/// Prints the report; gives whether all was done.
fn show(report: &Report, json: bool) -> anyhow::Result<bool> {
    let mut errors = std::io::stderr();
    for warning in &report.warnings {
        writeln!(errors, "ctpack: {warning}")?;
    }
    let mut out = std::io::stdout();
    if json {
        writeln!(out, "{:#}", report.json)?;
    } else {
        writeln!(out, "{}", report.text)?;
    }
    Ok(report.done)
}
