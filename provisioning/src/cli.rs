//! The command line of `chasqui-provision`: arguments in, exit code out.

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{ArgGroup, Args, Parser, Subcommand};
use identity::calendar::{end_of_day, format_utc};
use identity::{ConsentPolicy, FleetDocument, HubAddress, Label};
use serde_json::{Value, json};

use crate::authority::{Authority, read_document};
use crate::enrol::{VoucherOrder, add_hub, add_unit};
use crate::radiologists::{CredentialOrder, KeySource, add_radiologist, new_key};
use crate::registry::{self, list, renew, revoke};

/// The request failed.
const EXIT_FAILED: u8 = 1;
/// Wrong usage.
const EXIT_USAGE: u8 = 64;
/// How long a voucher waits for its box, unless the command says otherwise.
const VOUCHER_DAYS: u32 = 90;
const DAY_MS: u64 = 86_400_000;

/// The authority of a fleet: makes hubs, vouchers and credentials, and takes them back.
///
/// Works on files alone and needs no network. Each change makes the next version of
/// FLEET/fleet.cose; `chasqui-hub fleet apply` takes it into a running hub.
#[derive(Debug, Parser)]
#[command(name = "chasqui-provision", version, about)]
struct Cli {
    /// Prints one JSON document.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a fleet: three root keys, an issuing key, a release key, version 1 of the document.
    Init(FleetArgs),
    /// Makes a hub's folder with its node key, its store key and the fleet document.
    Hub(HubArgs),
    /// Makes a voucher with which one box joins the fleet, once.
    Unit(UnitArgs),
    /// Gives a radiologist a credential to sign reports.
    Radiologist(RadiologistArgs),
    /// Makes a radiologist's key, sealed by a passphrase, and KEYFILE.pub for `radiologist`.
    NewKey(NewKeyArgs),
    /// Withdraws trust from a hub, a voucher and its box, a box, or a radiologist.
    Revoke(RevokeArgs),
    /// Prolongs a voucher or a credential.
    Renew(RenewArgs),
    /// Shows everything that the fleet document lists.
    List(FleetArgs),
}

#[derive(Debug, Args)]
struct FleetArgs {
    /// The fleet's folder.
    fleet: PathBuf,
}

#[derive(Debug, Args)]
struct HubArgs {
    /// The fleet's folder.
    fleet: PathBuf,
    /// The hub's name.
    #[arg(long)]
    name: Label,
    /// Where boxes reach the hub.
    #[arg(long, value_name = "HOST:PORT")]
    address: HubAddress,
    /// The hub's folder, to be given to `chasqui-hub serve --data`.
    #[arg(short, long, value_name = "HUBDIR")]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct UnitArgs {
    /// The fleet's folder.
    fleet: PathBuf,
    /// The site where the box will stand.
    #[arg(long)]
    site: Label,
    /// What lets a study leave the site: ask or emergency.
    #[arg(long, default_value_t)]
    consent: ConsentPolicy,
    /// The hub's name, where the fleet has several.
    #[arg(long, value_name = "NAME")]
    hub: Option<Label>,
    /// For how many days the hub redeems the voucher.
    #[arg(long, value_name = "N", default_value_t = VOUCHER_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    valid_days: u32,
    /// The voucher file; who has it can join, once.
    #[arg(short, long, value_name = "VOUCHER")]
    output: PathBuf,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("key").required(true).args(["public_key", "new_key"]))]
struct RadiologistArgs {
    /// The fleet's folder.
    fleet: PathBuf,
    /// The name as it stands under a report.
    #[arg(long)]
    name: Label,
    /// The licence to practise.
    #[arg(long)]
    licence: Label,
    /// The last day that the credential counts, YYYY-MM-DD.
    #[arg(long, value_name = "DATE", value_parser = day)]
    valid_until: u64,
    /// The public half of a key that the radiologist has made.
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,
    /// Makes the key here, sealed by the passphrase, for the radiologist to take away.
    #[arg(long, value_name = "KEYFILE", requires = "passphrase_file")]
    new_key: Option<PathBuf>,
    /// A file whose first line is the passphrase.
    #[arg(long, value_name = "F", requires = "new_key")]
    passphrase_file: Option<PathBuf>,
    /// The credential file.
    #[arg(short, long, value_name = "CREDENTIAL")]
    output: PathBuf,
}

