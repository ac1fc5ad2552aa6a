//! The command line: arguments in, one answer and an exit code out.
//!
//! A command asks the running hub over its socket; if none runs, it takes the folder's lock and
//! does the work itself. Either way `desk` does it.

mod ask;
mod print;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Args, Parser, Subcommand};
use identity::NodeId;
use serde_json::{Value, json};
use study::{Priority, SeriesUid, SopInstanceUid, StudyUid};

use crate::access::Role;
use crate::config::Config;
use crate::desk::Wish;
use crate::run::{OpenError, ServeError};
use crate::{fleet, run};

/// Runs the program with its arguments, the program's name first.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    identity::files::keep_memory_private();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, everything else is wrong usage.
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // Nothing is left to do when even the terminal is gone.
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("chasqui-hub: {:#}", failure.error);
            ExitCode::from(failure.exit)
        }
    }
}

/// Wrong usage.
const EXIT_USAGE: u8 = 64;
/// A fault of ours, or of this machine.
const EXIT_INTERNAL: u8 = 70;
/// The configuration, or the folder, is not what it must be.
const EXIT_CONFIG: u8 = 78;

/// Why a command was not done, and the exit code that says so.
#[derive(Debug)]
struct Failure {
    exit: u8,
    error: anyhow::Error,
}

impl Failure {
    /// The request failed; the hub is well.
    fn request(error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit: 1,
            error: error.into(),
        }
    }

    fn internal(error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit: EXIT_INTERNAL,
            error: error.into(),
        }
    }

    fn config(error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit: EXIT_CONFIG,
            error: error.into(),
        }
    }
}

/// Takes studies in, keeps them, and sends signed reports back.
#[derive(Debug, Parser)]
#[command(name = "chasqui-hub", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the hub until SIGTERM.
    Serve(ServeArgs),
    /// The fleet document.
    #[command(subcommand)]
    Fleet(FleetCommand),
    /// Studies at the hub.
    #[command(subcommand)]
    Study(StudyCommand),
    /// Writes exactly the bytes that the scanner sent.
    Get(GetArgs),
    /// Reports.
    #[command(subcommand)]
    Report(ReportCommand),
    /// Carries studies from boxes, and receipts and reports to them, on a USB stick.
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Makes a bearer token for scripts.
    Token(TokenArgs),
    /// Checks the configuration and prints what is in effect; with --data, reads every chunk at
    /// rest again and says what is damaged.
    Check(CheckArgs),
    /// Prints figures for a support request; nothing of patients.
    Diagnose(DataArgs),
}

#[derive(Debug, Args)]
struct DataArgs {
    /// The hub's folder, made by `chasqui-provision hub`.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// A configuration file, for when no hub runs in the folder.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// The hub's folder, made by `chasqui-provision hub`.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// A configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The UDP port that boxes call; 0 lets the system choose.
    #[arg(long, value_name = "P")]
    link_port: Option<u16>,
    /// The port of the web pages; 0 lets the system choose.
    #[arg(long, value_name = "P")]
    web_port: Option<u16>,
    /// The DICOM port; 0 lets the system choose.
    #[arg(long, value_name = "P")]
    dicom_port: Option<u16>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The hub's folder; its keys, its fleet document and all that is at rest are checked too.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// A configuration file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum FleetCommand {
    /// Takes a newer fleet document into the running hub.
    Apply {
        /// The document, `fleet.cose`.
        file: PathBuf,
        #[command(flatten)]
        data: DataArgs,
    },
}

