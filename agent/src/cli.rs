//! The command line of `chasqui-agent`: arguments in, exit code out.

mod ask;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use study::{AeTitle, Priority, SopInstanceUid, StudyUid};

use crate::commands::Failure;
use crate::intake::{self, ModalityRequest};
use crate::orders::{self, ConsentBasis};
use crate::uplink::{self, LinkRequest};
use crate::{bundles, pin, priors, proof};

/// The box beside the scanner: takes studies in, keeps them, carries them to the hub.
#[derive(Debug, Parser)]
#[command(name = "chasqui-agent", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes the box's own key and redeems a voucher at the hub.
    Enrol(EnrolArgs),
    /// Runs the box.
    Serve(ServeArgs),
    /// Shows studies with their custody, the link and the disk.
    Status(ShowArgs),
    /// Writes the exact bytes kept of an instance (PS3.10).
    Get(GetArgs),
    /// Records on what basis a study may leave the box.
    Consent(ConsentArgs),
    /// Changes how urgent a study is.
    Priority(PriorityArgs),
    /// Lets the other studies of a study's patient go to the hub before the rest of the bulk.
    Priors(StudyArgs),
    /// Takes orders for the worklist, lists and cancels them.
    #[command(subcommand)]
    Order(OrderCommand),
    /// Lists scanners, accepts those that have called, enters where they are.
    #[command(subcommand)]
    Modality(ModalityCommand),
    /// Holds a study for a court: it is neither let go nor erased before that is lifted.
    #[command(subcommand)]
    Hold(HoldCommand),
    /// Destroys the box's keys of a study, its images and what its reports say.
    Erase(EraseArgs),
    /// Lists, reads and prints the reports that came back.
    #[command(subcommand)]
    Report(ReportCommand),
    /// Makes and checks proofs that images and reports are unaltered.
    #[command(subcommand)]
    Proof(ProofCommand),
    /// Carries studies to the hub, and its receipts and reports back, on a USB stick.
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Protects the vault with a PIN, opens it, or closes it.
    #[command(subcommand)]
    Pin(PinCommand),
    /// Shows the ways to the hub, chooses between them, pauses sending.
    #[command(subcommand)]
    Link(LinkCommand),
    /// Re-reads all that is held and says what is damaged; makes a lost index anew.
    Scrub(ScrubArgs),
    /// Checks the configuration and prints what is in effect.
    Check(CheckArgs),
}

/// Arguments of `enrol`.
#[derive(Debug, Args)]
pub(crate) struct EnrolArgs {
    /// The box's folder.
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// The voucher that provisioning made for this site.
    #[arg(long)]
    pub(crate) voucher: PathBuf,
    /// The hub's address instead of the voucher's.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) hub: Option<String>,
    /// Makes the request without calling the hub.
    #[arg(long)]
    pub(crate) offline: bool,
    /// A file with the PIN that is to protect the vault.
    #[arg(long, value_name = "FILE")]
    pub(crate) pin_file: Option<PathBuf>,
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// The box's folder.
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// Configuration file.
    #[arg(long)]
    pub(crate) config: Option<PathBuf>,
    /// TCP port of the DICOM acceptor; 0 lets the system choose.
    #[arg(long)]
    pub(crate) dicom_port: Option<u16>,
    /// TCP port of the console; 0 lets the system choose.
    #[arg(long)]
    pub(crate) console_port: Option<u16>,
    /// The hub's address instead of the voucher's.
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) hub: Option<String>,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct GetArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// The instance wanted.
    #[arg(required_unless_present = "list", conflicts_with = "list")]
    sop_instance_uid: Option<SopInstanceUid>,
    /// A file with one SOP Instance UID per line.
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// Where to write: a file, with --list a folder.
    #[arg(short, long, value_name = "PATH")]
    output: PathBuf,
    /// Which of several instances with this UID, counted from 1 in the order they came.
    #[arg(long, default_value_t = 1, value_name = "N")]
    copy: u32,
}