#[derive(Debug, Args)]
struct NewKeyArgs {
    /// The sealed key file to write.
    key_file: PathBuf,
    /// A file whose first line is the passphrase.
    #[arg(long, value_name = "F")]
    passphrase_file: PathBuf,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    /// The fleet's folder.
    fleet: PathBuf,
    /// An ID, eight or more of its first digits, or a name; a box by all digits of its key.
    id: String,
    /// Why.
    #[arg(long)]
    reason: Label,
}

#[derive(Debug, Args)]
struct RenewArgs {
    /// The fleet's folder.
    fleet: PathBuf,
    /// An ID, eight or more of its first digits, or a name.
    id: String,
    /// The last day, YYYY-MM-DD; without it as long as the first time, from today.
    #[arg(long, value_name = "DATE", value_parser = day)]
    valid_until: Option<u64>,
    /// Where to write a renewed credential.
    #[arg(short, long, value_name = "CREDENTIAL")]
    output: Option<PathBuf>,
}

/// What a command answers: lines for people, a document for scripts.
struct Answer {
    text: String,
    json: Value,
}

/// Runs the program with its arguments, the program's name first.
pub fn main(arguments: Vec<OsString>) -> ExitCode {
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
    let done = run(cli.command, now_ms()).and_then(|answer| {
        let text = if cli.json {
            format!("{}\n", answer.json)
        } else {
            answer.text
        };
        Ok(io::stdout().write_all(text.as_bytes())?)
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chasqui-provision: {}", chain(error.as_ref()));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

fn run(command: Command, now_ms: u64) -> Result<Answer, Box<dyn Error>> {
    match command {
        Command::Init(args) => init(&args, now_ms),
        Command::Hub(args) => hub(args, now_ms),
        Command::Unit(args) => unit(args, now_ms),
        Command::Radiologist(args) => radiologist(args, now_ms),
        Command::NewKey(args) => {
            let key = new_key(&args.key_file, &args.passphrase_file)?;
            Ok(Answer {
                text: format!("key {key}\n"),
                json: json!({ "key": key.to_string() }),
            })
        }
        Command::Revoke(args) => {
            let mut authority = Authority::open(&args.fleet)?;
            let subject = revoke(&mut authority, &args.id, args.reason, now_ms)?;
            let (kind, key) = (subject.kind.as_str(), subject.key.to_string());
            Ok(changed(
                authority.document(),
                format!("revoked {kind} {key}"),
                json!({ "kind": kind, "id": key }),
            ))
        }
        Command::Renew(args) => {
            let mut authority = Authority::open(&args.fleet)?;
            let place = (args.output.as_deref(), now_ms);
            let renewed = renew(&mut authority, &args.id, args.valid_until, place)?;
            let (kind, key) = (
                renewed.subject.kind.as_str(),
                renewed.subject.key.to_string(),
            );
            let until_ms = renewed.until_ms;
            let text = format!("renewed {kind} {key} until {}", format_utc(until_ms));
            Ok(changed(
                authority.document(),
                text,
                json!({ "kind": kind, "id": key, "until_ms": until_ms }),
            ))
        }
        Command::List(args) => {
            let document = read_document(&args.fleet)?;
            let rows = list(&document, now_ms);
            let head = format!(
                "fleet {}, version {} of {}\n",
                document.fleet(),
                document.version(),
                format_utc(document.body().made_at_ms)
            );
            let json = json!({
                "fleet": document.fleet().to_string(),
                "version": document.version(),
                "made_at_ms": document.body().made_at_ms,
                "entries": registry::to_json(&rows),
            });
            Ok(Answer {
                text: head + &registry::to_table(&rows),
                json,
            })
        }
    }
}

fn init(args: &FleetArgs, now_ms: u64) -> Result<Answer, Box<dyn Error>> {
    let document = Authority::init(&args.fleet, now_ms)?;
    let root = args.fleet.join("root");
    let advice = format!(
        "fleet {}\nmove the three keys in {} to three separate places, off this machine: any two \
         of them can replace every other key; daily work needs none",
        document.fleet(),
        root.display()
    );
    let json = json!({ "root_keys": root.display().to_string() });
    Ok(changed(&document, advice, json))
}

fn hub(args: HubArgs, now_ms: u64) -> Result<Answer, Box<dyn Error>> {
    let mut authority = Authority::open(&args.fleet)?;
    let hub = add_hub(
        &mut authority,
        (args.name, args.address),
        &args.output,
        now_ms,
    )?;
    let (folder, store_key) = (args.output.display(), hub.store.id());
    let text = format!(
        "hub {} {} in {folder}\nkeep a copy of {folder}/store.key in a safe place: without it nobody \
         opens what boxes seal to store key {store_key}",
        hub.name, hub.key
    );
    let json = json!({
        "id": hub.key.to_string(),
        "name": hub.name.as_str(),
        "address": hub.address.as_str(),
        "store_key": store_key.to_string(),
    });
    Ok(changed(authority.document(), text, json))
}

fn unit(args: UnitArgs, now_ms: u64) -> Result<Answer, Box<dyn Error>> {
    let mut authority = Authority::open(&args.fleet)?;
    let not_after_ms = now_ms.saturating_add(u64::from(args.valid_days) * DAY_MS);
    let order = VoucherOrder {
        site: args.site,
        consent: args.consent,
        hub: args.hub,
        not_after_ms,
    };
    let voucher = add_unit(&mut authority, order, &args.output, now_ms)?;
    let text = format!(
        "voucher {} for {} in {}, until {}",
        voucher.id,
        voucher.site,
        args.output.display(),
        format_utc(not_after_ms)
    );
    let json = json!({
        "id": voucher.id.to_string(),
        "site": voucher.site.as_str(),
        "consent": voucher.consent.as_str(),
        "until_ms": not_after_ms,
    });
    Ok(changed(authority.document(), text, json))
}

fn radiologist(args: RadiologistArgs, now_ms: u64) -> Result<Answer, Box<dyn Error>> {
    let key = match (args.public_key, args.new_key, args.passphrase_file) {
        (Some(public), _, _) => KeySource::Public(public),
        (None, Some(key_file), Some(passphrase_file)) => KeySource::New {
            key_file,
            passphrase_file,
        },
        (None, _, _) => return Err("a key is needed: --public-key or --new-key".into()),
    };
    let mut authority = Authority::open(&args.fleet)?;
    let (name, licence, valid_until_ms) = (args.name, args.licence, args.valid_until);
    let order = CredentialOrder {
        name,
        licence,
        valid_until_ms,
        key,
    };
    let credential = add_radiologist(&mut authority, order, &args.output, now_ms)?;
    let text = format!(
        "radiologist {} {} until {}",
        credential.name,
        credential.key,
        format_utc(credential.valid_until_ms)
    );
    let json = json!({
        "id": credential.key.to_string(),
        "name": credential.name.as_str(),
        "licence": credential.licence.as_str(),
        "until_ms": credential.valid_until_ms,
    });
    Ok(changed(authority.document(), text, json))
}

/// The answer of a command that made a new version of the document.
fn changed(document: &FleetDocument, text: String, mut json: Value) -> Answer {
    json["fleet"] = document.fleet().to_string().into();
    json["version"] = document.version().into();
    Answer {
        text: format!("{text}\nfleet document version {}\n", document.version()),
        json,
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn day(text: &str) -> Result<u64, &'static str> {
    end_of_day(text).ok_or("a date is YYYY-MM-DD, from 1970 on")
}

fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