#[derive(Debug, Subcommand)]
enum StudyCommand {
    /// Lists all studies.
    List(DataArgs),
    /// Shows one study with its instances.
    Show {
        /// Study Instance UID.
        study: StudyUid,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Changes how urgent a study is, here and at its box.
    Priority {
        #[command(flatten)]
        whose: WhoseArgs,
        /// stat, urgent, routine or bulk.
        priority: Priority,
    },
    /// Asks the box for a part of a study before the rest of it; without a part, for none any more.
    First {
        #[command(flatten)]
        whose: WhoseArgs,
        /// What is missing of this series.
        #[arg(long, value_name = "UID", conflicts_with = "instance")]
        series: Option<SeriesUid>,
        /// This instance, and what is packed with it; may be given more than once.
        #[arg(long, value_name = "UID")]
        instance: Vec<SopInstanceUid>,
    },
    /// Asks the box for the other studies of the study's patient.
    Priors {
        #[command(flatten)]
        whose: WhoseArgs,
    },
}

#[derive(Debug, Args)]
struct WhoseArgs {
    /// Study Instance UID.
    study: StudyUid,
    /// Chooses among units that sent the same study.
    #[arg(long, value_name = "ID")]
    unit: Option<NodeId>,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
struct GetArgs {
    /// The instance.
    #[arg(required_unless_present = "list", conflicts_with = "list")]
    sop_instance_uid: Option<SopInstanceUid>,
    /// A file with one SOP Instance UID a line.
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Which of several instances with this UID, counted from 1 in the order they came.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "list")]
    copy: u32,
    /// The file to write; with --list, the folder.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Subcommand)]
enum ReportCommand {
    /// Signs a report and sends it to the unit that sent the study.
    File(ReportFileArgs),
}

#[derive(Debug, Args)]
struct ReportFileArgs {
    /// Study Instance UID.
    study: StudyUid,
    /// The report as JSON.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The radiologist's key file.
    #[arg(long, value_name = "KEYFILE")]
    sign: PathBuf,
    /// A file with the key's passphrase.
    #[arg(long, value_name = "F")]
    passphrase_file: Option<PathBuf>,
    /// Chooses among units that sent the same study.
    #[arg(long, value_name = "ID")]
    unit: Option<NodeId>,
    /// Signs a final report although images may still come; the report says how many were read.
    #[arg(long)]
    incomplete: bool,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
struct TokenArgs {
    /// What the bearer may do.
    #[arg(long)]
    role: Role,
    /// How long the token is good.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=8760))]
    hours: u32,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Subcommand)]
enum BundleCommand {
    /// Writes a bundle for each box that there is something for; done when it says `safe to remove`.
    Export(BundleExportArgs),
    /// Takes every box's bundles that are for this hub; others are left alone.
    Import(BundleImportArgs),
}

#[derive(Debug, Args)]
struct BundleExportArgs {
    /// Where the stick is mounted.
    mountpoint: PathBuf,
    /// The largest file on the stick.
    #[arg(long, value_name = "SIZE", default_value = "1 GiB", value_parser = part_bytes)]
    part_size: u64,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
struct BundleImportArgs {
    /// Where the stick is mounted.
    mountpoint: PathBuf,
    /// Takes bundles off the stick that are imported.
    #[arg(long)]
    remove_imported: bool,
    #[command(flatten)]
    data: DataArgs,
}

fn part_bytes(text: &str) -> Result<u64, String> {
    let bytes: settings::Bytes = text
        .parse()
        .map_err(|error: settings::UnitError| error.to_string())?;
    bundle::part_bytes(bytes.get())
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(args) => serve(&args),
        Command::Fleet(FleetCommand::Apply { file, data }) => ask::fleet_apply(&data, &file),
        Command::Study(StudyCommand::List(data)) => ask::study_list(&data),
        Command::Study(StudyCommand::Show { study, data }) => ask::study_show(&data, study),
        Command::Study(StudyCommand::Priority { whose, priority }) => {
            ask::wish(&whose, Wish::Priority(priority))
        }
        Command::Study(StudyCommand::First {
            whose,
            series,
            instance,
        }) => {
            let wish = series.map_or(Wish::InstancesFirst(instance), Wish::SeriesFirst);
            ask::wish(&whose, wish)
        }
        Command::Study(StudyCommand::Priors { whose }) => ask::wish(&whose, Wish::Priors),
        Command::Get(args) => ask::get(&args),
        Command::Report(ReportCommand::File(args)) => ask::report_file(&args),
        Command::Bundle(BundleCommand::Export(args)) => ask::bundle_export(&args),
        Command::Bundle(BundleCommand::Import(args)) => ask::bundle_import(&args),
        Command::Token(args) => ask::token(&args),
        Command::Check(args) => check(&args),
        Command::Diagnose(data) => ask::diagnose(&data),
    }
}

fn serve(args: &ServeArgs) -> Result<(), Failure> {
    telemetry::init("chasqui-hub");
    let port = |port: Option<u16>| port.map(|port| toml::Value::Integer(port.into()));
    let flags = vec![
        ("link.port", port(args.link_port)),
        ("web.port", port(args.web_port)),
        ("dicom.port", port(args.dicom_port)),
    ];
    let config = configuration(args.config.as_deref(), flags)?;
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::internal)?;
    let served = runtime.block_on(run::serve(&args.data, &config));
    // Whatever still runs on a thread of its own is safe to be cut off at any point.
    runtime.shutdown_background();
    served.map_err(|error| match error {
        ServeError::Open(error) => open_failure(error),
        ServeError::Fatal(error) => Failure::internal(error),
    })
}