#[derive(Debug, Args)]
struct ConsentArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// The study.
    study_uid: StudyUid,
    /// How consent was given, or `emergency`.
    #[arg(long, value_enum)]
    basis: ConsentBasis,
    /// Initials of who records it.
    #[arg(long, value_name = "INITIALS")]
    by: String,
}

#[derive(Debug, Args)]
struct PriorityArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// The study.
    study_uid: StudyUid,
    /// stat, urgent, routine or bulk.
    priority: Priority,
}

#[derive(Debug, Args)]
struct StudyArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// The study.
    study_uid: StudyUid,
}

#[derive(Debug, Subcommand)]
enum OrderCommand {
    /// Takes an order and shows it to the scanners; prints what images of it will be known by.
    Add(OrderAddArgs),
    /// Lists the orders.
    List(ShowArgs),
    /// Cancels an order of which nothing has come; nothing of it is left.
    Cancel(StudyArgs),
}

#[derive(Debug, Args)]
struct OrderAddArgs {
    #[command(flatten)]
    show: ShowArgs,
    /// The order as JSON; its fields are in docs/operations.md.
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
}

#[derive(Debug, Subcommand)]
enum ModalityCommand {
    /// Lists the scanners, when each was seen and what went wrong last.
    List(ShowArgs),
    /// Accepts a scanner that has called.
    Accept(TitleArgs),
    /// Enters a scanner with its address.
    Add(ModalityAddArgs),
    /// Sends a scanner a C-ECHO.
    Echo(TitleArgs),
}

#[derive(Debug, Args)]
struct TitleArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// The scanner's AE title.
    #[arg(long, value_name = "TITLE", value_parser = ae_title)]
    ae: String,
}

#[derive(Debug, Args)]
struct ModalityAddArgs {
    #[command(flatten)]
    title: TitleArgs,
    /// Where it is: a name or an address.
    #[arg(long)]
    host: String,
    /// Its DICOM port.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

#[derive(Debug, Subcommand)]
enum HoldCommand {
    /// Puts a study on legal hold.
    Set(HoldArgs),
    /// Lifts the hold.
    Lift(HoldArgs),
}

#[derive(Debug, Args)]
struct HoldArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// The study.
    study_uid: StudyUid,
    /// Initials of who says so.
    #[arg(long, value_name = "INITIALS")]
    by: String,
}

#[derive(Debug, Args)]
struct EraseArgs {
    #[command(flatten)]
    order: HoldArgs,
    /// Erases also what the hub has no copy of: nobody can bring it back.
    #[arg(long)]
    even_if_not_at_hub: bool,
}

#[derive(Debug, Subcommand)]
enum ReportCommand {
    /// Lists the reports with the state of their signatures.
    List(ShowArgs),
    /// Writes a report as JSON.
    Get(ReportArgs),
    /// Writes a report as plain text, for paper.
    Print(ReportArgs),
}

#[derive(Debug, Args)]
struct ReportArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// The study.
    study_uid: StudyUid,
    /// Where to write instead of the standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum ProofCommand {
    /// Writes a file with which anybody can check a study and its reports, without this box.
    Export(ProofExportArgs),
    /// Checks such a file, and a folder of images against it; needs no box and no network.
    Verify(ProofVerifyArgs),
}

#[derive(Debug, Args)]
struct ProofExportArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// The study.
    study_uid: StudyUid,
    /// Where to write; the reports are in the file.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct ProofVerifyArgs {
    /// The proof.
    file: PathBuf,
    /// A folder with the study's DICOM files, under any names; without it only the papers are
    /// checked.
    folder: Option<PathBuf>,
    /// The fleet that it must come from: the 64 digits that the fleet gives out as its name.
    #[arg(long, value_name = "ID", value_parser = fleet_name)]
    fleet: Option<String>,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum BundleCommand {
    /// Writes what the hub has no receipt for; done when it says `safe to remove`.
    Export(BundleExportArgs),
    /// Takes the hub's bundles; those for others are left alone.
    Import(BundleImportArgs),
}