fn configuration(file: Option<&Path>, flags: Vec<settings::Flag>) -> Result<Config, Failure> {
    // Names and values that are not Unicode cannot be ours.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Config::load(file, environment, flags).map_err(Failure::config)
}

fn open_failure(error: OpenError) -> Failure {
    match error {
        OpenError::Lock(_) => Failure::request(error),
        OpenError::Key(_)
        | OpenError::StoreKey { .. }
        | OpenError::StoreKeyHasPin(_)
        | OpenError::Fleet(_) => Failure::config(error),
        OpenError::Store(_) => Failure::internal(error),
    }
}

/// Checks what is configured and, with --data, the folder: whose it is, and all that is at rest.
fn check(args: &CheckArgs) -> Result<(), Failure> {
    let config = configuration(args.config.as_deref(), Vec::new())?;
    let Some(folder) = &args.data else {
        return print_check(args.json, &config, None);
    };
    let identity = identity_of(folder, &config)?;
    let at_rest = ask::scrub(folder, &config)?;
    let damaged = at_rest["damaged"].as_array().map_or(0, Vec::len);
    print_check(args.json, &config, Some((identity, at_rest)))?;
    match damaged {
        0 => Ok(()),
        _ => Err(Failure::request(anyhow!(
            "studies at rest that are damaged: {damaged}"
        ))),
    }
}

fn print_check(
    json: bool,
    config: &Config,
    found: Option<((NodeId, u64), Value)>,
) -> Result<(), Failure> {
    if json {
        let (identity, at_rest) = found.unzip();
        let (hub, version) = identity.unzip();
        let hub = hub.map(|hub| hub.to_string());
        return print::json(&json!({
            "config": config, "hub": hub, "fleet_version": version, "at_rest": at_rest
        }));
    }
    if let Some(((hub, version), at_rest)) = found {
        print::line(&format!("# hub {hub}, fleet document {version}"))?;
        print::at_rest(&at_rest)?;
    }
    let text = toml::to_string(config).expect("the configuration is plain TOML values");
    print::line(text.trim_end())
}

/// Whose folder it is, and the version of its fleet document; the store key is the right one.
fn identity_of(folder: &Path, config: &Config) -> Result<(NodeId, u64), Failure> {
    let (key, store_key) = run::load_keys(folder, config).map_err(open_failure)?;
    let document = fleet::read(folder, &key.id(), store_key.public_key());
    let document = document.map_err(|e| open_failure(e.into()))?;
    Ok((key.id(), document.version()))
}

#[cfg(test)]
mod tests;