#[derive(Debug, Args)]
struct BundleExportArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// Where the stick is mounted.
    mountpoint: PathBuf,
    /// The largest file on the stick.
    #[arg(long, value_name = "SIZE", default_value = "1 GiB", value_parser = part_bytes)]
    part_size: u64,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct BundleImportArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// Where the stick is mounted.
    mountpoint: PathBuf,
    /// Takes bundles off the stick that are imported.
    #[arg(long)]
    remove_imported: bool,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum PinCommand {
    /// Sets the PIN, or exchanges it for another.
    Set(PinSetArgs),
    /// Opens the vault: reports and images can be read until it is locked again.
    Unlock(PinArgs),
    /// Closes the vault; studies are taken in and sent all the same.
    Lock(DataArgs),
}

#[derive(Debug, Args)]
struct DataArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
}

#[derive(Debug, Args)]
struct PinArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// A file with the PIN; without it the PIN is read from the standard input.
    #[arg(long, value_name = "FILE")]
    pin_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct PinSetArgs {
    #[command(flatten)]
    new: PinArgs,
    /// A file with the PIN that is set now.
    #[arg(long, value_name = "FILE")]
    old_pin_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum LinkCommand {
    /// Lists the uplinks: what each is used for now, and what was used of its budget.
    List(ShowArgs),
    /// Uses one uplink and no other, until `auto`.
    Use(LinkUseArgs),
    /// Chooses between the uplinks by priority, price and what works.
    Auto(DataArgs),
    /// Sends nothing more until `resume`, also after a new start.
    Pause(LinkPauseArgs),
    /// Sends again.
    Resume(DataArgs),
    /// Has the running box read its uplinks from the configuration again, as SIGHUP does.
    Reload(DataArgs),
}

#[derive(Debug, Args)]
struct LinkUseArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// The uplink.
    name: String,
}

#[derive(Debug, Args)]
struct LinkPauseArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// STAT goes all the same.
    #[arg(long)]
    except_stat: bool,
}

#[derive(Debug, Args)]
struct ScrubArgs {
    /// The box's folder.
    #[arg(long)]
    data: PathBuf,
    /// Makes the index anew from the segments, where it is lost or damaged; the old one is kept
    /// beside it.
    #[arg(long)]
    rebuild: bool,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The box's folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Configuration file.
    #[arg(long)]
    config: Option<PathBuf>,
}

/// Runs one command; `args` begins with the program's name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    identity::files::keep_memory_private();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; neither is a closed pipe behind them.
            let code = if error.use_stderr() { 64 } else { 0 };
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("chasqui-agent: {:#}", failure.error);
            ExitCode::from(failure.exit)
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Enrol(args) => crate::enrol::command(&args),
        Command::Serve(args) => crate::run::command(&args),
        Command::Status(args) => ask::status(&args.data, args.json),
        Command::Get(args) => match (&args.sop_instance_uid, &args.list) {
            (Some(sop), _) => ask::get(&args.data, sop, args.copy, &args.output),
            (None, Some(list)) => ask::get_list(&args.data, list, &args.output),
            (None, None) => Err(Failure::usage("name an instance or a --list")),
        },
        Command::Consent(args) => ask::consent(&args.data, &args.study_uid, args.basis, &args.by),
        Command::Priority(args) => ask::priority(&args.data, &args.study_uid, args.priority),
        Command::Priors(args) => priors::command(&args.data, &args.study_uid),
        Command::Order(OrderCommand::Add(args)) => {
            orders::command::add(&args.show.data, &args.from, args.show.json)
        }
        Command::Order(OrderCommand::List(args)) => orders::command::list(&args.data, args.json),
        Command::Order(OrderCommand::Cancel(args)) => {
            orders::command::cancel(&args.data, &args.study_uid)
        }
        Command::Modality(command) => modality(command),
        Command::Hold(HoldCommand::Set(args)) => {
            ask::hold(&args.data, &args.study_uid, true, &args.by)
        }
        Command::Hold(HoldCommand::Lift(args)) => {
            ask::hold(&args.data, &args.study_uid, false, &args.by)
        }
        Command::Erase(EraseArgs {
            order,
            even_if_not_at_hub,
        }) => ask::erase(&order.data, &order.study_uid, &order.by, even_if_not_at_hub),
        Command::Report(ReportCommand::List(args)) => ask::report_list(&args.data, args.json),
        Command::Report(ReportCommand::Get(args)) => {
            ask::report_get(&args.data, &args.study_uid, args.output.as_deref())
        }
        Command::Report(ReportCommand::Print(args)) => {
            ask::report_print(&args.data, &args.study_uid, args.output.as_deref())
        }
        Command::Proof(ProofCommand::Export(args)) => {
            ask::proof_export(&args.data, &args.study_uid, &args.output)
        }
        Command::Proof(ProofCommand::Verify(args)) => {
            let (folder, fleet) = (args.folder.as_deref(), args.fleet.as_deref());
            proof::verify(&args.file, folder, fleet, args.json)
        }
        Command::Bundle(BundleCommand::Export(args)) => {
            bundles::export(&args.data, &args.mountpoint, args.part_size, args.json)
        }
        Command::Bundle(BundleCommand::Import(args)) => bundles::import(
            &args.data,
            &args.mountpoint,
            args.remove_imported,
            args.json,
        ),
        Command::Pin(PinCommand::Set(args)) => pin::set(
            &args.new.data,
            args.old_pin_file.as_deref(),
            args.new.pin_file.as_deref(),
        ),
        Command::Pin(PinCommand::Unlock(args)) => pin::unlock(&args.data, args.pin_file.as_deref()),
        Command::Pin(PinCommand::Lock(args)) => pin::lock(&args.data),
        Command::Link(command) => link(command),
        Command::Scrub(args) if args.rebuild => ask::rebuild(&args.data, args.json),
        Command::Scrub(args) => ask::scrub(&args.data, args.json),
        Command::Check(args) => ask::check(args.data.as_deref(), args.config.as_deref()),
    }
}

fn modality(command: ModalityCommand) -> Result<(), Failure> {
    let (TitleArgs { data, ae }, request): (_, fn(String) -> ModalityRequest) = match command {
        ModalityCommand::List(args) => return intake::command::list(&args.data, args.json),
        ModalityCommand::Add(ModalityAddArgs { title, host, port }) => {
            let TitleArgs { data, ae } = title;
            return intake::command::change(&data, ModalityRequest::Add { ae, host, port });
        }
        ModalityCommand::Accept(args) => (args, |ae| ModalityRequest::Accept { ae }),
        ModalityCommand::Echo(args) => (args, |ae| ModalityRequest::Echo { ae }),
    };
    intake::command::change(&data, request(ae))
}

fn ae_title(text: &str) -> Result<String, study::AeTitleError> {
    AeTitle::parse(text).map(|title| title.as_str().to_owned())
}

fn link(command: LinkCommand) -> Result<(), Failure> {
    let (data, request, json) = match command {
        LinkCommand::List(args) => (args.data, LinkRequest::List, args.json),
        LinkCommand::Use(LinkUseArgs { data, name }) => (data, LinkRequest::Use { name }, false),
        LinkCommand::Auto(args) => (args.data, LinkRequest::Auto, false),
        LinkCommand::Pause(LinkPauseArgs { data, except_stat }) => {
            (data, LinkRequest::Pause { except_stat }, false)
        }
        LinkCommand::Resume(args) => (args.data, LinkRequest::Resume, false),
        LinkCommand::Reload(args) => (args.data, LinkRequest::Reload, false),
    };
    uplink::command(&data, request, json)
}

fn fleet_name(text: &str) -> Result<String, &'static str> {
    let is_name = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let name = is_name.then(|| text.to_ascii_lowercase());
    name.ok_or("a fleet's name has 64 hexadecimal digits")
}

fn part_bytes(text: &str) -> Result<u64, String> {
    let bytes: settings::Bytes = text
        .parse()
        .map_err(|error: settings::UnitError| error.to_string())?;
    bundle::part_bytes(bytes.get())
}

/// Parses `HOST:PORT`, so that a wrong address is a usage error and not a failed call.
pub(crate) fn is_address(text: &str) -> bool {
    text.parse::<SocketAddr>().is_ok()
        || text
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}
